"""The key/value cache of the sampling loop: one slot per row, for the tokens that the row does not share.

transformers' dynamic cache concatenates at every step, so that each new token copies all earlier ones of every row.
Here a new token is written into reserved columns; a row that forks is copied to a free slot; the last rows move into
the places of finished ones, so that unfinished rows always come first in the buffer.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import Cache

from ka2l.models.local.two_part_attention import KeysValues


class Slots(Cache):
    """Keys and values of all layers, each [slots, key/value heads, columns, width].

    A pass writes to the rows and columns set before it with `prefill` or `step`. Each row of a prefill of width w fills
    the columns 0 to w − 1, including the padding on the left.
    """

    def __init__(self) -> None:
        super().__init__(layers=[])
        self._buffers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._slots = self._columns = 0
        self._first = 0
        # Columns that any row may have filled.
        self._used = 0
        # The new column of each row in a step; None for a prefill.
        self._ends: torch.Tensor | None = None

    @property
    def columns(self) -> int:
        """Columns reserved in each slot."""
        return self._columns

    def reserve(self, slots: int, columns: int) -> None:
        """Reserve at least this many rows and columns; existing content stays.

        Rows grow by at least half, so that a sequence of small requests seldom copies everything.
        """
        if slots <= self._slots and columns <= self._columns:
            return
        slots = max(slots, self._slots + self._slots // 2) if slots > self._slots else self._slots
        columns = max(columns, self._columns)
        for layer, (keys, values) in self._buffers.items():
            self._buffers[layer] = (self._larger(keys, slots, columns), self._larger(values, slots, columns))
        self._slots, self._columns = slots, columns

    def prefill(self, first: int) -> None:
        """Prepare for a pass that fills the slots from `first` on with whole prompts."""
        self._first, self._ends = first, None

    def step(self, first: int, ends: torch.Tensor, used: int) -> None:
        """Prepare for a pass that adds one token to the slots from `first` on, in the columns `ends`.

        Args:
            first: the first row's slot.
            ends: [rows], the column of each new token.
            used: columns in use in any row of the cache after the pass.
        """
        self._first, self._ends, self._used = first, ends, used

    def move(self, targets: Sequence[int], sources: Sequence[int]) -> None:
        """Copy rows to other slots; no slot is both a source and a target."""
        if not targets:
            return
        for buffers in self._buffers.values():
            for buffer in buffers:
                index = torch.tensor([targets, sources], device=buffer.device)
                buffer[index[0], :, : self._used] = buffer[index[1], :, : self._used]

    def keep(self, slots: Sequence[int]) -> None:
        """Keep only these slots, in this order, and free all others."""
        for layer, buffers in self._buffers.items():
            index = torch.tensor(slots, dtype=torch.long, device=buffers[0].device)
            self._buffers[layer] = (buffers[0][index], buffers[1][index])
        self._slots = len(slots)

    def row(self, slot: int, columns: int) -> list[KeysValues]:
        """A copy of one row's keys and values, by layer."""
        return [
            KeysValues(*(buffer[slot, :, :columns].clone() for buffer in self._buffers[layer]))
            for layer in sorted(self._buffers)
        ]

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        *_args: Any,
        **_kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store new keys and values, and return those of the rows in this pass; called by the model's attention."""
        if layer_idx not in self._buffers:
            # Zeros, not uninitialised memory: a masked column counts 0 × its value, and 0 × NaN is NaN.
            self._buffers[layer_idx] = (self._empty(key_states), self._empty(value_states))
        keys, values = self._buffers[layer_idx]
        rows = slice(self._first, self._first + key_states.shape[0])
        if self._ends is None:
            width = key_states.shape[2]
            self._used = max(self._used, width)
            keys[rows, :, :width], values[rows, :, :width] = key_states, value_states
            return key_states, value_states
        index = torch.arange(rows.start, rows.stop, device=keys.device)
        ends = self._ends.to(keys.device)
        keys[index, :, ends], values[index, :, ends] = key_states[:, :, 0], value_states[:, :, 0]
        return keys[rows, :, : self._used], values[rows, :, : self._used]

    def get_seq_length(self, layer_idx: int = 0) -> int:  # noqa: ARG002  (transformers' signature)
        """Columns in use. Positions are always given explicitly, so nothing is derived from this."""
        return self._used

    def _empty(self, like: torch.Tensor) -> torch.Tensor:
        return like.new_zeros(self._slots, like.shape[1], self._columns, like.shape[3])

    @staticmethod
    def _larger(buffer: torch.Tensor, slots: int, columns: int) -> torch.Tensor:
        larger = buffer.new_zeros(slots, buffer.shape[1], columns, buffer.shape[3])
        larger[: buffer.shape[0], :, : buffer.shape[2]] = buffer
        return larger


class NoSlots(Cache):
    """A cache that stores nothing, for passes whose keys and values are not needed later."""

    def __init__(self) -> None:
        super().__init__(layers=[])

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,  # noqa: ARG002  (transformers' signature)
        *_args: Any,
        **_kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the keys and values without storing them."""
        return key_states, value_states

    def get_seq_length(self, layer_idx: int = 0) -> int:  # noqa: ARG002  (transformers' signature)
        """0, because nothing is stored."""
        return 0
