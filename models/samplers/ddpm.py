"""Ancestral sampling (Ho et al. 2020, 2006.11239) on any Gaussian path.

x_s ~ N(mean of q(x_s | x_t, x̂_0), variance), with the variance `small`, that of the posterior, `large`,
which is right for data N(0, 1), or `learned`: between the two as the network says (Nichol & Dhariwal 2021,
2102.09672). The last step returns its mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from models.denoiser import Denoiser
from models.learned_variance import interpolated
from models.posterior import posterior

if TYPE_CHECKING:
    from models.samplers import Callback, Noise


def ddpm(
    denoiser: Denoiser,
    x: Tensor,
    grid: Sequence[float],
    *,
    noise: Noise,
    callback: Callback,
    variance: Literal["small", "large", "learned"] = "small",
) -> Tensor:
    """One network evaluation and one draw of noise a step, none on the last."""
    steps = [posterior(denoiser.path, t, s) for t, s in pairwise(grid)]
    for step, (t, s) in enumerate(pairwise(grid)):
        c, found = steps[step], denoiser(x, t)
        x = c.of_x * x + c.of_x0 * found.x0
        if s > 0 and variance == "learned":
            x = x + interpolated(found.extra, c.small, c.large).sqrt() * noise(x)
        elif s > 0:
            x = x + getattr(c, variance) ** 0.5 * noise(x)
        callback(step, s, x)
    return x
