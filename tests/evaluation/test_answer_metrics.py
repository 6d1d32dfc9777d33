"""Answer metrics: best alias, any script, nothing at all, and BLEU on the short answers it was not made for."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ka2l.evaluation.answer_metrics import AnswerScores, corpus_bleu, meteor_exact_stem, score

SCRIPTS = [
    "Paris",
    "東京",
    "서울 특별시",
    "Москва",
    "القاهرة",
    "नई दिल्ली",
    "กรุงเทพ",
    "Αθήνα",
    "🙂🎉",
    "naïve café",
    "3.14",
]


@pytest.mark.parametrize("text", SCRIPTS)
def test_a_right_answer_scores_one_in_every_script(text: str) -> None:
    assert score(text, ["wrong", text]) == AnswerScores(True, 1.0, 1.0)
    assert corpus_bleu([text], [["wrong", text]]) == pytest.approx(1.0)


def test_each_metric_takes_its_own_best_alias() -> None:
    # F1 is best against the first alias (same words), ROUGE-L against the second (same order, one word short).
    scores = score("red green blue", ["blue green red", "red green"])
    assert scores[:2] == (False, 1.0)
    assert scores.rouge_l == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("prediction", "answer", "f1", "rouge_l"),
    [
        ("cat sat on mat", "cat on mat", 6 / 7, 6 / 7),  # LCS of 3 tokens: P 3/4, R 1
        ("mat on cat", "cat on mat", 1.0, 1 / 3),
        ("The São-Paulo!", "sao paulo", 1.0, 1.0),
        ("Paris", "London", 0.0, 0.0),
        ("running", "run", 0.0, 0.0),  # no stemmer
    ],
)
def test_scores_by_hand(prediction: str, answer: str, f1: float, rouge_l: float) -> None:
    scores = score(prediction, [answer])
    assert scores.f1 == pytest.approx(f1)
    assert scores.rouge_l == pytest.approx(rouge_l)


@pytest.mark.parametrize("prediction", ["", "   ", "…"])
def test_an_empty_prediction_is_wrong(prediction: str) -> None:
    assert score(prediction, ["Paris"]) == AnswerScores(False, 0.0, 0.0)


def test_without_answers_nothing_is_right() -> None:
    assert score("Paris", []) == AnswerScores(False, 0.0, 0.0)
    assert score("", []) == AnswerScores(False, 0.0, 0.0)


@settings(deadline=None, max_examples=60)
@given(st.text(max_size=20), st.lists(st.text(max_size=20), max_size=4))
def test_scores_lie_between_0_and_1_and_agree(prediction: str, answers: list[str]) -> None:
    scores = score(prediction, answers)
    assert 0.0 <= scores.rouge_l <= scores.f1 + 1e-9  # a common subsequence is a common bag of tokens
    assert scores.f1 <= 1.0
    if scores.exact_match:
        assert scores == AnswerScores(True, 1.0, 1.0)


def test_bleu_by_hand() -> None:
    # 3 of 4 words, 2 of 3 pairs, 1 of 2 triples; the 0 of 1 quadruples is smoothed to 1/2.
    value = corpus_bleu(["big red cat runs"], [["big red cat sleeps"]])
    assert value == pytest.approx((3 / 4 * 2 / 3 * 1 / 2 * 1 / 2) ** 0.25, abs=1e-6)
    # Half of the words, nothing longer in any prediction.
    assert corpus_bleu(["London", "Paris"], [["Paris"], ["Paris"]]) == pytest.approx(0.5)


def test_bleu_takes_any_number_of_aliases() -> None:
    references = [["New York", "NYC", "The Big Apple"], ["Paris"], ["Bern", "Berne"]]
    assert corpus_bleu(["NYC", "Paris", "Berne"], references) == pytest.approx(1.0)


def test_bleu_is_not_to_lead() -> None:
    """What the docstring warns of: one long wrong answer drags every right short one down."""
    right = ["Paris", "New York", "Rome"]
    assert corpus_bleu(right, [[text] for text in right]) == pytest.approx(1.0)
    mixed = [*right, "I really do not know that"]
    assert corpus_bleu(mixed, [[text] for text in [*right, "Bern"]]) < 0.3


@pytest.mark.parametrize(("predictions", "references"), [([], []), ([""], [["Paris"]]), ([""], [[""]])])
def test_bleu_of_nothing_is_zero(predictions: list[str], references: list[list[str]]) -> None:
    assert corpus_bleu(predictions, references) == 0.0


def test_bleu_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="2 predictions but 1"):
        corpus_bleu(["a", "b"], [["a"]])
    with pytest.raises(ValueError, match="row 1"):
        corpus_bleu(["a", "b"], [["a"], []])


def test_import_is_light() -> None:
    code = (
        "import sys, ka2l.evaluation.answer_metrics; "
        "print([m for m in ('sacrebleu', 'rouge_score', 'nltk', 'torch') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_meteor_by_hand() -> None:
    # one word, one chunk: 1 − 0.5 · (1/1)³; two words in one chunk: 1 − 0.5 · (1/2)³; in two chunks: 1 − 0.5 · 1
    assert meteor_exact_stem("Paris", ["London", "Paris"]) == pytest.approx(0.5)
    assert meteor_exact_stem("new york", ["New York"]) == pytest.approx(0.9375)
    assert meteor_exact_stem("york new", ["New York"]) == pytest.approx(0.5)
    # 3 of 4 words match in 2 chunks: P = 3/4, R = 3/3, F = P·R / (0.9 P + 0.1 R), penalty 0.5 · (2/3)³
    expected = (0.75 / (0.9 * 0.75 + 0.1)) * (1 - 0.5 * (2 / 3) ** 3)
    assert meteor_exact_stem("red green very blue", ["red green blue"]) == pytest.approx(expected)


def test_meteor_matches_stems_but_no_synonyms() -> None:
    assert meteor_exact_stem("running dogs", ["run dog"]) == pytest.approx(0.9375)
    assert meteor_exact_stem("car", ["automobile"]) == 0.0


@pytest.mark.parametrize("text", SCRIPTS)
def test_meteor_knows_every_script_and_nothing(text: str) -> None:
    assert meteor_exact_stem(text, ["wrong", text]) >= 0.5
    assert meteor_exact_stem("", [text]) == meteor_exact_stem(text, [""]) == meteor_exact_stem(text, []) == 0.0
