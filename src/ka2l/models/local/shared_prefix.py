"""Forward passes over prompts with the same beginning, whose keys and values are computed once.

Whether this works for a model is not taken from a list of names: `SharedPrefix.error` compares the results for two
prompts and one more token with those of the model's own computation.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from ka2l.models.interface import Position
from ka2l.models.loading import quiet_transformers
from ka2l.models.local.cache_slots import NoSlots, Slots
from ka2l.models.local.hidden_states import caught_states, read_states, stacked
from ka2l.models.local.memory_budget import is_out_of_memory
from ka2l.models.local.two_part_attention import Call, KeysValues, calling, two_part


class Padded(NamedTuple):
    """Prompts of one pass, padded on the left."""

    tokens: torch.Tensor
    """[rows, width]."""
    starts: torch.Tensor
    """[rows], columns of padding before the first token."""
    own: torch.Tensor
    """[rows, width], 1 for the row's own tokens, 0 for padding."""


def pad(parts: Sequence[Sequence[int]], filler: int, device: torch.device) -> Padded:
    """Put token lists into one tensor, with the last token of every row in the last column."""
    width = max(len(part) for part in parts)
    tokens = torch.tensor([[filler] * (width - len(part)) + list(part) for part in parts], device=device)
    starts = torch.tensor([width - len(part) for part in parts], device=device)
    return Padded(tokens, starts, (torch.arange(width, device=device) >= starts[:, None]).long())


class Prefilled(NamedTuple):
    """The result of a pass over prompts."""

    logits: torch.Tensor
    """[rows, vocabulary], after each prompt's last token."""
    states: torch.Tensor | None
    """[rows, layers + 1, width]; None if no position was given."""


class SharedPrefix:
    """A model, and the tokens that the prompts begin with.

    Args:
        model: a causal language model in eval mode.
        tokens: the prefix; it may be empty.
        filler: the padding token.
    """

    def __init__(self, model: Any, tokens: Sequence[int], filler: int):
        self.model = model
        self.tokens = list(tokens)
        self._filler = filler
        # Slots of engines that have finished, for reuse.
        self.spare: list[Slots] = []
        self._layers: list[KeysValues] = []
        if self.tokens:
            alone = Slots()
            alone.reserve(1, len(self.tokens))
            with two_part(model):
                self.prefill([self.tokens], alone, 0)
            self._layers = alone.row(0, len(self.tokens))

    @contextmanager
    def _prompt_pass(self, padded: Padded, slots: Slots | None) -> Iterator[dict[str, Any]]:
        """The arguments of a pass over whole prompts after the prefix, for the model or its backbone."""
        width = padded.tokens.shape[1]
        columns = torch.arange(width, device=padded.tokens.device)
        causal = (columns[:, None] >= columns) & (columns >= padded.starts[:, None, None])
        # Padding attends to itself: a query without any key would be NaN, also in products where it is masked.
        causal |= torch.eye(width, dtype=torch.bool, device=columns.device)
        positions = (columns - padded.starts[:, None]).clamp(min=0) + (len(self.tokens) if self._layers else 0)
        with calling(Call(self._layers, causal)):
            yield {
                "input_ids": padded.tokens,
                "position_ids": positions,
                "past_key_values": NoSlots() if slots is None else slots,
                "use_cache": True,
            }

    def prefill(
        self,
        parts: Sequence[Sequence[int]],
        slots: Slots | None = None,
        first: int = 0,
        position: Position | None = None,
    ) -> Prefilled:
        """Compute prompts.

        Args:
            parts: their tokens after the prefix.
            slots: where to store keys and values; none: they are not stored.
            first: the first prompt's slot.
            position: where to read hidden states; none: they are not read.
        """
        padded = pad(parts, self._filler, self.model.device)
        if slots is not None:
            slots.prefill(first)
        with self._prompt_pass(padded, slots) as inputs:
            if position is None:
                return Prefilled(self.model(**inputs, logits_to_keep=1).logits[:, -1], None)
            with caught_states(self.model, position, padded.own) as states:
                logits = self.model(**inputs, logits_to_keep=1).logits[:, -1]
            return Prefilled(logits, stacked(states))

    def states(self, parts: Sequence[Sequence[int]], layer: int | None, position: Position) -> torch.Tensor:
        """States at one layer, [rows, width], or with None of all, [rows, layers + 1, width]; the head is not
        computed.
        """
        padded = pad(parts, self._filler, self.model.device)
        with self._prompt_pass(padded, None) as inputs:
            return read_states(self.model, layer, position, padded.own, inputs)

    def step(
        self,
        tokens: Sequence[int],
        starts: Sequence[int],
        ends: Sequence[int],
        slots: Slots,
        first: int,
        used: int,
    ) -> torch.Tensor:
        """Logits after one more token of the rows in the slots from `first` on, [rows, vocabulary].

        Args:
            tokens: [rows], the new token of each.
            starts: [rows], columns of padding at the beginning of each row's slot.
            ends: [rows], the column of the new token.
            slots: the cache.
            first: the first row's slot.
            used: columns in use in the whole cache, the new ones included.
        """
        device = self.model.device
        begin, end = torch.tensor(starts, device=device), torch.tensor(ends, device=device)
        columns = torch.arange(used, device=device)
        visible = (columns >= begin[:, None]) & (columns <= end[:, None])
        slots.step(first, end, used)
        with calling(Call(self._layers, visible[:, None])):
            output = self.model(
                input_ids=torch.tensor(tokens, device=device)[:, None],
                position_ids=(end - begin + len(self.tokens))[:, None],
                past_key_values=slots,
                use_cache=True,
                logits_to_keep=1,
            )
        logits: torch.Tensor = output.logits
        return logits[:, -1]

    def error(self, prompts: Sequence[Sequence[int]]) -> tuple[float, float]:
        """Largest differences to the model's own computation, for these prompts and one more token of each.

        Returns:
            two largest differences of log-probabilities among likely tokens, in nats, infinite for NaN: between this
            class and the model's own single pass, and between the model's own two passes and its own single pass.
        """
        parts = [prompt[len(self.tokens) :] for prompt in prompts]
        slots = Slots()
        slots.reserve(len(parts), max(map(len, parts)) + 1)
        with two_part(self.model):
            first = self.prefill(parts, slots).logits
            tokens = first.argmax(-1).tolist()
            width = max(map(len, parts))
            starts = [width - len(part) for part in parts]
            second = self.step(tokens, starts, [width] * len(parts), slots, 0, width + 1)
        worst = noise = 0.0
        for row, (prompt, token) in enumerate(zip(prompts, tokens, strict=True)):
            whole = self._by_model([*prompt, token])
            worst = max(worst, _difference(first[row], whole[0]), _difference(second[row], whole[1]))
            noise = max(noise, _difference(self._by_model([*prompt, token], split=len(self.tokens))[1], whole[1]))
        return worst, noise

    def _by_model(self, tokens: Sequence[int], split: int = 0) -> torch.Tensor:
        """Logits after the last two tokens, computed by the model itself in one pass, or in two split at `split`."""
        cache = DynamicCache(config=self.model.config)
        ids = torch.tensor([list(tokens)], device=self.model.device)
        if split:
            self.model(input_ids=ids[:, :split], past_key_values=cache, use_cache=True)
        output = self.model(input_ids=ids[:, split:], past_key_values=cache, use_cache=True, logits_to_keep=2)
        logits: torch.Tensor = output.logits[0]
        return logits


