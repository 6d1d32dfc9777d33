"""The language model as its own decoder: it reads its hidden state as a few soft tokens and says the question.

    network = SoftPromptNetwork(model, tokenizer, width=576, settings=DecoderConfig(), seed=0)

The input is [soft tokens]["Question:"][the question]; loss is on the question and its end. What maps the state to the
soft tokens is linear plus a small network, and low-rank adapters (LoRA) let the model read them. Measured on GeoNames
with SmolLM2-135M: the linear part, solved in closed form, already points at the rare words of the question.
"""

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import DynamicCache

from ka2l.augmentation.network import Generated, padded, say, seeded, summed_nll
from ka2l.augmentation.settings import DecoderConfig
from ka2l.errors import ModelError
from ka2l.models.loading import quiet_transformers

FRAME = "Question:"
_RIDGE = (
    0.005  # penalty per row, for standardised states: 50 for 10,000 questions (measured: docs/decisions.md)
)
# Of the learning rate, for what makes the soft tokens: a step of the full rate moves each of them by three times the size
# of an embedding, and what the closed form has found is gone (measured: docs/decisions.md).
_GENTLY = 0.0025
_SMALL = 0.01  # the nonlinear part begins next to nothing
_ROWS = 4096  # of a closed-form sum at once


class SoftPromptNetwork:
    """Implements `ka2l.augmentation.network.Network`; 7.9 M weights are trained beside SmolLM2-135M's.

    Args:
        model: a causal language model; it gets adapters, so it answers otherwise from then on. Its own weights stay.
        tokenizer: of the model.
        width: of the states.
        settings: how many soft tokens, and the adapters' rank.
        seed: of the initial weights.

    Raises:
        ModelError: the tokenizer has no EOS token, which is how a question ends.
    """

    kind = "soft_prompt"

    def __init__(self, model: Any, tokenizer: Any, width: int, settings: DecoderConfig, seed: int):
        if tokenizer.eos_token_id is None:
            raise ModelError("The model's tokenizer has no EOS token, and a decoded question ends with it.")
        self.width = width
        self.device: torch.device = model.device
        self._model, self._tokenizer = model, tokenizer
        self._end: int = tokenizer.eos_token_id
        self._opening = _opening(tokenizer)
        self._frame: list[int] = tokenizer(FRAME, add_special_tokens=False)["input_ids"]
        self._soft_tokens = settings.soft_tokens
        model.get_output_embeddings().register_forward_pre_hook(_gather)
        size = model.get_input_embeddings().embedding_dim
        with seeded(seed):
            _add_adapters(model, settings.lora_rank)
            self._linear = nn.Linear(width, self._soft_tokens * size)
            self._hidden = nn.Linear(width, width)
            self._out = nn.Linear(width, self._soft_tokens * size)
        with torch.no_grad():
            self._out.weight.mul_(_SMALL)
            self._out.bias.zero_()
        for module in (self._linear, self._hidden, self._out):
            module.to(self.device)

    def encode(self, text: str) -> list[int]:
        """See `Network.encode`."""
        tokens: list[int] = self._tokenizer(" " + text, add_special_tokens=False)["input_ids"]
        return [*tokens, self._end]

    def text(self, tokens: Sequence[int]) -> str:
        """See `Network.text`."""
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True)).strip()

    def parameters(self) -> dict[str, nn.Parameter]:
        """See `Network.parameters`."""
        named: dict[str, nn.Parameter] = {}
        for name, module in (("linear", self._linear), ("hidden", self._hidden), ("out", self._out)):
            named |= {f"{name}.{part}": weight for part, weight in module.named_parameters()}
        for name, weight in self._model.named_parameters():
            if weight.requires_grad:  # the adapters' only
                named["lora." + name.replace(".default.", ".")] = weight
        return named

    def rate(self, name: str) -> float:
        """See `Network.rate`."""
        return 1.0 if name.startswith("lora.") else _GENTLY

    @torch.no_grad()
    def warm_start(self, states: torch.Tensor, targets: Sequence[Sequence[int]]) -> None:
        """Solve the linear part by ridge regression: the soft tokens begin as the embeddings of the rarest words.

        What the words of a template share, the model knows after a few steps; which name it is, stands in the state,
        and a regression onto the embeddings of the question's rarest tokens finds it without any step. Ridge shrinks;
        the soft tokens are stretched to the size of the embeddings they stand for.
        """
        rows = [row for row, target in enumerate(targets) if any(token != self._end for token in target)]
        if not rows:
            return
        picked = torch.tensor(self._rarest([targets[row] for row in rows]))
        states = states[rows].cpu()
        used, counts = picked.unique(return_counts=True)
        mean = (self._embed(used).double().cpu() * counts[:, None]).sum(0) / counts.sum()

        def wanted(first: int) -> torch.Tensor:
            return (self._embed(picked[first : first + _ROWS]).double().cpu() - mean).flatten(1)

        chunks = range(0, len(rows), _ROWS)
        gram = torch.eye(self.width, dtype=torch.double) * _RIDGE * len(rows)
        moments = torch.zeros(self.width, self._linear.out_features, dtype=torch.double)
        for first in chunks:
            part = states[first : first + _ROWS].double()
            gram += part.T @ part
            moments += part.T @ wanted(first)
        weight = torch.linalg.solve(gram, moments)
        sizes = torch.zeros(2, dtype=torch.double)  # summed norms: of the embeddings, of their predictions
        for first in chunks:
            predicted = states[first : first + _ROWS].double() @ weight
            for place, vectors in enumerate((wanted(first), predicted)):
                sizes[place] += vectors.unflatten(1, (self._soft_tokens, -1)).norm(dim=-1).sum()
        if sizes[1] > 0:
            weight *= sizes[0] / sizes[1]
        self._linear.weight.copy_(weight.T)
        self._linear.bias.copy_(mean.repeat(self._soft_tokens))

    def _rarest(self, targets: Sequence[Sequence[int]]) -> list[list[int]]:
        """Each target's tokens that the fewest targets have, as many as there are soft tokens, in their order."""
        frequency = Counter(token for target in targets for token in set(target))
        picked = []
        for target in targets:
            tokens = [token for token in target if token != self._end]
            by_rarity = sorted(range(len(tokens)), key=lambda place: (frequency[tokens[place]], place))
            kept = [tokens[place] for place in sorted(by_rarity[: self._soft_tokens])]
            picked.append(kept + kept[-1:] * (self._soft_tokens - len(kept)))
        return picked

    def losses(self, states: torch.Tensor, targets: Sequence[Sequence[int]]) -> torch.Tensor:
        """See `Network.losses`."""
        tokens, labels = padded(targets, self._end, self.device)
        inputs = torch.cat([self._prompts(states), self._embed(tokens[:, :-1])], dim=1)
        labelled = labels >= 0
        # The last prompt position says the first token. No attention mask: in a causal model nothing looks at padding
        # on the right.
        with _only(labelled):
            logits = self._model(inputs_embeds=inputs, use_cache=False, logits_to_keep=tokens.shape[1]).logits
        return summed_nll(logits, labels[labelled][None])

    @torch.no_grad()
    def generate(
        self,
        states: torch.Tensor,
        temperature: float,
        uniforms: NDArray[np.float64] | None,
        max_new_tokens: int,
    ) -> list[Generated]:
        """See `Network.generate`."""
        if not len(states):
            return []
        cache = DynamicCache(config=self._model.config)

        def step(inputs: torch.Tensor) -> torch.Tensor:
            output = self._model(
                inputs_embeds=inputs, past_key_values=cache, use_cache=True, logits_to_keep=1
            )
            logits: torch.Tensor = output.logits[:, -1]
            return logits

        def advance(tokens: list[int], going: list[int] | None) -> torch.Tensor:
            if going is not None:
                cache.batch_select_indices(torch.tensor(going))  # its layers may lie on several devices
            return step(self._embed(torch.tensor(tokens)[:, None]))

        first = step(self._prompts(states))
        said, finished = say(first, advance, self._end, temperature, uniforms, max_new_tokens)
        return [Generated(self.text(row), ended) for row, ended in zip(said, finished, strict=True)]

    def settle(self) -> None:
        """See `Network.settle`: the adapters are added to the weights, which makes saying three times as fast (measured)."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        for module in self._model.modules():
            if isinstance(module, BaseTunerLayer):
                module.merge()

    def _prompts(self, states: torch.Tensor) -> torch.Tensor:
        """Embeddings of what comes before the question, [rows, tokens, size]; as long for every state."""
        states = states.to(self.device, torch.float32)
        soft = self._linear(states) + self._out(nn.functional.gelu(self._hidden(states)))
        opening, frame = (
            self._embed(torch.tensor([tokens] * len(states), dtype=torch.long).view(len(states), -1))
            for tokens in (self._opening, self._frame)
        )
        soft = soft.unflatten(1, (self._soft_tokens, -1)).to(frame.dtype)
        return torch.cat([opening, soft, frame], dim=1)

    def _embed(self, tokens: torch.Tensor) -> torch.Tensor:
        embeddings: torch.Tensor = self._model.get_input_embeddings()(tokens.to(self.device))
        return embeddings


# Of the context, and so of the thread: passes of several threads go through the same hook.
_labelled: ContextVar[torch.Tensor | None] = ContextVar("ka2l_labelled", default=None)


@contextmanager
def _only(labelled: torch.Tensor) -> Iterator[None]:
    """The head sees the positions that have a label, [rows, width], in one row: [1, labels, size].

    Everything the model does to its scores stays its own doing. Besides what is saved on padding, one contiguous
    matrix goes through the head: the slice it gets else makes a whole training step half as long again (measured).
    """
    token = _labelled.set(labelled)
    try:
        yield
    finally:
        _labelled.reset(token)


def _gather(_head: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    labelled = _labelled.get()
    return args if labelled is None else (args[0][labelled.to(args[0].device)][None], *args[1:])


def _opening(tokenizer: Any) -> list[int]:
    """The BOS token where the tokenizer begins every text with it: models trained so read badly without."""
    first = tokenizer(FRAME)["input_ids"][0]
    return [first] if first == tokenizer.bos_token_id else []


def _add_adapters(model: Any, rank: int) -> None:
    """LoRA on all linear modules but the head, in float32; everything else is frozen. No dropout, as in use."""
    from peft import LoraConfig, get_peft_model

    with quiet_transformers(), warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", UserWarning
        )  # GPT-2 keeps its weights the other way around, and peft tells
        get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear"))
    model.eval()
