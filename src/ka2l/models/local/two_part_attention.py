"""Attention in two parts: over a prefix that all rows share, and over the tokens of each row.

The prefix's keys and values are stored once, not once per row. All queries of the batch are multiplied with them in one
matrix product, and the two parts are combined by the usual rule for a softmax computed in pieces. With transformers'
attention interface a model can use another attention function, so this works for every architecture that supports the
interface; `ka2l.models.local.shared_prefix` checks each model once against its own attention.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from transformers import AttentionInterface

NAME = "ka2l_two_part"


class KeysValues(NamedTuple):
    """Keys and values of the prefix in one layer, each [key/value heads, tokens, width]."""

    keys: torch.Tensor
    values: torch.Tensor


class Call(NamedTuple):
    """What the attention function needs to know about one forward pass."""

    prefix: list[KeysValues]
    """One per layer; empty without a prefix."""
    own: torch.Tensor
    """Bool [rows, queries, own columns]: the columns of its row that a query attends to."""


_call: ContextVar[Call] = ContextVar("ka2l_attention_call")


@contextmanager
def two_part(model: Any) -> Iterator[None]:
    """Let `model` use two-part attention inside this context; every pass needs a `calling`."""
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@contextmanager
def calling(call: Call) -> Iterator[None]:
    """Set the `Call` of the pass inside this context."""
    token = _call.set(call)
    try:
        yield
    finally:
        _call.reset(token)


def two_part_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,  # noqa: ARG001  (transformers makes none for an attention it does not know)
    scaling: float | None = None,
    softcap: float | None = None,
    **_others: Any,
) -> tuple[torch.Tensor, None]:
    """Exact attention of [rows, heads, queries, width] queries; see transformers' attention interface.

    Args:
        module: the layer's attention module; its `layer_idx` finds the prefix.
        query: [rows, heads, queries, width].
        key: the rows' own keys, [rows, key/value heads, own columns, width].
        value: the rows' own values, like `key`.
        attention_mask: not used, because the call says what is visible.
        scaling: factor of the scores; none: width to the power −1/2.
        softcap: bounds the scores (Gemma 2).
    """
    call = _call.get()
    rows, heads, queries, width = query.shape
    kv_heads = key.shape[1]
    group = heads // kv_heads
    # The query heads that share a key/value head are treated as further queries.
    query = query.reshape(rows, kv_heads, group * queries, width)
    query = query * (width**-0.5 if scaling is None else scaling)
    own = _capped(query @ key.transpose(-1, -2), softcap)
    own = own.view(rows, kv_heads, group, queries, -1)
    own = own.masked_fill(~call.own[:, None, None].to(own.device), -torch.inf).flatten(2, 3)
    if not call.prefix:
        output = torch.softmax(own, dim=-1).to(value.dtype) @ value
    else:
        prefix = call.prefix[module.layer_idx]
        # One product for all rows: [heads, rows × queries, width] with [heads, width, prefix].
        flat = query.transpose(0, 1).reshape(kv_heads, -1, width)
        shared = _capped(flat @ prefix.keys.transpose(-1, -2), softcap)
        own_top = own.amax(-1, keepdim=True)
        shared_top = shared.amax(-1, keepdim=True)
        own = (own - own_top).exp_()
        shared = (shared - shared_top).exp_()
        by_row = (kv_heads, rows, group * queries)
        shared_out = (shared.to(value.dtype) @ prefix.values).view(*by_row, -1).transpose(0, 1)
        shared_sum = shared.sum(-1, keepdim=True).view(*by_row, 1).transpose(0, 1)
        shared_top = shared_top.view(*by_row, 1).transpose(0, 1)
        top = torch.maximum(own_top, shared_top)
        own_weight, shared_weight = (own_top - top).exp_(), (shared_top - top).exp_()
        total = own.sum(-1, keepdim=True) * own_weight + shared_sum * shared_weight
        output = (own.to(value.dtype) @ value) * (own_weight / total) + shared_out * (shared_weight / total)
    output = output.to(value.dtype).view(rows, heads, queries, -1)
    return output.transpose(1, 2).contiguous(), None


def _capped(scores: torch.Tensor, softcap: float | None) -> torch.Tensor:
    scores = scores.float()
    return scores if softcap is None else softcap * torch.tanh(scores / softcap)


AttentionInterface.register(NAME, two_part_attention)
