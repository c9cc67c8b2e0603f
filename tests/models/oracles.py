"""Networks that know the truth: the exact prediction for Gaussian data on any path, in closed form."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from models.denoiser import Denoiser, combination
from models.paths import GaussianPath

MEAN, VARIANCE = 0.3, 0.25


class GaussianOracle(nn.Module):
    """For x_0 ~ N(m, Σ): E[x_0 | x] = m + αΣr, E[ε | x] = σr, r = (α²Σ + σ²I)⁻¹(x − αm)."""

    def __init__(self, path: GaussianPath, kind: str, mean: Tensor, covariance: Tensor) -> None:
        super().__init__()
        self.path, self.kind, self.mean = path, kind, mean
        self.eigenvalues, self.axes = torch.linalg.eigh(covariance)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        time = t.view(-1, 1)
        alpha, sigma = self.path.alpha(time), self.path.sigma(time)
        centred = (x.flatten(1) - alpha * self.mean) @ self.axes
        r = centred / (alpha**2 * self.eigenvalues + sigma**2)
        x_0 = self.mean + (alpha * self.eigenvalues * r) @ self.axes.T
        epsilon = (sigma * r) @ self.axes.T
        p, q = combination(self.kind, self.path, time)
        return (p * x_0 + q * epsilon).view(x.shape)

    def flow(self, x: Tensor, t: float, s: float) -> Tensor:
        """The probability flow's exact map from time t to s: whiten at t, colour at s."""

        def deviation(time: float) -> Tensor:
            return (self.path.alpha(time) ** 2 * self.eigenvalues + self.path.sigma(time) ** 2).sqrt()

        white = (x.flatten(1) - self.path.alpha(t) * self.mean) @ self.axes / deviation(t)
        return (self.path.alpha(s) * self.mean + (white * deviation(s)) @ self.axes.T).view(x.shape)


def isotropic(
    path: GaussianPath, kind: str = "v", mean: float = MEAN, variance: float = VARIANCE, dims: int = 4
) -> GaussianOracle:
    """Independent entries N(mean, variance), float64."""
    eye = torch.eye(dims, dtype=torch.float64)
    return GaussianOracle(path, kind, torch.full((dims,), mean, dtype=torch.float64), variance * eye)


def denoiser(oracle: GaussianOracle) -> Denoiser:
    """The oracle as a denoiser."""
    return Denoiser(oracle, oracle.path, oracle.kind)


def normal_like(seed: int) -> Callable[[Tensor], Tensor]:
    """A seeded source of noise for a sampler."""
    generator = torch.Generator().manual_seed(seed)
    return lambda x: torch.randn(x.shape, generator=generator, dtype=x.dtype)


def latents(n: int, dims: int, sigma: float, seed: int = 0) -> Tensor:
    """Draws of the prior, (n, 1, 1, dims) float64."""
    return sigma * normal_like(seed)(torch.empty(n, 1, 1, dims, dtype=torch.float64))
