"""The interface to a language model: four methods, and the values they return.

sample                    answers, with the prompt's hidden states
states                    the prompt's hidden state at one layer
next_token_signals        how undecided the model is about the first token of its answer
choice_log_probabilities  how likely its answer begins with each of a few given texts
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Position = Literal["tbg", "mean_prompt"]
FinishReason = Literal["stop", "length"]


class Prompt(NamedTuple):
    """A finished prompt and the id of the question in it."""

    question_id: str
    text: str
    messages: tuple[dict[str, str], ...] = ()
    """The same as a conversation, for servers with a chat endpoint."""


class Answer(NamedTuple):
    """One generated answer. `token_logprobs` are natural logs at temperature 1, one per token of the answer."""

    text: str
    token_logprobs: list[float]
    finish_reason: str
    """A `FinishReason`; of an imported answer whatever its file has, or `unknown`."""


class SampledQuestion(NamedTuple):
    """The answers to one question, in the order of the requested samples, and the prompt's states."""

    question_id: str
    answers: list[Answer]
    states: NDArray[np.float32] | None
    """[layers + 1, width], layer 0 = embedding; None if not requested."""


class NextTokenSignals(NamedTuple):
    """How undecided the model is about the first token of its answer, float32, [prompts] each."""

    entropy: NDArray[np.float32]
    """Entropy of the whole distribution, in nats."""
    top_probability: NDArray[np.float32]
    """Probability of the likeliest token."""
    margin: NDArray[np.float32]
    """Probability of the likeliest token minus that of the second."""


class Usage(NamedTuple):
    """Tokens that were computed, and tokens that were not, because prompts share a prefix or answers begin alike."""

    prompt: int = 0
    prompt_saved: int = 0
    decoded: int = 0
    decoded_saved: int = 0

    def __add__(self, other: object) -> "Usage":
        if not isinstance(other, Usage):
            return NotImplemented
        return Usage(*(a + b for a, b in zip(self, other, strict=True)))


class Sampler(Protocol):
    """Answers questions: a model in this process, a server, or imported answers."""

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
        """Yield the answers to each prompt, in any order of the prompts.

        Args:
            prompts: the questions.
            temperatures: sample number → temperature (0 = greedy). An answer depends only on (seed, question id, sample
                number), so samples 6 to 10 can be drawn long after samples 0 to 5.
            seed: of the run.
            max_new_tokens: most tokens of an answer.
            position: also return the states of all layers at this position. A server cannot do this.
        """
        ...


class LanguageModel(Sampler, Protocol):
    """A model whose hidden states and next-token distribution can be read."""

    def share_prefix(self, build: Callable[[str], str]) -> None:
        """Set how later prompts are built, so that the tokens they begin with are computed once."""
        ...

    def states(self, prompts: Sequence[Prompt], layer: int | None, *, position: Position) -> NDArray[np.float32]:
        """Hidden states at one layer, [prompts, width]; the layers above it are not computed.

        With `layer` None the states of all layers, [prompts, layers + 1, width].
        """
        ...

    def next_token_signals(self, prompts: Sequence[Prompt]) -> NextTokenSignals:
        """Entropy (Section 4.5), top probability and margin of the first answer token's distribution, from one pass."""
        ...

    def choice_log_probabilities(self, prompts: Sequence[Prompt], choices: Sequence[str]) -> NDArray[np.float32]:
        """Natural log of the probability that the first answer token is the first token of a choice.

        Args:
            prompts: the questions.
            choices: texts that follow the prompt directly, such as " True". If all of them begin with the same tokens,
                these count as part of the prompt.

        Returns:
            [prompts, choices]; the probabilities of a row sum to less than 1, because other tokens are possible.

        Raises:
            ModelError: two choices begin with the same token.
        """
        ...
