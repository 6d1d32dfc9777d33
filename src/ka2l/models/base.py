"""The small interface to a language model: the three things one can ask of it, and the values they return.

sample      answers, with the states the prompt left behind
states      the prompt's hidden state at one layer
next_token  how undecided the model is about its first token
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Position = Literal["tbg", "mean_prompt"]


class Prompt(NamedTuple):
    """A finished prompt and the id of the question in it."""

    question_id: str
    text: str


class Answer(NamedTuple):
    """One generated answer. `token_logprobs` are natural logs at temperature 1, one per token of the answer."""

    text: str
    token_logprobs: list[float]
    finish_reason: str  # stop | length


class SampledQuestion(NamedTuple):
    """All answers to one question (in the order of the temperatures asked for) and the prompt's states."""

    question_id: str
    answers: list[Answer]
    states: NDArray[np.float32] | None  # [layers + 1, width], layer 0 = embedding; None where not asked for


class Usage(NamedTuple):
    """Tokens a call has cost. `prompt_saved` were not computed because a prefix is shared."""

    prompt: int = 0
    prompt_saved: int = 0
    decoded: int = 0

    def __add__(self, other: object) -> "Usage":
        if not isinstance(other, Usage):
            return NotImplemented
        return Usage(*(a + b for a, b in zip(self, other, strict=True)))


class LanguageModel(Protocol):
    """What the pipeline needs from a model, wherever it runs."""

    usage: Usage

    def share_prefix(self, build: Callable[[str], str]) -> None:
        """Say how the coming prompts are built, so that what they share is computed once."""
        ...

    def sample(
        self,
        prompts: Sequence[Prompt],
        temperatures: Sequence[float],
        *,
        seed: int,
        max_new_tokens: int,
        batch_size: int,
        position: Position | None = None,
    ) -> Iterator[SampledQuestion]:
        """One answer per temperature (0 = greedy) for every prompt; states of all layers where `position` is given."""
        ...

    def states(
        self, prompts: Sequence[Prompt], layer: int, *, position: Position, batch_size: int
    ) -> NDArray[np.float32]:
        """Hidden states at one layer, [prompts, width]; nothing above that layer is computed."""
        ...

    def next_token_entropy(self, prompts: Sequence[Prompt], *, batch_size: int) -> NDArray[np.float32]:
        """Entropy in nats of the distribution of the first answer token, [prompts] (Section 4.5)."""
        ...
