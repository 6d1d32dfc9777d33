"""The page's section on questions decoded from hidden states: the funnel, the decoder's quality, examples.

Usage:

    view(data.augmentation)        # the values page.html shows
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ka2l.common.number_format import MISSING, count, decimal, percent
from ka2l.report.run_page_data import Augmentation, DecodedExample

# Source questions in the table of examples, and new questions of each.
SOURCES_SHOWN = 8
PER_SOURCE = 6

REASONS = {
    "not_a_question": "does not read as a question",
    "unfinished": "broke off before its end",
    "source_again": "the source question again",
    "in_eval": "a held-out question",
    "in_pool": "already in the pool",
    "elsewhere": "a probe question or worked example",
    "twice": "decoded twice",
    "no_answer": "nobody here can answer it",
    "near_source": "nearly the source question",
    "near_eval": "nearly a held-out question",
    "near_pool": "nearly one of the pool",
    "near_kept": "nearly one that is kept",
    "known": "the model knows it, says the probe",
    "over_budget": "unknown, but over the budget",
}
COPIES = frozenset(
    reason
    for reason in REASONS
    if reason.startswith(("in_", "near_")) or reason in ("source_again", "elsewhere", "twice")
)
_KINDS = {"soft_prompt": "the language model itself, with LoRA", "t5": "T5"}


class Step(NamedTuple):
    """One row of the funnel."""

    title: str
    n: int
    share: float | None
    """Of all decoded questions."""
    start: float
    """Left end of the bar, in percent of all decoded questions."""
    width: float
    """Width of the bar, in percent of all decoded questions."""
    kind: str
    """all, dropped or kept."""


class Fact(NamedTuple):
    """A named number with a note on what it was computed from."""

    name: str
    value: str
    note: str


class Source(NamedTuple):
    """A bought question and examples of what was decoded from its state."""

    question: str
    examples: tuple[tuple[DecodedExample, str], ...]
    """Each with its outcome (kept, or why it was dropped); the kept ones first."""
    left_out: int
    """How many are not shown."""


class View(NamedTuple):
    """What the template needs besides the data."""

    funnel: tuple[Step, ...]
    noise: str
    temperature: str
    never: str
    """The titles of the reasons that dropped nothing."""
    facts: tuple[Fact, ...]
    sources: tuple[Source, ...]


def view(new: Augmentation) -> View:
    """The section's funnel, facts and examples; shares are None (a dash on the page) if the total is 0."""
    never = [reason_title(reason) for reason, n in new.reasons.items() if not n]
    setting = (_plain(new.noise), _plain(new.temperature))
    return View(_funnel(new), *setting, "; ".join(never), _facts(new), _sources(new.examples))


def reason_title(reason: str) -> str:
    """Why a decoded question was dropped, as a phrase; of an unknown reason its name."""
    return REASONS.get(reason) or reason.replace("_", " ")


def copies(reasons: Mapping[str, int]) -> int:
    """How many candidates were dropped as copies or near-copies of another question."""
    return sum(n for reason, n in reasons.items() if reason in COPIES)


def still_unknown(new: Augmentation) -> tuple[int, int]:
    """Of the candidates that passed all other filters: how many are unknown according to the probe, and how many in
    all.
    """
    unknown = new.kept + new.reasons.get("over_budget", 0)
    return unknown, unknown + new.reasons.get("known", 0)


def _funnel(new: Augmentation) -> tuple[Step, ...]:
    """A waterfall chart: each reason's bar is at the right end of the rest, and the kept questions remain."""
    left = new.candidates
    steps = [Step("Decoded", left, _share(left, left), 0.0, 100.0 if left else 0.0, "all")]
    for reason, n in new.reasons.items():
        if n:
            left -= n
            title = reason_title(reason)
            share = _share(n, new.candidates)
            steps.append(Step(title, n, share, *_bar(left, n, new.candidates), "dropped"))
    share = _share(new.kept, new.candidates)
    return (*steps, Step("Kept", new.kept, share, *_bar(0, new.kept, new.candidates), "kept"))


def _facts(new: Augmentation) -> tuple[Fact, ...]:
    unknown, asked = still_unknown(new)
    copied = copies(new.reasons)
    validated = f"of {_known(new.n_validation)} questions it has not seen"
    return (
        Fact("Decoder", _KINDS.get(new.kind, new.kind), f"trained on {_known(new.trained_on)} questions"),
        Fact("It reads", f"layer {new.layer}" if new.layer >= 0 else "all layers", "the state the probe judges"),
        Fact("Says again, word for word", percent(new.exact), validated),
        Fact("Token F1 of what it says", decimal(new.f1), f"BLEU {decimal(new.bleu)}"),
        Fact("Copies", percent(_share(copied, new.candidates)), f"{count(copied)} are not new, or hardly"),
        Fact("Distinct texts", percent(new.distinct), f"of {count(new.candidates)} decoded"),
        Fact(
            "Still unknown",
            percent(_share(unknown, asked)),
            f"{count(unknown)} of {count(asked)} with no other fault",
        ),
        Fact(
            "Recalled",
            percent(None if new.in_decoder_set is None else _share(new.in_decoder_set, new.kept)),
            f"{_known(new.in_decoder_set)} of {count(new.kept)} kept stand in the decoder's training",
        ),
    )


def _sources(examples: Iterable[DecodedExample]) -> tuple[Source, ...]:
    by_source: dict[str, list[DecodedExample]] = {}
    for example in examples:
        by_source.setdefault(example.source, []).append(example)
    sources = []
    for question, own in list(by_source.items())[:SOURCES_SHOWN]:
        # Stable: the given order among the kept and among the dropped ones.
        own.sort(key=lambda example: not example.kept)
        shown = tuple((example, _outcome(example)) for example in own[:PER_SOURCE])
        sources.append(Source(question, shown, len(own) - len(shown)))
    return tuple(sources)


def _outcome(example: DecodedExample) -> str:
    return "kept" if example.kept else reason_title(example.reason)


def _known(n: int | None) -> str:
    return MISSING if n is None else count(n)


def _plain(value: float) -> str:
    """0.3, 1, 0.25: without trailing zeros, at most two decimals."""
    return decimal(value).rstrip("0").rstrip(".")


def _share(n: int, total: int) -> float | None:
    return n / total if total else None


def _bar(start: int, n: int, total: int) -> tuple[float, float]:
    """Left end and width of a bar in percent; within 0 to 100 even if the counts contradict each other."""
    if not total:
        return 0.0, 0.0
    left = min(max(100 * start / total, 0.0), 100.0)
    return left, min(max(100 * n / total, 0.0), 100.0 - left)
