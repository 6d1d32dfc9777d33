"""The interface of a decoder network, which the training loop and `Decoder` use, and what the networks share.

A network generates a question from a standardised hidden state. There are two: `soft_prompt` is the language model
itself, `t5` the paper's (Section 3.3).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ka2l.models.local.token_draws import LEVELS, NotFiniteError, draw

_NO_LABEL = -100


class Generated(NamedTuple):
    """One generated question. `finished`: the end token was generated before the token limit."""

    text: str
    finished: bool


class Network(Protocol):
    """What is trained to generate a question from a standardised hidden state."""

    kind: str
    """`soft_prompt` or `t5`."""
    width: int
    """Size of a hidden state."""
    device: torch.device
    """Where it computes; inputs may be on any device."""

    def encode(self, text: str) -> list[int]:
        """Token ids of a question, with the end token."""
        ...

    def text(self, tokens: Sequence[int]) -> str:
        """Text of these tokens, without special tokens and without white space around it."""
        ...

    def rate(self, name: str) -> float:
        """Share of the learning rate for this parameter: small for parameters with a closed-form start."""
        ...

    def warm_start(self, states: torch.Tensor, targets: Sequence[Sequence[int]]) -> None:
        """Solve in closed form what can be, before the first step of training.

        Args:
            states: [rows, width] float32, standardised.
            targets: [rows], token ids from `encode`.
        """
        ...

    def losses(self, states: torch.Tensor, targets: Sequence[Sequence[int]]) -> torch.Tensor:
        """Negative log-likelihood of the targets in nats, summed over rows and tokens, so that parts of a batch add up.

        Args:
            states: [rows, width] float32, standardised.
            targets: [rows], token ids from `encode`.

        Returns:
            a float32 scalar, differentiable with respect to `parameters`. Several threads may call this at once.
        """
        ...

    def generate(
        self,
        states: torch.Tensor,
        temperature: float,
        uniforms: NDArray[np.float64] | None,
        max_new_tokens: int,
    ) -> list[Generated]:
        """Generate a question from each state. A row depends on the other rows only by rounding in the last digits.

        Args:
            states: [rows, width] float32, standardised.
            temperature: 0 is greedy.
            uniforms: [rows, max_new_tokens, LEVELS] numbers in [0, 1) (`ka2l.models.local.token_draws`); None if
                greedy.
            max_new_tokens: longest question, end token included.

        Raises:
            NotFiniteError: a row's logits contain NaN, or their largest is not finite.
        """
        ...

    def prepare_for_inference(self) -> None:
        """Make generation faster where possible; the network cannot be trained afterwards."""
        ...

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """The trained parameters, by a name that is the same in every process: what a checkpoint contains."""
        ...


class Padded(NamedTuple):
    """Targets of one batch, padded on the right, where no earlier token attends."""

    tokens: torch.Tensor  # [rows, longest] int64
    labels: torch.Tensor  # the same, but -100 (no label) at padding


def padded(targets: Sequence[Sequence[int]], filler: int, device: torch.device) -> Padded:
    """Pad token lists to one length."""
    width = max(map(len, targets))
    tokens = [[*target, *[filler] * (width - len(target))] for target in targets]
    labels = [[*target, *[_NO_LABEL] * (width - len(target))] for target in targets]
    return Padded(torch.tensor(tokens, device=device), torch.tensor(labels, device=device))


def summed_nll(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Summed negative log-likelihood in nats of [rows, length] labels under [rows, length, vocabulary] logits: a
    scalar.
    """
    return torch.nn.functional.cross_entropy(
        logits.float().flatten(0, 1),
        labels.to(logits.device).flatten(),
        ignore_index=_NO_LABEL,
        reduction="sum",
    )


def parameters_of(modules: Mapping[str, torch.nn.Module]) -> dict[str, torch.nn.Parameter]:
    """The parameters of named modules, by `module.parameter`."""
    return {f"{name}.{part}": weight for name, module in modules.items() for part, weight in module.named_parameters()}


def text_of(tokenizer: Any, tokens: Sequence[int]) -> str:
    """Text of tokens, see `Network.text`."""
    return str(tokenizer.decode(list(tokens), skip_special_tokens=True)).strip()


def generate_tokens(
    logits: torch.Tensor,
    advance: Callable[[list[int], list[int] | None], torch.Tensor],
    end: int,
    temperature: float,
    uniforms: NDArray[np.float64] | None,
    max_new_tokens: int,
) -> tuple[list[list[int]], list[bool]]:
    """Draw tokens step by step until each row has ended; rows that have ended are not computed any more.

    Args:
        logits: [rows, vocabulary] of the first token; overwritten.
        advance: called with the last tokens of the unfinished rows, and their positions among the rows of the last call
            (None: all of those rows are unfinished); returns their next logits, [unfinished rows, vocabulary].
        end: the token that ends a row.
        temperature, uniforms, max_new_tokens: see `Network.generate`.

    Returns:
        [rows] tokens without the end token, and [rows] whether it was generated.

    Raises:
        NotFiniteError: see `Network.generate`.
    """
    generated: list[list[int]] = [[] for _ in range(len(logits))]
    finished = [False] * len(generated)
    rows = list(range(len(generated)))
    for step in range(max_new_tokens):
        numbers = np.zeros((len(rows), LEVELS)) if uniforms is None else uniforms[rows, step]
        try:
            tokens, _ = draw(logits, range(len(rows)), [temperature] * len(rows), numbers)
        except NotFiniteError as error:
            raise NotFiniteError(rows[error.row]) from None
        unfinished = [place for place, token in enumerate(tokens) if token != end]
        for row, token in zip(rows, tokens, strict=True):
            if token == end:
                finished[row] = True
            else:
                generated[row].append(token)
        rows = [rows[place] for place in unfinished]
        if not rows or step + 1 == max_new_tokens:
            break
        all_go_on = len(unfinished) == len(tokens)
        logits = advance([tokens[place] for place in unfinished], None if all_go_on else unfinished)
    return generated, finished


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """PyTorch draws from this seed inside the block; its random state is restored afterwards."""
    devices = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
