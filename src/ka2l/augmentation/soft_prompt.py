"""The language model as its own decoder: it reads its hidden state as a few soft tokens and generates the question.

    network = SoftPromptNetwork(model, tokenizer, width=576, settings=DecoderConfig(), seed=0)

The input is [soft tokens]["Question:"][the question]; the loss is on the question and its end token. A linear map plus
a small network turns the state into the soft tokens, and low-rank adapters (LoRA) let the model read them. Measured on
GeoNames with SmolLM2-135M: the linear part, solved in closed form, already points at the rare words of the question.
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

from ka2l.augmentation.network import (
    Generated,
    generate_tokens,
    padded,
    parameters_of,
    seeded,
    summed_nll,
    text_of,
)
from ka2l.augmentation.settings import DecoderConfig
from ka2l.errors import ModelError
from ka2l.models.loading import quiet_transformers

FRAME = "Question:"
# Ridge penalty per row, for standardised states: 50 for 10,000 questions (measured: docs/decisions.md).
_RIDGE = 0.005
# Share of the learning rate for the parameters that make the soft tokens: a step of the full rate moves a soft token by
# three times the size of an embedding, and the closed-form solution is lost (measured: docs/decisions.md).
_SOFT_TOKEN_RATE = 0.0025
# Factor on the initial weights of the nonlinear part, so that it starts near zero.
_INITIAL_SCALE = 0.01
# Rows of a closed-form sum that are held in float64 at once.
_ROWS = 4096


class SoftPromptNetwork:
    """Implements `ka2l.augmentation.network.Network`; for SmolLM2-135M, 7.9 M weights are trained.

    Args:
        model: a causal language model. Adapters are added to it, so its answers change; its own weights do not.
        tokenizer: of the model.
        width: size of a hidden state.
        settings: number of soft tokens, rank of the adapters.
        seed: of the initial weights.

    Raises:
        ModelError: the tokenizer has no EOS token, which ends a question.
    """

    kind = "soft_prompt"

    def __init__(self, model: Any, tokenizer: Any, width: int, settings: DecoderConfig, seed: int):
        if tokenizer.eos_token_id is None:
            raise ModelError("The model's tokenizer has no EOS token, which a decoded question must end with.")
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
            self._out.weight.mul_(_INITIAL_SCALE)
            self._out.bias.zero_()
        for module in (self._linear, self._hidden, self._out):
            module.to(self.device)

    def encode(self, text: str) -> list[int]:
        """See `Network.encode`."""
        tokens: list[int] = self._tokenizer(" " + text, add_special_tokens=False)["input_ids"]
        return [*tokens, self._end]

    def text(self, tokens: Sequence[int]) -> str:
        """See `Network.text`."""
        return text_of(self._tokenizer, tokens)

    def parameters(self) -> dict[str, nn.Parameter]:
        """See `Network.parameters`."""
        named = parameters_of({"linear": self._linear, "hidden": self._hidden, "out": self._out})
        for name, weight in self._model.named_parameters():
            # True for the adapters only.
            if weight.requires_grad:
                named["lora." + name.replace(".default.", ".")] = weight
        return named

    def rate(self, name: str) -> float:
        """See `Network.rate`."""
        return 1.0 if name.startswith("lora.") else _SOFT_TOKEN_RATE

    @torch.no_grad()
    def warm_start(self, states: torch.Tensor, targets: Sequence[Sequence[int]]) -> None:
        """Solve the linear part by ridge regression: the soft tokens start as the embeddings of the rarest tokens.

        The words that questions of a template share are learned in a few steps. The name in the question has to come
        from the state, and a regression onto the embeddings of the question's rarest tokens finds it without any step.
        Ridge regression shrinks its predictions, so they are scaled up to the mean norm of the embeddings.
        """
        rows = [row for row, target in enumerate(targets) if any(token != self._end for token in target)]
        if not rows:
            return
        picked = torch.tensor(self._rarest([targets[row] for row in rows]))
        states = states[rows].cpu()
        # The mean embedding of the picked tokens: the bias of every soft token.
        used, counts = picked.unique(return_counts=True)
        mean = (self._embed(used).double().cpu() * counts[:, None]).sum(0) / counts.sum()

        def wanted(first: int) -> torch.Tensor:
            return (self._embed(picked[first : first + _ROWS]).double().cpu() - mean).flatten(1)

        # The normal equations, summed over chunks of rows.
        chunks = range(0, len(rows), _ROWS)
        gram = torch.eye(self.width, dtype=torch.double) * _RIDGE * len(rows)
        moments = torch.zeros(self.width, self._linear.out_features, dtype=torch.double)
        for first in chunks:
            part = states[first : first + _ROWS].double()
            gram += part.T @ part
            moments += part.T @ wanted(first)
        weight = torch.linalg.solve(gram, moments)
        # Summed norms of the embeddings, and of their predictions.
        sizes = torch.zeros(2, dtype=torch.double)
        for first in chunks:
            predicted = states[first : first + _ROWS].double() @ weight
            for place, vectors in enumerate((wanted(first), predicted)):
                sizes[place] += vectors.unflatten(1, (self._soft_tokens, -1)).norm(dim=-1).sum()
        if sizes[1] > 0:
            weight *= sizes[0] / sizes[1]
        self._linear.weight.copy_(weight.T)
        self._linear.bias.copy_(mean.repeat(self._soft_tokens))

    def _rarest(self, targets: Sequence[Sequence[int]]) -> list[list[int]]:
        """Of each target the tokens that occur in the fewest targets, one for each soft token, in their order."""
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
        # The last prompt position predicts the first token. No attention mask: in a causal model no token attends to
        # padding on its right.
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
            output = self._model(inputs_embeds=inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
            logits: torch.Tensor = output.logits[:, -1]
            return logits

        def advance(tokens: list[int], unfinished: list[int] | None) -> torch.Tensor:
            if unfinished is not None:
                # Indices on the CPU: the layers of the cache may be on several devices.
                cache.batch_select_indices(torch.tensor(unfinished))
            return step(self._embed(torch.tensor(tokens)[:, None]))

        first = step(self._prompts(states))
        rows, finished = generate_tokens(first, advance, self._end, temperature, uniforms, max_new_tokens)
        return [Generated(self.text(row), ended) for row, ended in zip(rows, finished, strict=True)]

    def prepare_for_inference(self) -> None:
        """Add the adapters to the weights, which makes generation three times as fast (measured)."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        for module in self._model.modules():
            if isinstance(module, BaseTunerLayer):
                module.merge()

    def _prompts(self, states: torch.Tensor) -> torch.Tensor:
        """Embeddings of what precedes the question, [rows, tokens, size]; the same length for every state."""
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


# A context variable, so that each thread has its own: the passes of several threads go through the same hook.
_labelled: ContextVar[torch.Tensor | None] = ContextVar("ka2l_labelled", default=None)


@contextmanager
def _only(labelled: torch.Tensor) -> Iterator[None]:
    """Inside the block, the output head gets only the positions that have a label, as one row [1, labels, size].

    Args:
        labelled: [rows, length] bool.

    Whatever else the model does to its logits still happens. This saves the padding, and the head gets one contiguous
    matrix: the slice that it gets otherwise makes a whole training step half as long again (measured).
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
    """The BOS token, if the tokenizer starts every text with it: models trained that way read badly without it."""
    first = tokenizer(FRAME)["input_ids"][0]
    return [first] if first == tokenizer.bos_token_id else []


def _add_adapters(model: Any, rank: int) -> None:
    """Add LoRA to all linear modules but the head, in float32, and freeze everything else. No dropout, as in
    inference.
    """
    from peft import LoraConfig, get_peft_model

    with quiet_transformers(), warnings.catch_warnings():
        # GPT-2 stores its weights transposed, and peft warns about it.
        warnings.simplefilter("ignore", UserWarning)
        get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear"))
    model.eval()
