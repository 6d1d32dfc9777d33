"""Compute the last layer of a classifier for the first token only, if its head reads no other token.

The keys and values of the last layer come from all tokens, but the part after its attention (three quarters of the
layer's weights) is needed only for the tokens that the head reads. Whether a head reads the first token only is not
taken from a list of names: the logits are compared with and without the other tokens.
"""

from typing import Any

import torch

# Largest allowed difference, relative to the largest logit.
_CLOSE = 1e-4


@torch.inference_mode()
def compute_first_token_only(model: Any, inputs: dict[str, torch.Tensor]) -> bool:
    """Leave out the tokens that the head does not read, if that does not change the logits.

    Args:
        model: a sequence classifier in eval mode; it works for BERT, RoBERTa, ELECTRA, DeBERTa and similar models.
        inputs: the model's inputs for texts of different lengths, padded, for the comparison.

    Returns:
        whether they are left out from now on.
    """
    encoder = getattr(model.base_model, "encoder", None)
    layers = getattr(encoder, "layer", None)
    after_attention = getattr(getattr(layers[-1], "attention", None), "output", None) if layers else None
    if not isinstance(after_attention, torch.nn.Module):
        return False
    whole = model(**inputs).logits
    hook = after_attention.register_forward_pre_hook(_first)
    try:
        if float((model(**inputs).logits - whole).abs().max()) <= _CLOSE * float(whole.abs().max()):
            return True
    # The shapes do not fit this model.
    except (RuntimeError, TypeError, ValueError, IndexError):
        pass
    hook.remove()
    return False


def _first(_module: Any, tensors: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """The attention's output and the residual it is added to, [rows, tokens, width], at the first token only."""
    return tuple(tensor[:, :1] for tensor in tensors)
