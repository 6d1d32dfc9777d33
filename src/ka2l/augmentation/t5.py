"""The paper's decoder (Section 3.3): two linear layers turn a state into pseudo-tokens; a T5 generates the question.

    network = T5Network(*load_t5("google-t5/t5-base"), width=4096, settings=DecoderConfig(learning_rate=2e-4), seed=0)

All of it is trained. Any encoder-decoder of transformers whose encoder accepts embeddings can be used.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

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
from ka2l.models.loading import first_line, quiet_transformers


class T5Network:
    """Implements `ka2l.augmentation.network.Network`: state → linear → GELU → linear → pseudo-tokens → T5.

    Args:
        model: an encoder-decoder, see `load_t5`; trained in place, in float32.
        tokenizer: of the model.
        width: size of a hidden state.
        settings: number of pseudo-tokens.
        seed: of the two linear layers.

    Raises:
        ModelError: the tokenizer has no EOS token, or the model has no decoder start token.
    """

    kind = "t5"

    def __init__(self, model: Any, tokenizer: Any, width: int, settings: DecoderConfig, seed: int):
        self.width = width
        self.device: torch.device = model.device
        # eval: no dropout, as in inference.
        self._model, self._tokenizer = model.float().eval(), tokenizer
        self._end, self._start = tokenizer.eos_token_id, model.config.decoder_start_token_id
        if self._end is None or self._start is None:
            raise ModelError("The T5 needs an EOS token (tokenizer) and a decoder_start_token_id (config).")
        self._pseudo_tokens = settings.pseudo_tokens
        size = model.get_input_embeddings().embedding_dim
        with seeded(seed):
            self._hidden = nn.Linear(width, width).to(self.device)
            self._out = nn.Linear(width, self._pseudo_tokens * size).to(self.device)

    def encode(self, text: str) -> list[int]:
        """See `Network.encode`."""
        tokens: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return [*tokens, self._end]

    def text(self, tokens: Sequence[int]) -> str:
        """See `Network.text`."""
        return text_of(self._tokenizer, tokens)

    def parameters(self) -> dict[str, nn.Parameter]:
        """See `Network.parameters`."""
        return parameters_of({"hidden": self._hidden, "out": self._out, "t5": self._model})

    def rate(self, name: str) -> float:  # noqa: ARG002
        """See `Network.rate`: the paper uses one rate for all parameters."""
        return 1.0

    @torch.no_grad()
    def warm_start(self, states: torch.Tensor, targets: Sequence[Sequence[int]]) -> None:  # noqa: ARG002
        """Scale the pseudo-tokens to the size of the T5's own embeddings, which differs a hundredfold among T5s."""
        usual = self._model.get_input_embeddings().weight.square().mean().sqrt()
        size = self._read(states).square().mean().sqrt()
        if size > 0:
            self._out.weight.mul_(usual / size)
            self._out.bias.mul_(usual / size)

    def losses(self, states: torch.Tensor, targets: Sequence[Sequence[int]]) -> torch.Tensor:
        """See `Network.losses`."""
        tokens, labels = padded(targets, self._end, self.device)
        start = torch.full_like(tokens[:, :1], self._start)
        # The decoder is causal: no token attends to padding on its right.
        logits = self._model(
            inputs_embeds=self._read(states),
            decoder_input_ids=torch.cat([start, tokens[:, :-1]], dim=1),
            use_cache=False,
        ).logits
        return summed_nll(logits, labels)

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
        read = self._model.get_encoder()(inputs_embeds=self._read(states)).last_hidden_state
        decoder = self._model.config.get_text_config(decoder=True)
        cache = EncoderDecoderCache(DynamicCache(config=decoder), DynamicCache(config=decoder))

        def step(tokens: list[int]) -> torch.Tensor:
            output = self._model(
                encoder_outputs=BaseModelOutput(last_hidden_state=read),
                decoder_input_ids=torch.tensor(tokens, device=self.device)[:, None],
                past_key_values=cache,
                use_cache=True,
            )
            logits: torch.Tensor = output.logits[:, -1]
            return logits

        def advance(tokens: list[int], unfinished: list[int] | None) -> torch.Tensor:
            nonlocal read
            if unfinished is not None:
                read = read[unfinished]
                cache.batch_select_indices(torch.tensor(unfinished))
            return step(tokens)

        first = step([self._start] * len(states))
        rows, finished = generate_tokens(first, advance, self._end, temperature, uniforms, max_new_tokens)
        return [Generated(self.text(row), ended) for row, ended in zip(rows, finished, strict=True)]

    def prepare_for_inference(self) -> None:
        """Do nothing: there are no adapters to merge."""

    def save_frame(self, folder: Path) -> None:
        """Write what `empty_t5` reads: `config.json` and the tokenizer's files."""
        self._model.config.save_pretrained(folder)
        self._tokenizer.save_pretrained(folder)

    def _read(self, states: torch.Tensor) -> torch.Tensor:
        """Pseudo-tokens, [rows, pseudo-tokens, size]."""
        hidden = nn.functional.gelu(self._hidden(states.to(self.device, torch.float32)))
        pseudo: torch.Tensor = self._out(hidden).unflatten(1, (self._pseudo_tokens, -1))
        return pseudo


def load_t5(name: str, revision: str | None = None, device: str = "cpu") -> tuple[Any, Any]:
    """Load a pretrained encoder-decoder in float32, and its tokenizer.

    Args:
        name: a folder, else a Hub id.
        revision: branch, tag or commit on the Hub.
        device: of the model.

    Raises:
        ModelError: no such model, or it is not an encoder-decoder.
    """
    return _load(name, revision, device, weights=True)


def empty_t5(folder: Path, device: str = "cpu") -> tuple[Any, Any]:
    """Build the same from `config.json` and tokenizer files alone, with random weights that a decoder's will replace.

    Raises:
        ModelError: the files are missing, or not those of an encoder-decoder.
    """
    return _load(str(folder), None, device, weights=False)


def _load(name: str, revision: str | None, device: str, *, weights: bool) -> tuple[Any, Any]:
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer

    folder = Path(name).expanduser()
    where = str(folder) if folder.is_dir() else name
    if not folder.is_dir() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise ModelError(f"decoder.t5={name}: no such folder. Give the folder or Hub id of a T5.")
    options: dict[str, Any] = {} if folder.is_dir() or revision is None else {"revision": revision}
    with quiet_transformers():
        try:
            config = AutoConfig.from_pretrained(where, **options)
            if not config.is_encoder_decoder:
                raise ModelError(
                    f"decoder.t5={name}: this is a {config.model_type}, not an encoder-decoder. Give a T5, for example "
                    "google-t5/t5-base, or leave decoder.t5 empty: then the language model is its own decoder."
                )
            tokenizer = AutoTokenizer.from_pretrained(where, **options)
            if weights:
                model = AutoModelForSeq2SeqLM.from_pretrained(where, dtype=torch.float32, **options)
            else:
                model = AutoModelForSeq2SeqLM.from_config(config, dtype=torch.float32)
        except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
            raise ModelError(f"decoder.t5={name}: cannot load this model: {first_line(error)}") from error
    return model.to(device).eval(), tokenizer
