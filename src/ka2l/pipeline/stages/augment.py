"""Stage `augment`: filter the questions decoded from the hidden states of the selected ones (Section 3.3).

    ka2l augment runs/mine augment.per_question=8

`augmented.parquet` has every candidate with its source and, if it was dropped, the reason. A kept candidate has the
form of a question, is new, is unknown according to the probe that called its source unknown, and can be answered. It
never gets the answer of its source: the two ask for different facts.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ka2l.augmentation.filters import REASONS, Verdict, check_no_leak
from ka2l.common import atomic_files
from ka2l.common.answer_text import normalize_question
from ka2l.common.unknown_from import UNKNOWN_FROM
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
from ka2l.pipeline.shared.training_questions import selected_questions
from ka2l.pipeline.stage import Cost, Identities, Stage
from ka2l.pipeline.stages.candidate_filters import filter_candidates
from ka2l.questions.question import Question
from ka2l.report.run_page_data import Augmentation, DecodedExample

if TYPE_CHECKING:
    from ka2l.models.local.local_model import LocalModel


# Number of source questions whose decoded questions are in the report.
_SOURCES_SHOWN = 8
# Reasons that the report lists even if their count is 0.
_ALWAYS_LISTED = ("in_eval", "near_eval")
_EXAMPLE_COLUMNS = ("question", "noise", "p_unknown", "similarity", "kept", "reason")


def augment(context: Context, attempt: Attempt) -> None:
    """Filter the candidates, apply the probe to those that are left, and write down the verdict on each."""
    run, config = context.run, context.config
    sources = selected_questions(context, MAIN)
    card = checked_card(context)
    with attempt.begin() as record:
        candidates = decodings(context, sources)
        verdicts, groups = filter_candidates(context, sources, candidates)
        model = context.prepared_model()
        p_unknown = predict_p_unknown(context, model, candidates, verdicts)
        add_usage(record, model)
        _drop_known(verdicts, p_unknown)
        _drop_over_budget(verdicts, p_unknown, config.augment_budget)
        record.counts = _counts(sources, verdicts)
        if not record.counts["kept"]:
            raise _nothing_kept(record.counts, config)
        rows = _rows(config, candidates, groups, verdicts, p_unknown)
        _check_no_leak(context, rows)
        record.facts = _facts(context, rows, card)
        atomic_files.write_table(run.file("augmented.parquet"), as_table(rows))


def predict_p_unknown(
    context: Context, model: "LocalModel", candidates: Sequence[Decoding], verdicts: Sequence[Verdict]
) -> dict[int, float]:
    """p_unknown of every candidate that is not dropped yet, by its index; with the sensing prompt, as for its
    source.
    """
    left = [i for i, verdict in enumerate(verdicts) if not verdict.reason]
    if not left:
        return {}
    probe, card = read_probe(context)
    prompts = [Prompt(candidates[i].id, context.prompts.sensing(candidates[i].text)) for i in left]
    p_unknown = probe.predict(model.states(prompts, probe.layer, position=card["position"]))
    return {i: float(p) for i, p in zip(left, p_unknown, strict=True)}


def _drop_known(verdicts: list[Verdict], p_unknown: Mapping[int, float]) -> None:
    """Drop the candidates that the model knows according to the probe."""
    for i, p in p_unknown.items():
        if p < UNKNOWN_FROM:
            verdicts[i] = verdicts[i]._replace(reason="known")


def _drop_over_budget(verdicts: list[Verdict], p_unknown: Mapping[int, float], budget: int) -> None:
    """Drop all candidates but those with the highest p_unknown, `budget` of them."""
    left = [i for i, verdict in enumerate(verdicts) if not verdict.reason]
    for i in sorted(left, key=lambda i: (-p_unknown[i], i))[budget:]:
        verdicts[i] = verdicts[i]._replace(reason="over_budget")


def _rows(
    config: RunConfig,
    candidates: Sequence[Decoding],
    groups: Sequence[str],
    verdicts: Sequence[Verdict],
    p_unknown: Mapping[int, float],
) -> list[dict[str, Any]]:
    """augmented.parquet, one row per candidate."""
    return [
        {
            "id": candidate.id,
            "source_id": candidate.source.id,
            "sample": candidate.sample,
            "question": candidate.text,
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
        for i, candidate in enumerate(candidates)
    ]


def _counts(sources: Sequence[Question], verdicts: Sequence[Verdict]) -> dict[str, int]:
    from ka2l.augmentation.filters import funnel

    counts = funnel(verdicts)
    kept = counts.pop("kept")
    dropped = {f"dropped_{reason}": count for reason, count in counts.items() if count}
    return {"sources": len(sources), "candidates": len(verdicts), "kept": kept, **dropped}


def _nothing_kept(counts: dict[str, int], config: RunConfig) -> DegenerateError:
    reasons = ", ".join(
        f"{count} {name.removeprefix('dropped_').replace('_', ' ')}"
        for name, count in counts.items()
        if name.startswith("dropped_")
    )
    return DegenerateError(
        f"None of the {counts['candidates']} decoded questions is left: {reasons}. Earlier stages are kept. Decode "
        f"more (augment.per_question, now {config.augment.per_question}), with more noise (augment.noise, now "
        f"{config.augment.noise:g}), train the decoder longer (decoder.epochs), or continue without: "
        "augment.per_question=0."
    )


def _check_no_leak(context: Context, rows: Sequence[dict[str, Any]]) -> None:
    """Check again that no kept question is among the held-out ones: these must not be trained on."""
    kept = [Question(row["id"], row["question"], group=row["group"]) for row in rows if row["kept"]]
    check_no_leak(kept, context.questions("eval"))


def _facts(context: Context, rows: Sequence[dict[str, Any]], card: Mapping[str, Any]) -> dict[str, Any]:
    """Values for the report besides the counts, and the keys of the decoder and the encoder, which may be gone
    later.
    """
    config = context.config
    texts = [normalize_question(row["question"]) for row in rows]
    predicted = [row["p_unknown"] for row in rows if row["p_unknown"] is not None]
    given, embedding = config.decoder.pretrained, config.augment.embedding_model
    places = {given: decoder_key(config)} if given else {}
    places |= {embedding: encoder_key(embedding, "augment.embedding_model")} if embedding else {}
    return {
        "decoder": {name: card.get(name) for name in ("kind", "layer", "trained_on", "quality")},
        "distinct": len(set(texts)) / len(texts),
        # The training questions of a pretrained decoder are not known.
        "in_decoder_set": None if given else _count_in_decoder_set(context, rows, texts),
        "still_unknown": float(np.mean(np.array(predicted) >= UNKNOWN_FROM)) if predicted else None,
        "places": places,
    }


def _count_in_decoder_set(context: Context, rows: Sequence[dict[str, Any]], texts: Sequence[str]) -> int:
    """Number of kept questions that the decoder was trained on, in this or another wording."""
    known: set[str] = set()
    for batch in context.question_batches("decoder", 4096):
        known |= {name for q in batch for name in (q.group, normalize_question(q.question))}
    return sum(row["kept"] and (row["group"] in known or text in known) for row, text in zip(rows, texts, strict=True))


def _augmentation(context: Context, *, labelled: bool) -> Augmentation:
    """The report's part on augmentation: the decoder, the counts of dropped and kept candidates, and examples.

    Args:
        context: context of a run whose stage `augment` is done.
        labelled: whether the kept questions are labelled.
    """
    run, config = context.run, context.config
    counts, facts = run.stages["augment"].counts, run.stages["augment"].facts
    card, quality = facts["decoder"], facts["decoder"]["quality"] or {}
    rows = atomic_files.read_table(run.file("augmented.parquet")).to_pylist()
    # All candidates of a few sources; sources with kept candidates come first.
    with_kept = dict.fromkeys(row["source_id"] for row in rows if row["kept"])
    chosen = set(list(dict.fromkeys([*with_kept, *(row["source_id"] for row in rows)]))[:_SOURCES_SHOWN])
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
        taught=run.stages["annotate"].counts.get("decoded_labels", 0) if labelled else 0,
        noise=config.augment.noise,
        temperature=config.augment.temperature,
        reasons={
            name: counts.get(f"dropped_{name}", 0)
            for name in REASONS
            if f"dropped_{name}" in counts or name in _ALWAYS_LISTED
        },
        distinct=facts["distinct"],
        in_decoder_set=facts["in_decoder_set"],
        examples=[
            DecodedExample(source=sources[row["source_id"]].question, **{name: row[name] for name in _EXAMPLE_COLUMNS})
            for row in shown
        ],
    )


def _settings(config: RunConfig, _arm: str, known: Identities) -> list[Any]:
    """The annotator is included because it determines which questions cannot be answered."""
    return [config.augment.near_copy, config.augment_budget, known.encoder, config.annotate.annotator]


STAGE = Stage(
    "augment",
    verb="augment",
    work=augment,
    reads=lambda config, arm: ["map", "candidates"],
    settings=_settings,
    writes=(Written("augmented.parquet"),),
    costs=lambda sizes, arm: Cost(sizes.decoded, sizes.decoded * sizes.lengths.own),
    shows=lambda context, done: {"augmentation": _augmentation(context, labelled="annotate" in done)},
)
