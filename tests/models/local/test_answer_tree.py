"""Answers as trees: who shares a row, when rows fork, and where they go."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ka2l.models.local.answer_tree import Question, Row, draws, grow, places
from ka2l.models.local.token_draws import LEVELS, StopRule
from letters import Letters

RULE = StopRule(Letters(), {7})


def question(temperatures: dict[int, float], index: int = 0) -> Question:
    def stream() -> Any:
        return np.arange(len(temperatures) * 6 * LEVELS, dtype=float).reshape(-1, 6, LEVELS) + 1000 * index

    return Question(index, [1, 2, 3], temperatures, stream)


def test_samples_that_agree_share_a_row_and_fork_where_they_differ() -> None:
    asked = question({0: 0.1, 1: 1.0, 2: 1.0, 5: 1.0})
    root = Row(asked, [0, 1, 2, 5], start=2, end=5)
    first = grow([root], [3, 4, 3, 3], [-1.0, -2.0, -1.0, -1.0], RULE, limit=9)
    assert [(row.samples, row.tokens, row.logprobs) for row in first.rows] == [
        ([0, 2, 5], [3], [-1.0]),
        ([1], [4], [-2.0]),
    ]
    assert first.sources == [0, 0]
    # The prompt's pass filled its columns; the drawn token takes the next one only when it is computed.
    assert {(row.start, row.end) for row in first.rows} == {(2, 5)}
    at, temperatures, numbers = draws(first.rows)
    assert (at, temperatures) == ([0, 0, 0, 1], [0.1, 1.0, 1.0, 1.0])
    np.testing.assert_array_equal(numbers, [asked.numbers[s][1] for s in (0, 2, 5, 1)])
    # Sample 1 ends its turn, 2 breaks the line, 0 and 5 go on.
    second = grow(first.rows, [0, 9, 0, 7], [-0.1, -0.2, -0.1, -0.4], RULE, limit=9)
    assert [(row.samples, row.tokens, row.end) for row in second.rows] == [([0, 5], [3, 0], 6)]
    assert second.sources == [0]
    # Neither the token that ends the turn nor a bare line break is kept.
    assert {s: tuple(a) for s, a in asked.answers.items()} == {
        1: ("e", [-2.0], "stop"),
        2: ("d", [-1.0], "stop"),
    }
    assert not asked.is_done
    # A token with text and a line break is kept; at the limit an answer ends without one.
    last = grow(second.rows, [8, 1], [-0.5, -0.6], RULE, limit=3)
    assert last.rows == []
    assert asked.answers[0] == ("da.", [-1.0, -0.1, -0.5], "stop")
    assert asked.answers[5] == ("dab", [-1.0, -0.1, -0.6], "length")
    assert asked.is_done


def test_rows_of_two_questions_do_not_mix() -> None:
    one, other = question({0: 1.0, 1: 1.0}, 0), question({0: 1.0}, 1)
    grown = grow([Row(one, [0, 1], 0, 3), Row(other, [0], 0, 3)], [3, 3, 3], [-1.0, -1.0, -2.0], RULE, limit=9)
    assert [(row.question.index, row.samples, row.logprobs) for row in grown.rows] == [
        (0, [0, 1], [-1.0]),
        (1, [0], [-2.0]),
    ]


@given(st.lists(st.integers(0, 12), max_size=30))
def test_rows_fill_the_first_places_and_nothing_needed_is_overwritten(sources: list[int]) -> None:
    sources = sorted(sources)
    before = [f"slot {i}" for i in range(max([*sources, len(sources)], default=0) + 1)]
    new, targets, origins = places(sources)
    assert sorted(new) == list(range(len(sources)))
    assert not set(targets) & set(origins)
    after = list(before)
    for target, origin in zip(targets, origins, strict=True):
        after[target] = before[origin]
    assert [after[place] for place in new] == [before[source] for source in sources]
    # No more copies than rows that cannot stay where they are.
    assert len(targets) == len(sources) - len({s for s in sources if s < len(sources)})
