"""Checks that probabilities sum to one over every image of a small space, for models with random weights.

All 256 images of 2×2 pixels and four levels: an autoregressive model must give S = Σ_k P(k) = 1. A flow has
a density: that of two pixels is integrated over the cube by the trapezium rule in the logit, where it is
smooth, and its reported likelihoods of the 256 images, unbiased in u, sum to one up to their standard error.
Any slip of the offset multiplies S by 2^D.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from bench import registry
from bench.verify import Check, Finding
from bench.verify.networks import every_image, randomised
from models.base import ImageModel
from models.continuous_flow import FFJORD
from models.dequantised_flow import DequantisedFlow
from models.likelihood.probability_flow import Flow

GROUP = "Σ P over all images, exact families"
SHAPE, LEVELS = (1, 2, 2), 4

DISCRETE: dict[str, tuple[str, dict[str, Any]]] = {
    "transformer": ("transformer", {"width": 8, "depth": 1, "heads": 2}),
    "pixelcnn, softmax": ("pixelcnn", {"features": 4, "depth": 1, "radius": 1}),
    "pixelcnn, mixture": (
        "pixelcnn",
        {"features": 4, "depth": 1, "radius": 1, "likelihood": "mixture", "components": 3},
    ),
}
"""Families of exact probabilities, with small options."""

FLOWS: dict[str, tuple[str, dict[str, Any]]] = {
    "realnvp": ("realnvp", {"features": 4, "couplings": 2}),
    "glow": ("glow", {"features": 4, "steps": 2}),
    "spline-flow": ("spline-flow", {"features": 4, "couplings": 1, "bins": 4}),
    "tarflow": ("tarflow", {"patch": 1, "blocks": 2, "width": 8, "heads": 2}),
    "ffjord": ("ffjord", {"features": 4, "blocks": 1}),
}
"""Families of exact densities."""

STD = 0.2
END, STEP = 24.0, 0.1
"""The trapezium rule goes from −END to END in steps of STEP logits: splines have kinks in their slopes."""
COARSE = Flow("rk4", steps=6, divergence="exact")
"""How the field of a continuous flow is solved, and on four times the step, for it is smooth."""

DRAWS = 64


def checks() -> Iterator[Check]:
    """S of the discrete families; the integral of each density, and S of its likelihoods."""
    for label, (name, options) in DISCRETE.items():
        case = f"{label}, 2×2 pixels of {LEVELS} levels"
        yield Check(GROUP, case, functools.partial(_discrete, name, options))
    for label, (name, options) in FLOWS.items():
        case = f"{label}, density of two pixels"
        yield Check(GROUP, case, functools.partial(_integral, name, options))
        case = f"{label}, nll of 2×2 pixels of {LEVELS} levels"
        yield Check(GROUP, case, functools.partial(_reported, name, options))


def small(name: str, options: dict[str, Any], shape: tuple[int, int, int] = SHAPE, std: float = STD) -> Any:
    """A registered model with random weights of its precision."""

    def build() -> ImageModel:
        return registry.build(registry.import_path(name), options, shape, LEVELS)

    return randomised(build, std)


def _discrete(name: str, options: dict[str, Any]) -> Finding:
    model = small(name, options, std=0.5).double()
    nats = model.nll(every_image(SHAPE, LEVELS)).nats
    return Finding(1.0, float((-nats).exp().sum()), 1e-6)


@torch.no_grad()
def _integral(name: str, options: dict[str, Any]) -> Finding:
    """∫ p(y) dy = Σ p(y(x)) Π_d 2 s(x_d) s(−x_d) · STEP², y = 2s(x) − 1."""
    model: DequantisedFlow = small(name, options, (1, 1, 2)).double()
    solved = isinstance(model, FFJORD)
    step, how = (4 * STEP, ((), COARSE)) if solved else (STEP, ())
    axis, total = torch.arange(-END, END + step, step, dtype=torch.float64), 0.0
    for x in torch.cartesian_prod(axis, axis).view(-1, 1, 1, 2).split(60_000):
        slope = (2.0 * torch.sigmoid(x) * torch.sigmoid(-x)).flatten(1).prod(1)
        inside = slope > 1e-13
        log_p = model.log_density(2.0 * torch.sigmoid(x[inside]) - 1.0, *how)
        total += float((log_p.exp() * slope[inside]).sum())
    return Finding(1.0, total * step**2, 1e-4 if solved else 1e-6)


def _reported(name: str, options: dict[str, Any]) -> Finding:
    """E[exp(−nats)] = P(k) for one and for many u an image, so that S scatters about one."""
    model, images = small(name, options).double(), every_image(SHAPE, LEVELS)
    generator = torch.Generator().manual_seed(0)
    each, how = (1, {"solver": "rk4", "steps": 2, "divergence": "exact"}) if name == "ffjord" else (4, {})
    pixels = images.repeat(DRAWS // each, 1, 1, 1)
    found = model.nll(pixels, None, generator, dequantisation_samples=each, **how)
    return scattered(found.nats.view(DRAWS // each, -1))


def scattered(nats_RB: Tensor, relation: Any = "=") -> Finding:
    """S = Σ_k mean exp(−nats) over R rounds of all images, within 4.5 of its standard errors of one."""
    sums_R = (-nats_RB).exp().sum(1)
    error = float(sums_R.std()) / math.sqrt(len(sums_R))
    return Finding(1.0, float(sums_R.mean()), 4.5 * error, relation)
