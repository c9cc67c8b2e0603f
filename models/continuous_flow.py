"""FFJORD: a continuous normalizing flow, trained by the likelihood that its solver finds.

Shapes: B batch, C channels, H height, W width, D = C·H·W, K levels.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from models.base import Likelihood
from models.dequantised_flow import DequantisedFlow
from models.likelihood.divergence import PROBES, inner, product
from models.likelihood.probability_flow import Flow, solve, transport
from models.names import unknown
from models.networks.couplings import Elementwise
from models.networks.vector_field import VectorField
from models.unconditional import at_least_one

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

DEFAULT = Flow("dopri5", 1e-5, 1e-5, divergence="exact")
"""How a density is solved where nothing is said."""


class FFJORD(DequantisedFlow):
    """ln p(y) = ln N(x_1; 0, I) + ∫₀¹ ∇·f(x_t, t) dt + ln|dx_0/dy|, dx/dt = f from data (t = 0) to noise.

    Chen et al. 2018 (1806.07366) with the estimate of the divergence of Grathwohl et al. 2019 (1810.01367)
    and the two regularisers of Finlay et al. 2020 (2002.02798), under which few steps are enough:

        loss = (−ln p + ln q)/D + (λ_K ∫‖f‖² dt + λ_J ∫‖zᵀ∂f/∂x‖² dt)/D

    x_0 = e^s·logit((y + 1)/2) + c with y dequantised and one learned s and c a dimension, so the density
    is on the open cube. Training goes through the steps of a fixed solver (first discretise, then
    optimise), one probe z an image and solution.

    shape     (C, H, W)                     levels    K
    features  of the field                  blocks    residual blocks of the field
    steps     of rk4, training and sampling: 4 evaluations each
    kinetic   λ_K                           jacobian  λ_J
    law       of z in training: `rademacher` or `gaussian`
    dequantisation  `uniform` or `variational`  dequantiser  options of the latter: see `Dequantiser`
    """

    family = "continuous flow"
    native_sampler = "ode"

    def __init__(
        self,
        shape: tuple[int, int, int] = (1, 8, 8),
        levels: int = 17,
        *,
        features: int = 64,
        blocks: int = 2,
        steps: int = 2,
        kinetic: float = 0.01,
        jacobian: float = 0.01,
        law: str = "rademacher",
        dequantisation: str = "uniform",
        dequantiser: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(shape, levels)
        at_least_one(features=features, blocks=blocks, steps=steps)
        if min(kinetic, jacobian) < 0:
            raise ValueError(f"weights of regularisers must be 0 or more: got {kinetic} and {jacobian}")
        if law not in PROBES:
            raise ValueError(unknown("law of probes", law, PROBES))
        self.kinetic, self.jacobian, self.law = kinetic, jacobian, law
        self.solver = Flow("rk4", steps=steps)
        self.elementwise = Elementwise(shape)
        torch.nn.init.constant_(self.elementwise.s_CHW, -1.0)  # logits of levels are about 3 wide
        self.network = VectorField(shape, features, blocks)
        self.dequantise_by(dequantisation, dequantiser)

    def loss(
        self, pixels: Tensor, condition: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Nats a dimension by `steps` of rk4 and one probe, and the regularisers; mean over the batch."""
        self.check_pixels(pixels, condition)
        y_BCHW, log_q_B = self.dequantised(pixels, generator)
        x_BCHW, logit_B = self._to_start(y_BCHW)
        z_BCHW = PROBES[self.law](x_BCHW, generator)
        x_1, integral_B, kinetic_B, jacobian_B = regularised(self.network, x_BCHW, z_BCHW, self.solver)
        nats_B = log_q_B - _normal(x_1) - integral_B - logit_B - self.dims * math.log(2.0 / self.levels)
        return (nats_B + self.kinetic * kinetic_B + self.jacobian * jacobian_B).mean().float() / self.dims

    @torch.no_grad()
    def nll(
        self,
        pixels: Tensor,
        condition: Tensor | None = None,
        generator: torch.Generator | None = None,
        *,
        solver: str = "dopri5",
        rtol: float = 1e-5,
        atol: float = 1e-5,
        steps: int | None = None,
        divergence: str = "hutchinson",
        probes: int = 1,
        law: str = "rademacher",
        dequantisation_samples: int = 1,
    ) -> Likelihood:
        """−ln p(y) + ln q(u|k) − D ln s by the solver asked for, the mean over samples of u.

        An estimate, no bound: a coarse solver can flatter the model. The mean over the samples and not
        `DequantisedFlow`'s logarithm of a mean of densities, which the noise of a probe would flatter too.
        """
        self.check_pixels(pixels, condition)
        self.check_levels(pixels)
        at_least_one(dequantisation_samples=dequantisation_samples)
        flow = Flow(solver, rtol, atol, steps, divergence, probes, law)

        def nats_of_one() -> Tensor:
            y_BCHW, log_q_B = self.dequantised(pixels, generator)
            return log_q_B - self.log_density(y_BCHW, (), flow, generator)

        nats = torch.stack([nats_of_one() for _ in range(dequantisation_samples)])
        offset = -self.dims * math.log(2.0 / self.levels)
        protocol = f"{flow.protocol}, {self._dequantisation()}×{dequantisation_samples}, s=2/{self.levels}"
        return Likelihood(nats.mean(0) + offset, "estimate", protocol)

    def log_density(
        self,
        y_BCHW: Tensor,
        condition: tuple[Tensor, ...] = (),
        flow: Flow = DEFAULT,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """ln p(y), (B,) float64, of y in the open cube (−1, 1)^D, as `flow` solves it; no gradients."""
        x_BCHW, logit_B = self._to_start(y_BCHW)
        x_1, integral_B = transport(self.network, x_BCHW, flow, generator)
        return _normal(x_1) + integral_B.double() + logit_B

    def invert(self, z_BCHW: Tensor, given: tuple[Tensor, ...], guidance: float) -> Tensor:
        """x_0 of noise at t = 1 by the solver of training, run backwards: 4·steps evaluations."""
        if guidance != 1.0:
            raise ValueError("FFJORD cannot be guided: leave guidance at 1")

        def field(t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (self.network(state[0], t.expand(len(state[0]))),)

        (x_BCHW,) = solve(field, (z_BCHW,), self.solver, 1.0, 0.0)
        return self.elementwise.inverse(x_BCHW)[0]

    def _to_start(self, y_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """x_0 and ln|dx_0/dy|, (B,) float64."""
        logit_BCHW, logit_B = self.to_logit(y_BCHW)
        x_BCHW, scale_B = self.elementwise(logit_BCHW)
        return x_BCHW, logit_B + scale_B.double()


def _normal(x_BCHW: Tensor) -> Tensor:
    """ln N(x; 0, I), (B,) float64."""
    return -0.5 * (x_BCHW.double().square() + math.log(2 * math.pi)).flatten(1).sum(1)


def regularised(
    velocity: Callable[[Tensor, Tensor], Tensor], x_BCHW: Tensor, z_BCHW: Tensor, flow: Flow
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x_1, then ∫ zᵀ(∂f/∂x)z dt, ∫‖f‖² dt and ∫‖zᵀ∂f/∂x‖² dt, (B,) each, all with gradients.

    The expectation of the last over z is ∫‖∂f/∂x‖²_F dt.
    """

    def field(t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            x = state[0] if state[0].requires_grad else state[0].detach().requires_grad_()
            f = velocity(x, t.expand(len(x)))
            zJ = product(f, x, z_BCHW, differentiable=True)
        return f, inner(zJ, z_BCHW), inner(f, f), inner(zJ, zJ)

    none_B = x_BCHW.new_zeros(len(x_BCHW))
    x_1, divergence_B, kinetic_B, jacobian_B = solve(field, (x_BCHW, none_B, none_B, none_B), flow)
    return x_1, divergence_B, kinetic_B, jacobian_B
