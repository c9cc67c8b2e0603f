"""Checks of Hutchinson's estimate zᵀAz of a trace: its mean and its variance for both laws of z.

With S the symmetric part of A, Var zᵀAz = 2 Σ_{i≠j} S_ij² for signs and 2‖S‖²_F for normals (Avron and
Toledo 2011). A density by probes adds up along the solution: for Gaussian data of covariance Σ on the
straight path ∫J dt = −½ ln Σ, as the fixed z sees it.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from bench.verify import Check, Finding
from bench.verify.networks import denoiser, gaussian
from models import paths
from models.likelihood import divergence, probability_flow
from models.likelihood.probability_flow import Flow

GROUP = "divergence by probes"
LAWS = ("rademacher", "gaussian")
DIMS, PROBES, SOLUTIONS = 5, 200_000, 8_000


def checks() -> Iterator[Check]:
    """The exact trace, all sign vectors, probes as they are drawn, and whole densities."""
    yield Check(GROUP, "exact trace of a matrix", _exact)
    yield Check(GROUP, "mean over all sign vectors", functools.partial(_signs, False))
    yield Check(GROUP, "variance over all sign vectors", functools.partial(_signs, True))
    for law, spread in itertools.product(LAWS, (False, True)):
        what = "variance" if spread else "mean"
        case = f"{law}, {what} over {PROBES} probes"
        yield Check(GROUP, case, functools.partial(_drawn, law, spread))
    for law, spread in itertools.product(LAWS, (False, True)):
        what = "variance" if spread else "mean"
        case = f"full covariance, {law}, {what} of ln p over {SOLUTIONS} probes"
        yield Check(GROUP, case, functools.partial(_density, law, spread))


def _matrix() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(DIMS, DIMS, generator=generator, dtype=torch.float64)


def variance(matrix: Tensor, law: str) -> float:
    """Of zᵀAz for one z."""
    symmetric = 0.5 * (matrix + matrix.T)
    if law == "rademacher":
        symmetric = symmetric - symmetric.diag().diag()
    return 2.0 * float(symmetric.square().sum())


def _applied(estimate: Callable[[Tensor, Tensor], Tensor], rows: int) -> Tensor:
    """An estimate of the divergence of f(x) = Ax + x² at x = 0, which is tr A, in each row."""
    x = torch.zeros(rows, 1, 1, DIMS, dtype=torch.float64, requires_grad=True)
    with torch.enable_grad():
        return estimate(x @ _matrix().T + x.square(), x).detach()


def _exact() -> Finding:
    return Finding(float(_matrix().trace()), float(_applied(divergence.exact, 1)), 1e-12)


def _signs(spread: bool) -> Finding:
    """All 2^D vectors of signs are the law; each twice, so that the mean of two probes is that of one."""
    signs = list(itertools.product((-1.0, 1.0), repeat=DIMS))
    z = torch.tensor(signs, dtype=torch.float64).view(-1, 1, 1, DIMS)
    found = _applied(divergence.hutchinson([z, z]), len(z))
    if spread:
        return Finding(variance(_matrix(), "rademacher"), float(found.var(correction=0)), 1e-10)
    return Finding(float(_matrix().trace()), float(found.mean()), 1e-12)


def _drawn(law: str, spread: bool) -> Finding:
    like, generator = torch.empty(PROBES, 1, 1, DIMS, dtype=torch.float64), torch.Generator().manual_seed(1)
    found = _applied(divergence.hutchinson([divergence.PROBES[law](like, generator)]), PROBES)
    return _within_errors(found, float(_matrix().trace()), variance(_matrix(), law), spread)


def _within_errors(found: Tensor, mean: float, known: float, spread: bool) -> Finding:
    """Mean or variance of draws against the known ones, up to 4.5 standard errors of what was drawn."""
    if not spread:
        return Finding(mean, float(found.mean()), 4.5 * math.sqrt(known / len(found)))
    squares = (found - found.mean()).square()
    return Finding(known, float(squares.mean()), 4.5 * float(squares.std()) / math.sqrt(len(found)))


def _density(law: str, spread: bool) -> Finding:
    """One x and many z through rk4; the variance is that of zᵀ(−½ ln Σ)z."""
    axes, _ = torch.linalg.qr(_matrix())
    variances = torch.tensor([1.0, 0.6, 0.3, 0.15, 0.08], dtype=torch.float64)
    covariance = axes @ variances.diag() @ axes.T
    mean = torch.linspace(-0.3, 0.4, DIMS, dtype=torch.float64)
    x = torch.linspace(0.5, -0.5, DIMS, dtype=torch.float64).view(1, 1, 1, DIMS)
    chain = denoiser(gaussian(mean, covariance), paths.path("rectified-flow"), "velocity")
    flow = Flow("rk4", steps=24, law=law)
    generator = torch.Generator().manual_seed(2)
    found = probability_flow.flow_log_density(chain, x.expand(SOLUTIONS, 1, 1, DIMS), flow, generator)
    wanted = torch.distributions.MultivariateNormal(mean, covariance).log_prob(x.flatten())
    logarithm = -0.5 * axes @ variances.log().diag() @ axes.T
    return _within_errors(found, float(wanted), variance(logarithm, law), spread)
