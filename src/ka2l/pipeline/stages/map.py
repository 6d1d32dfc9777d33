"""Stage 1 around the answers: load the questions, and map the pool. Asking is in `sampling`, judging in `judge`."""

from ka2l.common import atomic_files
from ka2l.errors import DegenerateError
from ka2l.models.interface import Prompt
from ka2l.pipeline.context import Context
from ka2l.pipeline.run_directory import POOL_IDS, signal_file
from ka2l.pipeline.shared.artifact_tables import compact, gather, id_table, write_map
from ka2l.pipeline.shared.part_passes import Arrays, over_role
from ka2l.pipeline.shared.run_probe import read_probe


def map_pool(context: Context, stage: str, key: str, inputs: dict[str, str]) -> None:
    """p_unknown of every pool question; the model runs only up to the probe's layer, and nothing holds the pool."""
    run = context.run
    fitted, card = read_probe(context)
    total = run.stages["load"].counts.get("pool", 0)
    if total == 0:
        raise DegenerateError(
            "The pool is empty: no question has the role pool. Give questions.roles.pool a size."
        )
    model = context.prepared_model()

    layer = None if fitted.layer < 0 else fitted.layer  # a mix reads all of them

    def signals(prompts: list[Prompt]) -> Arrays:
        states = model.states(prompts, layer, position=card["position"])
        embedding = states if layer is not None else states[:, -1]
        return {"p_unknown": fitted.predict(states), "embedding": compact(embedding)}

    with run.stage(stage, key, inputs) as record:
        folder = run.file("pool_signals/states")
        over_role(context, stage, "pool", model, folder, signals)
        n_unknown = write_map(folder, run.file("knowledge_map.parquet"))
        ids = gather(folder, {"embedding": run.file(signal_file("embedding"))})
        atomic_files.write_table(run.file(POOL_IDS), id_table(ids))
        record.counts = {"questions": total, "unknown": n_unknown}
        if context.config.map.probe:
            record.facts["probe"] = {
                name: card[name] for name in ("kind", "layer", "n_layers", "answered_by")
            }
