"""Which label means entailment is read from the model; a real small NLI model judges a few plain pairs."""

from pathlib import Path
from typing import Any

import pytest

from ka2l.errors import ModelError
from ka2l.knowledge.clustering import cluster_nli
from ka2l.models.nli import EntailmentModel, entailment_label

MINILM = Path(__file__).parents[2] / "shared" / "models" / "nli-minilm"


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({0: "CONTRADICTION", 1: "NEUTRAL", 2: "ENTAILMENT"}, 2),
        ({0: "entailment", 1: "neutral", 2: "contradiction"}, 0),
        ({0: "contradiction", 1: " Entailment ", 2: "neutral"}, 1),
        ({"0": "contradiction", "1": "entailment", "2": "neutral"}, 1),  # JSON keys
        ({0: "not_entailment", 1: "entailment"}, 1),
        ({1: "not_entailment", 0: "entailment"}, 0),
        ({0: "entail", 1: "other"}, 0),
    ],
)
def test_the_label_is_found_at_any_index(labels: dict[Any, str], expected: int) -> None:
    assert entailment_label(labels, "m") == expected


@pytest.mark.parametrize(
    "labels",
    [
        {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"},
        {0: "not_entailment", 1: "contradiction"},
        {0: "POSITIVE", 1: "NEGATIVE"},
        {0: "entailment", 1: "Entailment"},
    ],
)
def test_models_without_the_label_are_refused(labels: dict[Any, str]) -> None:
    with pytest.raises(ModelError, match=r"measure\.nli_model=some/model.*says entailment"):
        entailment_label(labels, "some/model")


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"measure\.nli_model=.*cannot load this model"):
        EntailmentModel(str(tmp_path))


@pytest.fixture(scope="module")
def minilm() -> EntailmentModel:
    if not (MINILM / "config.json").exists():
        pytest.skip(f"no NLI model at {MINILM}")
    return EntailmentModel(str(MINILM), batch_size=3)


PAIRS = [
    ("A man is sleeping on the sofa.", "A man is asleep.", True),
    ("A man is sleeping on the sofa.", "A man is running a marathon.", False),
    ("A dog runs through the park in the morning.", "An animal is moving.", True),
    ("What is the capital of France? Paris", "What is the capital of France? London", False),
    ("What is the capital of France? Paris", "What is the capital of France? The city of Paris", True),
    ("A woman plays the violin.", "A person plays an instrument.", True),
    ("A person plays an instrument.", "A woman plays the violin.", False),
]


def test_obvious_pairs(minilm: EntailmentModel) -> None:
    before = minilm.pairs_scored
    assert minilm.entails([(left, right) for left, right, _ in PAIRS]) == [held for *_, held in PAIRS]
    assert minilm.pairs_scored - before == len(PAIRS)


def test_answers_do_not_depend_on_the_batch(minilm: EntailmentModel) -> None:
    pairs = [(left, right) for left, right, _ in PAIRS]
    assert minilm.entails(pairs[::-1]) == minilm.entails(pairs)[::-1]
    assert [minilm.entails([pair])[0] for pair in pairs] == minilm.entails(pairs)
    assert minilm.entails([]) == []


def test_very_long_pairs_are_cut(minilm: EntailmentModel) -> None:
    assert len(minilm.entails([("word " * 2000, "word " * 2000)])) == 1


def test_clusters_with_a_real_judge(minilm: EntailmentModel) -> None:
    answers = ["Paris", "the city of Paris", "London", "Paris", "London, England"]
    (clusters,) = cluster_nli(["What is the capital of France?"], [answers], minilm.entails)
    assert clusters[0] == clusters[1] == clusters[3]
    assert clusters[2] == clusters[4] != clusters[0]
