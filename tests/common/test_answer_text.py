"""Normalisation and the two leading metrics, by hand-computed values and by what must hold for any text."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ka2l.common.answer_text import exact_match, is_correct, normalize_answer, normalize_question, token_f1

# Letters with combining marks and scripts other than Latin are where normalisations go wrong.
TEXTS = st.text(alphabet=st.characters(codec="utf-8", categories=("L", "M", "N", "P", "Z")), max_size=30)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Beatles", "beatles"),
        ("  an   Apple a day ", "apple day"),
        ("São Paulo", "sao paulo"),
        ("Sa\u0303o Paulo", "sao paulo"),
        ("STRASSE", "strasse"),
        ("Straße", "strasse"),
        ("Guinea-Bissau", "guinea bissau"),
        ("AC/DC", "ac dc"),
        ("“Hello”, she said…", "hello she said"),
        ("1,000", "1000"),
        ("L'Aquila", "laquila"),
        ("theatre another", "theatre another"),
        ("Москва", "москва"),
        ("東京", "東京"),
        ("🙂", "🙂"),
        ("", ""),
        (" \t\n", ""),
    ],
)
def test_normalize_answer(text: str, expected: str) -> None:
    assert normalize_answer(text) == expected


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ("What is  the capital of France?", "what is the capital of france", True),
        ("“Who wrote Emma?”", "Who wrote Emma", True),
        ("Which is larger, a or the?", "Which is larger, or?", False),  # articles count in questions
        ("What is C?", "What is C++?", False),
    ],
)
def test_normalize_question(left: str, right: str, same: bool) -> None:
    assert (normalize_question(left) == normalize_question(right)) is same


def test_exact_match_takes_any_alias() -> None:
    assert exact_match("the U.S.A.", ["United States", "USA"])
    assert not exact_match("USA today", ["United States", "USA"])
    assert not exact_match("anything", [])


@pytest.mark.parametrize(
    ("prediction", "answers", "expected"),
    [
        ("the cat sat", ["cat sat"], 1.0),
        ("New York City", ["New York"], 2 * 2 / (3 + 2)),
        ("Paris", ["London", "Paris France"], 2 * 1 / (1 + 2)),
        ("ha ha ha", ["ha"], 2 * 1 / (3 + 1)),  # a repeated token counts once
        ("", ["Paris"], 0.0),
        ("Paris", [], 0.0),
    ],
)
def test_token_f1(prediction: str, answers: list[str], expected: float) -> None:
    assert token_f1(prediction, answers) == pytest.approx(expected)


def test_is_correct_follows_the_rule() -> None:
    assert not is_correct("New York City", ["New York"], "exact_match")
    assert is_correct("New York City", ["New York"], "f1")
    assert not is_correct("ha ha ha ha", ["ha"], "f1")  # F1 of 0.4
    assert is_correct("ha ha ha", ["ha"], "f1")  # F1 of 0.5 is enough
    with pytest.raises(ValueError, match="bleu"):
        is_correct("a", ["a"], "bleu")


@settings(deadline=None, max_examples=60)
@given(TEXTS)
def test_a_text_is_right_against_itself(text: str) -> None:
    assert exact_match(text, ["something else", text])
    assert token_f1(text, [text]) == 1.0


@settings(deadline=None, max_examples=60)
@given(TEXTS, TEXTS)
def test_exact_match_and_f1_agree(left: str, right: str) -> None:
    assert 0.0 <= token_f1(left, [right]) <= 1.0
    assert token_f1(left, [right]) == pytest.approx(token_f1(right, [left]))
    if exact_match(left, [right]):
        assert token_f1(left, [right]) == 1.0


@settings(deadline=None, max_examples=60)
@given(TEXTS)
def test_normalize_question_is_stable(text: str) -> None:
    once = normalize_question(text)
    assert normalize_question(once) == once
    assert normalize_question(f"  {text} ?") == once


@pytest.mark.parametrize(("left", "right"), [("№ 5", "no 5"), ("20 ℃", "20 °C"), ("ACME™", "acmetm")])
def test_compatibility_characters_lose_their_case(left: str, right: str) -> None:
    assert exact_match(left, [right])


@pytest.mark.parametrize("gold", ["A", "The The", "!!!"])
def test_an_empty_prediction_is_never_right(gold: str) -> None:
    assert not exact_match("", [gold])


@pytest.mark.parametrize(("left", "right"), [("ガス", "カス"), ("कर्म", "करम")])
def test_marks_that_make_another_letter_are_kept(left: str, right: str) -> None:
    assert not exact_match(left, [right])
