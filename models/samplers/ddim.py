"""DDIM (Song et al. 2021, 2010.02502) on any Gaussian path.

    x_s = α_s x̂_0 + √(σ_s² − η²ṽ) ε̂ + η √ṽ z,    ṽ the posterior's variance

η = 0 is a first-order, exponential integrator of the probability flow; η = 1 is ancestral sampling.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from torch import Tensor

from models.denoiser import Denoiser
from models.posterior import posterior

if TYPE_CHECKING:
    from models.samplers import Callback, Noise


def ddim(
    denoiser: Denoiser,
    x: Tensor,
    grid: Sequence[float],
    *,
    noise: Noise,
    callback: Callback,
    eta: float = 0.0,
) -> Tensor:
    """One network evaluation a step; draws noise where η > 0, none on the last step."""
    path = denoiser.path
    spreads = [eta**2 * posterior(path, t, s).small for t, s in pairwise(grid)]
    for step, (t, s) in enumerate(pairwise(grid)):
        predicted = denoiser(x, t)
        kept = max(path.sigma(s) ** 2 - spreads[step], 0.0) ** 0.5
        x = path.alpha(s) * predicted.x0 + kept * predicted.epsilon if s > 0 else predicted.x0
        if spreads[step] > 0:
            x = x + spreads[step] ** 0.5 * noise(x)
        callback(step, s, x)
    return x
