"""Train a decoder to reconstruct a question from its hidden state (Section 3.3), whichever network it is.

    trained = train(network, DecoderExamples(states, questions), DecoderExamples(validation_states,
    validation_questions),
                    DecoderConfig(), run / "decoder_training", seed=0, fingerprint=key)

Every `eval_steps` updates the validation questions are generated from their states, and the best parameters are kept
(`validation_checks`). After `kill -9` at any moment the same call continues from the last of these checks and ends with
the same network (on a CPU: bit for bit with one thread, up to rounding with the same number of threads). With a time
limit (`minutes`) the result depends on the speed of the machine.
"""

import math
import time
from collections.abc import Callable, Iterator
from itertools import groupby, islice
from pathlib import Path
from typing import Any, NamedTuple

import torch

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
from ka2l.augmentation.validation_checks import (
    DecoderExamples,
    ValidationCheck,
    ValidationRows,
    best_check,
    checks_without_improvement,
)
from ka2l.common.fingerprints import fingerprint_of
from ka2l.errors import DegenerateError, Ka2lError, ModelError
from ka2l.models.local.cpu_workers import side_by_side, workers_for
from ka2l.models.local.memory_budget import is_out_of_memory
from ka2l.models.local.token_draws import NotFiniteError

# Share of the training in which the learning rate rises.
_WARM_UP = 0.05
# Largest norm of a gradient.
_CLIP = 1.0


class Trained(NamedTuple):
    """The result of a training. All but `seconds` and `resumed_from` are the same after an interruption."""

    steps: int
    """Updates until training stopped."""
    best_step: int
    """The step whose parameters the network has now."""
    quality: Reconstruction
    """Of these parameters, on the validation questions, generated greedily."""
    history: list[ValidationCheck]
    """One entry a check; `loss` is that of the training questions since the check before."""
    seconds: float
    """Of training and checks, all calls together."""
    tokens: int
    """Of the training questions, all epochs together."""
    resumed_from: int | None
    """The checkpoint's step; None: not resumed."""


