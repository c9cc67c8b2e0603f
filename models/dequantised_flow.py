"""What every normalizing flow on dequantised images shares: loss, likelihood, sampling by the inverse.

Shapes: B batch, n images, C channels, H height, W width, D = C·H·W, K levels, M dequantisation samples.
"""

from __future__ import annotations

import inspect
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from models.base import Likelihood
from models.names import unknown
from models.networks.dequantiser import Dequantiser
from models.unconditional import UnconditionalModel, at_least_one

if TYPE_CHECKING:
    from collections.abc import Mapping

    from models.samplers import Sampler
    from models.seeds import Seeds

DEQUANTISATIONS = ("uniform", "variational")
"""Laws q(u|k) of the place of y within its bin: one for all levels, or a flow that is learned with p."""


class DequantisedFlow(UnconditionalModel):
    """ln p(y) = ln N(f(x); 0, I) + ln|det ∂f/∂x| + ln|dx/dy| with x = logit((y + 1)/2), y dequantised.

    y = 2(k + u)/K − 1 with u ~ q(u|k), so −ln P(k) ≤ E_q[−ln p(y) + ln q(u|k)] − D·ln s with s = 2/K.
    The logit is a bijection of the open cube and R^D, so the density integrates to one over the cube and
    no mass leaks outside (there is no α: no rescaling, nothing to clip). q is uniform, ln q = 0, or the
    `Dequantiser` of `dequantise_by`, trained with p by the same loss.

    A subclass builds `self.network`, the bijection f of R^D: forward(x, *condition, inverse=False) gives
    z in the shape of x and ln|det ∂z/∂x| (B,), and with `inverse` x of z and ln|det ∂x/∂z|. Where it sets
    `self.conditioning`, the network gets the checked condition as its second argument.
    """

    family = "normalizing flow"
    native_sampler = "inverse"

    condition_dropout: float = 0.0
    """Share of the conditions that training replaces by the null."""

    def __init__(self, shape: tuple[int, int, int], levels: int) -> None:
        super().__init__(shape, levels)
        self.dequantiser: Dequantiser | None = None

    def dequantise_by(self, dequantisation: str, options: Mapping[str, int] | None) -> None:
        """Set q: `uniform`, or `variational` with options of `Dequantiser`.

        Constructors call it last, so that one seed starts f at the same weights whatever q is.
        """
        if dequantisation not in DEQUANTISATIONS:
            raise ValueError(unknown("dequantisation", dequantisation, DEQUANTISATIONS))
        if dequantisation == "uniform":
            if options is not None:
                raise ValueError("dequantiser is for variational dequantisation: choose that or leave it out")
            return
        known = inspect.signature(Dequantiser).parameters.keys() - {"shape"}
        for name in options or {}:
            if name not in known:
                raise ValueError(unknown("option of the dequantiser", name, known))
        at_least_one(**(options or {}))
        C, H, W = self.shape
        self.dequantiser = Dequantiser((C, H, W), **(options or {}))

    def loss(
        self, pixels: Tensor, condition: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """(−ln p(y) + ln q(u|k) − D·ln s)/D in nats a dimension, mean over the batch; one u an image."""
        self.check_pixels(pixels, condition)
        given = self._given(condition, len(pixels), self.condition_dropout, generator)
        return self._nats(pixels, given, generator).mean().float() / self.dims

    @torch.no_grad()
    def nll(
        self,
        pixels: Tensor,
        condition: Tensor | None = None,
        generator: torch.Generator | None = None,
        *,
        dequantisation_samples: int = 1,
    ) -> Likelihood:
        """−ln (1/M) Σ_m p(y_m)·s^D/q(u_m|k), each u_m drawn afresh.

        The density is exact; the bits of the levels are bounded from above in expectation (Theis et al.
        2016, 1511.01844), tighter as M grows (Burda et al. 2016, 1509.00519). Breakdown: `single`, the
        mean over M samples of −ln p(y_m)·s^D/q(u_m|k), what M = 1 gives in expectation.
        """
        self.check_pixels(pixels, condition)
        self.check_levels(pixels)
        at_least_one(dequantisation_samples=dequantisation_samples)
        M, given = dequantisation_samples, self._given(condition, len(pixels))
        nats_MB = torch.stack([self._nats(pixels, given, generator) for _ in range(M)])
        nats = math.log(M) - (-nats_MB).logsumexp(0)
        return Likelihood(nats, "exact", self._protocol(M), {"single": nats_MB.mean(0)})

    @torch.no_grad()
    def sample(
        self,
        n: int,
        sampler: Sampler | None,
        seeds: Seeds,
        condition: Tensor | None = None,
        guidance: float = 1.0,
    ) -> Tensor:
        """The inverse flow of one normal a dimension and image, then its bin; costs what `invert` costs."""
        self.check_sampling(sampler, condition)
        z_BCHW = seeds.per_image(self.shape, "normal", self.device).to(next(self.parameters()).dtype)
        x_BCHW = self.invert(z_BCHW, self._given(condition, n), guidance)
        self.check_finite(x_BCHW.isfinite().flatten(1).all(1))
        return self.quantise(2 * torch.sigmoid(x_BCHW.double()) - 1)

    def invert(self, z_BCHW: Tensor, given: tuple[Tensor, ...], guidance: float) -> Tensor:
        """x of z for `sample`; a flow that can be guided overrides it."""
        if guidance != 1.0:
            raise ValueError(f"{type(self).__name__} cannot be guided: leave guidance at 1")
        return self.network(z_BCHW, *given, inverse=True)[0]

    def log_density(self, y_BCHW: Tensor, condition: tuple[Tensor, ...] = ()) -> Tensor:
        """ln p(y), (B,) float64, of y in the open cube (−1, 1)^D; `condition` goes to the network."""
        x_BCHW, logit_B = self.to_logit(y_BCHW)
        z_BCHW, flow_B = self.network(x_BCHW, *condition)
        z_BCHW = z_BCHW.double()
        normal_B = -0.5 * (z_BCHW.square() + math.log(2 * math.pi)).flatten(1).sum(1)
        return normal_B + flow_B.double() + logit_B

    def to_logit(self, y_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """x = logit((y + 1)/2) in the precision of the weights, and ln|dx/dy|, (B,) float64."""
        # float64: at an end of the cube float32 would round y to ±1 itself, and the logit to ∞.
        p_BCHW = (y_BCHW.double() + 1) / 2
        logit_B = -(2 * p_BCHW * (1 - p_BCHW)).log().flatten(1).sum(1)
        return torch.logit(p_BCHW).to(next(self.parameters()).dtype), logit_B

    def dequantised(self, pixels: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """y for one u an image, inside the open cube, and ln q(u|k), (B,); both float64."""
        u_BCHW = torch.rand(pixels.shape, generator=generator, device=pixels.device)
        # rand includes 0, which logit sends to −∞: the centres of its cells of 2⁻²⁴ are as uniform.
        u_BCHW = u_BCHW.double() + 2.0**-25
        log_q_B = u_BCHW.new_zeros(len(pixels))
        if self.dequantiser is not None:
            u_BCHW, log_q_B = self.dequantiser(self.signed(pixels), u_BCHW)
        return self.dequantise(pixels, u_BCHW), log_q_B

    def coupled_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images; ValueError where there is nothing to couple."""
        if self.dims < 2:
            raise ValueError("a coupling needs two dimensions or more: got an image of one")
        C, H, W = self.shape
        return C, H, W

    def check_condition(self, condition: Tensor | None) -> None:
        """ValueError where a condition is given to a flow of P(pixels); its form is checked at its use."""
        if self.conditioning.kind == "none":
            super().check_condition(condition)

    def _given(
        self,
        condition: Tensor | None,
        n: int,
        dropped: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, ...]:
        """What the network is told of n images beside x: nothing, or conditions with a share `dropped`."""
        if self.conditioning.kind == "none":
            return ()
        checked = self.conditioning.given(condition, n, self.device, type(self).__name__)
        return (self.conditioning.dropped(checked, dropped, generator),)

    def _nats(self, pixels: Tensor, given: tuple[Tensor, ...], generator: torch.Generator | None) -> Tensor:
        """−ln p(y) + ln q(u|k) − D·ln s, (B,), for one u an image."""
        y_BCHW, log_q_B = self.dequantised(pixels, generator)
        return log_q_B - self.log_density(y_BCHW, given) - self.dims * math.log(2.0 / self.levels)

    def _dequantisation(self) -> str:
        """What a protocol says of q."""
        return f"{'uniform' if self.dequantiser is None else 'variational'} dequantisation"

    def _protocol(self, M: int) -> str:
        return (
            f"exact density, {self._dequantisation()} ×{M}, s=2/{self.levels}: "
            "an upper bound of the bits of the levels"
        )
