"""Networks that know the truth, and small models with random weights.

Shapes: B batch, C channels, H height, W width, K levels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from bench.data.mixture import GaussianMixture
from bench.verify.closed_form import MEAN, VARIANCE, Level
from models.denoiser import Denoiser, combination
from models.gaussian_path import GaussianPath

Model = TypeVar("Model", bound=nn.Module)


def gaussian(mean: Tensor, covariance: Tensor) -> GaussianMixture:
    """N(m, Σ) as a mixture of one, whose network is exact on every path."""
    return GaussianMixture(torch.ones(1), mean[None], covariance[None])


def entries(dims: int = 1) -> GaussianMixture:
    """Independent entries N(0.3, 0.25)."""
    eye = torch.eye(dims, dtype=torch.float64)
    return gaussian(torch.full((dims,), MEAN, dtype=torch.float64), VARIANCE * eye)


def denoiser(law: GaussianMixture, path: GaussianPath, prediction: str) -> Denoiser:
    """The exact network of a law as a denoiser."""
    return Denoiser(law.network(path, prediction), path, prediction)


def classic_path(levels: list[Level]) -> GaussianPath:
    """A discrete schedule as a path that can be asked at t = i/T, where nothing is interpolated."""
    return _Tabled(tuple(levels))


class _Tabled(GaussianPath):
    """α and σ from a table of T + 1 times."""

    def __init__(self, levels: tuple[Level, ...]) -> None:
        object.__setattr__(self, "levels", levels)

    def _at(self, t: float | Tensor) -> tuple[float, float]:
        first = float(t.flatten()[0]) if isinstance(t, Tensor) else t
        levels: tuple[Level, ...] = self.levels  # type: ignore[attr-defined]
        return levels[round(first * (len(levels) - 1))]

    def alpha(self, t):  # type: ignore[no-untyped-def]
        """α, as a tensor where the time is one."""
        return self._at(t)[0] + 0.0 * t

    def sigma(self, t):  # type: ignore[no-untyped-def]
        """σ."""
        return self._at(t)[1] + 0.0 * t

    def log_snr(self, t):  # type: ignore[no-untyped-def]
        """2 ln(α/σ)."""
        alpha, sigma = self._at(t)
        return (2.0 * math.log(alpha / sigma) if sigma else math.inf) + 0.0 * t

    def alpha_dot(self, t):  # type: ignore[no-untyped-def]
        """A table has no derivative."""
        raise NotImplementedError

    sigma_dot = t_of_log_snr = alpha_dot


class Always(nn.Module):
    """A network that says x_0 is a given image, whatever it sees."""

    def __init__(self, x_0: Tensor) -> None:
        super().__init__()
        self.x_0 = nn.Parameter(x_0, requires_grad=False)

    def forward(self, x: Tensor, _t: Tensor) -> Tensor:
        """x̂_0 in the shape of x."""
        return self.x_0.to(x).expand_as(x)


class UniformLevels(nn.Module):
    """The exact prediction of independent pixels whose K levels are equally likely.

    E[x_0 | x_t] = Σ_k x_k softmax_k(−½((x_t − αx_k)/σ)²), x_k = 2k/(K−1) − 1.
    """

    def __init__(self, path: Callable[[], GaussianPath], prediction: str, levels: int) -> None:
        super().__init__()
        self.path, self.prediction = path, prediction
        self.places_K = torch.linspace(-1.0, 1.0, levels)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """The prediction in the shape of x."""
        path = self.path()
        alpha, sigma = (part(t).view(-1, 1, 1, 1) for part in (path.alpha, path.sigma))
        places_K = self.places_K.to(x)
        distance = (x - alpha * places_K.view(-1, 1, 1, 1, 1)) / sigma
        x_0 = (places_K.view(-1, 1, 1, 1, 1) * (-0.5 * distance.square()).softmax(0)).sum(0)
        p, q = combination(self.prediction, path, t.view(-1, 1, 1, 1))
        return p * x_0 + q * (x - alpha * x_0) / sigma


class Probit(nn.Module):
    """z = Φ⁻¹(s(x)), s the logistic function: what is uniform before the logit is normal after it."""

    def __init__(self) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """z and ln|det ∂z/∂x| = Σ ln s(x)s(−x) − ln φ(z)."""
        # In the lower half, where Φ⁻¹ keeps its accuracy.
        z = torch.where(x > 0, -torch.special.ndtri(torch.sigmoid(-x)), torch.special.ndtri(torch.sigmoid(x)))
        slope = nn.functional.logsigmoid(x) + nn.functional.logsigmoid(-x)
        return z, (slope + 0.5 * z.square() + 0.5 * math.log(2.0 * math.pi)).flatten(1).sum(1)


def every_image(shape: tuple[int, int, int], levels: int) -> Tensor:
    """All K^D images, uint8 (K^D, C, H, W)."""
    axes = [torch.arange(levels, dtype=torch.uint8)] * math.prod(shape)
    return torch.cartesian_prod(*axes).view(-1, *shape)


def randomised(build: Callable[[], Model], std: float, seed: int = 0) -> Model:
    """A model with normal weights throughout, ready to evaluate; the global generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build()
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=std, generator=generator)
    return model.eval()
