"""L2 logistic regression for all layers and all strengths at once, exact and converged.

    solution = logistic(x, y, STRENGTHS)      # x [layers, rows, width], y [rows] in [0, 1]
    solution.weight                           # [layers, strengths, width]

The objective is scikit-learn's, strength · Σ loss + ½|weight|² with a free intercept; y may be anything in [0, 1].

The solver is Newton's method with conjugate-gradient steps, so that one pass over the rows serves all strengths.
XᵀX = V S Vᵀ is computed once per layer; V (c·S + 1/strength)⁻¹ Vᵀ is then a preconditioner for any strength and any
mean curvature c, and it solves Newton's first step, where all rows have the same curvature, exactly. With fewer rows
than features the problem is solved in the axes the rows span, which is exact: the L2 penalty keeps the weight in their
span. Products for conjugate gradients are float32, gradients float64.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ka2l.knowledge.probes.fit_quality import evaluate_fit
from ka2l.knowledge.probes.parallel_layers import chunks_of, scaled_inputs, side_by_side
from ka2l.knowledge.probes.probe import Examples, Floats, Probe, ProbeFit, standardization

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # inverse penalties that are tried
TOLERANCE = 1e-4  # bound on the weight's relative error
_CHUNK_BYTES = 16 << 20  # of a chunk's rows
_NEWTON_STEPS = 200
_CG_STEPS = 100
_HALVINGS = 40


class Logistic(NamedTuple):
    """Solutions of every layer at every strength, float64."""

    weight: NDArray[np.float64]  # [layers, strengths, width]
    bias: NDArray[np.float64]  # [layers, strengths]
    passes: int  # over the rows, forward and backward: the cost of the solution


def fit_linear(data: Examples, on_fitted: Callable[[int], None] = lambda _count: None) -> list[ProbeFit]:
    """The standardised logistic regression of each layer, fitted on training rows.

    The strength is the one with the lowest loss: with folds, that of the rows left out in cross-validation over
    training and validation rows; else that of validation rows. With few rows the loss is more reliable than the AUROC,
    by which several strengths are nearly equal.

    Args:
        data: states, targets, rows and folds, as in `ka2l.knowledge.probes.fit.fit_probes`.
        on_fitted: called with the number of layers fitted since the last call.
    """
    layers, width = data.states.shape[1:]
    rows = len(data.train) + len(data.validation)
    per_layer = 4 * rows * width + 12 * rows * min(rows, width)

    def fit(chunk: range) -> list[ProbeFit]:
        return _fit_chunk(data, chunk)

    fits: list[ProbeFit] = []
    for found in side_by_side(fit, chunks_of(layers, _CHUNK_BYTES // per_layer)):
        fits += found
        on_fitted(len(found))
    return fits


def _fit_chunk(data: Examples, layers: range) -> list[ProbeFit]:
    models = _fit_rows(data, layers, data.train)
    losses = _choice_losses(data, layers, models)
    rows = data.validation
    fits = []
    for index, layer in enumerate(layers):
        best = int(losses[index].argmin())
        mean, scale = models.scaling[index]
        weight, bias = models.solution.weight[index, best], models.solution.bias[index, [best]]
        arrays = {"mean": mean, "scale": scale, "weight": weight, "bias": bias}
        arrays = {name: np.ascontiguousarray(array, dtype=np.float32) for name, array in arrays.items()}
        probe = Probe("linear", layer, arrays, data.target)
        fit = evaluate_fit(probe, data.states[rows, layer], data.values[rows], data.event[rows])
        fits.append(fit._replace(choice_loss=float(losses[index, best])))
    return fits


def _choice_losses(data: Examples, layers: range, models: "_Models") -> NDArray[np.float64]:
    """The loss of each strength, [layers, strengths]: on left-out rows, or on validation rows by `models`."""
    if data.folds is None:
        return _losses(data, layers, data.validation, models)
    rows = np.concatenate([data.train, data.validation])
    losses = np.zeros((len(layers), len(STRENGTHS)))
    for fold in np.unique(data.folds):
        kept, left_out = rows[data.folds != fold], rows[data.folds == fold]
        found = _losses(data, layers, left_out, _fit_rows(data, layers, kept))
        losses += found * len(left_out) / len(rows)
    return losses


class _Models(NamedTuple):
    """Logistic regressions of some layers, at all strengths."""

    scaling: list[tuple[Floats, Floats]]  # of each layer
    solution: Logistic


def _fit_rows(data: Examples, layers: range, rows: NDArray[np.intp]) -> _Models:
    scaling = [standardization(data.states[rows, layer]) for layer in layers]
    x = scaled_inputs(data.states, layers, rows, scaling)
    return _Models(scaling, logistic(x, torch.from_numpy(data.values[rows])))


def _losses(data: Examples, layers: range, rows: NDArray[np.intp], models: _Models) -> NDArray[np.float64]:
    """Mean cross-entropy on these rows, [layers, strengths]."""
    x = scaled_inputs(data.states, layers, rows, models.scaling)
    weight, bias = (torch.from_numpy(array) for array in models.solution[:2])
    logits = (weight.float() @ x.mT).double() + bias[..., None]
    losses = torch.nn.functional.softplus(logits) - torch.from_numpy(data.values[rows]) * logits
    return np.asarray(losses.mean(2))


def logistic(x: torch.Tensor, y: torch.Tensor, strengths: Sequence[float] = STRENGTHS) -> Logistic:
    """Minimise strength · Σ loss + ½|weight|² for each layer and strength.

    The objective is strongly convex in the weight, so the norm of its gradient bounds the distance to the optimum:
    iteration stops when it is below TOLERANCE · |weight|.

    Args:
        x: float32 [layers, rows, width]; centred columns converge fastest.
        y: targets in [0, 1], [rows].
        strengths: inverse penalties, scikit-learn's C.

    Raises:
        ArithmeticError: Newton's method did not converge.
    """
    y = y.double()
    penalty = 1.0 / torch.tensor(strengths, dtype=torch.float64)
    if x.shape[1] >= x.shape[2]:
        # Used for preconditioning only, so float32 is enough.
        spectrum, axes = torch.linalg.eigh(x.mT @ x)
        solution = _newton(x.double(), y, penalty, spectrum.double(), axes)
        weight = solution.weight[:, :-1]
    else:
        wide = x.double()
        spectrum, axes = torch.linalg.eigh(wide @ wide.mT)
        solution = _newton(axes * spectrum.clamp_min(0.0).sqrt()[:, None], y, penalty, spectrum, None)
        # At the optimum the weight is a sum of rows, so no division by axes of length 0 is needed.
        weight = -(wide.mT @ (solution.residual / penalty))
    return Logistic(weight.mT.numpy(), solution.weight[:, -1].numpy(), solution.passes)


class _Solution(NamedTuple):
    """The end of Newton's method."""

    weight: torch.Tensor  # [layers, axes + 1, strengths], the bias last
    residual: torch.Tensor  # p − y, [layers, rows, strengths]
    passes: int


