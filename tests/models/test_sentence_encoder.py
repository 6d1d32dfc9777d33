"""Sentence embeddings as judge: the cut between cosines, exact; the judge; and the packaged model itself."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ka2l.errors import DegenerateError, ModelError
from ka2l.knowledge.uncertainty.cosine_threshold import fit_cosine_threshold
from ka2l.knowledge.uncertainty.semantic_clusters import Pair, cluster_by_meaning
from ka2l.models import sentence_encoder
from ka2l.models.sentence_encoder import EmbeddingJudge, SentenceEncoder, encoder_key

# The threshold


def test_a_hand_computed_cut() -> None:
    # Same pairs at 0.9, 0.8, 0.4; different ones at 0.5, 0.2, 0.1. From 0.65 on: 2 of 3 and 3 of 3.
    found = fit_cosine_threshold([0.9, 0.5, 0.8, 0.2, 0.4, 0.1], [1, 0, 1, 0, 1, 0])
    assert found.value == pytest.approx(0.65)
    assert found.balanced_accuracy == pytest.approx(5 / 6)
    assert (found.n_same, found.n_different) == (3, 3)


def test_the_rarer_kind_weighs_as_much() -> None:
    # By plain accuracy all would be different.
    found = fit_cosine_threshold([0.9, *[0.95] * 2, *[0.1] * 97], [1, *[0] * 99])
    assert 0.1 < found.value < 0.9


def test_equal_values_stay_together_and_the_widest_gap_is_taken() -> None:
    # Both cuts, 0.3 and 0.55, put 3 of 4 of each kind on their side.
    cosines, same = [0.2, 0.2, 0.2, 0.4, 0.4, 0.7, 0.7, 0.7], [0, 0, 0, 0, 1, 1, 1, 1]
    found = fit_cosine_threshold(cosines, same)
    assert (found.value, found.balanced_accuracy) == (pytest.approx(0.55), pytest.approx(0.875))


def test_neighbouring_floats_can_be_told_apart() -> None:
    low = np.float64(0.5)
    high = np.nextafter(low, 1.0)
    value = fit_cosine_threshold([low, high], [0, 1]).value
    assert (low >= value, high >= value) == (False, True)


@given(
    st.lists(st.tuples(st.integers(-10, 10), st.booleans()), min_size=2, max_size=30).filter(
        lambda rows: len({same for _, same in rows}) == 2
    )
)
def test_no_threshold_is_better(rows: list[tuple[int, bool]]) -> None:
    cosines, same = np.array([c / 10 for c, _ in rows]), np.array([s for _, s in rows])

    def accuracy(threshold: float) -> float:
        held = cosines >= threshold
        return float((held[same].mean() + (~held[~same]).mean()) / 2)

    best = max(accuracy(t) for t in np.arange(-1.05, 1.15, 0.1))
    try:
        found = fit_cosine_threshold(cosines, same)
    except DegenerateError:
        assert best == pytest.approx(0.5)
    else:
        assert found.balanced_accuracy == pytest.approx(best)
        assert accuracy(found.value) == pytest.approx(best)


@pytest.mark.parametrize(
    ("cosines", "same", "why"),
    [
        ([0.1, 0.2], [1, 1], "2 pairs of answers mean the same and 0 do not"),
        ([0.1], [0], "0 pairs of answers mean the same and 1 do not"),
        ([], [], "0 pairs"),
        ([0.5, 0.5], [0, 1], "no cosine separates"),
        ([0.9, 0.1], [0, 1], "no cosine separates"),
        ([np.nan, 0.1], [0, 1], "not finite"),
    ],
)
def test_nothing_to_fit(cosines: list[float], same: list[int], why: str) -> None:
    with pytest.raises(DegenerateError, match=rf"measure\.embedding_threshold=fit.*{why}"):
        fit_cosine_threshold(cosines, same)


# The judge


class Letters:
    """Embeds a text as the counts of a and b in it."""

    key = "letters"

    def __init__(self) -> None:
        self.seen: list[str] = []

    def encode(self, texts: Sequence[str], **_: Any) -> Any:
        self.seen += texts
        rows = np.array([[text.count("a"), text.count("b")] for text in texts], dtype=np.float64)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def letters() -> tuple[SentenceEncoder, Letters]:
    encoder, model = SentenceEncoder.__new__(SentenceEncoder), Letters()
    encoder._model, encoder._batch_size, encoder.key, encoder._known = model, 64, "letters", {}
    return encoder, model


def test_equal_texts_are_computed_once() -> None:
    encoder, model = letters()
    found = encoder.encode(["a", "b", "a", "ab"])
    np.testing.assert_allclose(found, [[1, 0], [0, 1], [1, 0], [0.5**0.5] * 2], rtol=1e-6)
    assert found.dtype == np.float32
    encoder.encode(["ab", "abb"])
    assert model.seen == ["a", "b", "ab", "abb"]


def test_not_all_texts_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A million questions are a longer run, not a bigger machine."""
    monkeypatch.setattr(sentence_encoder, "_REMEMBERED", 3)
    encoder, model = letters()
    encoder.encode(["a", "b", "ab"])
    found = encoder.encode(["b", "abb"])
    np.testing.assert_allclose(found[0], [0, 1], atol=1e-6)
    assert len(encoder._known) <= 3
    assert encoder.encode(["a"])[0, 0] == pytest.approx(1)
    assert model.seen == ["a", "b", "ab", "abb", "a"]


