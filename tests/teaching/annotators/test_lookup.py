"""Decoded questions answered by whoever can look them up."""

from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from ka2l.questions.question import Question
from ka2l.teaching.annotators.annotation import Label, annotate_from_labels
from ka2l.teaching.annotators.lookup import annotate_decoded


class Found(NamedTuple):
    answers: tuple[str, ...]


KNOWN = {"What is A?": Found(("one", "eins")), "What is B?": Found(())}


def test_labels_and_refusals() -> None:
    questions = [
        Question("decoded:1", "What is A?", answers=("of its source",), role="decoded"),
        Question("decoded:2", "What is B?"),  # known, but without an answer
        Question("decoded:3", "What is C?", answers=("of its source",)),
    ]
    found = annotate_decoded(questions, KNOWN.get)
    assert found.labels == {"decoded:1": Label(("one", "eins"), None, "geonames")}
    assert found.refused == ["decoded:2", "decoded:3"]
    assert annotate_decoded(questions, KNOWN.get, "a table").labels["decoded:1"].annotator == "a table"


def test_the_labels_are_what_annotation_takes() -> None:
    questions = [Question("1", "What is A?"), Question("2", "What is C?")]
    result = annotate_from_labels(questions, annotate_decoded(questions, KNOWN.get).labels, 2.0)
    assert result.missing == ["2"]
    assert [(a.question_id, a.answers, a.annotator, a.cost) for a in result.annotations] == [
        ("1", ("one", "eins"), "geonames", 2.0)
    ]


@given(st.lists(st.sampled_from([*KNOWN, "What is C?"])))
def test_every_question_is_in_one_of_the_two(texts: list[str]) -> None:
    questions = [Question(f"d{i}", text) for i, text in enumerate(texts)]
    found = annotate_decoded(questions, KNOWN.get)
    assert sorted([*found.labels, *found.refused]) == sorted(question.id for question in questions)
    assert len(found.labels) == texts.count("What is A?")
