"""What the report shows of the questions that were decoded out of hidden states."""

from ka2l import files
from ka2l.augmentation.filters import REASONS
from ka2l.pipeline.context import Context
from ka2l.report.data import Augmentation, DecodedExample

_SOURCES = 8  # whose questions are shown
_WORTH_SAYING = ("in_eval", "near_eval")  # also where none was found
_OF_EXAMPLE = ("question", "noise", "p_unknown", "similarity", "kept", "reason")


def augmentation(context: Context, *, taught: bool) -> Augmentation:
    """The decoder, what became of the candidates, and examples.

    Args:
        context: of a run whose stage `augment` is done.
        taught: whether its questions are answered.
    """
    run, config = context.run, context.config
    counts, facts = run.stages["augment"].counts, run.stages["augment"].facts
    card, quality = facts["decoder"], facts["decoder"]["quality"] or {}
    rows = files.read_table(run.file("augmented.parquet")).to_pylist()
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
