"""What the report shows of the questions that were decoded out of hidden states."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from ka2l import files
from ka2l.augmentation.filters import REASONS
from ka2l.augmentation.folder import load_card
from ka2l.pipeline.context import Context
from ka2l.report.data import Augmentation, DecodedExample

_SHOWN = 12  # kept examples, and as many dropped ones
_OF_EXAMPLE = ("question", "noise", "p_unknown", "similarity", "kept", "reason")


def augmentation(context: Context, *, taught: bool) -> Augmentation:
    """The decoder, what became of the candidates, and examples.

    Args:
        context: of a run whose stage `augment` is done.
        taught: whether its questions are answered.
    """
    run, config = context.run, context.config
    counts, facts = run.stages["augment"].counts, run.stages["augment"].facts
    given = config.decoder.pretrained
    card = load_card(given or str(run.file("decoder")), config.decoder.pretrained_revision if given else None)
    quality = card["quality"]
    rows = files.read_table(run.file("augmented.parquet")).to_pylist()
    shown = [*_some([row for row in rows if row["kept"]]), *_some([row for row in rows if not row["kept"]])]
    sources = context.questions_by_id({row["source_id"] for row in shown})
    return Augmentation(
        kind=card["kind"],
        layer=card["layer"],
        trained_on=card["trained_on"],
        exact=quality["exact"],
        f1=quality["f1"],
        bleu=quality["bleu"],
        n_validation=quality["n"],
        sources=counts["sources"],
        candidates=counts["candidates"],
        kept=counts["kept"],
        taught=run.stages["annotate"].counts.get("decoded_labels", 0) if taught else 0,
        noise=config.augment.noise,
        temperature=config.augment.temperature,
        reasons={name: counts[f"dropped_{name}"] for name in REASONS if f"dropped_{name}" in counts},
        distinct=facts["distinct"],
        in_decoder_set=facts["in_decoder_set"],
        examples=[
            DecodedExample(
                source=sources[row["source_id"]].question, **{name: row[name] for name in _OF_EXAMPLE}
            )
            for row in shown
        ],
    )


def _some(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A few rows, one of every source before a second of any."""
    seen: Counter[str] = Counter()
    turns = []
    for row in rows:
        turns.append(seen[row["source_id"]])
        seen[row["source_id"]] += 1
    return [rows[i] for i in sorted(range(len(rows)), key=lambda i: (turns[i], i))[:_SHOWN]]