def _newton(
    z: torch.Tensor, y: torch.Tensor, penalty: torch.Tensor, spectrum: torch.Tensor, axes: torch.Tensor | None
) -> _Solution:
    """Minimise Σ loss + ½ penalty |weight|², where zᵀz has this spectrum in these axes (None: zᵀz is diagonal)."""
    layers, rows, width = z.shape
    # The bias is the weight of a constant feature, which is not penalised.
    z = torch.cat([z, z.new_ones(layers, rows, 1)], dim=2)
    spectrum = torch.cat([spectrum.clamp_min(0.0), spectrum.new_full((layers, 1), rows)], dim=1)
    penalties = penalty.repeat(width + 1, 1)
    penalties[-1] = 0.0
    quick = z.float()
    weight = z.new_zeros(layers, width + 1, len(penalty))
    weight[:, -1] = torch.logit(y.mean().clamp(1e-6, 1 - 1e-6))
    logits = z @ weight
    passes, first = 0, None
    for _ in range(_NEWTON_STEPS):
        p = torch.sigmoid(logits)
        residual = p - y[:, None]
        gradient = _back(z, residual) + penalties * weight
        passes += 1
        going = gradient.norm(dim=1) > TOLERANCE * penalty * weight[:, :-1].norm(dim=1) + 1e-9 * rows
        if not going.any():
            return _Solution(weight, residual, passes)
        curvature = p * (1 - p)
        scale = 1.0 / (curvature.mean(1)[:, None].clamp_min(1e-12) * spectrum[..., None] + penalties)
        system = _System(quick, curvature.float(), penalties, scale, axes)
        step, decrement, used = _conjugate_gradients(system, -gradient, going, first)
        first = decrement if first is None else first
        passes += used
        change = z @ step
        length = _line_search(logits, change, y[:, None], weight, step, penalties, (gradient * step).sum(1), going)
        weight += length[:, None] * step
        logits += length[:, None] * change
    raise ArithmeticError(f"logistic regression: not converged in {_NEWTON_STEPS} Newton steps")


