"""Prompts computed by the model itself, for architectures whose cache cannot be shared.

Every prompt is computed in full, and its cache is repeated for each sample; rows that stop leave the batch. It is
slower than `sampling_loop`, and its answers are the same.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from ka2l.models.interface import Position, Usage
from ka2l.models.local.answer_tree import Question, Row, draws, grow
from ka2l.models.local.hidden_states import (
    caught_states,
    check_states,
    not_finite,
    read_states,
    stacked,
    to_numpy,
)
from ka2l.models.local.shared_prefix import Padded, Prefilled, pad
from ka2l.models.local.token_draws import NotFiniteError, StopRule, draw


class PlainPasses:
    """Forward passes over whole prompts.

    Args:
        model: a causal language model in eval mode.
        known: tokens at the beginning of the prompts that `mean_prompt` leaves out, as if they were shared.
        filler: the padding token.
    """

    def __init__(self, model: Any, known: Sequence[int], filler: int):
        self.model = model
        self._known, self._filler = list(known), filler

    def prefill(
        self, prompts: Sequence[Sequence[int]], position: Position | None = None, cache: Any = None
    ) -> Prefilled:
        """Compute prompts; see `SharedPrefix.prefill`."""
        padded = pad(prompts, self._filler, self.model.device)
        inputs = self._inputs(padded) | {"past_key_values": cache, "use_cache": cache is not None}
        if position is None:
            return Prefilled(self.model(**inputs, logits_to_keep=1).logits[:, -1], None)
        with caught_states(self.model, position, self._own(padded, prompts)) as states:
            logits = self.model(**inputs, logits_to_keep=1).logits[:, -1]
        return Prefilled(logits, stacked(states))

    def states(self, prompts: Sequence[Sequence[int]], layer: int | None, position: Position) -> torch.Tensor:
        """States at one layer, or with None of all; see `SharedPrefix.states`."""
        padded = pad(prompts, self._filler, self.model.device)
        inputs = self._inputs(padded) | {"use_cache": False}
        return read_states(self.model, layer, position, self._own(padded, prompts), inputs)

    def sample(
        self,
        questions: Sequence[Question],
        names: Sequence[str],
        rule: StopRule,
        *,
        max_new_tokens: int,
        position: Position | None,
    ) -> Usage:
        """Answer one batch of questions together; returns the tokens computed."""
        for question in questions:
            # There may be answers of an attempt that ran out of memory.
            question.answers.clear()
        cache = DynamicCache(config=self.model.config)
        prompts = [question.part for question in questions]
        done = self.prefill(prompts, position, cache)
        if done.states is not None:
            states = to_numpy(done.states)
            check_states(states, names)
            for question, of_layers in zip(questions, states, strict=True):
                question.states = of_layers
        usage = Usage(prompt=sum(map(len, prompts)))
        for rows, of_rows in self._decode(questions, names, done.logits, cache, rule, max_new_tokens):
            usage += Usage(decoded=rows, decoded_saved=of_rows - rows)
        return usage

    def _decode(
        self,
        questions: Sequence[Question],
        names: Sequence[str],
        logits: torch.Tensor,
        cache: Any,
        rule: StopRule,
        limit: int,
    ) -> Iterator[tuple[int, int]]:
        """Decode all answers; yields at every step the number of rows computed and of samples they stand for."""
        width = max(len(question.part) for question in questions)
        rows = [Row(q, list(q.temperatures), width - len(q.part), width) for q in questions]
        while True:
            at, temperatures, numbers = draws(rows)
            try:
                drawn = draw(logits, at, temperatures, numbers)
            except NotFiniteError as error:
                raise not_finite(names[questions.index(rows[error.row].question)]) from None
            grown = grow(rows, *drawn, rule, limit)
            rows = grown.rows
            if not rows:
                return
            cache.batch_select_indices(torch.tensor(grown.sources, device=logits.device))
            used = max(row.end for row in rows) + 1
            columns = torch.arange(used, device=logits.device)
            starts = torch.tensor([row.start for row in rows], device=logits.device)
            logits = self.model(
                input_ids=torch.tensor([[row.tokens[-1]] for row in rows], device=logits.device),
                attention_mask=(columns >= starts[:, None]).long(),
                position_ids=(used - 1 - starts)[:, None],
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
            yield len(rows), sum(len(row.samples) for row in rows)

    def _inputs(self, padded: Padded) -> dict[str, Any]:
        columns = torch.arange(padded.tokens.shape[1], device=padded.tokens.device)
        return {
            "input_ids": padded.tokens,
            "attention_mask": padded.own,
            "position_ids": (columns - padded.starts[:, None]).clamp(min=0),
        }

    def _own(self, padded: Padded, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Mask [rows, width] of the tokens that `mean_prompt` averages over."""
        known = len(self._known)
        begins = np.array([known if list(prompt[:known]) == self._known else 0 for prompt in prompts])
        columns = torch.arange(padded.tokens.shape[1], device=padded.tokens.device)
        first = padded.starts + torch.from_numpy(begins).to(padded.starts.device)
        return (columns >= first[:, None]).long()
