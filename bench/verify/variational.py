"""Checks of the variational sum: Gaussian data, exact networks, every path and fixed variance.

The sum is a mean of quadratics in (x_0, ε), so the four combinations of x_0 = m ± √v and ε = ±1 give its
expectation exactly. The certain pixel: Ho et al. 2020 pay for what the network knows, by closed form.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from bench.verify import Check, Finding
from bench.verify.closed_form import (
    LEVELS,
    MEAN,
    VARIANCE,
    Chain,
    Level,
    certain_pixel_nats,
    classic_levels,
)
from bench.verify.networks import Always, classic_path, denoiser, entries
from models import grids, paths
from models.denoiser import Denoiser
from models.diffusion import DDPM
from models.gaussian_path import GaussianPath
from models.likelihood import continuous_bound, discretised_gaussian, variational_bound

LIMIT = "continuous-time bound of Gaussian data"
SUM, FLOOR = "variational sum of Gaussian data", "certain pixel of fixed variances"
KINDS = ("small", "large", "optimal")
STEPS = 50
GAMMA = (-6.0, 1.5)
"""Ends of −log SNR, the upper one so low that the prior is worth something."""

NODES = torch.tensor(list(itertools.product((-1.0, 1.0), (-1.0, 1.0))), dtype=torch.float64)
X_0 = (MEAN + math.sqrt(VARIANCE) * NODES[:, 0]).view(4, 1, 1, 1)
"""Data and, beside them, noise: two points each with the first three moments of their laws."""


def checks() -> Iterator[Check]:
    """The sum of each path by kind of variance, the classic schedule against its model, the certain pixel."""
    for name, kind in itertools.product(LEVELS, KINDS):
        yield Check(SUM, f"{name}, T={STEPS}, {kind}, nats/dim", functools.partial(_by_path, name, kind))
    for steps, kind in itertools.product((1000, 100), KINDS):
        case = f"linear β, T={steps}, {kind}, nats/dim"
        yield Check(SUM, case, functools.partial(_classic, steps, kind))
    yield Check(SUM, "linear β, T=1000, optimal, and the chain's own nats/dim", _against_likelihood)
    yield Check(LIMIT, "diffusion part, nats/dim", _continuous_diffusion)
    yield Check(LIMIT, "prior, nats/dim", _continuous_prior)
    for kind, inner in itertools.product(("small", "large"), (False, True)):
        where = "inner" if inner else "edge"
        yield Check(
            FLOOR, f"linear β, T=1000, {kind}, {where}, bits", functools.partial(_certain, kind, inner)
        )
        case = f"DDPM.nll, {kind}, {where}, bits/dim"
        yield Check(FLOOR, case, functools.partial(_certain_model, kind, inner))


def _by_path(name: str, kind: str) -> Finding:
    path = paths.path(name)
    times = grids.grid("shared", path, STEPS)
    truth = [LEVELS[name](t) for t in times[:-1]]
    return Finding(Chain([*truth, (1.0, 0.0)], kind).bound(), _sum(path, times, kind), 1e-8)


def _sum(path: GaussianPath, times: tuple[float, ...], kind: str) -> float:
    """E of the project's sum, with a density in place of levels: −ln N(x_0; mean, variance)."""
    chain = denoiser(entries(), path, "v")
    moments = (
        variational_bound.squared_error_moments(chain, X_0, times, _epsilon) if kind == "optimal" else None
    )
    variances = variational_bound.reverse_variances(path, times, kind, moments)  # type: ignore[arg-type]
    found = variational_bound.variational_bound(chain, X_0, times, variances, _density, _epsilon)
    return float(found.total.mean())


def _epsilon(x: Tensor) -> Tensor:
    return NODES[:, 1].view(4, 1, 1, 1)


def _density(mean: Tensor, variance: Tensor) -> Tensor:
    return 0.5 * ((X_0 - mean).square() / variance + (2.0 * math.pi * variance).log())


def _tabled(steps: int = 1000) -> tuple[list[Level], GaussianPath, tuple[float, ...]]:
    """The schedule of Ho et al. from noise to data, as a path, and its times."""
    levels = classic_levels(steps)
    return levels[::-1], classic_path(levels), tuple(i / steps for i in range(steps, -1, -1))


