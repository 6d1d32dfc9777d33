"""The evaluation protocol on six questions whose numbers can be counted on fingers."""

import json
import math
import random
from collections.abc import Mapping, Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ka2l.common.intervals import Interval
from ka2l.evaluation.evaluation_json import interval_from, to_json
from ka2l.evaluation.protocol import (
    ArmSelection,
    Evaluation,
    Prediction,
    best_base_prompt,
    evaluate,
    evaluation_sets,
)
from ka2l.evaluation.settings import EvaluateConfig
from ka2l.questions.question import Question

CONFIG = EvaluateConfig(unbought=10, rewordings=2, bootstrap=100)


def asking(unbought: int) -> EvaluateConfig:
    return EvaluateConfig(unbought=unbought, rewordings=2)


def ask(id_: str, role: str, *answers: str, group: str = "", rewordings: Sequence[str] = ()) -> Question:
    return Question(id_, f"What is {id_}?", answers, role, group, {"rewordings": list(rewordings)})


def by_id(*questions: Question) -> dict[str, Question]:
    return {question.id: question for question in questions}


QUESTIONS = by_id(
    ask("e1", "eval", "A1 x"),
    ask("e2", "eval", "A2 x"),
    ask("e3", "eval", "A3 x"),
    ask("p1", "pool", "B1 x", rewordings=["Name p1.", "And p1?"]),
    ask("p2", "pool", "B2 x"),
    ask("p3", "pool"),
    ask("p4", "pool", "B4 x"),
    ask("p5", "pool"),
    ask("s1", "probe", "C1 x"),
)
ANSWERS = {**{q.id: q.answers for q in QUESTIONS.values() if q.answers}, "p3": ("B3 x",)}
ARM = ArmSelection("unknown", ("p1", "p2", "p3", "p5"), 7.5)


def answer(model: str, texts: Mapping[str, str]) -> list[Prediction]:
    """Predictions by `id` or `id/wording`; the question's text does not matter here."""
    rows = []
    for key, text in texts.items():
        id_, _, wording = key.partition("/")
        rows.append(Prediction(model, id_, int(wording or 0), "", text))
    return rows


BASE = {"e1": "a1 x", "e2": "a2 x", "e3": "no"}
PREDICTIONS = [
    *answer("base:sensing", {"e1": "a1 x", "e2": "no", "e3": "no"}),
    *answer(
        "base:teaching",
        {**BASE, "p1": "no", "p2": "b2 x", "p3": "no", "p4": "no", "p1/1": "no", "p1/2": "no"},
    ),
    *answer("unknown", {"e1": "a1 x", "e2": "no", "e3": "a3 x", "p1": "b1 x", "p2": "b2 x", "p3": "no"}),
    *answer("unknown", {"p4": "x", "p1/1": "b1 x", "p1/2": "no"}),
    *answer("another", {"e1": "not looked at"}),
]


def run(predictions: Sequence[Prediction] = PREDICTIONS, arm: ArmSelection = ARM) -> Evaluation:
    return evaluate(predictions, {"unknown": arm}, QUESTIONS, ANSWERS, CONFIG, "exact_match", seed=0)


def test_sets_hold_who_belongs_there() -> None:
    sets = evaluation_sets(QUESTIONS, ARM.bought, asking(10), 0, ANSWERS)
    assert sets["held_out"] == [(id_, 0, f"What is {id_}?") for id_ in ("e1", "e2", "e3")]
    assert [id_ for id_, _, _ in sets["bought"]] == ["p1", "p2", "p3"]  # nobody knows p5
    assert sets["bought_reworded"] == [("p1", 1, "Name p1."), ("p1", 2, "And p1?")]
    assert sets["unbought"] == [("p4", 0, "What is p4?")]


def test_without_annotations_the_gold_answers_decide() -> None:
    assert [id_ for id_, _, _ in evaluation_sets(QUESTIONS, ["p3", "p1"], asking(10), 0)["bought"]] == ["p1"]


