"""DDIM (Song et al. 2021, 2010.02502) on any Gaussian path, and Euler-ancestral sampling, which it is.

    x_s = α_s x̂_0 + √(σ_s² − η²ṽ) ε̂ + η √ṽ z,    ṽ the posterior's variance

η = 0 is Euler's method for dx̃/dσ̃ = ε̂ in x̃ = x/α and σ̃ = σ/α, so it is of first order and the same map on
every path; η = 1 is ancestral sampling. Seen in x̃, ṽ is the σ_up² of k-diffusion's Euler-ancestral.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from models.posterior import posterior
from models.samplers.tape import Tape, Vector


def ddim(x: Vector, denoise: Tape, grid: Sequence[float], *, eta: float = 0.0) -> Iterator[Vector]:
    """One network evaluation a step; draws noise where η > 0, none on the last step."""
    path = denoise.path
    for t, s in pairwise(grid):
        found = denoise(x, t)
        spread = eta**2 * posterior(path, t, s).small
        kept = max(path.sigma(s) ** 2 - spread, 0.0) ** 0.5
        x = path.alpha(s) * found.x0 + kept * found.epsilon
        if spread > 0:
            x = x + spread**0.5 * denoise.noise()
        yield x
