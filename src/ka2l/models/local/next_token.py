"""The distribution of the next token: how undecided the model is, and how likely its answer begins with given texts."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ka2l.errors import ModelError
from ka2l.models.interface import Prompt


def undecided(logits: torch.Tensor) -> torch.Tensor:
    """Entropy in nats, probability of the likeliest token, and that minus the probability of the second, [rows, 3].

    All come from one softmax of logits [rows, vocabulary], in their precision. Rounding can make an entropy near zero
    slightly negative, so it is clamped to 0.
    """
    log_probabilities = logits.log_softmax(-1)
    entropy = torch.distributions.Categorical(logits=logits).entropy().clamp(min=0)
    first, second = log_probabilities.topk(2, dim=-1).values.exp().unbind(-1)
    return torch.stack([entropy, first, first - second], dim=-1)


class Choices(NamedTuple):
    """The first tokens in which the choices differ, and prompts that end just before these tokens."""

    prompts: list[Prompt]
    tokens: list[int]
    """All tokens that any prompt needs."""
    columns: NDArray[np.intp]
    """[prompts, choices], places in `tokens`."""

    def log_probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Log-probabilities of `tokens` (nats), [rows, tokens], from logits [rows, vocabulary]."""
        return logits.log_softmax(-1)[:, self.tokens]


def first_tokens(tokenizer: Any, prompts: Sequence[Prompt], choices: Sequence[str]) -> Choices:
    """The first token of every choice, as the tokenizer makes it after each prompt.

    A choice alone can begin with other tokens than after a text (SentencePiece marks the beginning of a text), so it is
    tokenised after the prompt's last line, once for all prompts with the same last line. Tokens with which all choices
    begin (in small vocabularies the space before a word) are added to the prompt.

    Args:
        tokenizer: of the model.
        prompts: the prompts.
        choices: texts that follow a prompt directly.

    Raises:
        ModelError: two choices begin with the same token, or a choice and the prompt's end share a token.
    """
    ends = [_last_line(prompt.text) for prompt in prompts]
    after = {end: _tokens_after(tokenizer, end, choices) for end in dict.fromkeys(ends)}
    tokens = np.array([after[end][1] for end in ends], dtype=np.intp).reshape(len(prompts), len(choices))
    distinct, columns = np.unique(tokens, return_inverse=True)
    longer = [p._replace(text=p.text + after[end][0]) for p, end in zip(prompts, ends, strict=True)]
    return Choices(longer, distinct.tolist(), columns.reshape(tokens.shape))


def _last_line(text: str) -> str:
    return text[text.rfind("\n", 0, max(0, len(text) - 1)) + 1 :]


def _tokens_after(tokenizer: Any, end: str, choices: Sequence[str]) -> tuple[str, list[int]]:
    """The shortest common beginning of the choices after which their tokens differ, and each choice's first such
    token.
    """

    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    whole = [encode(end + choice) for choice in choices]
    for lead in (choices[0][:length] for length in range(len(choices[0]))):
        if not all(choice.startswith(lead) for choice in choices):
            break
        start = encode(end + lead)
        if all(len(ids) > len(start) and ids[: len(start)] == start for ids in whole):
            first = [ids[len(start)] for ids in whole]
            if len(set(first)) == len(first):
                return lead, first
    raise ModelError(
        f"In this model's vocabulary the answers {', '.join(map(repr, choices))} do not each begin with a token of "
        f"their own after {end!r}, so their probabilities cannot be distinguished. Use another model for this."
    )