class _System(NamedTuple):
    """The Hessian zᵀ diag(curvature) z + penalty, and its approximate inverse."""

    z: torch.Tensor  # float32
    curvature: torch.Tensor  # float32 [layers, rows, strengths]
    penalties: torch.Tensor
    scale: torch.Tensor  # inverse Hessian in the axes if all rows had the same curvature
    axes: torch.Tensor | None

    def times(self, vector: torch.Tensor) -> torch.Tensor:
        return _back(self.z, self.curvature * (self.z @ vector.float())).double() + self.penalties * vector

    def precondition(self, vector: torch.Tensor) -> torch.Tensor:
        if self.axes is None:
            return self.scale * vector
        weight, bias = vector[:, :-1].float(), vector[:, -1:]
        turned = self.scale[:, :-1] * _back(self.axes, weight)
        return torch.cat([(self.axes @ turned.float()).double(), self.scale[:, -1:] * bias], dim=1)


def _conjugate_gradients(
    system: _System, right: torch.Tensor, going: torch.Tensor, first: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Solve system · step = right, more exactly nearer the optimum, so that Newton's method converges superlinearly.

    Returns:
        the step, the squared size of `right` in the preconditioner's norm, [layers, strengths], and the passes.
    """
    step, rest = torch.zeros_like(right), right.clone()
    direction = system.precondition(rest)
    size = start = (rest * direction).sum(1)
    first = start if first is None else first
    enough = start * (start / first.clamp_min(1e-300)).sqrt().clamp_max(1 / 16)
    active = going & (start > 0)
    used = 0
    while active.any() and used < _CG_STEPS:
        used += 1
        product = system.times(direction)
        along = torch.where(active, size / (direction * product).sum(1).clamp_min(1e-300), 0.0)[:, None]
        step += along * direction
        rest -= along * product
        turned = system.precondition(rest)
        new = (rest * turned).sum(1)
        active &= new > enough
        direction = turned + torch.where(active, new / size.clamp_min(1e-300), 0.0)[:, None] * direction
        size = torch.where(active, new, size)
    return step, start, used


def _line_search(
    logits: torch.Tensor,
    change: torch.Tensor,
    y: torch.Tensor,
    weight: torch.Tensor,
    step: torch.Tensor,
    penalties: torch.Tensor,
    slope: torch.Tensor,
    going: torch.Tensor,
) -> torch.Tensor:
    """The first step length of 1, ½, ¼ … that lowers the objective enough (Armijo), [layers, strengths]; 0 if done."""

    def objective(length: torch.Tensor) -> torch.Tensor:
        at, here = logits + length[:, None] * change, weight + length[:, None] * step
        loss = torch.nn.functional.softplus(at) - y * at
        return loss.sum(1) + 0.5 * (penalties * here.square()).sum(1)

    length = going.double()
    before = objective(torch.zeros_like(length))
    for _ in range(_HALVINGS):
        # Near the optimum the decrease is smaller than the rounding.
        short = objective(length) > before + 1e-4 * length * slope + 1e-12 * before.abs()
        if not short.any():
            break
        length = torch.where(short, 0.5 * length, length)
    return length


def _back(z: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
    """zᵀ residual, computed so that z is read row by row: several times faster on a CPU."""
    return (residual.mT.contiguous() @ z).mT
