"""A sampler's own error: on data whose exact denoiser is known, in float64, on the rectified-flow path.

    of a flow   r.m.s. distance, an entry, from the exact end of the probability flow of the same noise
    order       p of error ∝ steps^(−p) on steps of equal log-SNR, without the jump to 0
    of a law    the sliced Wasserstein distance of samples from the mixture

Shapes: n noises, d dimensions, M directions, S numbers of steps, G blocks.
Source of the sliced distance: Bonneel et al. 2015 (Sliced and Radon Wasserstein barycenters).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from bench.data.mixture import GaussianMixture, anisotropic
from bench.workbench import counted
from models.denoiser import Denoiser
from models.paths import path as path_named

NOISES, DRAWS = 256, 8192
"""Start noises of a sampler that follows the flow, and of one that samples a law."""

ORDER_STEPS, ORDER_END = (32, 64, 128, 256), 6.0
"""Steps of equal log-SNR between which the order is taken, and the log-SNR where they end."""

ROUNDING = 1e-9
"""Errors below it are the solver's and the arithmetic's: no order is read from them."""

BLOCKS, DIRECTIONS, RESAMPLES = 16, 8, 2000
"""Blocks of the jackknife, directions of the sliced distance, bootstrap samples."""

Numbers = np.ndarray


class Certified(Protocol):
    """What is certified: a sampler as `models.samplers` makes them."""

    def times(self, path: Any, shape: Sequence[int] | None = None) -> tuple[float, ...]:
        """Its grid."""
        ...

    def __call__(
        self,
        denoiser: Denoiser,
        x_T: Tensor,
        grid: Sequence[float],
        *,
        noise: Callable[[Tensor], Tensor] | None = None,
        callback: Callable[[int, float, Tensor], object] | None = None,
    ) -> Tensor:
        """From noise to data."""
        ...


Make = Callable[[int, str], Certified]
"""A number of steps and a grid to the sampler."""


def flow_errors(
    make: Make, ladder: Sequence[int], grid: str, shape: Sequence[int] | None
) -> dict[str, Numbers]:
    """Squared distance of each end from the exact one, mean over entries (S, n), and evaluations (S,)."""
    denoiser, squares, nfe = exact_denoiser(), [], []
    for steps in ladder:
        chosen = make(steps, grid)
        times = chosen.times(denoiser.path, shape)
        x_T = start(times[0], NOISES)
        with counted(denoiser.network) as evaluations:
            found = chosen(denoiser, x_T, times)
        squares.append(_squares(found, exact_end(times[0], 0.0)))
        nfe.append(evaluations.rows / NOISES)
    return {"squares": np.stack(squares), "nfe": np.asarray(nfe)}


def order_squares(make: Make) -> Numbers:
    """Squared distances (S, n) where steps of equal log-SNR end, before the jump to 0 that every grid has."""
    denoiser, squares = exact_denoiser(), []
    for steps in ORDER_STEPS:
        # One interval more than is measured: the last is the jump.
        chosen = make(steps + 1, f"log-snr end={ORDER_END:g}")
        times = chosen.times(denoiser.path)
        states: list[Tensor] = []

        def keep(_step: int, _s: float, x: Tensor, states: list[Tensor] = states) -> None:
            states.append(x)

        chosen(denoiser, start(times[0], NOISES), times, callback=keep)
        squares.append(_squares(states[-2], exact_end(times[0], times[-2])))
    return np.stack(squares)


def _squares(found: Tensor, wanted: Tensor) -> Numbers:
    squares: Numbers = (found - wanted).flatten(1).square().mean(1).numpy()
    return squares


def rms(squares_n: Numbers) -> tuple[float, float, float]:
    """Root of the mean, and its 95 % interval by bootstrap."""
    value = float(np.sqrt(squares_n.mean()))
    low, high = np.quantile(np.sqrt(squares_n[_resamples(len(squares_n))].mean(1)), [0.025, 0.975])
    return value, min(value, float(low)), max(value, float(high))


def order(squares_Sn: Numbers) -> tuple[float, float, float, int] | None:
    """Observed order between the two finest numbers of steps whose errors are above rounding.

    Returns p, its 95 % interval (both errors from the same resampled noises) and the index of the coarser;
    None where fewer than two errors are above rounding.
    """
    errors = np.sqrt(squares_Sn.mean(1))
    above = int((errors > ROUNDING).sum())
    if above < 2 or not (errors[:above] > ROUNDING).all():
        return None
    coarse, fine = squares_Sn[above - 2], squares_Sn[above - 1]
    steps = ORDER_STEPS[above - 2 : above]
    chosen = _resamples(len(coarse))
    scale = 0.5 / np.log(steps[1] / steps[0])
    low, high = np.quantile(scale * np.log(coarse[chosen].mean(1) / fine[chosen].mean(1)), [0.025, 0.975])
    return float(scale * np.log(coarse.mean() / fine.mean())), float(low), float(high), above - 2


def law_errors(
    make: Make, ladder: Sequence[int], grid: str, shape: Sequence[int] | None
) -> dict[str, Numbers]:
    """Squared sliced distance of all samples and of all but one block, (S, 1 + G), and evaluations (S,)."""
    denoiser, found, nfe = exact_denoiser(), [], []
    for steps in ladder:
        chosen = make(steps, grid)
        times = chosen.times(denoiser.path, shape)
        stream = torch.Generator().manual_seed(steps)

        def noise(x: Tensor, stream: torch.Generator = stream) -> Tensor:
            return torch.randn(x.shape, generator=stream, dtype=x.dtype)

        with counted(denoiser.network) as evaluations:
            samples = chosen(denoiser, start(times[0], DRAWS), times, noise=noise)
        found.append(with_blocks(samples))
        nfe.append(evaluations.rows / DRAWS)
    return {"law": np.stack(found), "nfe": np.asarray(nfe), "floor": law_floor()}


def sliced_square(x_nd: Numbers) -> float:
    """Squared sliced Wasserstein-2 distance between samples and the mixture.

    The mean over M directions of (1/n) Σ_i (x_(i) − F⁻¹((i − ½)/n))², with the exact F of the projected
    mixture; for d = 2 the directions are equally spaced over the half circle.
    """
    n = len(x_nd)
    directions, quantiles = _quantiles(n)
    projected = np.sort(x_nd @ directions.T, axis=0)
    return float(np.square(projected - quantiles).mean())


@functools.lru_cache(maxsize=4)
def _quantiles(n: int) -> tuple[Numbers, Numbers]:
    """Directions (M, d) and the quantiles of the mixture along each, (n, M)."""
    mixture = certified_mixture()
    angles = np.pi * (np.arange(DIRECTIONS) + 0.5) / DIRECTIONS
    directions = np.stack([np.cos(angles), np.sin(angles)], 1)
    levels = (np.arange(n) + 0.5) / n
    return directions, np.stack([_quantile(mixture, direction, levels) for direction in directions], 1)


def _quantile(mixture: GaussianMixture, direction: Numbers, levels: Numbers) -> Numbers:
    """F⁻¹ of a projection at ascending levels: read off a fine table of F."""
    from scipy.special import ndtr

    means = mixture.means.numpy() @ direction
    deviations = np.sqrt(direction @ mixture.covariances.numpy() @ direction)
    reach = 6.0 * deviations.max()
    table = np.linspace(means.min() - reach, means.max() + reach, 40001)
    below = ndtr((table[:, None] - means) / deviations) @ mixture.weights.numpy()
    return np.interp(levels, below, table)


def with_blocks(samples: Tensor) -> Numbers:
    """The squared distance of all samples, then without each of G blocks."""
    x_nd = samples.flatten(1).numpy()
    blocks = np.split(np.arange(len(x_nd)), BLOCKS)
    return np.asarray([sliced_square(x_nd), *(sliced_square(np.delete(x_nd, block, 0)) for block in blocks)])


@functools.cache
def law_floor() -> Numbers:
    """Squared distances of G sets of exact draws, as many as a sampler's."""
    generator = torch.Generator().manual_seed(0)
    draws = (certified_mixture().sample(DRAWS, generator).flatten(1).numpy() for _ in range(BLOCKS))
    return np.asarray([sliced_square(x) for x in draws])


