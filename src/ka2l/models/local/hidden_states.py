"""Hidden states of a prompt, read by hooks on the blocks: one state per layer, not every position of every layer.

Layer 0 is the embedding, layer i the output of block i, and the last layer is after the final norm: `hidden_states[i]`
of transformers. The input of block i+1 is the output of block i, so one hook before each block and one after the
backbone read all layers in every architecture.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ka2l.errors import ModelError
from ka2l.models.interface import Position


class _LayerReached(Exception):  # noqa: N818  (not an error: it ends a forward pass early)
    """The requested layer is computed."""


def backbone(model: Any) -> Any:
    """The part of a causal model below its head."""
    return model.base_model


def blocks(model: Any) -> list[torch.nn.Module]:
    """The transformer blocks in order."""
    count = model.config.get_text_config(decoder=True).num_hidden_layers
    lists = [m for m in backbone(model).modules() if isinstance(m, torch.nn.ModuleList) and len(m) == count]
    if not lists:
        raise ModelError(f"{type(model).__name__}: the model has no list of {count} blocks to read hidden states from.")
    return list(lists[0])


class _Catch(NamedTuple):
    """What the hooks do in the current pass."""

    position: Position
    mask: torch.Tensor
    states: list[torch.Tensor]
    only: int | None
    """The only layer to read; the layers above it are not computed. None: all layers."""


# A context variable, and therefore separate for each thread: passes of several threads use the same hooks.
_installing = threading.Lock()
_catch: ContextVar[_Catch | None] = ContextVar("ka2l_catch", default=None)


@contextmanager
def caught_states(model: Any, position: Position, mask: torch.Tensor) -> Iterator[list[torch.Tensor]]:
    """Collect one state per row and layer during the forward pass inside.

    Args:
        model: the causal model.
        position: `tbg` (last token) or `mean_prompt` (mean over the question's tokens).
        mask: [rows, tokens] of this pass, 0 for padding on the left and for tokens of the run's prefix.

    Yields:
        a list to which the pass appends [rows, width] tensors, in the order of the layers.
    """
    with _catching(model, _Catch(position, mask, [], None)) as catch:
        yield catch.states


def read_states(
    model: Any, layer: int | None, position: Position, mask: torch.Tensor, inputs: dict[str, Any]
) -> torch.Tensor:
    """Run the backbone and return the states at one layer, [rows, width], or with None of all, [rows, layers + 1,
    width].

    Blocks above the layer and the head are not computed. For `position` and `mask` see `caught_states`; `inputs` are
    the arguments of the backbone.
    """
    with _catching(model, _Catch(position, mask, [], layer)) as catch:
        with suppress(_LayerReached):
            backbone(model)(**inputs)
        return stacked(catch.states) if layer is None else catch.states[0]


@contextmanager
def _catching(model: Any, catch: _Catch) -> Iterator[_Catch]:
    _install_hooks(model)
    token = _catch.set(catch)
    try:
        yield catch
    finally:
        _catch.reset(token)


def _install_hooks(model: Any) -> None:
    """Install hooks once per model; they do nothing outside `_catching`."""
    # Several workers may get here at the same time.
    with _installing:
        if getattr(model, "_ka2l_hooks", False):
            return
        all_blocks = blocks(model)
        for layer, block in enumerate(all_blocks):
            block.register_forward_pre_hook(_before_block(layer), with_kwargs=True)
        backbone(model).register_forward_hook(_after_all(len(all_blocks)))
        model._ka2l_hooks = True


def _before_block(layer: int) -> Any:
    def hook(_module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        _take(layer, args[0] if args else kwargs["hidden_states"])

    return hook


def _after_all(layer: int) -> Any:
    def hook(_module: torch.nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        _take(layer, output[0])

    return hook


def _take(layer: int, hidden: torch.Tensor) -> None:
    catch = _catch.get()
    if catch is not None and catch.only in (None, layer):
        catch.states.append(_reduce(hidden, catch.position, catch.mask))
        if catch.only == layer:
            raise _LayerReached


def stacked(states: list[torch.Tensor]) -> torch.Tensor:
    """States of all layers on one device, [rows, layers + 1, width]."""
    return torch.stack([state.to(states[0].device) for state in states], dim=1)


def to_numpy(tensor: torch.Tensor) -> NDArray[np.float32]:
    """As float32 in main memory."""
    array: NDArray[np.float32] = tensor.float().cpu().numpy()
    return array


def check_states(states: NDArray[np.float32], ids: Sequence[str], first_layer: int = 0) -> None:
    """Refuse NaN and infinite states [rows, layers, width].

    Raises:
        ModelError: it names the first question and layer.
    """
    bad = ~np.isfinite(states).all(axis=2)
    if bad.any():
        row, layer = (int(i) for i in np.argwhere(bad)[0])
        raise ModelError(
            f"question {ids[row]}: the hidden state at layer {first_layer + layer} holds NaN or infinite values "
            f"({int(bad.sum())} such states in this batch). Load the model in float32 or bfloat16 (model.dtype)."
        )


def check_logits(logits: torch.Tensor, ids: Sequence[str]) -> None:
    """Refuse logits [rows, vocabulary] that contain NaN or have no finite maximum.

    Raises:
        ModelError: it names the first question.
    """
    bad = ~torch.isfinite(logits.amax(dim=1))
    if bool(bad.any()):
        raise not_finite(ids[int(bad.nonzero()[0])])


def not_finite(question_id: str) -> ModelError:
    """The error for a question with logits from which no token can be drawn."""
    return ModelError(
        f"question {question_id}: the model's output holds NaN or infinite values. "
        "Load the model in float32 or bfloat16 (model.dtype)."
    )


def _reduce(hidden: torch.Tensor, position: Position, mask: torch.Tensor) -> torch.Tensor:
    if position == "tbg":
        # Padding is on the left, so the last column has the last token of every row.
        return hidden[:, -1].float()
    weights = mask.to(hidden.device).unsqueeze(-1).float()
    return (hidden.float() * weights).sum(1) / weights.sum(1)
