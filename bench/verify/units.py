"""Checks of units: what is uniform costs log₂ K bits in every convention, and laws over levels sum to one.

A level k that takes the place of y = s(k + u) + b, u uniform, has −ln P(k) = −ln p(y) − ln s: the offset
follows from s, whatever the range of y. A density that is uniform on that range says ln K for every k.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.metrics import bits
from bench.verify import Check, Finding
from bench.verify.closed_form import MEAN, VARIANCE
from bench.verify.networks import Probit, entries
from models import discretised_logistic
from models.dequantised_flow import DequantisedFlow
from models.diffusion import DDPM
from models.flow_matching import FlowMatching
from models.likelihood import continuous_bound, discretised_gaussian

UNIFORM, LAWS = "units", "laws over levels"
LEVELS = (2, 17, 256)
RANGES = {"2/K": (-1.0, 1.0), "1/K": (0.0, 1.0)}
"""Conventions of s by name, and the range of y in each."""

SHAPE, IMAGES = (1, 2, 2), 4000
TINY: dict[str, Any] = {"network": "dit", "patch": 1, "width": 8, "depth": 1, "heads": 1}


def checks() -> Iterator[Check]:
    """Uniform densities, the offset of a flow's estimate, and sums over the levels of a pixel."""
    for K, scale in itertools.product(LEVELS, RANGES):
        case = f"uniform density, {K} levels, s={scale}, bits/dim"
        yield Check(UNIFORM, case, functools.partial(_convention, K, scale))
    for K in LEVELS:
        case = f"uniform density by a flow's nll, {K} levels, bits/dim"
        yield Check(UNIFORM, case, functools.partial(_uniform_flow, K))
    for K in (17, 256):
        case = f"normal density by a probability flow's nll, {K} levels, bits/dim"
        yield Check(UNIFORM, case, functools.partial(_normal_flow, K))
    yield Check(
        UNIFORM, "the same, four draws in the logarithm, 256 levels", functools.partial(_normal_flow, 256, 4)
    )
    for share in (0.6, 4.0):
        case = f"normal density by truncated-normal dequantisation, σ/α={share:g}/16, bits/dim"
        yield Check(UNIFORM, case, functools.partial(_truncated_normal, share))
    for K, law in itertools.product((2, 4, 17, 256), ("gaussian", "logistic")):
        case = f"discretised {law}, {K} levels, Σ P"
        yield Check(LAWS, case, functools.partial(_sum_over_levels, K, law))
    yield Check(LAWS, "softmax of places, 17 levels, Σ P", _sum_of_places)
    yield Check(LAWS, "discretised gaussian, 17 levels, nats of each", _interval_masses)


def in_bits(nats: Tensor | np.ndarray, dims: int) -> float:
    """Bits per dimension of nats an image, as the records are made."""
    return bits.bits_per_dimension(np.asarray(nats, np.float64), dims)[0]


def _convention(levels: int, scale: str) -> Finding:
    """−ln p − D ln s of a constant density, through the conversion that the records go through."""
    low, high = RANGES[scale]
    s, dims = (high - low) / levels, 12
    nats = dims * (math.log(high - low) - math.log(s))
    return Finding(math.log2(levels), in_bits(np.full(5, nats), dims), 1e-12)


class _UniformFlow(DequantisedFlow):
    """Uniform on the cube, because its bijection undoes the logit."""

    def __init__(self, levels: int) -> None:
        super().__init__(SHAPE, levels)
        self.network = Probit()


def _uniform_flow(levels: int) -> Finding:
    """Offset and logarithm of the logit's slope, with four dequantisation samples."""
    model, generator = _UniformFlow(levels), torch.Generator().manual_seed(0)
    pixels = torch.randint(levels, (64, *SHAPE), generator=generator, dtype=torch.uint8)
    found = model.nll(pixels, None, generator, dequantisation_samples=4)
    return Finding(math.log2(levels), in_bits(found.nats, model.dims), 1e-9)


def _normal_flow(levels: int, inside: int = 1) -> Finding:
    """Every level once, y with bin centre c and width s: E_u[−ln N(y; m, v)] − ln s, known in closed form.

    More draws inside the logarithm change next to nothing where bins are as narrow as those of 256 levels.
    """
    model, s = FlowMatching(SHAPE, levels, **TINY), 2.0 / levels
    model.network = entries(model.dims).network(model.path, "velocity")
    model.network.register_parameter("nothing", torch.nn.Parameter(torch.zeros(())))
    pixels = (torch.arange(IMAGES * model.dims) % levels).view(-1, *SHAPE).to(torch.uint8)
    centre = (pixels.double() + 0.5) * s - 1.0
    quadratic = ((centre - MEAN).square() + s * s / 12.0) / VARIANCE
    wanted = 0.5 * (quadratic + math.log(2.0 * math.pi * VARIANCE)) - math.log(s)
    generator = torch.Generator().manual_seed(0)
    how: dict[str, Any] = {"solver": "rk4", "steps": 24, "divergence": "exact", "importance_samples": inside}
    found = model.nll(pixels, None, generator, **how).nats
    error = float((found - wanted.flatten(1).sum(1)).std()) / (math.sqrt(IMAGES) * model.dims * math.log(2))
    return Finding(float(wanted.mean()) / math.log(2), in_bits(found, model.dims), 4.5 * error + 1e-5)


