"""Euler's method on the probability flow dx/dt = α'x̂_0 + σ'ε̂, in the path's own time."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from torch import Tensor

from models.denoiser import Denoiser

if TYPE_CHECKING:
    from models.samplers import Callback, Noise


def euler(
    denoiser: Denoiser,
    x: Tensor,
    grid: Sequence[float],
    *,
    noise: Noise,
    callback: Callback,
) -> Tensor:
    """One network evaluation a step; global error of order 1."""
    for step, (t, s) in enumerate(pairwise(grid)):
        x = x + (s - t) * denoiser(x, t).velocity
        callback(step, s, x)
    return x
