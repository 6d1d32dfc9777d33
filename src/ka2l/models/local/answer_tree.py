"""The answers under way, as trees: samples of one question that agree so far are one row of the batch.

The next-token distribution depends only on the tokens before it, so answers with the same beginning need it computed
once. Each sample still draws with numbers of its own; where two samples of a row draw different tokens, the row
forks. Ten answers to a question the model knows cost little more than one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ka2l.models.interface import Answer
from ka2l.models.local.token_draws import StopRule
from ka2l.models.prompts import trim_answer


@dataclass
class Question:
    """One question at work."""

    index: int  # in the caller's prompts
    part: list[int]  # its prompt's tokens behind the prefix
    temperatures: Mapping[int, float]  # sample number → temperature
    stream: Callable[[], NDArray[np.float64]]  # makes the numbers to draw with, [samples, steps, LEVELS]
    answers: dict[int, Answer] = field(default_factory=dict)
    states: NDArray[np.float32] | None = None

    @cached_property
    def numbers(self) -> dict[int, NDArray[np.float64]]:
        """Sample number → [steps, LEVELS]; made when the question's turn comes."""
        return dict(zip(self.temperatures, self.stream(), strict=True))

    @property
    def is_done(self) -> bool:
        """Whether every sample is finished."""
        return len(self.answers) == len(self.temperatures)


@dataclass
class Row:
    """One node at work: a beginning of an answer and the samples that share it."""

    question: Question
    samples: list[int]
    start: int  # columns of padding in the row's slot
    end: int  # columns filled
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


class Grown(NamedTuple):
    """What became of rows after a draw."""

    rows: list[Row]  # the rows that go on
    sources: list[int]  # for each, the place of its parent among the rows before


def draws(rows: Sequence[Row]) -> tuple[list[int], list[float], NDArray[np.float64]]:
    """What to draw next: for each sample of each row its row, temperature and numbers."""
    places, temperatures, numbers = [], [], []
    for place, row in enumerate(rows):
        step = len(row.tokens)
        for sample in row.samples:
            places.append(place)
            temperatures.append(row.question.temperatures[sample])
            numbers.append(row.question.numbers[sample][step])
    return places, temperatures, np.asarray(numbers)


def grow(
    rows: Sequence[Row], tokens: Sequence[int], logprobs: Sequence[float], rule: StopRule, limit: int
) -> Grown:
    """Append the drawn tokens: rows fork where their samples disagree, and finished answers go to their questions.

    Args:
        rows: the rows drawn from.
        tokens: a token for each draw, in the order of `draws`.
        logprobs: their log-probabilities at temperature 1.
        rule: what ends an answer. A token that ends the turn is not kept.
        limit: most tokens of an answer.
    """
    going, sources, at = [], [], 0
    for place, row in enumerate(rows):
        # The row's last token has taken its column; a prompt ends where it ended.
        end = row.end + bool(row.tokens)
        drawn: dict[int, list[int]] = {}
        chances: dict[int, float] = {}
        for sample in row.samples:
            drawn.setdefault(tokens[at], []).append(sample)
            chances[tokens[at]] = logprobs[at]
            at += 1
        for token, samples in drawn.items():
            if token in rule.stop_ids:
                _finish(row.question, samples, row.tokens, row.logprobs, "stop", rule)
                continue
            kept, scores = [*row.tokens, token], [*row.logprobs, chances[token]]
            if rule.ends(kept):
                # Like a token that ends the turn, a bare line break is no part of the answer.
                bare = not rule.text([token]).strip()
                kept, scores = (kept[:-1], scores[:-1]) if bare else (kept, scores)
                _finish(row.question, samples, kept, scores, "stop", rule)
            elif len(kept) == limit:
                _finish(row.question, samples, kept, scores, "length", rule)
            else:
                going.append(Row(row.question, samples, row.start, end, kept, scores))
                sources.append(place)
    return Grown(going, sources)


def places(sources: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    """Where rows go so that they fill the first places, with as few copies as possible.

    Args:
        sources: for each row that goes on, its parent's place. A place not named is free.

    Returns:
        for each row its new place, then the copies to make: targets and sources, which have no place in common.
    """
    count = len(sources)
    new = [-1] * count
    taken: set[int] = set()
    for row, source in enumerate(sources):
        if source < count and source not in taken:
            new[row] = source
            taken.add(source)
    # A parent beyond the end still holds what its rows need, and lies where nothing is written.
    free = iter(place for place in range(count) if place not in taken)
    for row in range(count):
        if new[row] < 0:
            new[row] = next(free)
    moved = [row for row in range(count) if new[row] != sources[row]]
    return new, [new[row] for row in moved], [sources[row] for row in moved]


def _finish(
    question: Question,
    samples: Sequence[int],
    tokens: list[int],
    logprobs: list[float],
    reason: str,
    rule: StopRule,
) -> None:
    answer = Answer(trim_answer(rule.text(tokens)), logprobs, reason)
    question.answers.update(dict.fromkeys(samples, answer))
