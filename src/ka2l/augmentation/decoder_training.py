"""Teach a decoder to say a question from its hidden state (Section 3.3: reconstruction), whichever network it is.

    trained = train(network, states, questions, held_out_states, held_out_questions, DecoderConfig(),
                    run / "decoder_training", seed=0, fingerprint=key)

Every so many steps it says the held-out questions from their states, and the best is kept, judged by what it said
(`looks`).
After `kill -9` at any moment the same call goes on from the last of these looks and ends with the same network (on a
CPU: with one thread to the bit, with as many threads to rounding). With a limit of time (`minutes`) what it learns depends
on the machine.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ka2l.augmentation.held_out_looks import HeldOut, Look, best_look, looks_in_vain
from ka2l.augmentation.length_batches import batches, count_steps
from ka2l.augmentation.network import Network
from ka2l.augmentation.reconstruction import Reconstruction
from ka2l.augmentation.settings import DecoderConfig
from ka2l.augmentation.state_scaling import check_finite
from ka2l.augmentation.training_checkpoint import (
    Checkpoint,
    Progress,
    Tensors,
    read_checkpoint,
    write_checkpoint,
)
from ka2l.common.fingerprints import fingerprint_of
from ka2l.errors import DegenerateError, Ka2lError, ModelError
from ka2l.models.local.cpu_workers import side_by_side, workers_for
from ka2l.models.local.memory_budget import is_out_of_memory
from ka2l.models.local.token_draws import NotFiniteError

Floats = NDArray[np.float32]
_WARM_UP = 0.05  # of the training
_CLIP = 1.0  # largest norm of a gradient


class Trained(NamedTuple):
    """What a training did. All but `seconds` and `resumed_from` are the same after an interruption."""

    steps: int  # until it stopped
    best_step: int  # whose parameters the network has now
    quality: Reconstruction  # of them, on held-out questions said greedily
    history: list[
        dict[str, Any]
    ]  # a look each: step, seconds, loss (nats a token since the last look), exact, f1, bleu, n
    seconds: float  # of training and looking, all calls together
    tokens: int  # of questions learned from, all epochs together
    resumed_from: int | None  # the checkpoint's step


def train(
    network: Network,
    states: Floats,
    questions: Sequence[str],
    validation_states: Floats,
    validation_questions: Sequence[str],
    settings: DecoderConfig,
    checkpoint: Path,
    *,
    seed: int,
    fingerprint: str,
    on_step: Callable[[int, int], None] | None = None,
    say: Callable[[str], None] = lambda _text: None,
) -> Trained:
    """Train a network by AdamW, and leave the best parameters in it.

    The learning rate rises over the first 5 % of the training and falls along a cosine to 0; with a limit of time,
    progress is that of the steps or of the time, whichever is further.

    Args:
        network: untrained.
        states: [n, width] float32, standardised.
        questions: [n], what to say from each.
        validation_states: [m, width], standardised as the others were; none of these is trained on.
        validation_questions: [m].
        settings: learning rate, epochs, sizes, patience, limit of time.
        checkpoint: a folder; what another training left there is removed. Whoever calls removes it when the result
            is safe: until then a repeated call costs seconds.
        seed: of the order.
        fingerprint: of whatever the states and the network come from.
        on_step: called with (step, most steps) after each update.
        say: called with a line after each look.

    Raises:
        DegenerateError: nothing to train on, or nothing held out.
        ModelError: states that are not finite, or memory that does not suffice.
        Ka2lError: the loss or gradient became NaN or infinite.
    """
    _check(network, states, questions, "to train a decoder on")
    _check(network, validation_states, validation_questions, "held out to judge a decoder by")
    run = _Training(network, states, questions, settings, seed)
    held_out = HeldOut(network, validation_states, validation_questions, settings.batch_tokens)
    shapes = {name: list(p.shape) for name, p in network.parameters().items()}
    mark = fingerprint_of(
        fingerprint, settings.model_dump(), seed, list(questions), list(validation_questions), shapes
    )
    resumed_from = run.resume(checkpoint, mark)
    try:
        if resumed_from is None:
            run.start()
        with side_by_side(run.workers) as on_all:
            while not run.progress.done:
                run.step(on_all)
                if on_step is not None:
                    on_step(run.progress.step, run.total)
                if run.progress.step % settings.eval_steps == 0 or run.is_over():
                    run.look(on_all, held_out)
                    say(_line(run.progress.history[-1], run.total))
                    write_checkpoint(checkpoint, mark, run.checkpoint())
    except Exception as error:
        if isinstance(error, Ka2lError) or not is_out_of_memory(error):
            raise
        raise ModelError(
            f"Memory runs out while the decoder trains with decoder.batch_tokens={settings.batch_tokens}. Halve it."
        ) from error
    return run.finish(resumed_from)


class _Training:
    """A network, its optimiser and how far they are."""

    def __init__(
        self, network: Network, states: Floats, questions: Sequence[str], settings: DecoderConfig, seed: int
    ):
        self.network, self.settings = network, settings
        self._states, self._targets = torch.from_numpy(states), [network.encode(q) for q in questions]
        lengths = [len(target) for target in self._targets]
        self.total = count_steps(lengths, settings.batch_tokens, seed, settings.epochs)
        self.workers = workers_for(network.device, len(questions) * settings.epochs // self.total)
        self.progress = Progress()
        # By their share of the learning rate: the optimiser numbers them group by group.
        named = sorted(network.parameters().items(), key=lambda item: network.rate(item[0]))
        self._parameters = dict(named)
        groups = [
            {"params": [parameter for _, parameter in several], "share": share}
            for share, several in groupby(named, key=lambda item: network.rate(item[0]))
        ]
        self._optimizer = torch.optim.AdamW(groups, lr=settings.peak_rate, weight_decay=settings.weight_decay)
        self._best: Tensors = {}
        self._nats, self._tokens = 0.0, 0  # since the last look
        self._started = time.monotonic()
        self._batches: Iterator[list[int]] = (
            rows
            for epoch in range(settings.epochs)
            for rows in batches(lengths, settings.batch_tokens, seed, epoch)
        )

    @property
    def seconds(self) -> float:
        """Of this call and those before it."""
        return self.progress.seconds + time.monotonic() - self._started

    def start(self) -> None:
        """Before the first step."""
        self.network.warm_start(self._states, self._targets)

    def resume(self, folder: Path, mark: str) -> int | None:
        """Go on from a checkpoint of this very training; returns its step."""
        found = read_checkpoint(folder, mark)
        if found is None:
            return None
        self.progress, self._best = found.progress, found.best
        _copy(found.now, self._parameters)
        moments = {
            i: {
                "step": torch.tensor(float(self.progress.step)),
                "exp_avg": found.first[name],
                "exp_avg_sq": found.second[name],
            }
            for i, name in enumerate(self._parameters)
        }
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self._batches = islice(self._batches, self.progress.step, None)
        return self.progress.step

    def checkpoint(self) -> Checkpoint:
        """All it takes to go on from here."""
        states = {name: self._optimizer.state[p] for name, p in self._parameters.items()}
        first = {name: state["exp_avg"] for name, state in states.items()}
        second = {name: state["exp_avg_sq"] for name, state in states.items()}
        return Checkpoint(self.progress, dict(self._parameters), first, second, self._best)

    def step(self, on_all: Callable[..., list[Any]]) -> None:
        """One update from the next batch, which the workers share."""
        rows = next(self._batches)
        tokens = sum(len(self._targets[row]) for row in rows)
        # Every so-many-th row: neighbours have similar lengths, so that the shares take equally long.
        shares = [share for i in range(self.workers) if (share := rows[i :: self.workers])]
        found = on_all(self._gradients, shares)
        nats = sum(loss for loss, _ in found)
        for parameter, *gradients in zip(self._parameters.values(), *(g for _, g in found), strict=True):
            parameter.grad = sum(gradients[1:], start=gradients[0]) / tokens
        norm = float(torch.nn.utils.clip_grad_norm_(self._parameters.values(), _CLIP))
        for what, value in (("loss", nats / tokens), ("norm of the gradient", norm)):
            if not math.isfinite(value):
                raise self._broken(f"{what} is {value}", begun=1)
        for group in self._optimizer.param_groups:
            group["lr"] = self.settings.peak_rate * group["share"] * _rate(self._done(0.5))
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.progress.step += 1
        self.progress.tokens += tokens
        self._nats, self._tokens = self._nats + nats, self._tokens + tokens

    def look(self, on_all: Callable[..., list[Any]], held_out: HeldOut) -> None:
        """Look at held-out questions; keep the parameters where it is the best look so far."""
        try:
            seen = held_out.look(on_all, self.workers)
        except NotFiniteError as error:
            raise self._broken("what it says is not a number") from error
        if not math.isfinite(seen["held_out_loss"]):
            raise self._broken(f"the loss on held-out questions is {seen['held_out_loss']}")
        progress, now = self.progress, time.monotonic()
        progress.seconds, self._started = progress.seconds + now - self._started, now
        loss = self._nats / self._tokens
        self._nats, self._tokens = 0.0, 0
        progress.history.append(
            {"step": progress.step, "seconds": round(progress.seconds, 1), "loss": loss, **seen}
        )
        if best_look(progress.history)["step"] == progress.step:
            self._best = {name: p.detach().to("cpu", copy=True) for name, p in self._parameters.items()}
        progress.done = looks_in_vain(progress.history) >= self.settings.patience or self.is_over()

    def is_over(self) -> bool:
        """Whether all epochs or all minutes have passed."""
        return self.progress.step >= self.total or self._done(0.0) >= 1

    def finish(self, resumed_from: int | None) -> Trained:
        """The best parameters, and what there is to tell."""
        _copy(self._best, self._parameters)
        progress, best = self.progress, best_look(self.progress.history)
        quality = Reconstruction(**{name: best[name] for name in Reconstruction._fields})
        return Trained(
            progress.step, best["step"], quality, progress.history, progress.seconds, progress.tokens, resumed_from,
        )  # fmt: skip

    def _gradients(self, rows: list[int]) -> tuple[float, tuple[torch.Tensor, ...]]:
        """The summed loss of these rows, and its gradient."""
        loss = self.network.losses(self._states[rows], [self._targets[row] for row in rows])
        return float(loss.detach()), torch.autograd.grad(loss, list(self._parameters.values()))

    def _done(self, begun: float) -> float:
        """How much of the training has passed, from 0; `begun`: the part of a step that counts beside the whole ones."""
        by_step = (self.progress.step + begun) / self.total
        limit = 60 * self.settings.minutes
        return max(by_step, self.seconds / limit) if limit else by_step

    def _broken(self, what: str, begun: int = 0) -> Ka2lError:
        rate, step = self.settings.peak_rate, self.progress.step + begun
        return Ka2lError(
            f"The decoder's training broke at step {step} of {self.total}: {what}. Lower "
            f"decoder.learning_rate (now {rate:g}), for example to {rate / 10:g}."
        )


def _rate(done: float) -> float:
    """Share of the learning rate when this share of the training is done: up in a line, down along a cosine."""
    if done < _WARM_UP:
        return done / _WARM_UP
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (done - _WARM_UP) / (1 - _WARM_UP))))


@torch.no_grad()
def _copy(values: Tensors, parameters: dict[str, torch.nn.Parameter]) -> None:
    for name, parameter in parameters.items():
        parameter.copy_(values[name])


def _check(network: Network, states: Floats, questions: Sequence[str], what: str) -> None:
    if states.shape != (len(questions), network.width):
        raise ValueError(f"states {states.shape} for {len(questions)} questions and width {network.width}")
    if not questions:
        raise DegenerateError(
            f"There are no questions {what}. Give the role decoder more (questions.roles.decoder)."
        )
    check_finite(states, questions)


def _line(look: Look, total: int) -> str:
    return (
        f"decoder: step {look['step']} of {total}, {look['loss']:.2f} nats a token ({look['held_out_loss']:.2f} held out); "
        f"of {look['n']} held-out questions it says {look['exact']:.0%} as they are (token F1 {look['f1']:.2f})"
    )
