"""A key/value cache that grows in place.

transformers' dynamic cache concatenates at every step, so each new token copies all earlier ones for every row.
Here each layer keeps room to spare and writes the new token into it; attention reads a view.
"""

from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

_ROOM = 64  # tokens of spare room when a buffer is made


class RoomyLayer(DynamicLayer):
    """One layer's keys and values, [rows, heads, tokens, width], views into a larger buffer."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._buffers: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append new tokens; returns all keys and values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states, value_states
            return self.keys, self.values
        start = self.keys.shape[-2]
        end = start + key_states.shape[-2]
        if self._buffers is None or self._buffers[0].shape[-2] < end:
            self._buffers = (_roomy(self.keys, end + _ROOM), _roomy(self.values, end + _ROOM))
        keys, values = self._buffers
        keys[..., start:end, :] = key_states
        values[..., start:end, :] = value_states
        self.keys, self.values = keys[..., :end, :], values[..., :end, :]
        return self.keys, self.values

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Every row `repeats` times."""
        super().batch_repeat_interleave(repeats)
        self._buffers = None

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep only these rows."""
        super().batch_select_indices(indices)
        self._buffers = None


def new_cache(config: Any) -> DynamicCache:
    """An empty cache for this model; layers of other kinds (sliding windows) stay as transformers makes them."""
    cache = DynamicCache(config=config)
    cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def can_share_prefix(config: Any) -> bool:
    """Whether a computed prefix serves other rows exactly: every layer must keep all tokens where they are.

    A sliding window counts columns, so padding between prefix and question would push tokens out of it.
    """
    return all(isinstance(layer, RoomyLayer) for layer in new_cache(config).layers)


def copy_rows(cache: DynamicCache, config: Any, rows: int) -> DynamicCache:
    """A new cache with the single row of `cache` repeated; the original stays as it is."""
    copy = new_cache(config)
    for index, layer in enumerate(cache.layers):
        copy.update(layer.keys.expand(rows, -1, -1, -1), layer.values.expand(rows, -1, -1, -1), index)
    return copy


def _roomy(tensor: torch.Tensor, tokens: int) -> torch.Tensor:
    rows, heads, used, width = tensor.shape
    buffer = tensor.new_empty((rows, heads, tokens, width))
    buffer[..., :used, :] = tensor
    return buffer
