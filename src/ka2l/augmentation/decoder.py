"""A trained decoder in use: states in, questions out, the same for a state whatever else is decoded with it.

    decoder = Decoder.from_pretrained("runs/mine/decoder")
    texts = decoder.decode(states, ids, samples=range(8), noise=0.3, temperature=1.0, seed=0, max_new_tokens=48)

Noise moves the state to its neighbourhood, temperature varies how it is said (Section 3.3). Both come from streams of
their own that depend on (seed, question id, sample number) only: samples 8 to 15 can be drawn long after 0 to 7.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ka2l.augmentation.network import Generated, Network
from ka2l.augmentation.state_scaling import Floats, check_finite
from ka2l.errors import ModelError
from ka2l.models.loading import load_causal_lm, resolve
from ka2l.models.local.token_draws import NotFiniteError, uniforms
from ka2l.models.settings import ModelConfig


class Decoded(NamedTuple):
    """One decoded question. `finished`: it ended by itself within the tokens it was allowed."""

    text: str
    finished: bool
    sample: int


class Decoder:
    """A network, and the scale of the states it was trained on.

    Args:
        network: trained on standardised states.
        mean: [width] float32, of the training states.
        scale: [width] float32, their spread.
        card: what the decoder is, JSON values; see `ka2l.augmentation.decoder_folder`.

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
        """States in units of the spread of the training states, [rows, width] float32."""
        standardised: Floats = ((states - self.mean) / self.scale).astype(np.float32)
        return standardised

    def save_pretrained(self, folder: str | Path) -> None:
        """Write weights (safetensors), card (JSON) and a README into a folder; the language model is not in it."""
        from ka2l.augmentation import decoder_folder as on_disk

        on_disk.save(self, Path(folder))

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
            model_loader: gives the language model and its tokenizer, where that is itself the decoder; none: the model
                the card names is loaded, and must have the revision the card names.
            device: where a T5 goes.

        Raises:
            ModelError: there is none, or it is not what its card says.
        """
        from ka2l.augmentation import decoder_folder as on_disk

        if model_loader is None:
            card = on_disk.load_card(name, revision)
            model_loader = partial(_model_of, card)
        return on_disk.load(name, revision, model_loader, device=device)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload what `save_pretrained` writes, in one commit; options are those of `ka2l.augmentation.decoder_folder.push`."""
        from ka2l.augmentation import decoder_folder as on_disk

        return on_disk.push(self, repo_id, **options)

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
        """Questions from each state, [states][samples].

        Args:
            states: [rows, width], as the language model gives them.
            names: [rows] ids of the questions the states are of.
            samples: numbers of the samples of each.
            noise: standard deviation of the Gaussian noise on the state, in units of the spread of each dimension.
            temperature: of the question's tokens; 0 is greedy. Without noise too, all samples are then equal.
            seed: of the run.
            max_new_tokens: longest question, its end included.
            batch_rows: how many are decoded together.

        Raises:
            ModelError: the states have another width or hold NaN or infinite values; or the network's output does.
        """
        states = np.asarray(states)
        if states.shape != (len(names), self.network.width):
            raise ModelError(
                f"The decoder reads states of shape ({len(names)}, {self.network.width}), one a question, and these "
                f"have {states.shape}. Read them at the layer of the model that the decoder was trained on."
            )
        check_finite(states, names)
        once = noise == 0 and temperature == 0
        asked = [(row, sample) for row in range(len(names)) for sample in (samples[:1] if once else samples)]
        said: list[Generated] = []
        for first in range(0, len(asked), batch_rows):
            rows, numbers = zip(*asked[first : first + batch_rows], strict=True)
            of = [names[row] for row in rows]
            inputs = self.standardise(states[list(rows)])
            if noise:
                inputs += np.float32(noise) * self._noise(seed, of, numbers)
            drawn = _uniforms(seed, of, numbers, max_new_tokens) if temperature else None
            try:
                said += self.network.generate(torch.from_numpy(inputs), temperature, drawn, max_new_tokens)
            except NotFiniteError as error:
                raise ModelError(
                    f"question {of[error.row]}: the decoder's output for its state holds NaN or infinite values. Train "
                    "the decoder anew with a lower decoder.learning_rate, or load its model in float32 (model.dtype)."
                ) from None
        found = dict(zip(asked, said, strict=True))
        return [
            [Decoded(*found[row, samples[0] if once else sample], sample) for sample in samples]
            for row in range(len(names))
        ]

    def _noise(self, seed: int, names: Sequence[str], samples: Sequence[int]) -> Floats:
        """[rows, width] standard normal numbers, each row a stream of its own: (seed, question, sample)."""
        rows = []
        for name, sample in zip(names, samples, strict=True):
            hashed = int.from_bytes(hashlib.sha256(f"noise:{name}".encode()).digest()[:8], "big")
            generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, hashed, sample])))
            rows.append(generator.standard_normal(self.network.width, dtype=np.float32))
        return np.stack(rows)


def _uniforms(seed: int, names: Sequence[str], samples: Sequence[int], steps: int) -> NDArray[np.float64]:
    """[rows, steps, LEVELS]; not those that drew the answers to the same question."""
    streams = [
        uniforms(seed, f"decode:{name}", [sample], steps) for name, sample in zip(names, samples, strict=True)
    ]
    return np.concatenate(streams)


def _model_of(card: Mapping[str, Any]) -> tuple[Any, Any]:
    """The language model a decoder's card names."""
    if str(card["revision"]).startswith("sha256-"):
        raise ModelError(
            f"{card['model']}: this decoder is of a model from a folder, which its card does not name. Give model_loader."
        )
    config = ModelConfig(name=card["model"], revision=card["revision"])
    found = resolve(config)
    if found.revision != card["revision"]:
        raise ModelError(
            f"{card['model']}: the decoder is of its revision {card['revision']}, and here is {found.revision}. Give "
            "model_loader with the one it was trained on."
        )
    return load_causal_lm(config, found)
