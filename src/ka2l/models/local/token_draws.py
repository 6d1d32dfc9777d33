"""Draw tokens from logits, with a random stream for each sample, and the rule that ends an answer."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ka2l.models.prompts import is_finished

# A token is found by four draws. Each chooses one of b branches, where b is the fourth root of the vocabulary's size,
# and each later draw is made inside the branch of the earlier one. One draw from the cumulative distribution over the
# whole vocabulary would be as exact, but there a rounding error anywhere before a token moves that token's interval.
# Here it moves a few coarse borders by 1e-7, so a batch of another size or shape almost never changes a token.
LEVELS = 4
# Below this temperature only the likeliest token can be drawn, and dividing by the temperature overflows.
_GREEDY = 1e-6
# Numbers of one kind that are processed at once: 4 MiB.
_IN_CACHE = 1 << 20


class NotFiniteError(ValueError):
    """A row of logits contains NaN, or its largest score is not finite."""

    def __init__(self, row: int):
        super().__init__(f"row {row}")
        self.row = row


class StopRule:
    """The end of an answer: a token that ends the turn, or the first line break after some text.

    Args:
        tokenizer: of the model.
        stop_ids: tokens that end a turn.
    """

    def __init__(self, tokenizer: Any, stop_ids: set[int]):
        self.stop_ids = stop_ids
        self._tokenizer = tokenizer
        self._has_break: dict[int, bool] = {}

    def text(self, tokens: Sequence[int]) -> str:
        """The text of an answer's tokens."""
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True))

    def ends(self, tokens: Sequence[int]) -> bool:
        """Whether the last of these tokens (none of them a stop token) completes the answer."""
        return self._breaks(tokens[-1]) and is_finished(self.text(tokens))

    def _breaks(self, token: int) -> bool:
        """Whether this token can contain a line break; the result is cached."""
        known = self._has_break.get(token)
        if known is None:
            known = self._has_break[token] = "\n" in self._tokenizer.decode([token])
        return known


def stop_ids(model: Any, tokenizer: Any) -> set[int]:
    """Tokens that end a turn, from the model's generation config and the tokenizer."""
    ids: set[int] = set()
    for source in (getattr(model, "generation_config", None), tokenizer):
        eos = getattr(source, "eos_token_id", None)
        ids |= set(eos if isinstance(eos, list) else [eos] if eos is not None else [])
    return ids


def draw(
    logits: torch.Tensor, rows: Sequence[int], temperatures: Sequence[float], uniforms: NDArray[np.float64]
) -> tuple[list[int], list[float]]:
    """Draw tokens; several draws may come from one row of logits.

    Args:
        logits: [rows, vocabulary]; overwritten, because a copy would take as long as the drawing.
        rows: [draws], the row each is drawn from.
        temperatures: [draws]; 0 takes the likeliest token.
        uniforms: [draws, LEVELS] numbers in [0, 1).

    Returns:
        tokens and their log-probabilities at temperature 1 (nats), a list of [draws] each.

    Raises:
        NotFiniteError: a row contains NaN, or its largest score is not finite.
    """
    scores = logits.float()
    index = torch.tensor(rows, device=logits.device)
    numbers = torch.from_numpy(uniforms).to(logits.device)
    shares = _shares(scores, 1.0)
    log_total = shares[0].sum(-1).log()
    tokens = torch.empty_like(index)
    for temperature in set(temperatures):
        chosen = [i for i, t in enumerate(temperatures) if t == temperature]
        mine = index[chosen]
        if temperature < _GREEDY:
            tokens[chosen] = scores[mine].argmax(-1)
        elif temperature == 1:
            tokens[chosen] = _descend(scores, 1.0, shares, mine, mine, numbers[chosen])
        else:
            needed, where = torch.unique(mine, return_inverse=True)
            of_needed = _shares(scores, temperature, needed)
            tokens[chosen] = _descend(scores, temperature, of_needed, where, mine, numbers[chosen])
    logprobs = scores[index, tokens] - log_total[index]
    return tokens.tolist(), logprobs.tolist()


