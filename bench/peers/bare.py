"""Loops as one writes them by hand, with nothing around: the floor of what a sampler can cost.

    euler   x + Δt v                                    1 operation an evaluation
    ddim    a x + b k, for any prediction k             2
    2m      DPM-Solver++(2M), x̂_0 of ε included          5, or 3 where the network predicts x_0

Coefficients are made beforehand. Shapes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from models.gaussian_path import GaussianPath
from models.predictions import conversion

Network = Callable[[Tensor, Tensor], Tensor]
Loop = Callable[[Network, Tensor], Tensor]


def euler(path: GaussianPath, prediction: str, times: Sequence[float], batch: int) -> Loop:
    """dx/dt = v, or with α = 1 dx/dt = σ'ε, in the path's own time."""
    scale = [1.0 if prediction == "velocity" else path.sigma_dot(t) for t in times]
    if prediction not in ("velocity", "epsilon"):
        raise ValueError("The bare Euler loop has one operation for a velocity or ε only: take ddim.")
    plan = [(row, scale[i] * (s - t)) for i, (row, (t, s)) in enumerate(_steps(times, batch))]

    def loop(network: Network, x: Tensor) -> Tensor:
        for t_B, step in plan:
            x = torch.add(x, network(x, t_B), alpha=step)
        return x

    return loop


def ddim(path: GaussianPath, prediction: str, times: Sequence[float], batch: int) -> Loop:
    """x_s = α_s x̂_0 + σ_s ε̂."""
    plan = []
    for row, (t, s) in _steps(times, batch):
        views = conversion(prediction, path, t)
        of_x, of_said = (path.alpha(s) * views.x0[i] + path.sigma(s) * views.epsilon[i] for i in (0, 1))
        plan.append((row, of_x, of_said))

    def loop(network: Network, x: Tensor) -> Tensor:
        for t_B, of_x, of_said in plan:
            said = network(x, t_B)
            x = (of_x * x).add_(said, alpha=of_said)
        return x

    return loop


def multistep(path: GaussianPath, prediction: str, times: Sequence[float], batch: int) -> Loop:
    """x_s = (σ_s/σ_t) x − α_s (e^{−h} − 1)((1 + 1/2r) x̂_0 − (1/2r) x̂_0'), of first order in its ends."""
    plan, last = [], 0.0
    for index, (row, (t, s)) in enumerate(_steps(times, batch)):
        h = 0.5 * (path.log_snr(s) - path.log_snr(t))
        share = 0.5 * h / last if index and s > 0 else 0.0
        factor, last = -path.alpha(s) * math.expm1(-h), h
        to_x0 = None if prediction == "x0" else conversion(prediction, path, t).x0
        plan.append((row, to_x0, path.sigma(s) / path.sigma(t), factor * (1.0 + share), -factor * share))

    def loop(network: Network, x: Tensor) -> Tensor:
        before = x
        for t_B, to_x0, of_x, of_x0, of_before in plan:
            x0 = network(x, t_B)
            if to_x0 is not None:
                x0 = (to_x0[0] * x).add_(x0, alpha=to_x0[1])
            x = (of_x * x).add_(x0, alpha=of_x0)
            if of_before:
                x.add_(before, alpha=of_before)
            before = x0
        return x

    return loop


LOOPS: dict[str, Callable[[GaussianPath, str, Sequence[float], int], Loop]] = {
    "euler": euler,
    "ddim": ddim,
    "2m": multistep,
}
"""By name; each is made for a path, a prediction, the times of a grid and a batch size."""


def _steps(times: Sequence[float], batch: int) -> list[tuple[Tensor, tuple[float, float]]]:
    """The time of each step for the network, (B,), and its two ends."""
    rows = torch.tensor(tuple(times), dtype=torch.float32).view(-1, 1).repeat(1, batch).unbind(0)
    return list(zip(rows, pairwise(times), strict=False))
