"""Classifiers that read their first token only: the rest of the last layer need not be computed.

Keys and values of the last layer come from all tokens, but what follows its attention (three quarters of the layer's
weights) is only read where the head looks. Whether a model's head does is not taken from a list of names: its logits
are compared with and without the rest.
"""

from typing import Any

import torch

_CLOSE = 1e-4  # of the largest logit


@torch.inference_mode()
def compute_first_token_only(model: Any, inputs: dict[str, torch.Tensor]) -> bool:
    """Leave out what the head does not read, if that changes nothing; whether it could be left out.

    Args:
        model: a sequence classifier in eval mode; BERT, RoBERTa, ELECTRA, DeBERTa and their kin can be shortened.
        inputs: texts of different lengths, padded, to compare with.
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
    except (RuntimeError, TypeError, ValueError, IndexError):  # a shape that does not fit
        pass
    hook.remove()
    return False


def _first(_module: Any, tensors: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """What the attention found and what it is added to, [rows, tokens, width], at the first token."""
    return tuple(tensor[:, :1] for tensor in tensors)
