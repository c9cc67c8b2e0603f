"""Neural spline flow: couplings that bend each dimension by a monotonic spline.

Shapes: C channels, H height, W width, K levels.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from models.dequantised_flow import DequantisedFlow
from models.networks.couplings import coupling_chain
from models.networks.splines import SplineCoupling
from models.unconditional import at_least_one


class SplineFlow(DequantisedFlow):
    """Couplings of alternating masks whose transform is a rational-quadratic spline of each dimension.

    Durkan et al. 2019 (1906.04032). A spline can follow the steps that dequantisation leaves between the
    levels, which one scale and one shift cannot. The inverse is as fast as the forward pass: the root of
    a quadratic.

    shape    (C, H, W)                        levels    K
    features of a coupling network            depth     residual blocks of a coupling network
    couplings of a scale and kind of mask     scales    1 + squeezes, fewer where H or W is odd
    bins     of a spline                      bound     splines bend [−bound, bound]; identity beyond
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
        couplings: int = 2,
        scales: int = 2,
        bins: int = 12,
        bound: float = 6.0,
        dropout: float = 0.1,
        dequantisation: str = "uniform",
        dequantiser: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(shape, levels)
        at_least_one(features=features, depth=depth, couplings=couplings, scales=scales, bins=bins)

        def coupling(mask_CHW: Tensor) -> SplineCoupling:
            return SplineCoupling(mask_CHW, bins, bound, features, depth, dropout)

        self.network = coupling_chain(self.coupled_shape(), scales, couplings, coupling)
        self.dequantise_by(dequantisation, dequantiser)