def test_a_fact_that_was_taught_is_not_unbought() -> None:
    questions = by_id(
        ask("a", "pool", "x", group="g"), ask("b", "pool", "x", group="g"), ask("c", "pool", "x")
    )
    assert [id_ for id_, _, _ in evaluation_sets(questions, ["a"], asking(10), 0)["unbought"]] == ["c"]


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 40), st.integers(0, 5), st.randoms(use_true_random=False))
def test_unbought_is_nested_and_blind_to_the_order_of_rows(
    size: int, seed: int, shuffler: random.Random
) -> None:
    pool = [ask(f"q{i}", "pool", "x") for i in range(40)]
    bought = ["q3", "q30"]
    everything = evaluation_sets(by_id(*pool), bought, asking(40), seed)["unbought"]
    shuffler.shuffle(pool)
    assert evaluation_sets(by_id(*pool), bought, asking(size), seed)["unbought"] == everything[:size]
    assert len(everything) == 38


def test_unbought_follows_the_seed_and_hardly_the_purchase() -> None:
    pool = by_id(*(ask(f"q{i}", "pool", "x") for i in range(200)))
    draws = [
        {id_ for id_, _, _ in evaluation_sets(pool, [], asking(50), seed)["unbought"]} for seed in range(4)
    ]
    assert all(left != right for left, right in pairwise(draws))
    after = {id_ for id_, _, _ in evaluation_sets(pool, sorted(draws[0])[:5], asking(50), 0)["unbought"]}
    assert len(after & draws[0]) == 45


