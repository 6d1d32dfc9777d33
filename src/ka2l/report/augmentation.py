"""The section on new questions out of hidden states: what became of them, how good the decoder is, examples.

view(data.augmentation)        # what page.html draws
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ka2l.common.number_format import MISSING, count, decimal, percent
from ka2l.report.run_page_data import Augmentation, DecodedExample

SOURCES_SHOWN = 8
PER_SOURCE = 6  # of the new questions of one source

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
    """One row of the funnel; `start` and `width` place its bar, in percent of all that was decoded."""

    title: str
    n: int
    share: float | None
    start: float
    width: float
    kind: str  # all | dropped | kept


class Fact(NamedTuple):
    """A named number with what it is of."""

    name: str
    value: str
    note: str


class Source(NamedTuple):
    """A bought question and what was decoded from its state: (example, its fate in words), the kept ones first."""

    question: str
    examples: tuple[tuple[DecodedExample, str], ...]
    left_out: int


class View(NamedTuple):
    """What the template needs besides the data."""

    funnel: tuple[Step, ...]
    noise: str
    temperature: str
    never: str  # the reasons that dropped nothing, in words
    facts: tuple[Fact, ...]
    sources: tuple[Source, ...]


def view(new: Augmentation) -> View:
    """The section's funnel, facts and examples, with shares that are None (a dash) where there is nothing to divide by."""
    never = [reason_title(reason) for reason, n in new.reasons.items() if not n]
    setting = (_plain(new.noise), _plain(new.temperature))
    return View(_funnel(new), *setting, "; ".join(never), _facts(new), _sources(new.examples))


def reason_title(reason: str) -> str:
    """Why a decoded question was dropped, in words; an unknown reason is its own name."""
    return REASONS.get(reason) or reason.replace("_", " ")


def copies(reasons: Mapping[str, int]) -> int:
    """How many candidates were dropped for having been asked before, in the same words or nearly."""
    return sum(n for reason, n in reasons.items() if reason in COPIES)


def still_unknown(new: Augmentation) -> tuple[int, int]:
    """Of those that nothing else speaks against, how many the probe calls unknown: (unknown, all of them)."""
    unknown = new.kept + new.reasons.get("over_budget", 0)
    return unknown, unknown + new.reasons.get("known", 0)


def _funnel(new: Augmentation) -> tuple[Step, ...]:
    """A waterfall: every reason takes a slice off the right end of what is left, and the kept ones remain."""
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
        Fact(
            "It reads", f"layer {new.layer}" if new.layer >= 0 else "all layers", "the state the probe judges"
        ),
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
    found = []
    for question, own in list(by_source.items())[:SOURCES_SHOWN]:
        own.sort(key=lambda example: not example.kept)  # stable: the given order within each half
        shown = tuple((example, _fate(example)) for example in own[:PER_SOURCE])
        found.append(Source(question, shown, len(own) - len(shown)))
    return tuple(found)


def _fate(example: DecodedExample) -> str:
    return "kept" if example.kept else reason_title(example.reason)


def _known(n: int | None) -> str:
    return MISSING if n is None else count(n)


def _plain(value: float) -> str:
    """0.3, 1, 0.25: as it was configured, two decimals at most."""
    return decimal(value).rstrip("0").rstrip(".")


def _share(n: int, of: int) -> float | None:
    return n / of if of else None


def _bar(start: int, n: int, of: int) -> tuple[float, float]:
    """Where a bar begins and how wide it is, in percent; counts that contradict each other stay inside."""
    if not of:
        return 0.0, 0.0
    begin = min(max(100 * start / of, 0.0), 100.0)
    return begin, min(max(100 * n / of, 0.0), 100.0 - begin)
