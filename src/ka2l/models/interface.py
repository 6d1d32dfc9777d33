"""The small interface to a language model: the four things one can ask of it, and the values they return.

sample      answers, with the states the prompt left behind
states      the prompt's hidden state at one layer
next_token  how undecided the model is about its first token
choices     how likely it begins with each of a few given answers
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Position = Literal["tbg", "mean_prompt"]


class Prompt(NamedTuple):
    """A finished prompt and the id of the question in it."""

    question_id: str
    text: str
    messages: tuple[dict[str, str], ...] = ()  # the same as a conversation, for servers that take one


class Answer(NamedTuple):
    """One generated answer. `token_logprobs` are natural logs at temperature 1, one per token of the answer."""

    text: str
    token_logprobs: list[float]
    finish_reason: str  # stop | length


class SampledQuestion(NamedTuple):
    """The answers to one question (in the order of the samples asked for) and the prompt's states."""

    question_id: str
    answers: list[Answer]
    states: NDArray[np.float32] | None  # [layers + 1, width], layer 0 = embedding; None where not asked for


class NextTokenSignals(NamedTuple):
    """How undecided the model is about the first token of its answer, float32, [prompts] each."""

    entropy: NDArray[np.float32]  # nats, of the whole distribution
    top_probability: NDArray[np.float32]  # of the likeliest token
    margin: NDArray[np.float32]  # the likeliest token's probability less the second's


class Usage(NamedTuple):
    """Tokens a call has cost, and tokens it did not have to compute: those of a shared prefix, and those of answers
    that agree so far."""

    prompt: int = 0
    prompt_saved: int = 0
    decoded: int = 0
    decoded_saved: int = 0

    def __add__(self, other: object) -> "Usage":
        if not isinstance(other, Usage):
            return NotImplemented
        return Usage(*(a + b for a, b in zip(self, other, strict=True)))


class Sampler(Protocol):
    """What can answer questions: a model in this process, or a server."""

    usage: Usage

    def sample(
        self,
        prompts: Sequence[Prompt],
        temperatures: Mapping[int, float],
        *,
        seed: int,
        max_new_tokens: int,
        position: Position | None = None,
    ) -> Iterator[SampledQuestion]:
        """Answers to every prompt, each prompt yielded once, in any order.

        Args:
            prompts: the questions.
            temperatures: sample number → temperature (0 = greedy). An answer depends on (seed, question id, sample
                number) and nothing else, so samples 6 to 10 can be drawn long after 0 to 5.
            seed: of the run.
            max_new_tokens: longest answer.
            position: also return the states of all layers at this position; only where the states are at hand.
        """
        ...


class LanguageModel(Sampler, Protocol):
    """A model whose inside can be read."""

    def share_prefix(self, build: Callable[[str], str]) -> None:
        """Say how the coming prompts are built, so that what they share is computed once."""
        ...

    def states(
        self, prompts: Sequence[Prompt], layer: int | None, *, position: Position
    ) -> NDArray[np.float32]:
        """Hidden states at one layer, [prompts, width], where nothing above it is computed.

        With `layer` None those of all layers, [prompts, layers + 1, width].
        """
        ...

    def next_token_signals(self, prompts: Sequence[Prompt]) -> NextTokenSignals:
        """Entropy (Section 4.5), top probability and margin of the first answer token's distribution, of one pass."""
        ...

    def choice_log_probabilities(
        self, prompts: Sequence[Prompt], choices: Sequence[str]
    ) -> NDArray[np.float32]:
        """Natural log of the probability that the first answer token is the first token of a choice.

        Args:
            prompts: the questions.
            choices: texts that follow the prompt directly, such as " True". What all of them begin with, where that is
                tokens of its own, counts as the prompt's.

        Returns:
            [prompts, choices]; the probabilities of a row sum to less than 1, as other tokens are possible too.

        Raises:
            ModelError: two choices begin with the same token.
        """
        ...
