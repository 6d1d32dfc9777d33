"""Hidden states of a prompt, caught by hooks on the blocks: the last token only, not every position of every layer.

Layer 0 is the embedding, layer i the output of block i, the last layer after the final norm: `hidden_states[i]` of
transformers. What enters block i+1 is what left block i, so one hook before each block and one after the whole
backbone see them all, in every architecture.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ka2l.errors import ModelError
from ka2l.models.base import Position


class _LayerReached(Exception):  # noqa: N818  (not an error: it ends a forward pass early)
    """Everything up to the wanted layer is computed."""


def backbone(model: Any) -> Any:
    """The part of a causal model below its head."""
    return model.base_model


def blocks(model: Any) -> list[torch.nn.Module]:
    """The transformer blocks in order."""
    count = model.config.get_text_config(decoder=True).num_hidden_layers
    lists = [m for m in backbone(model).modules() if isinstance(m, torch.nn.ModuleList) and len(m) == count]
    if not lists:
        raise ModelError(
            f"{type(model).__name__}: found no list of {count} blocks to read hidden states from."
        )
    return list(lists[0])


@contextmanager
def caught_states(model: Any, position: Position, mask: torch.Tensor) -> Iterator[list[torch.Tensor]]:
    """Collect one state per row and layer during the forward passes inside.

    Args:
        model: the causal model.
        position: `tbg` (last token) or `mean_prompt` (mean over the question's tokens).
        mask: [rows, tokens] of the tokens fed in this pass, 0 for padding on the left and for the run's prefix.

    Yields:
        a list that fills with [rows, width] tensors in layer order.
    """
    caught: list[torch.Tensor] = []
    handles = [
        block.register_forward_pre_hook(_before_block(caught, position, mask), with_kwargs=True)
        for block in blocks(model)
    ]
    handles.append(
        backbone(model).register_forward_hook(
            lambda _module, _inputs, output: caught.append(_reduce(output[0], position, mask))
        )
    )
    try:
        yield caught
    finally:
        for handle in handles:
            handle.remove()


def read_states(
    model: Any, layer: int | None, position: Position, mask: torch.Tensor, inputs: dict[str, Any]
) -> torch.Tensor:
    """States at one layer, [rows, width], or with None of all, [rows, layers + 1, width].

    Blocks above the layer and the head are not run.
    """
    if layer is None:
        with caught_states(model, position, mask) as states:
            backbone(model)(**inputs)
        return stacked(states)
    all_blocks = blocks(model)
    if layer == len(all_blocks):
        return _reduce(backbone(model)(**inputs)[0], position, mask)
    caught: list[torch.Tensor] = []
    catch = _before_block(caught, position, mask)

    def stop(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        catch(module, args, kwargs)
        raise _LayerReached

    handle = all_blocks[layer].register_forward_pre_hook(stop, with_kwargs=True)
    try:
        backbone(model)(**inputs)
    except _LayerReached:
        pass
    finally:
        handle.remove()
    return caught[0]


def stacked(states: list[torch.Tensor]) -> torch.Tensor:
    """States of all layers, [rows, layers + 1, width], wherever the layers lie."""
    return torch.stack([state.to(states[0].device) for state in states], dim=1)


def to_numpy(tensor: torch.Tensor) -> NDArray[np.float32]:
    """As float32 in main memory."""
    array: NDArray[np.float32] = tensor.float().cpu().numpy()
    return array


def check_states(states: NDArray[np.float32], ids: Sequence[str], first_layer: int = 0) -> None:
    """Refuse NaN and infinite states [rows, layers, width], naming the first layer and question."""
    bad = ~np.isfinite(states).all(axis=2)
    if bad.any():
        row, layer = (int(i) for i in np.argwhere(bad)[0])
        raise ModelError(
            f"question {ids[row]}: the hidden state at layer {first_layer + layer} holds NaN or infinite values "
            f"({int(bad.sum())} such states in this batch). Load the model in float32 or bfloat16 (model.dtype)."
        )


def check_logits(logits: torch.Tensor, ids: Sequence[str]) -> None:
    """Refuse NaN logits [rows, vocabulary], naming the first question."""
    bad = logits.isnan().any(dim=1)
    if bool(bad.any()):
        raise ModelError(
            f"question {ids[int(bad.nonzero()[0])]}: the model's output holds NaN values ({int(bad.sum())} such "
            "questions in this batch). Load the model in float32 or bfloat16 (model.dtype)."
        )


def _before_block(caught: list[torch.Tensor], position: Position, mask: torch.Tensor) -> Any:
    def hook(_module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        caught.append(_reduce(hidden, position, mask))

    return hook


def _reduce(hidden: torch.Tensor, position: Position, mask: torch.Tensor) -> torch.Tensor:
    if position == "tbg":
        return hidden[:, -1].float()  # padding is on the left: the last column is every row's last token
    weights = mask.to(hidden.device).unsqueeze(-1).float()
    return (hidden.float() * weights).sum(1) / weights.sum(1)
