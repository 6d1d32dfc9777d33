"""What is dropped of what a decoder says: the form of a question, copies, near-copies, and what stands in the test."""

import string
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from ka2l.augmentation import near_copies as near_copies_module
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
from ka2l.augmentation.near_copies import Embedded, near_copies
from ka2l.augmentation.question_style import QuestionStyle, loops
from ka2l.errors import DataError
from ka2l.questions.question import Question

CITIES = [
    f"In which country is the city of {n}?"
    for n in ("Lyon", "Delft", "Łódź", "São Vicente", "Mazār-e Sharīf")
]
CAPITALS = [f"What is the capital of {n}?" for n in ("France", "the Netherlands", "Trinidad and Tobago")]
GEONAMES = QuestionStyle.learn([*CITIES, *CAPITALS])

# What a question looks like


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
    with pytest.raises(DataError, match="no questions to learn from"):
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


def test_form_comes_before_the_end() -> None:
    said = [
        ("What is the capital of Peru?", True),
        ("What is the capital of Peru?", False),
        ("What is", False),
    ]
    candidates = [Candidate(str(i), "s", text, finished) for i, (text, finished) in enumerate(said)]
    assert [v.reason for v in in_style(candidates, GEONAMES)] == ["", "unfinished", "not_a_question"]


# Copies


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


# Near-copies


def unit(*degrees: float) -> NDArray[np.float32]:
    """Rows on the circle: the cosine of two is that of the angle between them."""
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def test_a_hand_computed_circle() -> None:
    # From cos 20° = 0.94 on two are one.
    at = [0.0, 10.0, 50.0, 100.0, 150.0, 165.0, 200.0]
    said = [Candidate(f"d{i}", "s1", "", True) for i in range(len(at))]
    references = {
        "source": [Embedded(["s1", "s1", "s2"], unit(300, 15, 150))],
        "eval": [Embedded(["e1"], unit(60))],
        "pool": [Embedded(["p1", "p2"], unit(110, 240))],
    }
    found = near_copies(said, unit(*at), references, float(np.cos(np.radians(20))))
    # The one at 150° is another source's own state, which is nothing to s1; the one at 165° is near that at 150°.
    assert [(v.reason, v.nearest) for v in found] == [
        ("near_source", "s1"),
        ("near_source", "s1"),
        ("near_eval", "e1"),
        ("near_pool", "p1"),
        ("", "p1"),
        ("near_kept", "d4"),
        ("", "p2"),
    ]
    angles = np.degrees(np.arccos([v.similarity for v in found if v.similarity is not None]))
    assert angles == pytest.approx([15, 5, 10, 10, 40, 15, 40], abs=0.1)


def test_what_was_dropped_drops_nothing() -> None:
    # d1 is near e1, d2 only near d1.
    said = [Candidate(f"d{i}", "s", "", True) for i in (1, 2)]
    found = near_copies(
        said, unit(15, 30), {"eval": [Embedded(["e1"], unit(0))]}, float(np.cos(np.radians(20)))
    )
    assert [verdict.reason for verdict in found] == ["near_eval", ""]


def test_nothing_to_compare_with() -> None:
    empty = Embedded([], np.empty((0, 2), dtype=np.float32))
    said = [Candidate("d", "s", "", True)]
    assert near_copies(said, unit(0), {"source": [empty], "eval": [empty], "pool": [empty]}, 0.9) == [
        Verdict()
    ]
    assert (
        near_copies([], np.empty((0, 2), dtype=np.float32), {"eval": [Embedded(["e"], unit(0))]}, 0.9) == []
    )


@pytest.mark.parametrize(
    ("rows", "reference", "message"),
    [
        (unit(0) * 2, Embedded(["e"], unit(0)), "candidates: embeddings are not of unit length"),
        (unit(0), Embedded(["e"], unit(0) * np.float32("nan")), "eval: embeddings are not of unit length"),
        (unit(0, 1), Embedded(["e"], unit(0)), "candidates: 1 ids"),
        (unit(0), Embedded(["e"], unit(0, 1)), "eval: 1 ids"),
    ],
)
def test_rows_that_are_none(rows: NDArray[np.float32], reference: Embedded, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        near_copies([Candidate("d", "s", "", True)], rows, {"eval": [reference]}, 0.9)


def test_what_is_known_to_ask_for_something_else_is_no_copy_however_alike() -> None:
    said = [
        Candidate("congo", "s", "", True),
        Candidate("other", "s", "", True),
        Candidate("again", "s", "", True),
    ]
    references = {"eval": [Embedded(["e"], unit(1))]}
    found = near_copies(said, unit(0, 90, 91), references, 0.9, told_apart=["congo", "other"])
    assert [verdict.reason for verdict in found] == ["", "", "near_kept"]
    assert found[0].nearest == "e"  # it was compared all the same


def test_an_unknown_reference() -> None:
    with pytest.raises(ValueError, match="no such reference: probe"):
        near_copies([], np.empty((0, 2), dtype=np.float32), {"probe": [Embedded([], unit())]}, 0.9)


def brute_force(
    sources: list[str],
    rows: NDArray[np.float32],
    references: dict[str, list[Embedded]],
    threshold: float,
) -> list[str]:
    reasons: list[str] = []
    for i, row in enumerate(rows):
        reason = ""
        for role, parts in references.items():
            for id_, other in ((id_, other) for part in parts for id_, other in zip(*part, strict=True)):
                if not reason and (role != "source" or id_ == sources[i]) and float(row @ other) >= threshold:
                    reason = f"near_{role}"
        for j in range(i):
            if not reason and not reasons[j] and float(row @ rows[j]) >= threshold:
                reason = "near_kept"
        reasons.append(reason)
    return reasons


@settings(max_examples=60, deadline=None)
@given(
    arrays.arrays(np.int8, st.tuples(st.integers(5, 24), st.just(3)), elements=st.integers(-4, 4)),
    st.integers(1, 3),
    st.integers(2, 7),
    st.sampled_from([0.55, 0.83, 0.97]),
)
def test_as_brute_force_whatever_the_chunk(
    raw: NDArray[np.int8], known: int, chunk: int, threshold: float
) -> None:
    rows = raw.astype(np.float32) + np.array([0.1, 0.01, 0.001], dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    held_out, pool, source, said = (
        rows[:known],
        rows[known : known + 1],
        rows[known + 1 : known + 2],
        rows[known + 2 :],
    )
    sources = [f"s{i % 2}" for i in range(len(said))]
    references = {
        "source": [Embedded(["s1"], source)],
        "eval": [Embedded([f"e{i}"], held_out[i : i + 1]) for i in range(known)],
        "pool": [Embedded(["p"], pool)],
    }
    candidates = [Candidate(f"d{i}", source_id, "", True) for i, source_id in enumerate(sources)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near_copies_module, "_CHUNK", chunk)
        found = near_copies(candidates, said, references, threshold)
    assert [verdict.reason for verdict in found] == brute_force(sources, said, references, threshold)
    by_id = {
        **{f"e{i}": row for i, row in enumerate(held_out)},
        **{f"d{i}": row for i, row in enumerate(said)},
        "p": pool[0],
        "s1": source[0],
    }
    for row, verdict in zip(said, found, strict=True):
        assert verdict.nearest is not None
        assert verdict.similarity is not None
        assert verdict.similarity == pytest.approx(float(row @ by_id[verdict.nearest]), abs=1e-5)
        assert (verdict.similarity >= threshold) == bool(verdict.reason)


# The last line of defence, and the counts


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