def train(
    network: Network,
    training: DecoderExamples,
    validation: DecoderExamples,
    settings: DecoderConfig,
    checkpoint: Path,
    *,
    seed: int,
    fingerprint: str,
    on_step: Callable[[int, int], None] | None = None,
    say: Callable[[str], None] = lambda _text: None,
) -> Trained:
    """Train a network with AdamW, and leave the best parameters in it.

    The learning rate rises linearly over the first 5 % of the training and falls to 0 along a cosine. With a time
    limit, the larger of the shares of steps and of time passed is what counts as done.

    Args:
        network: untrained.
        training: what is trained on.
        validation: standardised with the mean and scale of the training states; not trained on.
        settings: learning rate, epochs, sizes, patience, time limit.
        checkpoint: a folder; the checkpoint of another training in it is removed. The caller removes the folder once
            the
            result is saved: until then, calling again takes seconds.
        seed: of the order of the batches.
        fingerprint: identifies what the states and the network come from.
        on_step: called with (step, total steps) after each update.
        say: called with a line of text after each check.

    Raises:
        DegenerateError: no training or no validation questions.
        ModelError: states that are not finite, or out of memory.
        Ka2lError: the loss or gradient became NaN or infinite.
    """
    _check(network, training, "to train a decoder on")
    _check(network, validation, "to validate a decoder on")
    run = _Training(network, training, settings, seed)
    validation_rows = ValidationRows(network, validation, settings.batch_tokens)
    shapes = {name: list(p.shape) for name, p in network.parameters().items()}
    mark = fingerprint_of(
        fingerprint, settings.model_dump(), seed, list(training.questions), list(validation.questions), shapes
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
                    run.validate(on_all, validation_rows)
                    say(_progress_line(run.progress.history[-1], run.total))
                    write_checkpoint(checkpoint, mark, run.checkpoint())
    except Exception as error:
        if isinstance(error, Ka2lError) or not is_out_of_memory(error):
            raise
        raise ModelError(
            f"Out of memory while training the decoder with decoder.batch_tokens={settings.batch_tokens}. Halve it."
        ) from error
    return run.finish(resumed_from)


class _Training:
    """A network, its optimiser and their progress."""

    def __init__(self, network: Network, examples: DecoderExamples, settings: DecoderConfig, seed: int):
        self.network, self.settings = network, settings
        self._states = torch.from_numpy(examples.states)
        self._targets = [network.encode(question) for question in examples.questions]
        lengths = [len(target) for target in self._targets]
        self.total = count_steps(lengths, settings.batch_tokens, seed, settings.epochs)
        self.workers = workers_for(network.device, len(lengths) * settings.epochs // self.total)
        self.progress = Progress()
        # Sorted by share of the learning rate: the optimiser numbers parameters group by group.
        named = sorted(network.parameters().items(), key=lambda item: network.rate(item[0]))
        self._parameters = dict(named)
        groups = [
            {"params": [parameter for _, parameter in several], "share": share}
            for share, several in groupby(named, key=lambda item: network.rate(item[0]))
        ]
        self._optimizer = torch.optim.AdamW(groups, lr=settings.peak_rate, weight_decay=settings.weight_decay)
        self._best: Tensors = {}
        # Loss and tokens since the last check.
        self._nats, self._tokens = 0.0, 0
        self._started = time.monotonic()
        self._batches: Iterator[list[int]] = (
            rows for epoch in range(settings.epochs) for rows in batches(lengths, settings.batch_tokens, seed, epoch)
        )

    @property
    def seconds(self) -> float:
        """Training time of this call and of those before it."""
        return self.progress.seconds + time.monotonic() - self._started

    def start(self) -> None:
        """Initialise the network before the first step."""
        self.network.warm_start(self._states, self._targets)

    def resume(self, folder: Path, mark: str) -> int | None:
        """Continue from a checkpoint of the same training; returns its step, None if there is no such checkpoint."""
        checkpoint = read_checkpoint(folder, mark)
        if checkpoint is None:
            return None
        self.progress, self._best = checkpoint.progress, checkpoint.best
        _copy(checkpoint.now, self._parameters)
        moments = {
            i: {
                "step": torch.tensor(float(self.progress.step)),
                "exp_avg": checkpoint.first[name],
                "exp_avg_sq": checkpoint.second[name],
            }
            for i, name in enumerate(self._parameters)
        }
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self._batches = islice(self._batches, self.progress.step, None)
        return self.progress.step

    def checkpoint(self) -> Checkpoint:
        """Everything needed to continue from here."""
        states = {name: self._optimizer.state[p] for name, p in self._parameters.items()}
        first = {name: state["exp_avg"] for name, state in states.items()}
        second = {name: state["exp_avg_sq"] for name, state in states.items()}
        return Checkpoint(self.progress, dict(self._parameters), first, second, self._best)

    def step(self, on_all: Callable[..., list[Any]]) -> None:
        """Make one update from the next batch, whose rows are divided among the workers."""
        rows = next(self._batches)
        tokens = sum(len(self._targets[row]) for row in rows)
        # Neighbouring rows have similar lengths: with every n-th row each, the workers take equally long.
        shares = [share for i in range(self.workers) if (share := rows[i :: self.workers])]
        results = on_all(self._gradients, shares)
        nats = sum(loss for loss, _ in results)
        for parameter, *gradients in zip(self._parameters.values(), *(g for _, g in results), strict=True):
            parameter.grad = sum(gradients[1:], start=gradients[0]) / tokens
        norm = float(torch.nn.utils.clip_grad_norm_(self._parameters.values(), _CLIP))
        for what, value in (("loss", nats / tokens), ("norm of the gradient", norm)):
            if not math.isfinite(value):
                raise self._not_finite(f"{what} is {value}", begun=1)
        for group in self._optimizer.param_groups:
            group["lr"] = self.settings.peak_rate * group["share"] * _rate(self._done(0.5))
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.progress.step += 1
        self.progress.tokens += tokens
        self._nats, self._tokens = self._nats + nats, self._tokens + tokens

    def validate(self, on_all: Callable[..., list[Any]], rows: ValidationRows) -> None:
        """Check the validation questions; keep the parameters if it is the best check so far."""
        try:
            check = rows.check(on_all, self.workers)
        except NotFiniteError as error:
            raise self._not_finite("the decoder's output is not a number") from error
        if not math.isfinite(check["held_out_loss"]):
            raise self._not_finite(f"the loss on validation questions is {check['held_out_loss']}")
        progress, now = self.progress, time.monotonic()
        progress.seconds, self._started = progress.seconds + now - self._started, now
        loss = self._nats / self._tokens
        self._nats, self._tokens = 0.0, 0
        progress.history.append({"step": progress.step, "seconds": round(progress.seconds, 1), "loss": loss, **check})
        if best_check(progress.history)["step"] == progress.step:
            self._best = {name: p.detach().to("cpu", copy=True) for name, p in self._parameters.items()}
        out_of_patience = checks_without_improvement(progress.history) >= self.settings.patience
        progress.done = out_of_patience or self.is_over()

    def is_over(self) -> bool:
        """Whether all epochs or all minutes have passed."""
        return self.progress.step >= self.total or self._done(0.0) >= 1

    def finish(self, resumed_from: int | None) -> Trained:
        """Put the best parameters into the network, and return the result."""
        _copy(self._best, self._parameters)
        progress, best = self.progress, best_check(self.progress.history)
        quality = Reconstruction(**{name: best[name] for name in Reconstruction._fields})
        return Trained(
            progress.step, best["step"], quality, progress.history, progress.seconds, progress.tokens, resumed_from,
        )  # fmt: skip

    def _gradients(self, rows: list[int]) -> tuple[float, tuple[torch.Tensor, ...]]:
        """The summed loss of these rows, and its gradient."""
        loss = self.network.losses(self._states[rows], [self._targets[row] for row in rows])
        return float(loss.detach()), torch.autograd.grad(loss, list(self._parameters.values()))

    def _done(self, begun: float) -> float:
        """Share of the training that is done; `begun` is the part of the current step that counts as done."""
        by_step = (self.progress.step + begun) / self.total
        limit = 60 * self.settings.minutes
        return max(by_step, self.seconds / limit) if limit else by_step

    def _not_finite(self, what: str, begun: int = 0) -> Ka2lError:
        rate, step = self.settings.peak_rate, self.progress.step + begun
        return Ka2lError(
            f"The decoder's training failed at step {step} of {self.total}: {what}. Lower "
            f"decoder.learning_rate (now {rate:g}), for example to {rate / 10:g}."
        )


def _rate(done: float) -> float:
    """Share of the peak learning rate when this share of the training is done: linear warm-up, then cosine decay."""
    if done < _WARM_UP:
        return done / _WARM_UP
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (done - _WARM_UP) / (1 - _WARM_UP))))


@torch.no_grad()
def _copy(values: Tensors, parameters: dict[str, torch.nn.Parameter]) -> None:
    for name, parameter in parameters.items():
        parameter.copy_(values[name])


def _check(network: Network, examples: DecoderExamples, purpose: str) -> None:
    states, questions = examples
    if states.shape != (len(questions), network.width):
        raise ValueError(f"states {states.shape} for {len(questions)} questions and width {network.width}")
    if not questions:
        raise DegenerateError(
            f"There are no questions {purpose}. Give the role decoder more (questions.roles.decoder)."
        )
    check_finite(states, questions)


def _progress_line(check: ValidationCheck, total: int) -> str:
    return (
        f"decoder: step {check['step']} of {total}, {check['loss']:.2f} nats a token ({check['held_out_loss']:.2f} in "
        f"validation); of {check['n']} validation questions {check['exact']:.0%} are reconstructed exactly (token F1 "
        f"{check['f1']:.2f})"
    )
