"""Samplers of the reverse SDE of stochastic interpolants, with a diffusion w(t) of one's choice.

    dx = (v − ½ w ∇ln p_t) dt + √w dW̄    backwards in t

has the law of the probability flow (w = 0) at every t (Albergo et al. 2023, 2303.08797; Ma et al. 2024,
2401.08740, with whose names of w in this project's time):

    sigma     w = σ              constant               w = 1
    linear    w = t              decreasing             w = ¼(1 − cos πt)²
    sbdm      w = −σ² dλ/dt      increasing-decreasing  w = sin² πt

sbdm is the diffusion of the forward process itself. All are multiplied by `scale`. The last step returns
x̂_0 of the state it starts from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from models.gaussian_path import GaussianPath
from models.samplers.tape import Prediction, Tape, Vector

DIFFUSIONS: dict[str, Callable[[GaussianPath, float], float]] = {
    "sigma": lambda path, t: path.sigma(t),
    "constant": lambda path, t: 1.0,
    "linear": lambda path, t: t,
    "decreasing": lambda path, t: 0.25 * (1.0 - math.cos(math.pi * t)) ** 2,
    "increasing-decreasing": lambda path, t: math.sin(math.pi * t) ** 2,
    "sbdm": lambda path, t: (
        2.0 * path.sigma(t) * (path.sigma_dot(t) - path.sigma(t) * path.alpha_dot(t) / path.alpha(t))
    ),
}


def sde_euler(
    x: Vector, denoise: Tape, grid: Sequence[float], *, diffusion: str = "sigma", scale: float = 1.0
) -> Iterator[Vector]:
    """Euler and Maruyama: N evaluations, N − 1 draws of noise; of order 1 in law."""
    for t, s in pairwise(grid):
        found = denoise(x, t)
        if s > 0:
            w = scale * DIFFUSIONS[diffusion](denoise.path, t)
            x = x + (s - t) * _drift(found, w) + math.sqrt(w * (t - s)) * denoise.noise()
        else:
            x = found.x0
        yield x


def sde_heun(
    x: Vector, denoise: Tape, grid: Sequence[float], *, diffusion: str = "sigma", scale: float = 1.0
) -> Iterator[Vector]:
    """The noise of a step first, then Heun's step of the drift: 2N − 1 evaluations, N − 1 draws."""
    for t, s in pairwise(grid):
        if s > 0:
            w, w_s = (scale * DIFFUSIONS[diffusion](denoise.path, time) for time in (t, s))
            noisy = denoise.keep(x + math.sqrt(w * (t - s)) * denoise.noise())
            first = _drift(denoise(noisy, t), w)
            second = _drift(denoise(noisy + (s - t) * first, s), w_s)
            x = noisy + 0.5 * (s - t) * (first + second)
        else:
            x = denoise(x, t).x0
        yield x


def _drift(found: Prediction, w: float) -> Vector:
    return found.velocity - 0.5 * w * found.score
