"""The sampler of EDM (Karras et al. 2022, 2206.00364, algorithm 2): Heun's method in σ̃ = σ/α, with churn.

    churn   σ̂ = (1 + γ) σ̃,  x̂ = x̃ + √(σ̂² − σ̃²) S_noise z,   γ = min(S_churn/N, √2 − 1) where S_min ≤ σ̃ ≤ S_max
    Heun    d = ε̂(x̂, σ̂),  x̃_s = x̂ + (σ̃_s − σ̂) d,  then the mean of d and ε̂(x̃_s, σ̃_s), not at σ̃_s = 0

x̃ = x/α, so the same numbers come out on every path.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

from models.samplers.tape import Tape, Vector


def edm(
    x: Vector,
    denoise: Tape,
    grid: Sequence[float],
    *,
    churn: float = 0.0,
    churn_min: float = 0.05,
    churn_max: float = 50.0,
    churn_noise: float = 1.0,
) -> Iterator[Vector]:
    """Two evaluations a step, one on the last: 2N − 1; stochastic where S_churn = `churn` is above 0."""
    path = denoise.path
    gamma = min(churn / (len(grid) - 1), math.sqrt(2.0) - 1.0)
    for t, s in pairwise(grid):
        scaled, sigma, sigma_s = (
            x / path.alpha(t),
            path.sigma(t) / path.alpha(t),
            path.sigma(s) / path.alpha(s),
        )
        if gamma > 0 and churn_min <= sigma <= churn_max:
            raised = (1.0 + gamma) * sigma
            scaled = scaled + math.sqrt(raised**2 - sigma**2) * churn_noise * denoise.noise()
            t, sigma = path.t_of_log_snr(-2.0 * math.log(raised)), raised
        scaled = denoise.keep(path.alpha(t) * scaled) / path.alpha(t)
        slope = denoise(path.alpha(t) * scaled, t).epsilon
        after = scaled + (sigma_s - sigma) * slope
        if s > 0:
            second = denoise(path.alpha(s) * after, s).epsilon
            after = scaled + 0.5 * (sigma_s - sigma) * (slope + second)
        x = path.alpha(s) * after
        yield x
