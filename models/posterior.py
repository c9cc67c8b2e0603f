"""The posterior q(x_s | x_t, x_0) of a Gaussian path, s < t: what a reverse step imitates.

With a = α_t/α_s and σ²_{t|s} = σ_t² − a²σ_s² = σ_t² (1 − e^{λ_t − λ_s}):

    mean      (a σ_s²/σ_t²) x_t + (α_s σ²_{t|s}/σ_t²) x_0
    variance  σ_s² σ²_{t|s}/σ_t²

DDPM (Ho et al. 2020, 2006.11239) and VDM (Kingma et al. 2021) write the variance-preserving case.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from models.paths import GaussianPath


@dataclass(frozen=True)
class Posterior:
    """Coefficients of one reverse step from t to s, float64.

    of_x, of_x0  mean = of_x·x_t + of_x0·x_0
    small        the posterior's variance: right where x_0 is known; 0 at s = 0
    large        the reverse variance for data N(0, 1); β_t where α² + σ² = 1
    """

    of_x: float
    of_x0: float
    small: float
    large: float


def posterior(path: GaussianPath, t: float, s: float) -> Posterior:
    """The coefficients for 0 ≤ s < t on a path, free of cancellation."""
    if not 0.0 <= s < t:
        raise ValueError(f"A reverse step goes down to s ≥ 0, and not from t = {t} to s = {s}.")
    alpha_t, alpha_s = path.alpha(t), path.alpha(s)
    sigma_t, sigma_s = path.sigma(t), path.sigma(s)
    kept = math.exp(path.log_snr(t) - path.log_snr(s)) if s > 0 else 0.0
    lost = -math.expm1(path.log_snr(t) - path.log_snr(s)) if s > 0 else 1.0
    scale = (alpha_s**2 + sigma_s**2) / (alpha_t**2 + sigma_t**2)
    return Posterior(
        of_x=kept * alpha_s / alpha_t,
        of_x0=alpha_s * lost,
        small=sigma_s**2 * lost,
        large=sigma_t**2 * lost * scale,
    )
