"""The evaluation protocol on six questions whose numbers can be counted by hand."""

import json
import math
from collections.abc import Mapping, Sequence

import pytest

from evaluated_questions import (
    ANSWERS,
    ARM,
    CONFIG,
    DECODED,
    DECODED_ANSWERS,
    DECODED_ARM,
    QUESTIONS,
)
from ka2l.common.intervals import Interval
from ka2l.evaluation.evaluation_json import interval_from, to_json
from ka2l.evaluation.protocol import (
    ArmSelection,
    Evaluation,
    Prediction,
    best_base_prompt,
    evaluate,
)
from ka2l.evaluation.settings import EvaluateConfig


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
    evaluation = evaluate([*predictions, *tuned], {"unknown": ARM}, questions, ANSWERS, CONFIG, "exact_match", 0)
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


DECODED_PREDICTIONS = [
    *PREDICTIONS,
    *answer("base:teaching", {"d1": "no", "d2": "d2 x"}),
    *answer("unknown", {"d1": "d1 x", "d2": "no"}),
]


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
