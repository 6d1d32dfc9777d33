"""Which decoded questions are paraphrases of another question: cosines of sentence embeddings.

    encoder = SentenceEncoder("minilm")
    near_copies(candidates, encoder.encode(texts), {"eval": [Embedded(ids, encoder.encode(held_out))]}, 0.9)

Questions of one template differ by a name alone, which is enough for a small sentence model to distinguish most of
them. Comparing their rare words as well improved nothing on free-form questions, and little on questions of templates.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ka2l.augmentation.filters import Candidate, Verdict

# Rows of each side in one matrix product: 64 MB of similarities.
_CHUNK = 4096


class Embedded(NamedTuple):
    """Embeddings of known questions, one row for each wording."""

    ids: Sequence[str]
    """[wordings] ids of the questions."""
    rows: NDArray[np.float32]
    """[wordings, width], of unit length."""


def near_copies(
    candidates: Sequence[Candidate],
    rows: NDArray[np.float32],
    references: Mapping[str, Iterable[Embedded]],
    threshold: float,
    told_apart: Collection[str] = (),
) -> list[Verdict]:
    """Drop candidates that paraphrase a reference or an earlier candidate, by the cosine of sentence embeddings.

    Measured with all-MiniLM-L6-v2 on 10,861 GeoNames questions and threshold 0.9: 2 % of the questions for a city and 5
    % of those for a capital or currency count as a copy of another one (Samoa and American Samoa). Of the rewordings of
    a question 67 to 100 % are found, depending on the template, but none that has "money" instead of "currency".

    Args:
        candidates: the decoded questions.
        rows: their embeddings, [candidates, width], of unit length.
        references: by role, in as many parts as fit the memory. `source`: each is compared with the candidates decoded
            from it only; `eval`, `pool`: with all candidates.
        threshold: cosine from which two questions count as the same.
        told_apart: ids of candidates that are known to ask for something else than every reference and every other
            candidate (the two Congos have a cosine of 0.95): they are compared, but never dropped.

    Returns:
        one verdict for each candidate, in order. Greedy: a candidate near an earlier one that was kept is dropped.

    Raises:
        ValueError: rows are not of unit length, or their number is not that of the ids; or a role is none of the three.
    """
    if unknown := references.keys() - {"source", "eval", "pool"}:
        raise ValueError(f"no such role of references: {', '.join(sorted(unknown))}")
    _check_rows("candidates", len(candidates), rows)
    never_dropped = set(told_apart)
    thresholds = [math.inf if candidate.id in never_dropped else threshold for candidate in candidates]
    verdicts = [Verdict() for _ in candidates]
    for role in ("source", "eval", "pool"):
        for reference in references.get(role, ()):
            _check_rows(role, len(reference.ids), reference.rows)
            own = role == "source"
            highest, which = _nearest_of_own(candidates, rows, reference) if own else _nearest(rows, reference)
            for i, old in enumerate(verdicts):
                if not old.reason and highest[i] > -2:
                    nearest = reference.ids[which[i]]
                    verdicts[i] = _nearer(old, f"near_{role}", float(highest[i]), nearest, thresholds[i])
    return _greedily(candidates, rows, verdicts, thresholds)


def _check_rows(what: str, ids: int, rows: NDArray[np.float32]) -> None:
    if rows.ndim != 2 or len(rows) != ids:
        raise ValueError(f"{what}: {ids} ids, but embeddings of shape {rows.shape}")
    # Written so that NaN fails too.
    if len(rows) and not (np.abs(np.einsum("ij,ij->i", rows, rows) - 1.0) < 1e-3).all():
        raise ValueError(f"{what}: embeddings are not of unit length")


def _nearest(rows: NDArray[np.float32], reference: Embedded) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """The highest cosine of each row with a reference (-2 if there are none), and the first reference that has it."""
    highest = np.full(len(rows), -2.0, dtype=np.float32)
    which = np.zeros(len(rows), dtype=np.intp)
    for start in range(0, len(rows), _CHUNK):
        here = slice(start, start + _CHUNK)
        for other in range(0, len(reference.rows), _CHUNK):
            cosines = rows[here] @ reference.rows[other : other + _CHUNK].T
            place = cosines.argmax(axis=1)
            value = cosines[np.arange(len(place)), place]
            better = value > highest[here]
            highest[here][better] = value[better]
            which[here][better] = place[better] + other
    return highest, which


def _nearest_of_own(
    candidates: Sequence[Candidate], rows: NDArray[np.float32], reference: Embedded
) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Like `_nearest`, but each candidate is compared with the wordings of its source only."""
    wordings_of: dict[str, list[int]] = {}
    for place, id_ in enumerate(reference.ids):
        wordings_of.setdefault(id_, []).append(place)
    highest = np.full(len(rows), -2.0, dtype=np.float32)
    which = np.zeros(len(rows), dtype=np.intp)
    for i, candidate in enumerate(candidates):
        if own := wordings_of.get(candidate.source_id):
            cosines = reference.rows[own] @ rows[i]
            highest[i], which[i] = cosines.max(), own[int(cosines.argmax())]
    return highest, which


def _greedily(
    candidates: Sequence[Candidate],
    rows: NDArray[np.float32],
    verdicts: Sequence[Verdict],
    thresholds: Sequence[float],
) -> list[Verdict]:
    """Drop what is near an earlier candidate that was kept."""
    result: list[Verdict] = []
    kept = np.empty((sum(not verdict.reason for verdict in verdicts), rows.shape[1]), dtype=np.float32)
    ids: list[str] = []
    for candidate, row, verdict, threshold in zip(candidates, rows, verdicts, thresholds, strict=True):
        if not verdict.reason:
            if ids:
                cosines = kept[: len(ids)] @ row
                place = int(cosines.argmax())
                verdict = _nearer(verdict, "near_kept", float(cosines[place]), ids[place], threshold)
            if not verdict.reason:
                kept[len(ids)] = row
                ids.append(candidate.id)
        result.append(verdict)
    return result


def _nearer(old: Verdict, reason: str, similarity: float, nearest: str, threshold: float) -> Verdict:
    """The verdict after one more comparison: dropped if the threshold is reached, else the nearest question so far."""
    # Rounding can give a little more than 1.
    similarity = min(similarity, 1.0)
    if similarity >= threshold:
        return Verdict(reason, similarity, nearest)
    if old.similarity is not None and old.similarity >= similarity:
        return old
    return Verdict("", similarity, nearest)
