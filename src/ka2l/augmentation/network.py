"""What every decoder network can do, whatever it is made of; the training loop and `Decoder` know nothing else.

A network says a question from a standardised hidden state: `soft_prompt` is the language model itself, `t5` the
paper's (Section 3.3).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ka2l.models.local.token_draws import LEVELS, NotFiniteError, draw

_NO_LABEL = -100


class Generated(NamedTuple):
    """One generated question. `finished`: it ended by itself within the tokens it was allowed."""

    text: str
    finished: bool


class Network(Protocol):
    """What is trained to say a question from a standardised state."""

    kind: str
    """`soft_prompt` or `t5`."""
    width: int
    """Of the states."""
    device: torch.device
    """Where it computes; inputs may lie anywhere."""

    def encode(self, text: str) -> list[int]:
        """Token ids of a question to be learned, the end included."""
        ...

    def text(self, tokens: Sequence[int]) -> str:
        """What these tokens say, without special tokens and without space around it."""
        ...

    def rate(self, name: str) -> float:
        """Share of the learning rate for this parameter: small where a closed form has found what is to be kept."""
        ...

    def warm_start(self, states: torch.Tensor, targets: Sequence[Sequence[int]]) -> None:
        """What can be solved in closed form, before the first step of training.

        Args:
            states: [rows, width] float32, standardised.
            targets: [rows], token ids from `encode`.
        """
        ...

    def losses(self, states: torch.Tensor, targets: Sequence[Sequence[int]]) -> torch.Tensor:
        """Negative log-likelihood of the targets in nats, summed over rows and tokens, so that shards add up.

        Args:
            states: [rows, width] float32, standardised.
            targets: [rows], token ids from `encode`.

        Returns:
            a float32 scalar that can be differentiated by `parameters`; several threads may ask at once.
        """
        ...

    def generate(
        self,
        states: torch.Tensor,
        temperature: float,
        uniforms: NDArray[np.float64] | None,
        max_new_tokens: int,
    ) -> list[Generated]:
        """A question from each state; nothing about it depends on the other rows but the last digits' rounding.

        Args:
            states: [rows, width] float32, standardised.
            temperature: 0 is greedy.
            uniforms: [rows, max_new_tokens, LEVELS] numbers in [0, 1) (`ka2l.models.local.token_draws`); none where greedy.
            max_new_tokens: longest question, its end included.

        Raises:
            NotFiniteError: a row's logits hold NaN or have no finite largest one.
        """
        ...

    def settle(self) -> None:
        """From here on it says questions and learns no more; whatever makes saying quicker may be done."""
        ...

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """What is trained, by a name that stays the same from process to process: what a checkpoint holds."""
        ...


class Padded(NamedTuple):
    """Targets of one batch, padded on the right, where no token before it looks."""

    tokens: torch.Tensor  # [rows, width]
    labels: torch.Tensor  # the same, without a label where there is padding


def padded(targets: Sequence[Sequence[int]], filler: int, device: torch.device) -> Padded:
    """Token lists as two tensors."""
    width = max(map(len, targets))
    tokens = [[*target, *[filler] * (width - len(target))] for target in targets]
    labels = [[*target, *[_NO_LABEL] * (width - len(target))] for target in targets]
    return Padded(torch.tensor(tokens, device=device), torch.tensor(labels, device=device))


def summed_nll(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood in nats of [rows, width] labels under [rows, width, vocabulary] logits, a scalar."""
    return torch.nn.functional.cross_entropy(
        logits.float().flatten(0, 1),
        labels.to(logits.device).flatten(),
        ignore_index=_NO_LABEL,
        reduction="sum",
    )


def say(
    logits: torch.Tensor,
    advance: Callable[[list[int], list[int] | None], torch.Tensor],
    end: int,
    temperature: float,
    uniforms: NDArray[np.float64] | None,
    max_new_tokens: int,
) -> tuple[list[list[int]], list[bool]]:
    """Draw tokens row by row until each row has ended; those that have are not computed any more.

    Args:
        logits: [rows, vocabulary] of the first token; overwritten.
        advance: called with the last tokens of the rows that go on, and their places among the rows of the last call
            (none: all of them go on); returns the next logits of these, [rows that go on, vocabulary].
        end: the token that ends a row.
        temperature: see `Network.generate`, as the next two and the error.

    Returns:
        [rows] tokens without the end, and whether it was reached.
    """
    said: list[list[int]] = [[] for _ in range(len(logits))]
    finished = [False] * len(said)
    rows = list(range(len(said)))
    for step in range(max_new_tokens):
        numbers = np.zeros((len(rows), LEVELS)) if uniforms is None else uniforms[rows, step]
        try:
            tokens, _ = draw(logits, range(len(rows)), [temperature] * len(rows), numbers)
        except NotFiniteError as error:
            raise NotFiniteError(rows[error.row]) from None
        going = [place for place, token in enumerate(tokens) if token != end]
        for row, token in zip(rows, tokens, strict=True):
            if token == end:
                finished[row] = True
            else:
                said[row].append(token)
        rows = [rows[place] for place in going]
        if not rows or step + 1 == max_new_tokens:
            break
        logits = advance([tokens[place] for place in going], going if len(going) < len(tokens) else None)
    return said, finished


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """PyTorch draws from this seed inside; outside its random state is as before."""
    devices = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