def _truncated_normal(share: float) -> Finding:
    """x = α(x_k + hw), w normal of deviation r = σ/(αh) cut at ±1: its second moment and entropy are known.

    E ln q = −½ E w²/r² − ln(r√(2π) Z), E w² = r²(1 − 2 φ(1/r)/(r Z)), Z = erf(1/(r√2)); p is N(αm, α²v + σ²).
    """
    levels, half = 17, 1.0 / 16
    model = DDPM(SHAPE, levels, path="cosine", **TINY)
    model.network = entries(model.dims).network(model.path, model.prediction)
    model.network.register_parameter("nothing", torch.nn.Parameter(torch.zeros(())))
    pixels = (torch.arange(IMAGES * model.dims) % levels).view(-1, *SHAPE).to(torch.uint8)
    noise = share * half
    alpha, sigma = 1.0 / math.sqrt(1.0 + noise**2), noise / math.sqrt(1.0 + noise**2)
    mass = math.erf(1.0 / (share * math.sqrt(2.0)))
    density = math.exp(-0.5 / share**2) / math.sqrt(2.0 * math.pi)
    second = share**2 * (1.0 - 2.0 * density / (share * mass))
    log_q = -0.5 * second / share**2 - math.log(share * math.sqrt(2.0 * math.pi) * mass)
    spread = alpha**2 * VARIANCE + sigma**2
    places = 2.0 * pixels.double() / (levels - 1) - 1.0
    quadratic = alpha**2 * ((places - MEAN).square() + half**2 * second) / spread
    wanted = 0.5 * (quadratic + math.log(2.0 * math.pi * spread)) + log_q - math.log(alpha * half)
    how: dict[str, Any] = {"solver": "rk4", "steps": 32, "dequantisation": "truncated-normal", "start": share}
    found = model.nll(pixels, None, torch.Generator().manual_seed(0), "ode", **how).nats
    error = float((found - wanted.flatten(1).sum(1)).std()) / (math.sqrt(IMAGES) * model.dims * math.log(2))
    return Finding(float(wanted.mean()) / math.log(2), in_bits(found, model.dims), 4.5 * error + 1e-4)


def _sum_over_levels(levels: int, law: str) -> Finding:
    """Narrow and wide, inside the range and outside: the worst of 15 sums."""
    k = torch.arange(levels)
    mean, width = (
        part[:, None].double()
        for part in torch.cartesian_prod(
            torch.tensor([-1.3, -0.4, 0.0, 0.37, 1.0]), torch.tensor([0.01, 0.1, 1.0])
        ).T
    )
    if law == "gaussian":
        nats = discretised_gaussian.discretised_gaussian_nats(k, mean, width.square(), levels)
    else:
        nats = -discretised_logistic.DiscretisedLogistic(mean, width.log(), levels).log_prob(k)
    sums = (-nats).exp().sum(-1)
    return Finding(1.0, float(sums[(sums - 1.0).abs().argmax()]), 1e-9)


def _sum_of_places() -> Finding:
    """The decoder of the bound in continuous time, from a z between two levels that noise still blurs."""
    k = torch.arange(17).view(-1, 1, 1, 1)
    z, gamma = torch.full(k.shape, 0.21, dtype=torch.float64), torch.tensor(-4.0, dtype=torch.float64)
    nats = continuous_bound.reconstruction_nats(k, z, gamma, 17)
    return Finding(1.0, float((-nats).exp().sum()), 1e-9)


def _interval_masses() -> Finding:
    """Against Φ of the ends x_k ± 1/(K−1), the outer two open, by `math.erf`: the worst level."""
    mean, deviation, levels = 0.1, 0.3, 17
    masses = []
    for k in range(levels):
        ends = [(2.0 * k + side) / (levels - 1) - 1.0 for side in (-1, 1)]
        below, above = (0.5 * (1.0 + math.erf((end - mean) / (deviation * math.sqrt(2.0)))) for end in ends)
        masses.append((1.0 if k == levels - 1 else above) - (0.0 if k == 0 else below))
    place, variance = (torch.tensor(value, dtype=torch.float64) for value in (mean, deviation**2))
    got = discretised_gaussian.discretised_gaussian_nats(torch.arange(levels), place, variance, levels)
    off = [abs(-math.log(mass) - float(nats)) for mass, nats in zip(masses, got, strict=True)]
    return Finding(0.0, max(off), 1e-9)
