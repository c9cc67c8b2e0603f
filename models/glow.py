"""Glow: a multi-scale flow that learns how to permute the channels between its couplings.

Shapes: C channels, H height, W width, K levels.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from models.dequantised_flow import DequantisedFlow
from models.networks.couplings import (
    AffineCoupling,
    Chain,
    Elementwise,
    Shape,
    Squeeze,
    channelwise,
    checkerboard,
)
from models.networks.glow_steps import ActNorm, FactorOut, InvertibleConvolution
from models.unconditional import at_least_one


class Glow(DequantisedFlow):
    """Each scale: a squeeze, then steps of actnorm, invertible 1×1 convolution and affine coupling; half
    of the channels is factored out before the next scale.

    Kingma and Dhariwal 2018 (1807.03039), with the coupling networks of `RealNVP` and one more actnorm,
    with a scale and a shift an element, in front. An image that cannot be halved even once has one
    scale without a squeeze, and one of a single channel is coupled by checkerboard.

    shape    (C, H, W)                        levels    K
    features of a coupling network            depth     residual blocks of a coupling network
    steps    of a scale                       scales    squeezes, fewer where H or W turns odd
    dropout  while training
    dequantisation  `uniform` or `variational`  dequantiser  options of the latter: see `Dequantiser`
    """

    def __init__(
        self,
        shape: tuple[int, int, int] = (1, 8, 8),
        levels: int = 17,
        *,
        features: int = 32,
        depth: int = 1,
        steps: int = 6,
        scales: int = 2,
        dropout: float = 0.1,
        dequantisation: str = "uniform",
        dequantiser: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(shape, levels)
        at_least_one(features=features, depth=depth, steps=steps, scales=scales)
        inner = scale_of(self.coupled_shape(), scales, steps, (features, depth, dropout))
        self.network = Chain([ActNorm(self.coupled_shape()), *inner.layers], inner.z_shape)
        self.dequantise_by(dequantisation, dequantiser)


def scale_of(shape: Shape, scales: int, steps: int, network: tuple[int, int, float]) -> Chain:
    """The first of `scales` scales of an image (C, H, W), which holds the others.

    network  features, depth and dropout of the coupling networks
    """
    C, H, W = shape
    layers: list[nn.Module] = []
    halved = H % 2 == 0 and W % 2 == 0
    if halved:
        layers.append(Squeeze())
        C, H, W = shape = 4 * C, H // 2, W // 2
    for i in range(steps):
        mask_CHW = channelwise(shape, 0) if C > 1 else checkerboard(shape, i)
        layers += [ActNorm((C, 1, 1)), InvertibleConvolution(C), AffineCoupling(mask_CHW, *network)]
    if halved and scales > 1 and H % 2 == 0 and W % 2 == 0:
        rest = scale_of((C // 2, H, W), scales - 1, steps, network)
        layers.append(FactorOut(shape, rest, *network))
    else:
        layers.append(Elementwise(shape))
    return Chain(layers, shape)
