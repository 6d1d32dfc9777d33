"""The sets of questions that are asked after teaching, and the draw from the unlabelled pool."""

import random
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluated_questions import ANSWERS, ARM, DECODED, DECODED_ANSWERS, DECODED_ARM, QUESTIONS, ask, by_id
from ka2l.evaluation.question_sets import QuestionRow, asked_ids, evaluation_sets
from ka2l.evaluation.settings import EvaluateConfig
from ka2l.questions.question import Question


def asking(unbought: int) -> EvaluateConfig:
    return EvaluateConfig(unbought=unbought, rewordings=2)


def test_sets_hold_who_belongs_there() -> None:
    sets = evaluation_sets(QUESTIONS, ARM.bought, asking(10), 0, ANSWERS)
    assert sets["held_out"] == [(id_, 0, f"What is {id_}?") for id_ in ("e1", "e2", "e3")]
    assert [id_ for id_, _, _ in sets["bought"]] == ["p1", "p2", "p3"]  # nobody knows p5
    assert sets["bought_reworded"] == [("p1", 1, "Name p1."), ("p1", 2, "And p1?")]
    assert sets["unbought"] == [("p4", 0, "What is p4?")]


def test_without_annotations_the_gold_answers_decide() -> None:
    assert [id_ for id_, _, _ in evaluation_sets(QUESTIONS, ["p3", "p1"], asking(10), 0)["bought"]] == ["p1"]


def test_a_fact_that_was_taught_is_not_unbought() -> None:
    questions = by_id(ask("a", "pool", "x", group="g"), ask("b", "pool", "x", group="g"), ask("c", "pool", "x"))
    assert [id_ for id_, _, _ in evaluation_sets(questions, ["a"], asking(10), 0)["unbought"]] == ["c"]


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 40), st.integers(0, 5), st.randoms(use_true_random=False))
def test_unbought_is_nested_and_blind_to_the_order_of_rows(size: int, seed: int, shuffler: random.Random) -> None:
    pool = [ask(f"q{i}", "pool", "x") for i in range(40)]
    bought = ["q3", "q30"]
    everything = evaluation_sets(by_id(*pool), bought, asking(40), seed)["unbought"]
    shuffler.shuffle(pool)
    assert evaluation_sets(by_id(*pool), bought, asking(size), seed)["unbought"] == everything[:size]
    assert len(everything) == 38


def test_unbought_follows_the_seed_and_hardly_the_purchase() -> None:
    pool = by_id(*(ask(f"q{i}", "pool", "x") for i in range(200)))
    draws = [{id_ for id_, _, _ in evaluation_sets(pool, [], asking(50), seed)["unbought"]} for seed in range(4)]
    assert all(left != right for left, right in pairwise(draws))
    after = {id_ for id_, _, _ in evaluation_sets(pool, sorted(draws[0])[:5], asking(50), 0)["unbought"]}
    assert len(after & draws[0]) == 45


@pytest.mark.parametrize(
    ("bought", "message"), [(["nobody"], "nobody"), (["p1", "p1"], "bought 2 times"), (["e1"], "role 'eval'")]
)
def test_a_purchase_that_cannot_be_is_refused(bought: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluation_sets(QUESTIONS, bought, asking(1), 0)


def test_decoded_questions_are_a_set_of_their_own() -> None:
    without = evaluation_sets(QUESTIONS, ARM.bought, asking(10), 0, ANSWERS)
    sets = evaluation_sets(DECODED, DECODED_ARM.bought, asking(10), 0, DECODED_ANSWERS)
    assert list(sets) == ["held_out", "bought", "bought_reworded", "decoded", "unbought"]
    assert sets["decoded"] == [("d1", 0, "What is d1?"), ("d2", 0, "What is d2?")]
    assert sets["unbought"] == []  # p4's fact was taught through d1
    assert {name: sets[name] for name in ("held_out", "bought", "bought_reworded")} == {
        name: without[name] for name in ("held_out", "bought", "bought_reworded")
    }
    assert "decoded" not in evaluation_sets(DECODED, ARM.bought, asking(10), 0, DECODED_ANSWERS)


def test_another_arm_is_not_asked_what_was_taught_through_a_decoded_question() -> None:
    sets = evaluation_sets(DECODED, ["p2"], asking(10), 0, DECODED_ANSWERS, bought_elsewhere=DECODED_ARM.bought)
    assert [name for name, items in sets.items() if items] == ["held_out", "bought"]


@pytest.mark.parametrize("role", ["pool", "decoded"])
def test_a_held_out_fact_cannot_be_taught(role: str) -> None:
    questions = by_id(*QUESTIONS.values(), ask("leak", role, "A1 x", group="e1"))
    with pytest.raises(ValueError, match="'leak' has group 'e1', and so has the held-out question 'e1'"):
        evaluation_sets(questions, ["p1", "leak"], asking(1), 0, ANSWERS)


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 12), st.integers(0, 5))
def test_the_questions_that_are_asked_are_enough(rows_seed: int, size: int, seed: int) -> None:
    """With the streamed draw's questions alone, the sets are those of all questions."""
    rng = random.Random(rows_seed)
    roles = ["pool"] * 5 + ["eval", "probe", "decoded"]
    questions = by_id(
        *(
            ask(
                f"q{i}",
                rng.choice(roles),
                *["x"] * rng.randint(0, 1),
                group=rng.choice(["", f"g{rng.randint(0, 20)}"]),
                rewordings=["again"] * rng.randint(0, 2),
            )
            for i in range(rng.randint(0, 40))
        )
    )
    can_be_bought = [q.id for q in questions.values() if q.role in ("pool", "decoded")]
    bought = rng.sample(can_be_bought, min(3, len(can_be_bought)))
    elsewhere = rng.sample(can_be_bought, min(3, len(can_be_bought)))
    answers = dict.fromkeys(bought[:2], ("y",))

    def sets(of: dict[str, Question]) -> Any:
        try:
            return evaluation_sets(of, bought, asking(size), seed, answers, elsewhere)
        except ValueError as error:
            return str(error)

    rows = [QuestionRow(q.id, q.role, q.fact, q.id in answers or bool(q.answers)) for q in questions.values()]
    rng.shuffle(rows)
    labelled = {id_: questions[id_] for id_ in (*bought, *elsewhere)}
    ids = asked_ids(iter(rows), labelled, size, seed)
    assert sets({id_: question for id_, question in questions.items() if id_ in ids}) == sets(questions)
    taught_or_held_out = {row.id for row in rows if row.role == "eval"} | labelled.keys()
    assert len(ids - taught_or_held_out) <= size