def uniforms(seed: int, question_id: str, samples: Sequence[int], steps: int) -> NDArray[np.float64]:
    """Random numbers in [0, 1), float64 [samples, steps, LEVELS], with a stream for each (seed, question, sample)."""
    name = int.from_bytes(hashlib.sha256(question_id.encode()).digest()[:8], "big")
    streams = [
        np.random.Generator(np.random.Philox(key=_key(seed, name, sample))).random(steps * LEVELS) for sample in samples
    ]
    return np.asarray(streams, dtype=np.float64).reshape(len(samples), steps, LEVELS)


def _key(seed: int, name: int, sample: int) -> NDArray[np.uint64]:
    return np.random.SeedSequence([seed, name, sample]).generate_state(2, np.uint64).astype(np.uint64)


def _shares(scores: torch.Tensor, temperature: float, only: torch.Tensor | None = None) -> list[torch.Tensor]:
    """Weights e^(score/temperature) summed at every level except the finest: [rows, b], [rows, b, b], [rows, b, b, b].

    b⁴ ≥ vocabulary. Without `only`, each row's largest score is first subtracted from its scores, in place. A few rows
    are processed at a time, so that they stay in the processor's cache.
    """
    rows = torch.arange(len(scores), device=scores.device) if only is None else only
    vocabulary, branches = scores.shape[1], _branches(scores.shape[1])
    at_once = max(1, _IN_CACHE // vocabulary) if scores.device.type == "cpu" else max(1, len(rows))
    finest = scores.new_zeros(min(at_once, len(rows)), branches**LEVELS)
    parts = []
    for chunk in rows.split(at_once):
        weights = finest[: len(chunk), :vocabulary]
        if only is None:
            block = scores[int(chunk[0]) : int(chunk[-1]) + 1]
            top = block.amax(-1, keepdim=True)
            finite = torch.isfinite(top[:, 0])
            if not bool(finite.all()):
                raise NotFiniteError(int(chunk[0]) + int((~finite).nonzero()[0]))
            block -= top
            torch.exp(block, out=weights)
        else:
            torch.exp(scores[chunk] / temperature, out=weights)
        parts.append(finest[: len(chunk)].view(len(chunk), *(branches,) * LEVELS).sum(-1))
    levels = [torch.cat(parts)]
    while levels[0].dim() > 2:
        levels.insert(0, levels[0].sum(-1))
    return levels


def _descend(
    scores: torch.Tensor,
    temperature: float,
    shares: list[torch.Tensor],
    rows: torch.Tensor,
    score_rows: torch.Tensor,
    numbers: torch.Tensor,
) -> torch.Tensor:
    """Find tokens from the coarsest level down: at each level, the branch whose interval contains the random number.

    Args:
        scores: [all rows, vocabulary].
        temperature: of the draw.
        shares: see `_shares`.
        rows: [draws], places in `shares`.
        score_rows: [draws], places in `scores`.
        numbers: [draws, LEVELS].
    """
    vocabulary, branches = scores.shape[1], _branches(scores.shape[1])
    found = torch.zeros_like(rows)
    for level in range(LEVELS):
        if level < len(shares):
            weights = shares[level].reshape(shares[level].shape[0], -1, branches)[rows, found]
        # Single tokens: computing their weights again is cheaper than keeping them for the whole vocabulary.
        else:
            ids = found[:, None] * branches + torch.arange(branches, device=rows.device)
            of_ids = scores[score_rows[:, None], ids.clamp(max=vocabulary - 1)]
            weights = torch.where(ids < vocabulary, torch.exp(of_ids / temperature), 0)
        cumulative = weights.double().cumsum(-1)
        # Always slightly below the total, also after rounding: the last branches may have no weight.
        target = (numbers[:, level] * cumulative[:, -1]).minimum(cumulative[:, -1] * (1 - 1e-12))
        branch = torch.searchsorted(cumulative, target[:, None], right=True)[:, 0]
        found = found * branches + branch
    return found


def _branches(vocabulary: int) -> int:
    """The smallest b with b⁴ ≥ vocabulary, at least 2."""
    branches = 2
    while branches**LEVELS < vocabulary:
        branches += 1
    return branches
