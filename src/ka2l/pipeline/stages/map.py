"""Stage `map`: the probability that each question of the pool is unknown, according to the probe."""

from typing import Any

import numpy as np

from ka2l.common import atomic_files
from ka2l.common.unknown_from import UNKNOWN_FROM
from ka2l.errors import DegenerateError
from ka2l.models.interface import Prompt
from ka2l.pipeline.arms import own_probe
from ka2l.pipeline.content_keys import given_probe, prompted_model
from ka2l.pipeline.context import Context
from ka2l.pipeline.preflight import needs_role
from ka2l.pipeline.run_directory import Attempt, Written
from ka2l.pipeline.shared.artifact_tables import compact, gather, id_table, write_map
from ka2l.pipeline.shared.part_passes import Arrays, over_role
from ka2l.pipeline.shared.pool_signal_files import POOL_IDS, signal_file
from ka2l.pipeline.shared.run_probe import read_probe
from ka2l.pipeline.stage import Cost, Stage

STATES = "pool_signals/states"
# Values in the histogram of the report.
POINTS = 2000


def map_pool(context: Context, attempt: Attempt) -> None:
    """Compute p_unknown of every question of the pool, part by part. The model runs only up to the probe's layer."""
    run = context.run
    probe, card = read_probe(context)
    total = run.stages["load"].counts.get("pool", 0)
    if total == 0:
        raise DegenerateError("The pool is empty: no question has the role pool. Set a size for questions.roles.pool.")
    model = context.prepared_model()

    # A mix or an ensemble reads all layers.
    layer = None if probe.layer < 0 else probe.layer

    def signals(prompts: list[Prompt]) -> Arrays:
        states = model.states(prompts, layer, position=card["position"])
        embedding = states if layer is not None else states[:, -1]
        return {"p_unknown": probe.predict(states), "embedding": compact(embedding)}

    with attempt.begin() as record:
        folder = run.file(STATES)
        over_role(context, attempt, "pool", model, folder, signals)
        n_unknown = write_map(folder, run.file("knowledge_map.parquet"))
        ids = gather(folder, {"embedding": run.file(signal_file("embedding"))})
        atomic_files.write_table(run.file(POOL_IDS), id_table(ids))
        record.counts = {"questions": total, "unknown": n_unknown}
        if context.config.map.probe:
            record.facts["probe"] = {name: card[name] for name in ("kind", "layer", "n_layers", "answered_by")}


def _shows(context: Context, _done: frozenset[str]) -> dict[str, Any]:
    p = atomic_files.read_table(context.run.file("knowledge_map.parquet"))["p_unknown"].to_numpy()
    drawn = p if len(p) <= POINTS else np.random.default_rng(context.config.seed).choice(p, POINTS, replace=False)
    return {
        "p_unknown": drawn.tolist(),
        "n_pool": len(p),
        "n_pool_unknown": int((p >= UNKNOWN_FROM).sum()),
        "given_probe": context.config.map.probe,
    }


def _inspects(context: Context) -> None:
    """Check the probe before its key: this error says what differs, not only that the probe is out of date."""
    if context.config.map.probe or (context.run.file("probe") / "probe.json").exists():
        read_probe(context)


STAGE = Stage(
    "map",
    verb="map",
    work=map_pool,
    reads=lambda config, arm: ["load", *own_probe(config)],
    settings=lambda config, arm, known: [prompted_model(config, known), given_probe(config, known)],
    writes=(
        Written("knowledge_map.parquet"),
        Written(POOL_IDS),
        Written(signal_file("embedding")),
        Written(STATES, parts=True, working=True),
    ),
    gives=("p_unknown", "embedding"),
    needs=needs_role("pool"),
    inspects=_inspects,
    costs=lambda sizes, arm: Cost(sizes.of_role("pool"), sizes.of_role("pool") * sizes.lengths.own, prefix=True),
    shows=_shows,
)
