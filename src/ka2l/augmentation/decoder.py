"""A trained decoder in use: hidden states in, questions out. What one state gives does not depend on the others.

    decoder = Decoder.from_pretrained("runs/mine/decoder")
    texts = decoder.decode(states, ids, samples=range(8), noise=0.3, temperature=1.0, seed=0, max_new_tokens=48)

Noise moves the state within its neighbourhood, temperature varies the wording (Section 3.3). Each has a random stream
of its own that depends on (seed, question id, sample number) only: samples 8 to 15 can be drawn long after 0 to 7.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ka2l.augmentation import decoder_folder
from ka2l.augmentation.decoder_folder import DecoderParts
from ka2l.augmentation.network import Generated, Network
from ka2l.augmentation.state_scaling import Floats, check_finite
from ka2l.errors import ModelError
from ka2l.models.loading import load_causal_lm, resolve
from ka2l.models.local.token_draws import NotFiniteError, uniforms
from ka2l.models.settings import ModelConfig


class Decoded(NamedTuple):
    """One decoded question. `finished`: the decoder ended it before the token limit."""

    text: str
    finished: bool
    sample: int


class Decoder:
    """A network, with the mean and scale of the states it was trained on.

    Args:
        network: trained on standardised states.
        mean: [width] float32, of the training states.
        scale: [width] float32, their standard deviation.
        card: JSON values that describe the decoder; see `ka2l.augmentation.decoder_folder`.

    Raises:
        ModelError: the arrays do not fit the network.
    """

    def __init__(self, network: Network, mean: Floats, scale: Floats, card: Mapping[str, Any] | None = None):
        if mean.shape != (network.width,) or scale.shape != (network.width,):
            raise ModelError(
                f"The decoder reads states of {network.width} numbers, but its mean has shape {mean.shape} and its "
                f"scale {scale.shape}."
            )
        self.network, self.mean, self.scale = network, mean, scale
        self.card: dict[str, Any] = dict(card or {})

    def standardise(self, states: Floats) -> Floats:
        """States minus the mean, divided by the scale, [rows, width] float32."""
        standardised: Floats = ((states - self.mean) / self.scale).astype(np.float32)
        return standardised

    def save_pretrained(self, folder: str | Path) -> None:
        """Write weights (safetensors), card (JSON) and a README into a folder, without the language model."""
        decoder_folder.save(self._parts(), Path(folder))

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        revision: str | None = None,
        *,
        model_loader: Callable[[], tuple[Any, Any]] | None = None,
        device: str = "cpu",
    ) -> "Decoder":
        """Read a decoder from a folder or the Hub; its card is in `card`.

        Args:
            name: a folder, else a Hub id.
            revision: branch, tag or commit on the Hub.
            model_loader: returns the language model and its tokenizer; called if the decoder is the language model
                itself. None: the model that the card names is loaded, and must have the revision that the card names.
            device: of a T5.

        Raises:
            ModelError: no such decoder, or its files do not agree with its card.
        """
        if model_loader is None:
            card = decoder_folder.load_card(name, revision)
            model_loader = partial(_model_of, card)
        return cls(*decoder_folder.load(name, revision, model_loader, device=device))

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload what `save_pretrained` writes, in one commit; returns the repository's address.

        The options are those of `ka2l.augmentation.decoder_folder.push`.
        """
        return decoder_folder.push(self._parts(), repo_id, **options)

    def _parts(self) -> DecoderParts:
        return DecoderParts(self.network, self.mean, self.scale, self.card)

    def decode(
        self,
        states: Floats,
        names: Sequence[str],
        samples: Sequence[int],
        *,
        noise: float,
        temperature: float,
        seed: int,
        max_new_tokens: int,
        batch_rows: int = 64,
    ) -> list[list[Decoded]]:
        """Decode questions from each state, [states][samples].

        Args:
            states: [rows, width] float, as the language model computes them (not standardised).
            names: [rows] ids of the questions the states belong to.
            samples: numbers of the samples to draw from each state.
            noise: standard deviation of the Gaussian noise on the standardised state.
            temperature: of the question's tokens; 0 is greedy. With noise 0 as well, all samples are equal.
            seed: of the run.
            max_new_tokens: longest question, end token included.
            batch_rows: questions decoded together.

        Raises:
            ModelError: the states have another width or contain NaN or infinite values, or the network's output does.
        """
        states = np.asarray(states)
        if states.shape != (len(names), self.network.width):
            raise ModelError(
                f"The decoder needs states of shape ({len(names)}, {self.network.width}), one for each question, but "
                f"these have shape {states.shape}. Read them at the layer of the model that the decoder was trained on."
            )
        check_finite(states, names)
        once = noise == 0 and temperature == 0
        wanted = [(row, sample) for row in range(len(names)) for sample in (samples[:1] if once else samples)]
        generated: list[Generated] = []
        for first in range(0, len(wanted), batch_rows):
            rows, numbers = zip(*wanted[first : first + batch_rows], strict=True)
            row_names = [names[row] for row in rows]
            inputs = self.standardise(states[list(rows)])
            if noise:
                inputs += np.float32(noise) * self._noise(seed, row_names, numbers)
            drawn = _uniforms(seed, row_names, numbers, max_new_tokens) if temperature else None
            try:
                generated += self.network.generate(torch.from_numpy(inputs), temperature, drawn, max_new_tokens)
            except NotFiniteError as error:
                raise ModelError(
                    f"question {row_names[error.row]}: the decoder's output for its state holds NaN or infinite "
                    "values. Train the decoder again with a lower decoder.learning_rate, or load its model in float32 "
                    "(model.dtype)."
                ) from None
        by_sample = dict(zip(wanted, generated, strict=True))
        return [
            [Decoded(*by_sample[row, samples[0] if once else sample], sample) for sample in samples]
            for row in range(len(names))
        ]

    def _noise(self, seed: int, names: Sequence[str], samples: Sequence[int]) -> Floats:
        """[rows, width] float32 standard normal numbers; each row has its own stream: (seed, question, sample)."""
        rows = []
        for name, sample in zip(names, samples, strict=True):
            hashed = int.from_bytes(hashlib.sha256(f"noise:{name}".encode()).digest()[:8], "big")
            generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, hashed, sample])))
            rows.append(generator.standard_normal(self.network.width, dtype=np.float32))
        return np.stack(rows)


def _uniforms(seed: int, names: Sequence[str], samples: Sequence[int], steps: int) -> NDArray[np.float64]:
    """[rows, steps, LEVELS] in [0, 1); other streams than those that sampled answers to the same questions."""
    streams = [uniforms(seed, f"decode:{name}", [sample], steps) for name, sample in zip(names, samples, strict=True)]
    return np.concatenate(streams)


def _model_of(card: Mapping[str, Any]) -> tuple[Any, Any]:
    """The language model a decoder's card names."""
    if str(card["revision"]).startswith("sha256-"):
        raise ModelError(
            f"{card['model']}: this decoder was trained with a model from a folder, and its card does not say where "
            "the folder is. Give model_loader."
        )
    config = ModelConfig(name=card["model"], revision=card["revision"])
    found = resolve(config)
    if found.revision != card["revision"]:
        raise ModelError(
            f"{card['model']}: the decoder was trained with revision {card['revision']}, and revision {found.revision} "
            "is installed here. Give model_loader with the revision it was trained with."
        )
    return load_causal_lm(config, found)
