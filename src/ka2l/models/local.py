"""A model that runs in this process: one prefill a question gives the states of every layer and all answers.

The tokens all prompts begin with (instruction and shots) are computed once a run. Each question's own tokens are
prefilled once; its answers decode together from that cache; finished rows leave the batch. Every answer has its own
random stream, derived from (seed, question id, index), so the batch around it changes nothing but rounding.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache

from ka2l.config import ModelConfig
from ka2l.errors import ModelError
from ka2l.models.base import Answer, Position, Prompt, SampledQuestion, Usage
from ka2l.models.cache import can_share_prefix, copy_rows, new_cache
from ka2l.models.decoding import Rows, draw, uniforms
from ka2l.models.load import ResolvedModel, load_causal_lm
from ka2l.models.states import caught_states, state_at_layer
from ka2l.prompts import Message, render_chat


class _Batch(NamedTuple):
    """Prompts ready for a forward pass: their tokens padded on the left, behind the prefix if it is shared."""

    tokens: torch.Tensor  # [rows, longest part to compute]
    own: torch.Tensor  # same shape, 1 = the question's own token: neither padding nor of the run's prefix
    positions: torch.Tensor  # same shape
    full_mask: torch.Tensor  # [rows, prefix + longest own part]
    cache: DynamicCache

    def inputs(self) -> dict[str, Any]:
        return {
            "input_ids": self.tokens,
            "attention_mask": self.full_mask,
            "position_ids": self.positions,
            "past_key_values": self.cache,
            "use_cache": True,
        }


class LocalModel:
    """Implements `ka2l.models.base.LanguageModel` with transformers.

    Args:
        model: a causal language model in eval mode.
        tokenizer: its tokenizer, with a padding token.
        resolved: name and revision, for cards and content keys.
        special_tokens: whether the tokenizer adds its own (off for chat prompts: their template has them).
    """

    def __init__(self, model: Any, tokenizer: Any, resolved: ResolvedModel, special_tokens: bool = True):
        self.model = model
        self.tokenizer = tokenizer
        self.resolved = resolved
        self.special_tokens = special_tokens
        self.usage = Usage()
        self.n_layers: int = model.config.get_text_config(decoder=True).num_hidden_layers
        self._stop_ids = _stop_ids(model, tokenizer)
        self._has_break: dict[int, bool] = {}
        self._prefix: tuple[list[int], DynamicCache | None] = ([], None)

    @classmethod
    def load(
        cls, config: ModelConfig, resolved: ResolvedModel, *, template: str = "plain", adapter: Any = None
    ) -> "LocalModel":
        """Load weights and tokenizer; `adapter` is a folder of LoRA weights to merge in."""
        model, tokenizer = load_causal_lm(config, resolved, adapter)
        return cls(model, tokenizer, resolved, special_tokens=template == "plain")

    @property
    def device(self) -> torch.device:
        """Where the inputs go."""
        return self.model.device

    def render_chat(self, messages: list[Message]) -> str:
        """Text of a conversation under the model's chat template, ready for the answer."""
        return render_chat(self.tokenizer, messages)

    @property
    def has_chat_template(self) -> bool:
        """Whether the tokenizer carries one."""
        return bool(getattr(self.tokenizer, "chat_template", None))

    @torch.inference_mode()
    def sample(
        self,
        prompts: Sequence[Prompt],
        temperatures: Mapping[int, float],
        *,
        seed: int,
        max_new_tokens: int,
        position: Position | None = None,
    ) -> Iterator[SampledQuestion]:
        """See `LanguageModel.sample`. Yields in an order of its own (by length), each prompt once."""
        encoded = self._encode(prompts, answer=max_new_tokens)
        for group in _by_length(encoded, 16):
            batch = self._batch([encoded[i] for i in group])
            states: list[torch.Tensor] = []
            if position is None:
                output = self.model(**batch.inputs(), logits_to_keep=1)
            else:
                with caught_states(self.model, position, batch.own) as states:
                    output = self.model(**batch.inputs(), logits_to_keep=1)
            layers = _to_numpy(torch.stack(states, dim=1)) if states else None
            ids = [prompts[i].question_id for i in group]
            if layers is not None:
                _check_finite(layers, ids)
            _check_logits(output.logits[:, -1], ids)
            streams = uniforms(seed, ids, len(temperatures), max_new_tokens)
            answers = self._decode(output.logits[:, -1], batch, list(temperatures.values()), streams)
            for row, question_id in enumerate(ids):
                yield SampledQuestion(question_id, answers[row], None if layers is None else layers[row])

    @torch.inference_mode()
    def states(
        self, prompts: Sequence[Prompt], layer: int | None, *, position: Position
    ) -> NDArray[np.float32]:
        """See `LanguageModel.states`."""
        encoded = self._encode(prompts)
        rows: list[tuple[int, NDArray[np.float32]]] = []
        for group in _by_length(encoded, 16):
            batch = self._batch([encoded[i] for i in group])
            if layer is None:
                with caught_states(self.model, position, batch.own) as caught:
                    self.model.base_model(**batch.inputs())
                states = _to_numpy(torch.stack(caught, dim=1))
                _check_finite(states, [prompts[i].question_id for i in group])
            else:
                states = _to_numpy(state_at_layer(self.model, layer, position, batch.own, batch.inputs()))
                _check_finite(states[:, None], [prompts[i].question_id for i in group], first_layer=layer)
            rows += zip(group, states, strict=True)
        if not rows:
            return np.empty(
                (0, self.model.config.get_text_config(decoder=True).hidden_size), dtype=np.float32
            )
        return np.stack([state for _, state in sorted(rows, key=lambda row: row[0])])

    @torch.inference_mode()
    def next_token_entropy(self, prompts: Sequence[Prompt]) -> NDArray[np.float32]:
        """See `LanguageModel.next_token_entropy`."""
        encoded = self._encode(prompts)
        entropy = np.empty(len(prompts), dtype=np.float32)
        for group in _by_length(encoded, 16):
            batch = self._batch([encoded[i] for i in group])
            logits = self.model(**batch.inputs(), logits_to_keep=1).logits[:, -1].float()
            _check_logits(logits, [prompts[i].question_id for i in group])
            # Rounding can leave a certain model a hair below zero.
            entropy[group] = _to_numpy(torch.distributions.Categorical(logits=logits).entropy().clamp(min=0))
        return entropy

    def _encode(self, prompts: Sequence[Prompt], answer: int = 0) -> list[list[int]]:
        """Token ids; refuses prompts that do not fit the model together with `answer` tokens."""
        texts = [prompt.text for prompt in prompts]
        if not texts:
            return []
        ids: list[list[int]] = self.tokenizer(texts, add_special_tokens=self.special_tokens)["input_ids"]
        limit = getattr(self.model.config.get_text_config(decoder=True), "max_position_embeddings", None)
        for prompt, tokens in zip(prompts, ids, strict=True):
            if not tokens:
                raise ModelError(f"question {prompt.question_id}: its prompt has no tokens.")
            if limit and len(tokens) + answer > limit:
                also = f" and its answer up to {answer}" if answer else ""
                raise ModelError(
                    f"question {prompt.question_id}: its prompt has {len(tokens)} tokens{also}, but the model reads "
                    f"{limit}. Shorten the question or use fewer shots."
                )
        return ids

    def _batch(self, encoded: list[list[int]]) -> _Batch:
        """Left-padded prompts, or what of them comes behind the shared prefix."""
        known, prefix = self._prefix
        begins = [len(known) if len(t) > len(known) and t[: len(known)] == known else 0 for t in encoded]
        shared = len(known) if prefix is not None and all(begins) else 0
        parts = [tokens[shared:] for tokens in encoded]
        width = max(len(part) for part in parts)
        pad = self.tokenizer.pad_token_id or 0
        tokens = torch.tensor([[pad] * (width - len(part)) + part for part in parts], device=self.device)
        columns = torch.arange(width, device=self.device)
        padding = torch.tensor([[width - len(part)] for part in parts], device=self.device)
        before = padding + torch.tensor([[max(begin - shared, 0)] for begin in begins], device=self.device)
        mask = (columns >= padding).long()
        positions = (mask.cumsum(1) - 1).clamp(min=0) + shared
        full_mask = torch.cat([mask.new_ones(len(parts), shared), mask], dim=1)
        config = self.model.config
        cache = new_cache(config) if prefix is None or not shared else copy_rows(prefix, config, len(parts))
        self.usage += Usage(prompt=sum(len(part) for part in parts), prompt_saved=shared * len(parts))
        return _Batch(tokens, (columns >= before).long(), positions, full_mask, cache)

    @torch.inference_mode()
    def share_prefix(self, build: Callable[[str], str]) -> None:
        """Compute once the tokens that every prompt of `build` begins with.

        They are found from two questions with nothing in common, never from the prompts at hand: the same split
        between prefix and question in every batch is what makes an interrupted run end like an uninterrupted one.
        Models whose cache forgets tokens (sliding windows) compute every prompt in full.
        """
        first, second = self._encode([Prompt("", build(text)) for text in ("0", "Who is it?")])
        length = next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), 0)
        share = length > 0 and can_share_prefix(self.model.config)
        self._prefix = (first[:length], self._prefill(first[:length]) if share else None)

    def _prefill(self, tokens: list[int]) -> DynamicCache:
        cache = new_cache(self.model.config)
        ids = torch.tensor([tokens], device=self.device)
        self.model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.usage += Usage(prompt=len(tokens))
        return cache

    def _decode(
        self,
        logits: torch.Tensor,
        batch: _Batch,
        temperatures: Sequence[float],
        streams: NDArray[np.float64],
    ) -> list[list[Answer]]:
        """Sample all rows (questions × temperatures) to their ends; finished rows leave the batch."""
        repeats, questions = len(temperatures), logits.shape[0]
        rows = Rows(questions * repeats, self._stop_ids, self._text_after, self._breaks)
        cache, mask = batch.cache, batch.full_mask.repeat_interleave(repeats, dim=0)
        cache.batch_repeat_interleave(repeats)
        logits = logits.repeat_interleave(repeats, dim=0)
        positions = batch.positions[:, -1:].repeat_interleave(repeats, dim=0)
        heat = torch.tensor(temperatures, device=logits.device).repeat(questions)
        draws = torch.from_numpy(streams).to(logits.device)
        alive = torch.arange(questions * repeats, device=logits.device)
        for step in range(draws.shape[1]):
            tokens, logprobs = draw(logits, heat[alive], draws[alive, step])
            going = rows.take(alive.tolist(), tokens.tolist(), logprobs.tolist())
            if step + 1 == draws.shape[1] or not any(going):
                break
            if sum(going) <= 0.8 * len(going):  # dropping rows copies the cache: not for every single one
                keep = torch.tensor([i for i, on in enumerate(going) if on], device=logits.device)
                cache.batch_select_indices(keep)
                alive, tokens, mask, positions = alive[keep], tokens[keep], mask[keep], positions[keep]
            mask = torch.cat([mask, mask.new_ones(len(alive), 1)], dim=1)
            positions = positions + 1
            output = self.model(
                input_ids=tokens[:, None],
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            self.usage += Usage(decoded=len(alive))
            logits = output.logits[:, -1]
        answers = rows.answers()
        return [answers[i * repeats : (i + 1) * repeats] for i in range(questions)]

    def _text_after(self, tokens: list[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True))

    def _breaks(self, token: int) -> bool:
        """Whether this token can hold a line break (asked once per token, then remembered)."""
        known = self._has_break.get(token)
        if known is None:
            known = self._has_break[token] = "\n" in self.tokenizer.decode([token])
        return known


def _by_length(encoded: Sequence[Sequence[int]], size: int) -> list[list[int]]:
    order = sorted(range(len(encoded)), key=lambda i: (len(encoded[i]), i))
    return [order[start : start + size] for start in range(0, len(order), size)]


def _stop_ids(model: Any, tokenizer: Any) -> set[int]:
    ids: set[int] = set()
    for source in (getattr(model, "generation_config", None), tokenizer):
        eos = getattr(source, "eos_token_id", None)
        ids |= set(eos if isinstance(eos, list) else [eos] if eos is not None else [])
    return ids


def _to_numpy(tensor: torch.Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.float().cpu().numpy()
    return array


def _check_finite(states: NDArray[np.float32], ids: Sequence[str], first_layer: int = 0) -> None:
    """Refuse NaN and infinite states [rows, layers, width], naming the first layer and question."""
    bad = ~np.isfinite(states).all(axis=2)
    if bad.any():
        row, layer = (int(i) for i in np.argwhere(bad)[0])
        raise ModelError(
            f"question {ids[row]}: the hidden state at layer {first_layer + layer} holds NaN or infinite values "
            f"({int(bad.sum())} such states in this batch). Load the model in float32 or bfloat16 (model.dtype)."
        )


def _check_logits(logits: torch.Tensor, ids: Sequence[str]) -> None:
    """Refuse NaN logits [rows, vocabulary], naming the first question."""
    bad = logits.isnan().any(dim=1)
    if bool(bad.any()):
        raise ModelError(
            f"question {ids[int(bad.nonzero()[0])]}: the model's output holds NaN values ({int(bad.sum())} such "
            "questions in this batch). Load the model in float32 or bfloat16 (model.dtype)."
        )