def _classic(steps: int, kind: str) -> Finding:
    """At 100 steps the prior alone is 0.1 nats, so that a part left out shows."""
    levels, path, times = _tabled(steps)
    return Finding(Chain(levels, kind).bound(), _sum(path, times, kind), 1e-8)


def _against_likelihood() -> Finding:
    """With optimal variances the bound costs 2·10⁻⁶ more than the likelihood of the chain it bounds."""
    levels, path, times = _tabled()
    return Finding(Chain(levels, "optimal").nats(), _sum(path, times, "optimal"), 1e-5)


def _continuous_diffusion() -> Finding:
    """½ ∫ E(ε − ε̂)² dγ from γ_0 to γ_1 is ½ ln (1 + v e^{−γ_0})/(1 + v e^{−γ_1}); by Gauss–Legendre in γ."""
    (start, end), cosine = GAMMA, paths.path("cosine")
    chain = denoiser(entries(), cosine, "v")
    nodes, weights = np.polynomial.legendre.leggauss(40)
    found, epsilon = 0.0, _epsilon(X_0)
    for node, weight in zip(nodes.tolist(), weights.tolist(), strict=True):
        gamma = torch.tensor(0.5 * (start + end) + 0.5 * (end - start) * node, dtype=torch.float64)
        z = continuous_bound.mixed(X_0, gamma, epsilon)
        error = epsilon - chain(z, float(cosine.t_of_log_snr(-gamma))).epsilon
        speed = torch.full((len(z),), end - start, dtype=torch.float64)
        found += 0.5 * weight * float(continuous_bound.diffusion_nats(error, speed).mean())
    wanted = 0.5 * math.log((1.0 + VARIANCE * math.exp(-start)) / (1.0 + VARIANCE * math.exp(-end)))
    return Finding(wanted, found, 1e-8)


def _continuous_prior() -> Finding:
    """E KL(N(αx_0, σ²) ‖ N(0, 1)) where a fifth of the signal is left."""
    kept = 1.0 / (1.0 + math.exp(GAMMA[1]))
    wanted = 0.5 * (kept * (MEAN**2 + VARIANCE) - kept - math.log1p(-kept))
    found = continuous_bound.prior_nats(X_0, torch.tensor(GAMMA[1], dtype=torch.float64))
    return Finding(wanted, float(found.mean()), 1e-10)


def _certain(kind: str, inner: bool) -> Finding:
    """A pixel of 256 levels on the classic schedule; `small` costs 0.510 bits at the edge, 1.305 inside."""
    levels, path, times = _tabled()
    pixels = torch.full((1, 1, 1, 1), 100 if inner else 0)
    x_0 = 2.0 * pixels.double() / 255 - 1.0
    found = variational_bound.variational_bound(
        _knowing(x_0, path),
        x_0,
        times,
        variational_bound.reverse_variances(path, times, kind),  # type: ignore[arg-type]
        lambda mean, spread: discretised_gaussian.discretised_gaussian_nats(pixels, mean, spread, 256),
        torch.zeros_like,
    )
    wanted = certain_pixel_nats(levels, kind, 1.0 / 255, inner)
    return Finding(wanted / math.log(2), float(found.total - found.prior) / math.log(2), 1e-8)


def _knowing(x_0: Tensor, path: GaussianPath) -> Denoiser:
    """The denoiser that knows the image."""
    return Denoiser(Always(x_0), path, "x0")


def _certain_model(kind: str, inner: bool) -> Finding:
    """The floor of a whole model on its own grid: four pixels of 17 levels, all known, prior included."""
    model = DDPM((1, 2, 2), 17, prediction="x0", path="cosine", timesteps=64)
    pixels = torch.full((1, 1, 2, 2), 5 if inner else 0, dtype=torch.uint8)
    x_0 = 2.0 * pixels.double() / 16 - 1.0
    model.network = Always(x_0)
    levels = [*(LEVELS["cosine"](t) for t in model.grid[:-1]), (1.0, 0.0)]
    alpha, sigma = levels[0]
    prior = 0.5 * (alpha / sigma) ** 2 * float(x_0.square().mean())
    wanted = certain_pixel_nats(levels, kind, 1.0 / 16, inner) + prior
    got = float(model.nll(pixels, None, torch.Generator().manual_seed(0), variance=kind).nats)
    return Finding(wanted / math.log(2), got / (4 * math.log(2)), 1e-6)
