"""RealNVP: an invertible network from images to Gaussian noise, with the exact density of each.

Shapes: B batch, C channels, H height, W width, D = C·H·W, K levels, M dequantisation samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from models.base import Likelihood
from models.networks.couplings import AffineCoupling, Elementwise, Squeeze, channelwise, checkerboard
from models.unconditional import UnconditionalModel, at_least_one

if TYPE_CHECKING:
    from models.samplers import Sampler
    from models.seeds import Seeds

Mask = Callable[[tuple[int, int, int], int], Tensor]


class RealNVP(UnconditionalModel):
    """ln p(y) = ln N(f(y); 0, I) + ln|det ∂f/∂y|, y the dequantised image (Dinh et al. 2017).

    y = 2(k + u)/K − 1 with u uniform, so −ln P(k) ≤ E_u[−ln p(y)] − D·ln s with s = 2/K. The flow starts
    with logit((y + 1)/2): a bijection of the open cube and R^D, so the density integrates to one over the
    cube and no mass leaks outside (there is no α: no rescaling, nothing to clip).

    shape    (C, H, W)                        levels    K
    features of a coupling network            depth     residual blocks of a coupling network
    couplings of a scale and kind of mask     scales    1 + squeezes, fewer where H or W is odd
    dropout  while training
    """

    family = "normalizing flow"
    native_sampler = "inverse"

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
    ) -> None:
        super().__init__(shape, levels)
        at_least_one(features=features, depth=depth, couplings=couplings, scales=scales)
        if self.dims < 2:
            raise ValueError("a coupling needs two dimensions or more: got an image of one")
        self.network = Flow(shape, features, depth, couplings, scales, dropout)

    def loss(
        self, pixels: Tensor, condition: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """(−ln p(y) − D·ln s)/D in nats a dimension, mean over the batch; one u an image."""
        self.check_pixels(pixels, condition)
        return self._nats(pixels, generator).mean().float() / self.dims

    @torch.no_grad()
    def nll(
        self,
        pixels: Tensor,
        condition: Tensor | None = None,
        generator: torch.Generator | None = None,
        *,
        dequantisation_samples: int = 1,
    ) -> Likelihood:
        """−ln (1/M) Σ_m p(y_m)·s^D, y_m dequantised by fresh uniform noise.

        The density is exact; the bits of the levels are bounded from above in expectation (Theis et al.
        2016), tighter as M grows (Burda et al. 2016). Breakdown: `single`, the mean over M samples of
        −ln p(y_m)·s^D, what M = 1 gives in expectation.
        """
        self.check_pixels(pixels, condition)
        self.check_levels(pixels)
        at_least_one(dequantisation_samples=dequantisation_samples)
        M = dequantisation_samples
        nats_MB = torch.stack([self._nats(pixels, generator) for _ in range(M)])
        nats = math.log(M) - (-nats_MB).logsumexp(0)
        return Likelihood(nats, "exact", self._protocol(M), {"single": nats_MB.mean(0)})

    @torch.no_grad()
    def sample(
        self, n: int, sampler: Sampler | None, seeds: Seeds, condition: Tensor | None = None
    ) -> Tensor:
        """The inverse flow of one normal a dimension and image, then its bin; one network call."""
        self.check_sampling(sampler, condition)
        z_BCHW = seeds.per_image(self.shape, "normal", self.device)
        x_BCHW, _ = self.network(z_BCHW, inverse=True)
        self.check_finite(x_BCHW.isfinite().flatten(1).all(1))
        return self.quantise(2 * torch.sigmoid(x_BCHW.double()) - 1)

    def log_density(self, y_BCHW: Tensor) -> Tensor:
        """ln p(y), (B,) float64, of y in the open cube (−1, 1)^D."""
        # float64: at an end of the cube float32 would round y to ±1 itself, and the logit to ∞.
        p_BCHW = (y_BCHW.double() + 1) / 2
        x_BCHW = torch.logit(p_BCHW)
        logit_B = -(2 * p_BCHW * (1 - p_BCHW)).log().flatten(1).sum(1)
        z_BCHW, flow_B = self.network(x_BCHW.to(next(self.parameters()).dtype))
        z_BCHW = z_BCHW.double()
        normal_B = -0.5 * (z_BCHW.square() + math.log(2 * math.pi)).flatten(1).sum(1)
        return normal_B + flow_B.double() + logit_B

    def _nats(self, pixels: Tensor, generator: torch.Generator | None) -> Tensor:
        """−ln p(y) − D·ln s, (B,), for one u an image."""
        u_BCHW = torch.rand(pixels.shape, generator=generator, device=pixels.device)
        # rand includes 0, which logit sends to −∞: the centres of its cells of 2⁻²⁴ are as uniform.
        y_BCHW = self.dequantise(pixels, u_BCHW.double() + 2.0**-25)
        return -self.log_density(y_BCHW) - self.dims * math.log(2.0 / self.levels)

    def _protocol(self, M: int) -> str:
        return (
            f"exact density, uniform dequantisation ×{M}, s=2/{self.levels}: "
            "an upper bound of the bits of the levels"
        )


class Flow(nn.Module):
    """A bijection of R^D: couplings by checkerboard, then per further scale a squeeze and couplings by
    channel and by checkerboard. Nothing is factored out between the scales, so z has every dimension.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        features: int,
        depth: int,
        couplings: int,
        scales: int,
        dropout: float,
    ) -> None:
        super().__init__()
        kinds = list(layer_shapes(shape, scales))
        layers: list[nn.Module] = [Elementwise(shape)]
        for mask, inner in kinds:
            if mask is None:
                layers.append(Squeeze())
                continue
            layers += [AffineCoupling(mask(inner, i), features, depth, dropout) for i in range(couplings)]
        self.layers = nn.ModuleList([*layers, Elementwise(kinds[-1][1])])
        self.z_shape = kinds[-1][1]

    def forward(self, x_BCHW: Tensor, inverse: bool = False) -> tuple[Tensor, Tensor]:
        """z in the shape of x and ln|det ∂z/∂x| (B,); with `inverse`, x of z and ln|det ∂x/∂z|."""
        shape, total_B = x_BCHW.shape, x_BCHW.new_zeros(len(x_BCHW))
        steps: list[Any] = list(self.layers)
        if inverse:
            x_BCHW = x_BCHW.reshape(-1, *self.z_shape)
            steps = [layer.inverse for layer in reversed(steps)]
        for layer in steps:
            x_BCHW, log_det_B = layer(x_BCHW)
            total_B = total_B + log_det_B
        return x_BCHW.reshape(shape), total_B


def layer_shapes(
    shape: tuple[int, int, int], scales: int
) -> Iterator[tuple[Mask | None, tuple[int, int, int]]]:
    """Kind of mask (None: a squeeze) and shape of each group of layers; stops where H or W is odd."""
    C, H, W = shape
    for scale in range(scales):
        if scale > 0:
            if H % 2 or W % 2:
                return
            C, H, W = 4 * C, H // 2, W // 2
            yield None, (C, H, W)
            yield channelwise, (C, H, W)
        if H * W > 1 or scale == 0:
            yield (checkerboard if H * W > 1 else channelwise), (C, H, W)
