"""The variational bound of a reverse chain on a Gaussian path, and the variances that make it tight.

For times t_0 > … > t_{T−1} > t_T = 0 and the chain p(x_{t_0}) Π p(x_s | x_t) p(k | x_{t_{T−1}}):

    −ln P(k) ≤ KL(q(x_{t_0} | x_0) ‖ N(0, σ(t_0)²))                     prior
             + Σ E KL(q(x_s | x_t, x_0) ‖ N(mean with x̂_0, σ_t²))        diffusion
             + E[−ln P(k | x_{t_{T−1}})]                                reconstruction

One draw of noise for each image and time, so the sum is unbiased for the bound. Ho et al. 2020
(2006.11239); the optimal variances follow Bao et al. 2022 (2201.06503), the learned ones Nichol & Dhariwal
2021 (2102.09672, eq. 15), see `reverse_variances`.

Shapes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from models.denoiser import Denoised, Denoiser
from models.learned_variance import interpolated
from models.paths import GaussianPath
from models.posterior import posterior

Variance = Literal["small", "large", "optimal", "learned"]
VARIANCES = ("small", "large", "optimal", "learned")

ReverseVariance = Tensor | Callable[[Denoised], Tensor]
"""Of one step: a number, one for each entry (C, H, W), or what the network said of it."""


@dataclass(frozen=True)
class Bound:
    """The three parts, each (B,) nats in float64; `diffusion_TB` has one row a reverse step."""

    prior: Tensor
    diffusion_TB: Tensor
    reconstruction: Tensor

    @property
    def diffusion(self) -> Tensor:
        """The sum over reverse steps."""
        return self.diffusion_TB.sum(0)

    @property
    def total(self) -> Tensor:
        """The bound on −ln P."""
        return self.prior + self.diffusion + self.reconstruction


def prior_nats(path: GaussianPath, start: float, x_0: Tensor) -> Tensor:
    """KL(q(x_start | x_0) ‖ N(0, σ(start)²)) = ½ Σ (α x_0/σ)², (B,)."""
    ratio = 0.5 * math.exp(path.log_snr(start))
    return ratio * x_0.double().square().flatten(1).sum(1)


def step_nats(
    path: GaussianPath, t: float, s: float, squared_error: Tensor, variance: Tensor | float
) -> Tensor:
    """KL of one reverse step, entry by entry, from (x_0 − x̂_0)² and the reverse variance; float64."""
    c = posterior(path, t, s)
    variance = torch.as_tensor(variance, dtype=torch.float64, device=squared_error.device)
    spread = c.small / variance
    return 0.5 * (spread - 1.0 - spread.log() + c.of_x0**2 * squared_error.double() / variance)


def floor_nats(
    path: GaussianPath, grid: Sequence[float], variances: Sequence[ReverseVariance], half: float, dims: int
) -> float:
    """What the sum says at least, of an image whose every pixel the network knows for certain; 0 if unknown.

    Σ ½(r − 1 − ln r), r = small/variance, over the steps, and −ln Φ(half/σ) for an outermost level, whose
    interval is open: variances that are not those of a certain pixel cost what no network can win back.

    half  half the distance of two levels in x_0;  dims  entries of an image
    """
    *steps, last = variances
    if any(callable(variance) for variance in variances):
        return 0.0
    total = 0.0
    for (t, s), variance in zip(pairwise(grid[:-1]), steps, strict=True):
        assert isinstance(variance, Tensor)
        spread = posterior(path, t, s).small / variance.double().cpu()
        total += float((0.5 * (spread - 1.0 - spread.log())).mean()) * dims
    assert isinstance(last, Tensor)
    inside = torch.special.log_ndtr(half / last.double().cpu().sqrt())
    return total - float(inside.mean()) * dims


def variance_limits(path: GaussianPath, grid: Sequence[float]) -> tuple[list[float], list[float]]:
    """`small` and `large` of each interval; at the last, where small would be 0, that of the one before."""
    steps = [posterior(path, t, s) for t, s in pairwise(grid)]
    small, large = [c.small for c in steps], [c.large for c in steps]
    small[-1] = steps[-2].small if len(steps) > 1 else steps[-1].large
    return small, large


def reverse_variances(
    path: GaussianPath, grid: Sequence[float], kind: Variance, moments: Tensor | None = None
) -> list[ReverseVariance]:
    """The reverse variance of each interval of the grid, the last being that of the decoder.

    small    of the posterior; at the last step, where that is 0, of the step before
    large    for data N(0, 1)
    optimal  small + c² E(x_0 − x̂_0)², c the weight of x_0 in the mean: given the network, no other
             variance that ignores x_t makes the reverse steps cheaper, and at the last step it is the spread
             of the data about the decoder's mean; `moments` (T, C, H, W) holds E(x_0 − x̂_0)²
    learned  between small and large, entry by entry, as the network says; see `models.learned_variance`
    """
    if kind not in VARIANCES:
        raise ValueError(f"The variance of a bound is {', '.join(VARIANCES)}, and not {kind!r}.")
    if kind == "optimal":
        steps = [posterior(path, t, s) for t, s in pairwise(grid)]
        if moments is None or len(moments) != len(steps):
            raise ValueError("Optimal variances need one fitted moment for each step: calibrate first.")
        return [c.small + c.of_x0**2 * m.double() for c, m in zip(steps, moments, strict=True)]
    small, large = variance_limits(path, grid)
    if kind == "learned":
        return [_learned(*limits) for limits in zip(small, large, strict=True)]
    return [torch.tensor(value, dtype=torch.float64) for value in (small if kind == "small" else large)]


def _learned(small: float, large: float) -> ReverseVariance:
    def variance(denoised: Denoised) -> Tensor:
        extra = denoised.extra
        return interpolated(None if extra is None else extra.double(), small, large)

    return variance


def predict(denoiser: Denoiser, x_0: Tensor, t: float, noise: Callable[[Tensor], Tensor]) -> Denoised:
    """What the network says of one fresh draw of x_t."""
    path = denoiser.path
    return denoiser(path.alpha(t) * x_0 + path.sigma(t) * noise(x_0), t)


def squared_error_moments(
    denoiser: Denoiser,
    x_0: Tensor,
    grid: Sequence[float],
    noise: Callable[[Tensor], Tensor],
    reach: float = math.inf,
) -> Tensor:
    """Mean (x_0 − x̂_0)² over a batch for each time but the last: (T, C, H, W) float64.

    reach  x_0 lies within ± this, and x̂_0 is clamped to it
    """
    found = (predict(denoiser, x_0, t, noise).x0.clamp(-reach, reach) for t in grid[:-1])
    return torch.stack([(x_0 - x_hat).double().square().mean(0) for x_hat in found])


def variational_bound(
    denoiser: Denoiser,
    x_0: Tensor,
    grid: Sequence[float],
    variances: Sequence[ReverseVariance],
    decoder: Callable[[Tensor, Tensor], Tensor],
    noise: Callable[[Tensor], Tensor],
    reach: float = math.inf,
) -> Bound:
    """The bound of each image; `decoder(mean, variance)` gives −ln P of the data entry by entry.

    reach  x_0 lies within ± this, and x̂_0 is clamped to it
    """
    if len(variances) != len(grid) - 1:
        raise ValueError(f"A grid of {len(grid) - 1} steps needs as many variances, not {len(variances)}.")
    path, rows = denoiser.path, []
    for (t, s), reverse in zip(pairwise(grid), variances, strict=True):
        found = predict(denoiser, x_0, t, noise)
        variance, x_hat = reverse(found) if callable(reverse) else reverse, found.x0.clamp(-reach, reach)
        if s > 0:
            nats = step_nats(path, t, s, (x_0 - x_hat).double().square(), variance)
        else:
            nats = decoder(x_hat, variance)
        rows.append(nats.flatten(1).sum(1))
    empty = x_0.new_zeros((0, len(x_0)), dtype=torch.float64)
    steps_TB = torch.stack(rows[:-1]) if len(rows) > 1 else empty
    return Bound(prior_nats(path, grid[0], x_0), steps_TB, rows[-1])