@pytest.mark.parametrize(
    ("bought", "message"), [(["nobody"], "nobody"), (["p1", "p1"], "bought 2 times"), (["e1"], "role 'eval'")]
)
def test_a_purchase_that_cannot_be_is_refused(bought: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluation_sets(QUESTIONS, bought, asking(1), 0)


def test_the_base_model_gets_its_better_prompt() -> None:
    assert best_base_prompt(PREDICTIONS, QUESTIONS, ANSWERS, "exact_match") == "teaching"
    tie = [*answer("base:sensing", BASE), *answer("base:teaching", BASE)]
    assert best_base_prompt(tie, QUESTIONS, ANSWERS, "exact_match") == "sensing"


def test_numbers_by_hand() -> None:
    evaluation = run()
    assert evaluation.base_prompt == "teaching"
    assert evaluation.base["sensing"].exact_match.value == pytest.approx(1 / 3)
    assert evaluation.base["teaching"].exact_match.value == pytest.approx(2 / 3)
    arm = evaluation.arms["unknown"]
    assert (arm.strategy, arm.labels, arm.cost) == ("unknown", 3, 7.5)
    assert set(arm.sets) == {"held_out", "bought", "bought_reworded", "unbought"}
    held_out, bought, reworded, unbought = (arm.sets[name] for name in arm.sets)
    assert (held_out.n, held_out.difference.value) == (3, 0.0)  # one won, one lost
    assert bought.base.exact_match.value == pytest.approx(1 / 3)
    assert bought.tuned.exact_match.value == pytest.approx(2 / 3)
    assert bought.difference.value == pytest.approx(1 / 3)
    assert (reworded.n, reworded.difference.value) == (2, 0.5)
    assert unbought.tuned.f1.value == pytest.approx(2 / 3)  # "x" of "b4 x"
    assert unbought.tuned.bleu < 1


def test_learned_and_forgotten_by_hand() -> None:
    arm = run().arms["unknown"]
    assert (arm.learned.wrong_before, arm.learned.learned, arm.learned.labels) == (2, 1, 3)
    assert arm.learned.per_label.value == pytest.approx(1 / 3)
    assert (arm.forgotten.right_before, arm.forgotten.forgotten) == (2, 1)
    assert arm.forgotten.share.value == pytest.approx(1 / 2)
    assert arm.forgotten.share.n == 2


def test_the_rule_of_correctness_is_followed() -> None:
    strict = run().arms["unknown"].sets["unbought"].difference.value
    evaluation = evaluate(PREDICTIONS, {"unknown": ARM}, QUESTIONS, ANSWERS, CONFIG, "f1", seed=0)
    assert strict == 0.0
    assert evaluation.arms["unknown"].sets["unbought"].difference.value == 1.0  # F1 of 2/3


def test_order_of_predictions_does_not_matter() -> None:
    assert to_json(run(PREDICTIONS[::-1])) == to_json(run())


def test_wordings_of_one_fact_are_resampled_together() -> None:
    reworded = run().arms["unknown"].sets["bought_reworded"].difference
    assert (reworded.value, reworded.n) == (0.5, 2)
    assert math.isnan(reworded.low)  # both wordings are of p1: one fact says nothing about the spread


@pytest.mark.parametrize(
    ("model", "key", "message"),
    [
        ("unknown", ("p1", 2), r"1 of 2 predictions of 'unknown' are missing, .*'p1', wording 2"),
        ("base:teaching", ("p4", 0), r"1 of 1 predictions of 'base:teaching'"),
        ("base:sensing", ("e2", 0), r"1 of 3 predictions of 'base:sensing' .*'e2'"),
    ],
)
def test_a_missing_prediction_is_named(model: str, key: tuple[str, int], message: str) -> None:
    kept = [p for p in PREDICTIONS if (p.model, p.question_id, p.wording) != (model, *key)]
    with pytest.raises(ValueError, match=message):
        run(kept)


def test_repeated_predictions_must_agree() -> None:
    assert run([*PREDICTIONS, PREDICTIONS[0]]) is not None
    with pytest.raises(ValueError, match="two different predictions"):
        run([*PREDICTIONS, *answer("unknown", {"e1": "something else"})])


def test_nothing_bought_and_nothing_right_give_nan() -> None:
    wrong = [Prediction(p.model, p.question_id, p.wording, "", "no") for p in PREDICTIONS]
    sensing = answer("base:sensing", dict.fromkeys(["p1", "p2", "p3", "p4"], "no"))
    evaluation = run([*wrong, *sensing], ArmSelection("random", (), 0.0))
    arm = evaluation.arms["unknown"]
    assert evaluation.base_prompt == "sensing"
    assert set(arm.sets) == {"held_out", "unbought"}
    assert (arm.labels, arm.learned.per_label.n, arm.forgotten.share.n) == (0, 0, 0)
    assert math.isnan(arm.learned.per_label.value)
    assert math.isnan(arm.forgotten.share.value)
    plain = to_json(evaluation)
    assert plain["arms"]["unknown"]["forgotten"]["share"] == {
        "value": None,
        "low": None,
        "high": None,
        "n": 0,
    }


def test_without_held_out_questions_the_rest_is_evaluated() -> None:
    questions = {id_: q for id_, q in QUESTIONS.items() if q.role != "eval"}
    asked = [p for p in PREDICTIONS if p.model == "base:teaching"]
    predictions = [Prediction("base:sensing", p.question_id, p.wording, "", p.text) for p in asked]
    tuned = [p for p in PREDICTIONS if p.model == "unknown"]
    evaluation = evaluate(
        [*predictions, *tuned], {"unknown": ARM}, questions, ANSWERS, CONFIG, "exact_match", 0
    )
    assert (evaluation.base_prompt, evaluation.base) == ("sensing", {})
    assert set(evaluation.arms["unknown"].sets) == {"bought", "bought_reworded", "unbought"}


def test_json_round_trip() -> None:
    evaluation = run()
    plain = json.loads(json.dumps(to_json(evaluation), allow_nan=False))
    assert list(plain) == ["correct", "base_prompt", "base", "arms"]
    learned = plain["arms"]["unknown"]["learned"]
    assert learned["labels"] == 3
    assert interval_from(learned["per_label"]) == evaluation.arms["unknown"].learned.per_label
    assert plain["base"]["teaching"]["bleu"] == evaluation.base["teaching"].bleu


DECODED = by_id(
    *QUESTIONS.values(),
    ask("d1", "decoded", group="p4", rewordings=["Name d1."]),  # the fact of p4, in other words than p4's
    ask("d2", "decoded"),
    ask("d3", "decoded"),  # nobody has an answer to it
)
DECODED_ANSWERS = {**ANSWERS, "d1": ("D1 x",), "d2": ("D2 x",)}
DECODED_ARM = ArmSelection("unknown", ("p1", "p2", "p3", "p5", "d1", "d2", "d3"), 9.5)
DECODED_PREDICTIONS = [
    *PREDICTIONS,
    *answer("base:teaching", {"d1": "no", "d2": "d2 x"}),
    *answer("unknown", {"d1": "d1 x", "d2": "no"}),
]


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
    sets = evaluation_sets(
        DECODED, ["p2"], asking(10), 0, DECODED_ANSWERS, bought_elsewhere=DECODED_ARM.bought
    )
    assert [name for name, items in sets.items() if items] == ["held_out", "bought"]


def test_labels_of_decoded_questions_count_and_are_told_apart() -> None:
    evaluation = evaluate(
        DECODED_PREDICTIONS, {"unknown": DECODED_ARM}, DECODED, DECODED_ANSWERS, CONFIG, "exact_match", 0
    )
    arm, before = evaluation.arms["unknown"], run().arms["unknown"]
    assert (arm.labels, arm.cost) == (5, 9.5)
    assert (arm.learned.wrong_before, arm.learned.learned, arm.learned.labels) == (3, 2, 5)
    assert (arm.learned.per_label.value, arm.learned.per_label.n) == (pytest.approx(2 / 5), 5)
    of_them = arm.learned.decoded
    assert of_them is not None
    assert (of_them.wrong_before, of_them.learned, of_them.labels, of_them.decoded) == (1, 1, 2, None)
    assert of_them.per_label.value == pytest.approx(1 / 2)
    assert (arm.sets["decoded"].n, arm.sets["decoded"].difference.value) == (2, 0.0)  # one won, one lost
    assert (arm.sets["bought"], arm.sets["held_out"], arm.forgotten) == (
        before.sets["bought"],
        before.sets["held_out"],
        before.forgotten,
    )


def test_only_decoded_questions_can_have_got_a_label() -> None:
    arm = ArmSelection("unknown", ("p5", "d1"), 2.0)
    evaluation = evaluate(
        DECODED_PREDICTIONS, {"unknown": arm}, DECODED, DECODED_ANSWERS, EvaluateConfig(unbought=0), "f1", 0
    )
    learned = evaluation.arms["unknown"].learned
    assert (learned.labels, learned.learned) == (1, 1)
    assert learned.decoded is not None
    assert "bought" not in evaluation.arms["unknown"].sets


@pytest.mark.parametrize("role", ["pool", "decoded"])
def test_a_held_out_fact_cannot_be_taught(role: str) -> None:
    questions = by_id(*QUESTIONS.values(), ask("leak", role, "A1 x", group="e1"))
    with pytest.raises(ValueError, match="'leak' teaches the fact 'e1', which 'e1' holds out"):
        evaluation_sets(questions, ["p1", "leak"], asking(1), 0, ANSWERS)


def test_json_names_decoded_questions_only_where_there_are_any() -> None:
    evaluation = evaluate(
        DECODED_PREDICTIONS, {"unknown": DECODED_ARM}, DECODED, DECODED_ANSWERS, CONFIG, "exact_match", 0
    )
    with_them = json.loads(json.dumps(to_json(evaluation), allow_nan=False))["arms"]["unknown"]
    assert with_them["learned"]["decoded"]["learned"] == 1
    assert "decoded" not in with_them["learned"]["decoded"]
    plain = to_json(run())["arms"]["unknown"]
    assert list(plain) == ["strategy", "labels", "cost", "sets", "learned", "forgotten"]
    assert list(plain["learned"]) == ["wrong_before", "learned", "labels", "per_label"]
    assert list(plain["sets"]) == ["held_out", "bought", "bought_reworded", "unbought"]


def test_interval_from_either_form() -> None:
    expected = Interval(0.5, 0.25, 0.75, 8)
    assert interval_from([0.5, 0.25, 0.75, 8]) == expected
    assert interval_from({"n": 8, "value": 0.5, "low": 0.25, "high": 0.75}) == expected
    assert interval_from(expected) == expected
    assert math.isnan(interval_from([None, None, None, 0]).value)
    for wrong in ([1, 2], {"value": 1}, ["a", 0, 0, 1]):
        with pytest.raises(ValueError, match="not an interval"):
            interval_from(wrong)
