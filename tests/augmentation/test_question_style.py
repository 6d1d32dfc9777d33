"""Whether a text reads as a question of the source: its form, in several languages, and loops."""

import string
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ka2l.augmentation.question_style import QuestionStyle, loops
from ka2l.errors import DataError

CITIES = [f"In which country is the city of {n}?" for n in ("Lyon", "Delft", "Łódź", "São Vicente", "Mazār-e Sharīf")]


CAPITALS = [f"What is the capital of {n}?" for n in ("France", "the Netherlands", "Trinidad and Tobago")]


GEONAMES = QuestionStyle.learn([*CITIES, *CAPITALS])


def test_what_is_learned() -> None:
    assert GEONAMES.marks == {"?"}
    assert GEONAMES.first_words == {"in", "what"}
    assert GEONAMES.scripts == {"LATIN"}


def test_the_length_is_widened_by_half() -> None:
    # Lengths 20 and 40, 100 of each, and one of 400 that the percentiles leave out.
    texts = [f"Who {'a' * (length - 5)}?" for length in (20, 40) for _ in range(100)]
    style = QuestionStyle.learn([*texts, f"Who {'a b' * 132}?"])
    assert (style.shortest, style.longest) == (10, 60)
    letters = string.ascii_lowercase * 3
    accepted = [n for n in range(6, 80) if style.reads_as_question(f"Who {letters[: n - 5]}?")]
    assert accepted == list(range(10, 61))


@pytest.mark.parametrize(
    "text",
    [
        "In which country is the city of Delft?",
        "In which country is the city of Khashusar?",  # no such city, but that is not a matter of form
        "What is the capital of the Jauniach?",
        "What is the source of fresh ocean chickens?",
        "what is the CAPITAL of Peru?”",
        "In which country is the city of Baden-Baden?",
        "What is the capital of the Republic of the Isles of the Sun?",
    ],
)
def test_a_question_of_the_source(text: str) -> None:
    assert GEONAMES.reads_as_question(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "????????????????????",
        "In which country is the city of Delft",  # no mark
        "Which country has Delft in it?",  # no question of the source begins like that
        "What?",
        "What is the capital of " + "Pa" + "lomo, ".join("abcdefghijkl") + "?",  # too long
        "In which country is the city of Delft?\nWhat is the capital of Peru?",
        "In which country is the city of Delft?\u2028What is it?",
        "In which country is the city of De\ufffdft?",
        "In which country is the city of De\x07lft?",
        "In which country is the city ofойール梁w?",
        "What is the capital of Question: Peru?",
        "What is the capital of Peru? Answer : Lima?",
        "What is the the the the capital of Peru?",
        "In which city of the city of the city of the Po?",
        "What is the capital of Bananananania?",
    ],
)
def test_not_a_question_of_the_source(text: str) -> None:
    assert not GEONAMES.reads_as_question(text)


def test_what_is_no_habit_is_no_rule() -> None:
    # 2 of 20 without a mark, and no first word comes twice: the end and the first word say nothing.
    texts = [f"{chr(97 + i) * 3} wrote the book?" for i in range(18)] + [
        "name the author of it",
        "tell its title",
    ]
    style = QuestionStyle.learn(texts)
    assert (style.marks, style.first_words) == (frozenset(), frozenset())
    assert style.reads_as_question("someone wrote a book")


def test_nineteen_of_twenty_are_a_habit() -> None:
    style = QuestionStyle.learn(["Who wrote Emma?"] * 19 + ["Who wrote Persuasion."])
    assert style.marks == {"?"}
    assert not style.reads_as_question("Who wrote Evelina.")
    assert not QuestionStyle.learn(["Who wrote Emma?"] * 18 + ["Who wrote Emma."] * 2).marks


@pytest.mark.parametrize(
    ("known", "yes", "no"),
    [
        (
            ["法国的首都是哪里？", "荷兰的首都是哪里？", "秘鲁的首都在何处？"],
            "智利的首都是哪里？",
            "智利的首都是哪里",
        ),
        (["ما هي عاصمة فرنسا؟", "ما هي عاصمة هولندا؟"], "ما هي عاصمة بيرو؟", "ما هي عاصمة بيرو"),
        (["Ποια είναι η πρωτεύουσα;", "Ποια είναι η πόλη;"], "Ποια είναι η χώρα;", "Ποια είναι η χώρα"),
        (["¿Cuál es la capital?", "¿Cuál es la moneda?"], "¿Cuál es la ciudad?", "¿Dónde está la ciudad?"),
    ],
)
def test_other_languages(known: list[str], yes: str, no: str) -> None:
    style = QuestionStyle.learn(known)
    assert style.reads_as_question(yes)
    assert not style.reads_as_question(no)


def test_both_forms_of_the_greek_mark_are_told_apart_from_none() -> None:
    greek = "Ποια είναι η πόλη\N{GREEK QUESTION MARK}"
    assert QuestionStyle.learn([greek]).marks == {"\N{GREEK QUESTION MARK}"}
    assert QuestionStyle.learn([unicodedata.normalize("NFC", greek)]).marks == {";"}


def test_nothing_to_learn_from() -> None:
    with pytest.raises(DataError, match="no questions to learn the style"):
        QuestionStyle.learn([])


@given(st.lists(st.sampled_from([*CITIES, *CAPITALS]), min_size=1))
def test_every_question_learned_from_is_one(texts: list[str]) -> None:
    style = QuestionStyle.learn(texts)
    assert all(map(style.reads_as_question, texts))


@pytest.mark.parametrize(
    ("text", "looping"),
    [
        ("no no no", False),
        ("No no NO no", True),
        ("a b c d a b c", False),
        ("a b c d a b c e a b c", True),
        ("was made of -- -- -- -- and --", False),  # a gap to fill
        ("Mississippi", False),
        ("hahaha", False),
        ("hahahaha", True),
        ("在哪里在哪里在哪里在哪里", True),
        ("1000000000", False),
    ],
)
def test_loops(text: str, looping: bool) -> None:
    assert loops(text) is looping
