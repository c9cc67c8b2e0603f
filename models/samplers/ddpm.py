"""Ancestral sampling (Ho et al. 2020, 2006.11239) on any Gaussian path.

x_s ~ N(mean of q(x_s | x_t, x̂_0), variance), with the variance `small`, that of the posterior, `large`,
which is right for data N(0, 1), or `learned`: between the two as the network says (Nichol & Dhariwal 2021,
2102.09672). The last step returns its mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from models.posterior import posterior
from models.samplers.tape import Tape, Vector


def ddpm(x: Vector, denoise: Tape, grid: Sequence[float], *, variance: str = "small") -> Iterator[Vector]:
    """One network evaluation and one draw of noise a step, none on the last."""
    for t, s in pairwise(grid):
        step, found = posterior(denoise.path, t, s), denoise(x, t)
        x = step.of_x * x + step.of_x0 * found.x0
        if s > 0 and variance == "learned":
            x = x + denoise.learned_noise(found, step.small, step.large)
        elif s > 0:
            x = x + getattr(step, variance) ** 0.5 * denoise.noise()
        yield x
