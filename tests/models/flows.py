"""Oracles and checks for flows: brute-force Jacobians, quadrature over the cube, inverses in float32.

Shapes: B batch, D dimensions of an image, K levels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from models.dequantised_flow import DequantisedFlow
from tests.models.digits import split

Model = TypeVar("Model", bound=nn.Module)

NODES = 5
"""Gauss-Legendre nodes of a panel."""


def slogdet(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """ln|det ∂f/∂x| of one image, from its whole D × D Jacobian."""
    jacobian = torch.func.jacrev(lambda v: function(v).flatten())(x).reshape(x.numel(), -1)
    return torch.linalg.slogdet(jacobian)[1].detach()


def brute_force_log_density(model: DequantisedFlow, y: Tensor) -> Tensor:
    """ln N(z) + slogdet of the map from cube to noise, the logit included, of one image (1, C, H, W)."""

    def to_noise(v: Tensor) -> Tensor:
        return model.network(torch.logit((v + 1) / 2))[0]

    normal = torch.distributions.Normal(0.0, 1.0).log_prob(to_noise(y)).sum()
    return normal.detach() + slogdet(to_noise, y)


def perturbed(model: Model, std: float, seed: int = 0) -> Model:
    """Every parameter moved from where it starts by normal noise: as far as training would move it."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += std * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def logits_of(model: DequantisedFlow, pixels: Tensor, seed: int = 0) -> Tensor:
    """x as the network gets it: the logit of dequantised pixels, float32."""
    noise = torch.rand(pixels.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.logit((model.dequantise(pixels, noise) + 1) / 2).float()


@torch.no_grad()
def bin_probabilities(model: DequantisedFlow, panel: float, end: float = 10.0) -> Tensor:
    """P(k) of all K² images of two pixels, in the order of `every_image`, by quadrature of the density.

    In x = logit((y + 1)/2), where the density has no poles, from −end to end, on panels no longer than
    `panel`.
    """
    x, step = _nodes(model.levels, panel, end)
    y = 2 * torch.sigmoid(torch.cartesian_prod(x, x)).view(-1, *model.shape) - 1
    area = torch.cartesian_prod(step, step).prod(1) * ((1 - y**2) / 2).flatten(1).prod(1)
    mass = model.log_density(y).exp() * area
    codes = model.quantise(y).flatten(1).long() @ torch.tensor([model.levels, 1])
    return torch.bincount(codes, weights=mass, minlength=model.levels**2)


def _nodes(levels: int, panel: float, end: float) -> tuple[Tensor, Tensor]:
    """Nodes and weights of the logits of a pixel, on panels that end at the edges of the bins."""
    inner = [math.log(k / (levels - k)) for k in range(1, levels)]
    ends = [-end]
    for edge in (*inner, end):
        pieces = math.ceil((edge - ends[-1]) / panel)
        ends += np.linspace(ends[-1], edge, pieces + 1)[1:].tolist()
    node, weight = np.polynomial.legendre.leggauss(NODES)
    low, high = np.array(ends[:-1])[:, None], np.array(ends[1:])[:, None]
    x, step = (high - low) / 2 * node + (high + low) / 2, (high - low) / 2 * weight
    return torch.from_numpy(x.ravel()), torch.from_numpy(step.ravel())


@torch.no_grad()
def check_float32_inverse(model: DequantisedFlow, *starts: Tensor) -> None:
    """To 1e-5 in the precision that samples are drawn in: of data and `starts`, and of noise to data."""
    x = logits_of(model, split()[1][:100])
    noise = torch.randn(100, *model.shape, generator=torch.Generator().manual_seed(1))
    assert float(x.abs().max()) > 6
    assert next(model.parameters()).dtype == torch.float32
    for start, inverse in ((x, False), (noise, True), *((start, False) for start in starts)):
        there, log_det = model.network(start, inverse=inverse)
        back, log_det_back = model.network(there, inverse=not inverse)
        torch.testing.assert_close(back, start, atol=1e-5, rtol=1e-6)
        torch.testing.assert_close(log_det_back, -log_det, atol=1e-4, rtol=1e-5)
        assert float((there - start).abs().max()) > 0.1


def check_reported_likelihood(model: DequantisedFlow, images: Tensor, p: Tensor, draws: int = 3000) -> None:
    """The reported likelihood of each image, averaged over many u, is the mass of its bin."""
    nats = model.nll(images.repeat(draws, 1, 1, 1), generator=torch.Generator().manual_seed(0)).nats
    likelihoods = (-nats).exp().view(draws, len(images))
    error = likelihoods.std(0) / math.sqrt(draws)
    assert bool(((likelihoods.mean(0) - p).abs() < 5 * error + 1e-3).all())
