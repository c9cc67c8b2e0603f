"""The adaptive method of Dormand and Prince (1980, order 5 with an error estimate of order 4).

It solves dx̃/du = σ̃ ε̂ for x̃ = x/α and u = ln σ̃, σ̃ = σ/α, from the noise of the grid's start down to
σ̃ = 0.0001, and takes x̂_0 there. The grid's own steps are not used.

A step is accepted when the image with the largest error, root mean square over its entries in units of
atol + rtol·|x̃|, is within tolerance: no image's error is averaged away. The steps are those of the whole
batch, so a sample depends in its last digits on the others of its batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from models.denoiser import Denoiser

if TYPE_CHECKING:
    from models.samplers import Callback, Noise

END = 1e-4
"""σ/α where the last jump starts; its error is of the order of its square."""


def dopri5(
    denoiser: Denoiser,
    x: Tensor,
    grid: Sequence[float],
    *,
    noise: Noise,
    callback: Callback | None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
) -> Tensor:
    """As many evaluations as the tolerances ask for; reads the error of each step on the host."""
    from torchdiffeq import odeint

    path = denoiser.path

    def slope(u: Tensor, scaled: Tensor) -> Tensor:
        log_sigma = float(u)
        t = path.t_of_log_snr(-2.0 * log_sigma)
        return math.exp(log_sigma) * denoiser(path.alpha(t) * scaled, t).epsilon

    span = torch.tensor([-0.5 * path.log_snr(grid[0]), math.log(END)], dtype=x.dtype, device=x.device)
    ends = odeint(
        slope,
        x / path.alpha(grid[0]),
        span,
        rtol=rtol,
        atol=atol,
        method="dopri5",
        options={"norm": worst_image},
    )
    t = path.t_of_log_snr(-2.0 * math.log(END))
    x = denoiser(path.alpha(t) * ends[-1], t).x0
    if callback is not None:
        callback(0, 0.0, x)
    return x


def worst_image(error: Tensor) -> Tensor:
    """The largest root mean square of an image's entries."""
    return error.flatten(1).square().mean(1).amax().sqrt() if error.dim() > 1 else error.abs().max()
