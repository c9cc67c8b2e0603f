"""Heun's method on the probability flow, as Karras et al. 2022 (2206.00364) use it.

The step that arrives at t = 0 is Euler's: nothing has to be evaluated where σ = 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from torch import Tensor

from models.denoiser import Denoiser

if TYPE_CHECKING:
    from models.samplers import Callback, Noise


def heun(
    denoiser: Denoiser,
    x: Tensor,
    grid: Sequence[float],
    *,
    noise: Noise,
    callback: Callback,
) -> Tensor:
    """Two network evaluations a step, one on the last: 2N − 1; global error of order 2."""
    for step, (t, s) in enumerate(pairwise(grid)):
        slope = denoiser(x, t).velocity
        x_next = x + (s - t) * slope
        if s > 0:
            x_next = x + 0.5 * (s - t) * (slope + denoiser(x_next, s).velocity)
        x = x_next
        callback(step, s, x)
    return x
