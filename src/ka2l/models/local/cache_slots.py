"""The key/value cache of the engine: one slot a row, for the tokens the row does not share.

transformers' dynamic cache concatenates at every step, so each new token copies all earlier ones for every row. Here
a new token is written into room that is there; a row that forks is copied to a free slot; the last rows move into the
places of finished ones, so that the rows at work are always the first of the buffer.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import Cache

from ka2l.models.local.two_part_attention import KeysValues


class Slots(Cache):
    """Keys and values of all layers, each [slots, key/value heads, columns, width].

    A pass writes to the rows and columns said before it by `prefill` or `step`. Row r of a prefill of width w fills
    the columns 0 to w − 1, padding on the left included.
    """

    def __init__(self) -> None:
        super().__init__(layers=[])
        self._buffers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._slots = self._columns = 0
        self._first = 0
        self._used = 0  # columns that any row may have filled
        self._ends: torch.Tensor | None = None  # of a step; none while a prefill runs

    @property
    def columns(self) -> int:
        """Room in each slot."""
        return self._columns

    def reserve(self, slots: int, columns: int) -> None:
        """Make room for this many rows and columns; what is there stays.

        Rows grow by half as much again, so that a run of small demands seldom copies everything.
        """
        if slots <= self._slots and columns <= self._columns:
            return
        slots = max(slots, self._slots + self._slots // 2) if slots > self._slots else self._slots
        columns = max(columns, self._columns)
        for layer, (keys, values) in self._buffers.items():
            self._buffers[layer] = (self._larger(keys, slots, columns), self._larger(values, slots, columns))
        self._slots, self._columns = slots, columns

    def prefill(self, first: int) -> None:
        """The coming pass fills the slots from `first` on with whole prompts."""
        self._first, self._ends = first, None

    def step(self, first: int, ends: torch.Tensor, used: int) -> None:
        """The coming pass adds one token to the slots from `first` on, in the columns `ends`.

        `used` columns will then be in use in some row, of this pass or not.
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
        """Only these slots stay, in this order, and no room to spare."""
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
        """Called by the model's attention: store new keys and values, return those of the rows in this pass."""
        if layer_idx not in self._buffers:
            # Zeros, not whatever was in memory: a masked column counts 0 × its value, and 0 × NaN is NaN.
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
        """Own columns in use; positions are always given, so nothing is derived from it."""
        return self._used

    def _empty(self, like: torch.Tensor) -> torch.Tensor:
        return like.new_zeros(self._slots, like.shape[1], self._columns, like.shape[3])

    @staticmethod
    def _larger(buffer: torch.Tensor, slots: int, columns: int) -> torch.Tensor:
        larger = buffer.new_zeros(slots, buffer.shape[1], columns, buffer.shape[3])
        larger[: buffer.shape[0], :, : buffer.shape[2]] = buffer
        return larger


class NoSlots(Cache):
    """For passes whose keys and values nobody reads later."""

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
        """Nothing is kept."""
        return key_states, value_states

    def get_seq_length(self, layer_idx: int = 0) -> int:  # noqa: ARG002  (transformers' signature)
        """Nothing is kept."""
        return 0
