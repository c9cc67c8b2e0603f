"""RealNVP: an invertible network from images to Gaussian noise, with the exact density of each.

Shapes: C channels, H height, W width, K levels.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from models.dequantised_flow import DequantisedFlow
from models.networks.couplings import AffineCoupling, coupling_chain
from models.unconditional import at_least_one


class RealNVP(DequantisedFlow):
    """Affine couplings of alternating masks: half of x scales and shifts the other half.

    Dinh et al. 2017 (1605.08803), without its batch normalisation and with every dimension going through
    all scales.

    shape    (C, H, W)                        levels    K
    features of a coupling network            depth     residual blocks of a coupling network
    couplings of a scale and kind of mask     scales    1 + squeezes, fewer where H or W is odd
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
        couplings: int = 4,
        scales: int = 2,
        dropout: float = 0.1,
        dequantisation: str = "uniform",
        dequantiser: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(shape, levels)
        at_least_one(features=features, depth=depth, couplings=couplings, scales=scales)

        def coupling(mask_CHW: Tensor) -> AffineCoupling:
            return AffineCoupling(mask_CHW, features, depth, dropout)

        self.network = coupling_chain(self.coupled_shape(), scales, couplings, coupling)
        self.dequantise_by(dequantisation, dequantiser)
