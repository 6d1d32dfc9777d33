"""Training the hidden-state decoder on stored states, against running the language model in every training step.

    python benchmarks/decoder.py [questions] [repeats] [epochs]

Both ways train the same decoder on the same batches in the same order with the same loss and optimizer: the embedded
model as its own decoder (soft tokens and LoRA), and a T5 of 22 M random weights, all of them trained. One way computes
each question's state once and reads it in every epoch. The other runs the language model on the whole prompts (5 shots,
hidden states of all layers, the last token's kept) in every step, as the paper's code does. They take turns; after the
last step the losses must agree. `time_ratio` is for a training of `epochs` (3), with the cost of the states. The last
line is JSON.
"""

import json
import os
import statistics
import sys
import time
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import T5Config, T5ForConditionalGeneration

from ka2l.augmentation.length_batches import batches
from ka2l.augmentation.network import Network
from ka2l.augmentation.settings import DecoderConfig
from ka2l.augmentation.soft_prompt import SoftPromptNetwork
from ka2l.augmentation.state_scaling import standardisation
from ka2l.augmentation.t5 import T5Network
from ka2l.models.interface import Prompt
from ka2l.models.loading import load_causal_lm, resolve
from ka2l.models.local.hidden_states import backbone
from ka2l.models.local.local_model import LocalModel
from ka2l.models.prompts import PromptBuilder
from ka2l.models.settings import ModelConfig, PromptConfig
from sampling import geonames_prompts

_LAYER = 25


def main(n_questions: int = 64, repeats: int = 3, epochs: int = 3) -> None:
    """Time both ways of training in turns."""
    config = ModelConfig()
    builder = PromptBuilder(PromptConfig())
    prompts = geonames_prompts(builder, n_questions)
    texts = [prompt.text.rsplit("Question: ", 1)[1].removesuffix("\nAnswer:") for prompt in prompts]
    model = LocalModel.load(config, resolve(config))
    model.share_prefix(builder.sensing)
    # The first call inspects the model, which takes extra time.
    model.states(prompts[:8], _LAYER, position="tbg")
    times: dict[str, list[float]] = {}
    losses: dict[str, list[float]] = {}
    for _ in range(repeats):
        started = time.perf_counter()
        states = model.states(prompts, _LAYER, position="tbg")
        times.setdefault("states", []).append(time.perf_counter() - started)
        mean, scale = standardisation(states)
        for kind in ("", "t5_"):
            for name, source in (("stored", states), ("loop", None)):
                seconds, losses[kind + name] = _epoch(kind, model, prompts, texts, source, mean, scale)
                times.setdefault(kind + name, []).append(seconds)
    medians = {name: statistics.median(values) for name, values in times.items()}
    result: dict[str, Any] = {"questions": n_questions, "repeats": repeats, "epochs": epochs}
    result |= {f"ms_{name}": round(1000 * value / n_questions, 1) for name, value in medians.items()}
    for kind in ("", "t5_"):
        stored, loop = losses[f"{kind}stored"], losses[f"{kind}loop"]
        difference = max(abs(a - b) for a, b in zip(stored, loop, strict=True))
        if difference > 1e-2:
            raise SystemExit(f"the losses differ by {difference}: {losses}")
        ours = medians["states"] + epochs * medians[f"{kind}stored"]
        result |= {
            f"{kind}steps": len(stored),
            f"{kind}loss_first": round(stored[0], 3),
            f"{kind}loss_last": round(stored[-1], 3),
            f"{kind}loss_difference": round(difference, 5),
            f"{kind}step_ratio": round(medians[f"{kind}loop"] / medians[f"{kind}stored"], 2),
            f"{kind}time_ratio": round(epochs * medians[f"{kind}loop"] / ours, 2),
        }
    print(json.dumps({"benchmark": "decoder", **result}))


def _network(kind: str, model: LocalModel, width: int, settings: DecoderConfig) -> Network:
    """A new network with the same initial weights for both ways."""
    if not kind:
        return SoftPromptNetwork(*load_causal_lm(ModelConfig(), model.resolved), width, settings, 0)
    tokenizer = model.tokenizer
    shape = T5Config(
        vocab_size=len(tokenizer),
        d_model=256,
        d_ff=1024,
        num_layers=4,
        num_heads=4,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    return T5Network(T5ForConditionalGeneration(shape), tokenizer, width, settings, 0)


def _epoch(
    kind: str,
    model: LocalModel,
    prompts: list[Prompt],
    texts: list[str],
    states: NDArray[np.float32] | None,
    mean: NDArray[np.float32],
    scale: NDArray[np.float32],
) -> tuple[float, list[float]]:
    """One epoch from the same initial weights: the seconds of its steps, and the loss of each step in nats per
    token.
    """
    settings = DecoderConfig()
    network = _network(kind, model, len(mean), settings)
    targets = [network.encode(text) for text in texts]
    parameters = list(network.parameters().values())
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=settings.weight_decay)
    order = batches([len(target) for target in targets], settings.batch_tokens, 0, 0)
    losses: list[float] = []
    started = time.perf_counter()
    for rows in order:
        step_states = _compute_states(model, [prompts[i] for i in rows]) if states is None else states[rows]
        batch = torch.from_numpy((step_states - mean) / scale)
        chosen = [targets[i] for i in rows]
        loss = network.losses(batch, chosen) / sum(map(len, chosen))
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        optimizer.step()
        losses.append(loss.item())
    return time.perf_counter() - started, losses


@torch.no_grad()
def _compute_states(model: LocalModel, prompts: list[Prompt]) -> NDArray[np.float32]:
    """States of a batch in the plain way: whole prompts, all hidden states, the last token's kept."""
    tokenizer: Any = model.tokenizer
    tokenizer.padding_side = "left"
    batch = tokenizer([prompt.text for prompt in prompts], return_tensors="pt", padding=True)
    hidden = backbone(model.model)(**batch, output_hidden_states=True).hidden_states[_LAYER][:, -1]
    states: NDArray[np.float32] = hidden.numpy()
    return states


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