def exact_length(model: Any, tokens: Sequence[int], filler: int) -> tuple[int, str]:
    """The longest prompts of a model that are computed exactly in two parts.

    A sliding window makes no difference for prompts that fit into it. Everything else is tried, on `tokens` and on a
    longer prompt in which some of them are repeated.

    Args:
        model: a causal language model in eval mode.
        tokens: of some text.
        filler: the padding token.

    Returns:
        the number of tokens (0: never) and, if it is 0, the reason.
    """
    limit = 1 << 30
    for layer in DynamicCache(config=model.config).layers:
        if type(layer) is DynamicSlidingWindowLayer:
            limit = min(limit, layer.sliding_window)
        elif type(layer) is not DynamicLayer:
            return 0, "its prompts need another cache than keys and values of every token"
    rope = getattr(model.config.get_text_config(decoder=True), "rope_parameters", None) or {}
    # These have other frequencies beyond this length.
    if rope.get("rope_type") in ("dynamic", "longrope"):
        limit = min(limit, int(rope.get("original_max_position_embeddings") or limit))
    tokens = list(tokens)[: limit // 2]
    half = len(tokens) // 2
    prompts = [tokens, tokens + tokens[half:]]
    with quiet_transformers():
        try:
            error, noise = SharedPrefix(model, tokens[:half], filler).error(prompts)
        except (
            RuntimeError,
            ValueError,
            TypeError,
            LookupError,
            AttributeError,
            NotImplementedError,
        ) as failure:
            if is_out_of_memory(failure):
                raise
            return 0, "its prompts cannot be computed with KA2L's attention"
    full_precision = model.dtype == torch.float32 and not getattr(model, "is_quantized", False)
    # Weights or activations with few bits are rounded differently in every batch, also in the model's own computation.
    if error > max(1e-3 if full_precision else 0.5, 4 * noise):
        return 0, f"its prompts give other results with KA2L's attention (by {error:.2g} nats)"
    return limit, ""


def _difference(mine: torch.Tensor, other: torch.Tensor) -> float:
    mine, other = mine.float().log_softmax(-1), other.float().log_softmax(-1)
    # Very unlikely tokens differ by rounding only.
    likely = other >= other.max() - 7
    worst = float((mine - other)[likely].abs().max())
    return worst if worst == worst else float("inf")
