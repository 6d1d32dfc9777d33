"""Candidates that are dropped by their text: form, copies, leaks into the test; and the counts of the funnel."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ka2l.augmentation.filters import (
    REASONS,
    Candidate,
    Verdict,
    check_no_leak,
    copies,
    funnel,
    in_style,
    wordings,
)
from ka2l.augmentation.question_style import QuestionStyle
from ka2l.errors import DataError
from ka2l.questions.question import Question


def test_form_comes_before_the_end() -> None:
    style = QuestionStyle.learn(["What is the capital of France?", "What is the capital of the Netherlands?"])
    said = [
        ("What is the capital of Peru?", True),
        ("What is the capital of Peru?", False),
        ("What is", False),
    ]
    candidates = [Candidate(str(i), "s", text, finished) for i, (text, finished) in enumerate(said)]
    assert [v.reason for v in in_style(candidates, style)] == ["", "unfinished", "not_a_question"]


def candidate(text: str, id_: str = "d", source: str = "s1") -> Candidate:
    return Candidate(id_, source, text, True)


SOURCES = {"s1": ("What is A?", "Name A."), "s2": ("What is B?",)}


HELD_OUT = {"e1": ("What is C?", "Name C.")}


POOL = {**SOURCES, "p1": ("What is D?",)}


ELSEWHERE = {"x1": ("What is E?",)}


@pytest.mark.parametrize(
    ("text", "reason", "nearest"),
    [
        ("What is A?", "source_again", "s1"),
        ("name  a", "source_again", "s1"),
        ("What is B?", "in_pool", "s2"),
        ("WHAT IS C", "in_eval", "e1"),
        ("“Name C?”", "in_eval", "e1"),
        ("What is D?", "in_pool", "p1"),
        ("What is E?", "elsewhere", "x1"),
        ("What is F?", "", None),
    ],
)
def test_copies(text: str, reason: str, nearest: str | None) -> None:
    assert copies([candidate(text)], SOURCES, HELD_OUT, POOL, ELSEWHERE) == [Verdict(reason, None, nearest)]


def test_the_reason_that_comes_first_is_given() -> None:
    everywhere = {"q": ("What is A?",)}
    verdict = copies([candidate("What is A?")], {"s1": ()}, everywhere, everywhere, everywhere)
    assert verdict == [Verdict("in_eval", None, "q")]
    assert copies([candidate("What is A?")], {"s1": ()}, {}, everywhere, everywhere)[0].reason == "in_pool"


def test_another_ones_source_is_known_even_if_the_pool_is_not_given() -> None:
    assert copies([candidate("What is B?")], SOURCES, {}, {}, {}) == [Verdict("in_pool", None, "s2")]


def test_of_equal_candidates_the_first_is_kept() -> None:
    said = [candidate("What is F?", "d1"), candidate("what is f", "d2", "s2"), candidate("What is G?", "d3")]
    found = copies(said, SOURCES, HELD_OUT, POOL, ELSEWHERE)
    assert found == [Verdict(), Verdict("twice", None, "d1"), Verdict()]
    # One that was dropped takes nothing from those after it: B is a copy from everywhere.
    both = copies([candidate("What is B?", "d1", "s2"), candidate("What is B?", "d2")], SOURCES, {}, POOL, {})
    assert [verdict.reason for verdict in both] == ["source_again", "in_pool"]


def test_wordings_of_questions() -> None:
    question = Question("q", "What is A?", meta={"rewordings": ["Name A."]})
    assert wordings([question, Question("r", "What is B?")]) == {
        "q": ("What is A?", "Name A."),
        "r": ("What is B?",),
    }


def test_a_leak_is_told() -> None:
    held_out = [
        Question(
            "e1",
            "What is the capital of Peru?",
            group="capital:PE",
            meta={"rewordings": ["Name Peru's capital."]},
        ),
        Question("e2", "Who wrote Emma?"),
    ]
    check_no_leak(
        [Question("d0", "What is the capital of Chile?", group="capital:CL"), Question("d1", "Who?")],
        held_out,
    )
    leaks = [
        Question("d1", "name peru's capital", group="x"),
        Question("d2", "The capital of Peru is which city?", group="capital:PE"),
        Question("d3", "Emma is by whom?", meta={"rewordings": ["Who wrote Emma"]}),
    ]
    for question, twin in zip(leaks, ("e1", "e1", "e2"), strict=True):
        with pytest.raises(DataError, match=f"1 decoded.*\n.*{question.id} .*eval question {twin}"):
            check_no_leak([question], held_out)
    with pytest.raises(DataError, match="3 decoded"):
        check_no_leak(leaks, held_out)


def test_the_funnel_is_in_order_and_adds_up() -> None:
    reasons = ["near_pool", "", "twice", "", "not_a_question", "twice", ""]
    counts = funnel(map(Verdict, reasons))
    assert list(counts.items()) == [("not_a_question", 1), ("twice", 2), ("near_pool", 1), ("kept", 3)]
    assert funnel([]) == {"kept": 0}
    with pytest.raises(KeyError):
        funnel([Verdict("because")])


@given(st.lists(st.sampled_from(["", *REASONS])))
def test_the_funnel_loses_nobody(reasons: list[str]) -> None:
    counts = funnel(map(Verdict, reasons))
    assert sum(counts.values()) == len(reasons)
    assert list(counts)[:-1] == [reason for reason in REASONS if reason in reasons]
