"""Checks of the probability-flow density: Gaussian data by solver and evaluations, float32, a mixture.

Independent entries N(0.3, 0.25): at the two points m ± √v the mean of −ln p̂ is its expectation, because it
is a quadratic. Coarse solvers must miss by exactly what they are known to miss by.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from bench.data.mixture import anisotropic
from bench.verify import Check, Finding
from bench.verify.closed_form import LEVELS, MEAN, VARIANCE, coarse_flow_nats, flow_nats, marginal
from bench.verify.networks import denoiser, entries
from models import flow_matching, paths
from models.likelihood import probability_flow
from models.likelihood.probability_flow import Flow

GAUSSIAN, MIXTURE = "probability flow of Gaussian data", "probability flow of a mixture"
POINTS = (MEAN - math.sqrt(VARIANCE), MEAN + math.sqrt(VARIANCE))
NFE = 64
EVALUATIONS = {"euler": 1, "midpoint": 2, "heun": 2, "rk4": 4}
"""Of a step."""

DIMS = 2
STARTS = {"linear-vp": 1e-3, "rectified-flow": 0.1}
"""Times after 0 at which a density may begin: where this path's velocity is still finite, and far from 0."""


def checks() -> Iterator[Check]:
    """Solvers at 64 evaluations, paths by adaptive solver, a later start, float32; then the mixture."""
    for solver in EVALUATIONS:
        case = f"{solver}, {NFE} evaluations, its own error included, nats/dim"
        yield Check(GAUSSIAN, case, functools.partial(_coarse, solver))
    fine = Flow("rk4", steps=NFE // 4, divergence="exact")
    yield Check(
        GAUSSIAN, f"rk4, {NFE} evaluations, nats/dim", functools.partial(_by_path, "rectified-flow", fine)
    )
    for name in ("rectified-flow", "cosine", "edm"):
        flow = Flow("dopri5", 1e-6, 1e-6, divergence="exact")
        case = f"{name}, dopri5 at 1e-6, nats/dim"
        yield Check(GAUSSIAN, case, functools.partial(_by_path, name, flow))
    for name, start in STARTS.items():
        case = f"{name} from t={start:g}, dopri5 at 1e-6, nats/dim"
        yield Check(GAUSSIAN, case, functools.partial(_later, name, start))
    for flow in (fine, Flow("dopri5", 1e-5, 1e-5, divergence="exact")):
        case = f"{flow.solver}, float32, nats/dim"
        yield Check(GAUSSIAN, case, functools.partial(_by_path, "rectified-flow", flow, torch.float32))
    for name, worst in itertools.product(("rectified-flow", "cosine"), (False, True)):
        case = f"{name}, dopri5 at 1e-7, {'worst of 256 points' if worst else 'mean'}, nats/dim"
        yield Check(MIXTURE, case, functools.partial(_mixture, name, worst))


def _points(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(POINTS, dtype=dtype).view(2, 1, 1, 1).expand(2, 1, 1, DIMS)


def _coarse(solver: str) -> Finding:
    steps = NFE // EVALUATIONS[solver]
    flow = Flow(solver, steps=steps, divergence="exact")
    got = _nats(paths.path("rectified-flow"), flow, torch.float64)
    return Finding(coarse_flow_nats(solver, steps), got, 1e-9)


def _nats(path: paths.GaussianPath, flow: Flow, dtype: torch.dtype) -> float:
    """E[−ln p̂] of an entry."""
    chain = denoiser(entries(DIMS), path, "velocity")
    return -float(probability_flow.flow_log_density(chain, _points(dtype), flow).mean()) / DIMS


def _by_path(name: str, flow: Flow, dtype: torch.dtype = torch.float64) -> Finding:
    wanted = sum(flow_nats(LEVELS[name], x) for x in POINTS) / len(POINTS)
    tolerance = 1e-3 if dtype == torch.float32 else 1e-5
    return Finding(wanted, _nats(paths.path(name), flow, dtype), tolerance)


def _later(name: str, start: float) -> Finding:
    """The density at a later time, of N(αm, c_t), whose flow to t = 1 is exact too."""
    level, path = LEVELS[name], paths.path(name)
    (alpha, _), c, end = level(start), marginal(level(start)), level(1.0)
    scale = math.sqrt(marginal(end) / c)
    points = [alpha * MEAN + side * math.sqrt(c) for side in (-1.0, 1.0)]
    wanted = 0.0
    for point in points:
        x_1 = end[0] * MEAN + scale * (point - alpha * MEAN)
        wanted += 0.5 * (0.5 * (x_1 / end[1]) ** 2 + math.log(end[1] * math.sqrt(2.0 * math.pi) / scale))
    x = torch.tensor(points, dtype=torch.float64).view(2, 1, 1, 1)
    flow = Flow("dopri5", 1e-6, 1e-6, divergence="exact")
    chain = denoiser(entries(), path, "velocity")
    got = -float(flow_matching.log_density(chain, x, flow, None, start).mean())
    return Finding(wanted, got, 1e-5)


def _mixture(name: str, worst: bool) -> Finding:
    """Four tilted Gaussians in the plane against ln Σ_k w_k N(x; m_k, Σ_k) by torch.distributions."""
    law, path = anisotropic(), paths.path(name)
    x = law.sample(256, torch.Generator().manual_seed(0))
    flow = Flow("dopri5", 1e-7, 1e-7, divergence="exact")
    got = probability_flow.flow_log_density(denoiser(law, path, "velocity"), x, flow)
    parts = torch.distributions.MultivariateNormal(law.means, law.covariances)
    weights = torch.distributions.Categorical(law.weights)
    wanted = torch.distributions.MixtureSameFamily(weights, parts).log_prob(x.flatten(1))
    if worst:
        return Finding(0.0, float((got - wanted).abs().max()) / law.dims, 1e-4)
    return Finding(-float(wanted.mean()) / law.dims, -float(got.mean()) / law.dims, 1e-5)
