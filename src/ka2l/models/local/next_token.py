"""What a model thinks of its next token: how undecided it is, and how likely a few given answers are to begin there."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ka2l.errors import ModelError
from ka2l.models.interface import Prompt


def undecided(logits: torch.Tensor) -> torch.Tensor:
    """Entropy in nats, probability of the likeliest token, and its lead over the second, [rows, 3].

    All of one softmax, in the logits' precision; rounding can leave the entropy of a certain model a hair below zero.
    """
    log_probabilities = logits.log_softmax(-1)
    entropy = torch.distributions.Categorical(logits=logits).entropy().clamp(min=0)
    first, second = log_probabilities.topk(2, dim=-1).values.exp().unbind(-1)
    return torch.stack([entropy, first, first - second], dim=-1)


class Choices(NamedTuple):
    """The tokens in which given answers first differ, and the prompts that end where they do."""

    prompts: list[Prompt]
    tokens: list[int]  # all that any prompt needs
    columns: NDArray[np.intp]  # [prompts, choices]: places in `tokens`

    def log_probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """[rows, tokens] of logits [rows, vocabulary]."""
        return logits.log_softmax(-1)[:, self.tokens]


def first_tokens(tokenizer: Any, prompts: Sequence[Prompt], choices: Sequence[str]) -> Choices:
    """The first token of every choice, as the tokenizer makes it behind each prompt.

    A choice alone may begin with other tokens than behind a text (SentencePiece marks beginnings), so it is read
    behind the prompt's last line; prompts that end alike are looked at once. Tokens that all choices begin with (in
    small vocabularies the space before a word) go to the prompt.

    Raises:
        ModelError: two of the choices begin with the same token, or one and the prompt's end melt into one token.
    """
    ends = [_last_line(prompt.text) for prompt in prompts]
    known = {end: _behind(tokenizer, end, choices) for end in dict.fromkeys(ends)}
    tokens = np.array([known[end][1] for end in ends], dtype=np.intp).reshape(len(prompts), len(choices))
    wanted, columns = np.unique(tokens, return_inverse=True)
    longer = [p._replace(text=p.text + known[end][0]) for p, end in zip(prompts, ends, strict=True)]
    return Choices(longer, wanted.tolist(), columns.reshape(tokens.shape))


def _last_line(text: str) -> str:
    return text[text.rfind("\n", 0, max(0, len(text) - 1)) + 1 :]


def _behind(tokenizer: Any, end: str, choices: Sequence[str]) -> tuple[str, list[int]]:
    """The text all choices begin with, if it is tokens of its own, and each one's first token after it."""

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
        f"their own behind {end!r}, so their probabilities cannot be told apart. Use another model for this."
    )