def test_cosines_are_those_of_the_answers_alone() -> None:
    encoder, model = letters()
    found = encoder.cosines([("Which bbb?", "a", "ab"), ("Which bbb?", "a", "aa"), ("Which bbb?", "a", "b")])
    np.testing.assert_allclose(found, [0.5**0.5, 1, 0], atol=1e-6)
    assert model.seen == ["a", "ab", "aa", "b"]


def test_the_judge_says_entailment_from_the_threshold_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentence_encoder, "_CHUNK", 2)
    pairs = [Pair("Q?", "a", "ab"), Pair("Q?", "a", "aab"), Pair("Q?", "a", "b")]
    assert EmbeddingJudge(letters()[0], 0.8).relations(pairs) == ["neutral", "entailment", "neutral"]
    assert EmbeddingJudge(letters()[0], 0.7).relations(pairs) == ["entailment", "entailment", "neutral"]
    batches = list(EmbeddingJudge(letters()[0], 0.7).batches(pairs))
    assert [list(batch.places) for batch in batches] == [[0, 1], [2]]


def test_another_threshold_is_another_judge() -> None:
    assert EmbeddingJudge(letters()[0], 0.7).key != EmbeddingJudge(letters()[0], 0.71).key


# Models


def test_missing_packages_name_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    for missing in (sentence_encoder.MODULE, "sentence_transformers"):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, m=missing: None if name == m else found(name))
        with pytest.raises(ModelError, match=r"measure\.embedding_model=minilm.*pip install sentence-transformers gt-"):
            SentenceEncoder()


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=r"measure\.embedding_model=.*cannot load this model .*config\.json is missing"
    ):
        encoder_key(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"measure\.embedding_model=.*cannot load this model"):
        SentenceEncoder(str(tmp_path))


@pytest.fixture(scope="module")
def minilm() -> SentenceEncoder:
    for module in (sentence_encoder.MODULE, "sentence_transformers"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"not installed: {sentence_encoder.INSTALL}")
    return SentenceEncoder()


def test_the_packaged_model(minilm: SentenceEncoder) -> None:
    rows = minilm.encode(["New York City", "a banana", "NYC, New York"])
    assert (rows.shape, rows.dtype) == ((3, 384), np.float32)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, rtol=1e-5)
    assert rows[0] @ rows[2] > 0.7 > 0.4 > rows[0] @ rows[1]
    assert minilm.encode([]).shape == (0, 384)
    assert minilm.key == encoder_key("minilm")


def test_batches_change_the_rounding_at_most(minilm: SentenceEncoder) -> None:
    texts = ["Paris", "the capital of the French Republic, on the Seine, since long ago", "x", ""]
    alone = np.concatenate([minilm.encode([text]) for text in texts])
    minilm._known.clear()
    np.testing.assert_allclose(minilm.encode(texts), alone, atol=1e-5)


def test_clusters_with_the_packaged_model(minilm: SentenceEncoder) -> None:
    answers = ["New York", "Buenos Aires", "New York City", "New York"]
    made = cluster_by_meaning(["Which city?"], [answers], EmbeddingJudge(minilm, 0.7))
    assert made == ([[0, 1, 0, 0]], 2)
