"""Unfinished answers as trees: samples of one question with the same tokens so far are one row of the batch.

The next-token distribution depends only on the tokens before it, so it is computed once for all answers with the same
beginning. Each sample still draws with its own random numbers; if two samples of a row draw different tokens, the row
forks. Ten answers to a question that the model knows cost little more than one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ka2l.models.interface import Answer, FinishReason
from ka2l.models.local.token_draws import StopRule
from ka2l.models.prompts import trim_answer


@dataclass
class Question:
    """One question that is being answered."""

    index: int
    """Place in the caller's prompts."""
    part: list[int]
    """The prompt's tokens after the prefix."""
    temperatures: Mapping[int, float]
    """Sample number → temperature."""
    stream: Callable[[], NDArray[np.float64]]
    """Makes the random numbers, [samples, steps, LEVELS]."""
    answers: dict[int, Answer] = field(default_factory=dict)
    states: NDArray[np.float32] | None = None

    @cached_property
    def numbers(self) -> dict[int, NDArray[np.float64]]:
        """Sample number → random numbers, [steps, LEVELS]; made on first use."""
        return dict(zip(self.temperatures, self.stream(), strict=True))

    @property
    def is_done(self) -> bool:
        """Whether every sample is finished."""
        return len(self.answers) == len(self.temperatures)


@dataclass
class Row:
    """One row of the batch: the beginning of an answer, and the samples that share it."""

    question: Question
    samples: list[int]
    start: int
    """Columns of padding in the row's slot."""
    end: int
    """Columns filled."""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


class Grown(NamedTuple):
    """The rows after a draw."""

    rows: list[Row]
    """The rows that are not finished."""
    sources: list[int]
    """For each, the place of its parent among the rows before the draw."""


def draws(rows: Sequence[Row]) -> tuple[list[int], list[float], NDArray[np.float64]]:
    """The next draws: for each sample of each row its row's place, its temperature and its random numbers."""
    places, temperatures, numbers = [], [], []
    for place, row in enumerate(rows):
        step = len(row.tokens)
        for sample in row.samples:
            places.append(place)
            temperatures.append(row.question.temperatures[sample])
            numbers.append(row.question.numbers[sample][step])
    return places, temperatures, np.asarray(numbers)


def grow(rows: Sequence[Row], tokens: Sequence[int], logprobs: Sequence[float], rule: StopRule, limit: int) -> Grown:
    """Append the drawn tokens: rows fork where their samples disagree, and finished answers go to their questions.

    Args:
        rows: the rows drawn from.
        tokens: a token for each draw, in the order of `draws`.
        logprobs: their log-probabilities at temperature 1 (nats).
        rule: what ends an answer. A token that ends the turn is not kept.
        limit: most tokens of an answer.
    """
    unfinished, sources, at = [], [], 0
    for place, row in enumerate(rows):
        # The row's last token fills a column. A row without tokens ends with its prompt.
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
                # Like a token that ends the turn, a line break alone is not part of the answer.
                bare = not rule.text([token]).strip()
                kept, scores = (kept[:-1], scores[:-1]) if bare else (kept, scores)
                _finish(row.question, samples, kept, scores, "stop", rule)
            elif len(kept) == limit:
                _finish(row.question, samples, kept, scores, "length", rule)
            else:
                unfinished.append(Row(row.question, samples, row.start, end, kept, scores))
                sources.append(place)
    return Grown(unfinished, sources)


def places(sources: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    """New places for rows, so that they fill the first places with as few copies as possible.

    Args:
        sources: for each unfinished row its parent's place. All other places are free.

    Returns:
        for each row its new place; then the copies to make, as targets and sources, which have no place in common.
    """
    count = len(sources)
    new = [-1] * count
    taken: set[int] = set()
    for row, source in enumerate(sources):
        if source < count and source not in taken:
            new[row] = source
            taken.add(source)
    # A parent beyond the last new place still has what its rows need, and nothing is written there.
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
    reason: FinishReason,
    rule: StopRule,
) -> None:
    """Store the same answer for these samples."""
    answer = Answer(trim_answer(rule.text(tokens)), logprobs, reason)
    question.answers.update(dict.fromkeys(samples, answer))
