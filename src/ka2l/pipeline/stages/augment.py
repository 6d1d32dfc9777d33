"""Stage `augment`: new questions decoded from the states of the selected ones, and what is kept of them (Section 3.3).

    ka2l augment runs/mine augment.per_question=8

Every candidate is written with where it comes from and why it was dropped: `augmented.parquet`. A kept one reads as a
question, was not there before, is called unknown by the probe that called its source so, and can be answered. Its
answer is never that of its source: the two ask for different things.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ka2l.augmentation.filters import REASONS, Verdict, check_no_leak
from ka2l.common import atomic_files
from ka2l.common.answer_text import normalize_question
from ka2l.config.run_config import RunConfig
from ka2l.errors import DegenerateError
from ka2l.models.interface import Prompt
from ka2l.models.sentence_encoder import encoder_key
from ka2l.pipeline.arms import MAIN
from ka2l.pipeline.context import Context, add_usage
from ka2l.pipeline.identities import decoder_key
from ka2l.pipeline.run_directory import Attempt, Written
from ka2l.pipeline.shared.artifact_tables import as_table
from ka2l.pipeline.shared.decoded_candidates import Decoding, decodings
from ka2l.pipeline.shared.run_decoder import checked_card
from ka2l.pipeline.shared.run_probe import read_probe
from ka2l.pipeline.shared.taught_questions import selected_questions
from ka2l.pipeline.stage import Cost, Identities, Stage
from ka2l.pipeline.stages.candidate_filters import sifted
from ka2l.questions.question import Question
from ka2l.report.run_page_data import Augmentation, DecodedExample

if TYPE_CHECKING:
    from ka2l.models.local.local_model import LocalModel


_SOURCES = 8  # whose questions are shown
_WORTH_SAYING = ("in_eval", "near_eval")  # also where none was found
_OF_EXAMPLE = ("question", "noise", "p_unknown", "similarity", "kept", "reason")


def augment(context: Context, attempt: Attempt) -> None:
    """Sift, ask the probe again, and write down what became of each candidate."""
    run, config = context.run, context.config
    bought = selected_questions(context, MAIN)
    card = checked_card(context)
    with attempt.begin() as record:
        found = decodings(context, bought)
        verdicts, groups = sifted(context, bought, found)
        model = context.prepared_model()
        p_unknown = asked_again(context, model, found, verdicts)
        add_usage(record, model)
        for i, p in p_unknown.items():
            if p < 0.5:
                verdicts[i] = verdicts[i]._replace(reason="known")
        _over_budget(verdicts, p_unknown, config.augment_budget)
        record.counts = _counts(bought, verdicts)
        if not record.counts["kept"]:
            raise _nothing_kept(record.counts, config)
        rows = [
            {
                "id": decoding.id,
                "source_id": decoding.source.id,
                "sample": decoding.sample,
                "question": decoding.text,
                "group": groups[i],
                "noise": config.augment.noise,
                "temperature": config.augment.temperature,
                "seed": config.seed,
                "p_unknown": p_unknown.get(i),
                "similarity": verdicts[i].similarity,
                "nearest": verdicts[i].nearest,
                "kept": not verdicts[i].reason,
                "reason": verdicts[i].reason,
            }
            for i, decoding in enumerate(found)
        ]
        _check(context, rows)
        record.facts = _facts(context, rows, card)
        atomic_files.write_table(run.file("augmented.parquet"), as_table(rows))


def asked_again(
    context: Context, model: "LocalModel", found: Sequence[Decoding], verdicts: Sequence[Verdict]
) -> dict[int, float]:
    """p_unknown of every candidate nothing speaks against yet, by its place, with the prompt its source was judged with."""
    left = [i for i, verdict in enumerate(verdicts) if not verdict.reason]
    if not left:
        return {}
    probe, card = read_probe(context)
    prompts = [Prompt(found[i].id, context.prompts.sensing(found[i].text)) for i in left]
    p_unknown = probe.predict(model.states(prompts, probe.layer, position=card["position"]))
    return {i: float(p) for i, p in zip(left, p_unknown, strict=True)}


def _over_budget(verdicts: list[Verdict], p_unknown: dict[int, float], budget: int) -> None:
    """Drop all but the surest unknown ones."""
    left = [i for i, verdict in enumerate(verdicts) if not verdict.reason]
    for i in sorted(left, key=lambda i: (-p_unknown[i], i))[budget:]:
        verdicts[i] = verdicts[i]._replace(reason="over_budget")


def _counts(bought: Sequence[Question], verdicts: Sequence[Verdict]) -> dict[str, int]:
    from ka2l.augmentation.filters import funnel

    counts = funnel(verdicts)
    kept = counts.pop("kept")
    dropped = {f"dropped_{reason}": count for reason, count in counts.items() if count}
    return {"sources": len(bought), "candidates": len(verdicts), "kept": kept, **dropped}


def _nothing_kept(counts: dict[str, int], config: RunConfig) -> DegenerateError:
    reasons = ", ".join(
        f"{count} {name.removeprefix('dropped_').replace('_', ' ')}"
        for name, count in counts.items()
        if name.startswith("dropped_")
    )
    return DegenerateError(
        f"None of the {counts['candidates']} decoded questions is left: {reasons}. Everything before is kept. Decode more "
        f"(augment.per_question, now {config.augment.per_question}), with more noise (augment.noise, now "
        f"{config.augment.noise:g}), train the decoder longer (decoder.epochs), or go on without: augment.per_question=0."
    )


def _check(context: Context, rows: Sequence[dict[str, Any]]) -> None:
    """The last line of defence: nothing that is taught may stand among the held-out questions."""
    kept = [Question(row["id"], row["question"], group=row["group"]) for row in rows if row["kept"]]
    check_no_leak(kept, context.questions("eval"))


def _facts(context: Context, rows: Sequence[dict[str, Any]], card: Mapping[str, Any]) -> dict[str, Any]:
    """What the report says besides the counts, and what later stages must know of models that may be gone by then."""
    config = context.config
    texts = [normalize_question(row["question"]) for row in rows]
    asked = [row["p_unknown"] for row in rows if row["p_unknown"] is not None]
    given, embedding = config.decoder.pretrained, config.augment.embedding_model
    places = {given: decoder_key(config)} if given else {}
    places |= {embedding: encoder_key(embedding, "augment.embedding_model")} if embedding else {}
    return {
        "decoder": {name: card.get(name) for name in ("kind", "layer", "trained_on", "quality")},
        "distinct": len(set(texts)) / len(texts),
        # What a decoder from elsewhere has learned from, nobody here knows.
        "in_decoder_set": None if given else _learned_before(context, rows, texts),
        "still_unknown": float(np.mean(np.array(asked) >= 0.5)) if asked else None,
        "places": places,
    }


def _learned_before(context: Context, rows: Sequence[dict[str, Any]], texts: Sequence[str]) -> int:
    """Kept questions that the decoder was trained to say, in these or other words."""
    known: set[str] = set()
    for batch in context.question_batches("decoder", 4096):
        known |= {name for q in batch for name in (q.group, normalize_question(q.question))}
    return sum(
        row["kept"] and (row["group"] in known or text in known)
        for row, text in zip(rows, texts, strict=True)
    )


def _augmentation(context: Context, *, taught: bool) -> Augmentation:
    """The decoder, what became of the candidates, and examples.

    Args:
        context: of a run whose stage `augment` is done.
        taught: whether its questions are answered.
    """
    run, config = context.run, context.config
    counts, facts = run.stages["augment"].counts, run.stages["augment"].facts
    card, quality = facts["decoder"], facts["decoder"]["quality"] or {}
    rows = atomic_files.read_table(run.file("augmented.parquet")).to_pylist()
    # All that came of a few sources, those that gave something first.
    fruitful = dict.fromkeys(row["source_id"] for row in rows if row["kept"])
    chosen = set(list(dict.fromkeys([*fruitful, *(row["source_id"] for row in rows)]))[:_SOURCES])
    shown = [row for row in rows if row["source_id"] in chosen]
    sources = context.questions_by_id({row["source_id"] for row in shown})
    return Augmentation(
        kind=card["kind"],
        layer=card["layer"],
        trained_on=card["trained_on"],
        exact=quality.get("exact"),
        f1=quality.get("f1"),
        bleu=quality.get("bleu"),
        n_validation=quality.get("n"),
        sources=counts["sources"],
        candidates=counts["candidates"],
        kept=counts["kept"],
        taught=run.stages["annotate"].counts.get("decoded_labels", 0) if taught else 0,
        noise=config.augment.noise,
        temperature=config.augment.temperature,
        reasons={
            name: counts.get(f"dropped_{name}", 0)
            for name in REASONS
            if f"dropped_{name}" in counts or name in _WORTH_SAYING
        },
        distinct=facts["distinct"],
        in_decoder_set=facts["in_decoder_set"],
        examples=[
            DecodedExample(
                source=sources[row["source_id"]].question, **{name: row[name] for name in _OF_EXAMPLE}
            )
            for row in shown
        ],
    )


def _settings(config: RunConfig, _arm: str, known: Identities) -> list[Any]:
    """Who answers decides which questions cannot be answered."""
    return [config.augment.near_copy, config.augment_budget, known.encoder, config.annotate.annotator]


STAGE = Stage(
    "augment",
    verb="augment",
    work=augment,
    reads=lambda config, arm: ["map", "candidates"],
    settings=_settings,
    writes=(Written("augmented.parquet"),),
    costs=lambda sizes, arm: Cost(sizes.decoded, sizes.decoded * sizes.lengths.own),
    shows=lambda context, done: {"augmentation": _augmentation(context, taught="annotate" in done)},
)