def jackknifed(squares: Numbers) -> tuple[float, float, float]:
    """Root of the first number; its 95 % interval from those without each block, on the scale of squares."""
    whole, without = squares[0], squares[1:]
    G = len(without)
    error = np.sqrt((G - 1) / G * np.square(without - without.mean()).sum())
    width = 2.131 * error  # Student's t with 15 degrees of freedom
    low, high = max(0.0, whole - width), whole + width
    return float(np.sqrt(whole)), float(np.sqrt(low)), float(np.sqrt(high))


@functools.cache
def certified_mixture() -> GaussianMixture:
    """The mixture of all certificates."""
    return anisotropic()


@functools.cache
def exact_denoiser() -> Denoiser:
    """Its exact denoiser on the rectified-flow path, whose velocity is defined at all times below 1."""
    path = path_named("rectified-flow")
    return Denoiser(certified_mixture().network(path, "velocity"), path, "velocity")


def start(t: float, n: int) -> Tensor:
    """x_T of n fixed noises at the start of a grid, (n, 1, 1, d)."""
    z = torch.randn(
        n, 1, 1, certified_mixture().dims, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    return exact_denoiser().path.sigma(t) * z


@functools.lru_cache(maxsize=64)
def exact_end(t: float, s: float) -> Tensor:
    """Where the flow of the start noises at time t is at time s."""
    return certified_mixture().flow(start(t, NOISES), exact_denoiser().path, t, s)


@functools.cache
def _resamples(n: int) -> Numbers:
    """Rows of a bootstrap over n noises."""
    rows: Numbers = np.random.default_rng(0).integers(n, size=(RESAMPLES, n))
    return rows


def setting() -> str:
    """In words, for a protocol."""
    mixture = certified_mixture()
    K, d = mixture.means.shape
    size = float((mixture.covariance().diagonal() + mixture.mean().square()).mean().sqrt())
    return (
        f"mixture of {K} anisotropic Gaussians in {d} dimensions (r.m.s. {size:.2f} an entry), exact "
        "denoiser, rectified-flow path, float64"
    )
