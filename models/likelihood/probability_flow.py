"""The density of the probability flow dx/dt = f(x, t), from data at t = 0 to noise at t = 1.

    ln p_0(x) = ln N(x_1; 0, σ(1)²) + ∫₀¹ ∇·f(x_t, t) dt        (Chen et al. 2018, 1806.07366)

∇·f exactly, from D products with the Jacobian, or by Hutchinson's estimate zᵀ(∂f/∂x)z with Rademacher z,
fixed along one solution as an adaptive solver requires (Grathwohl et al. 2019, 1810.01367).

The numbers are estimates, no bounds: a coarse solver can flatter a model, so the solver and its
tolerances stand in the protocol.

Shapes: B batch, C channels, H height, W width, D = C·H·W, P probes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torchdiffeq import odeint

from models.denoiser import Denoiser

ADAPTIVE = {"dopri5": "dopri5", "dopri8": "dopri8", "bosh3": "bosh3"}
FIXED = {"euler": "euler", "midpoint": "midpoint", "heun": "heun2", "rk4": "rk4"}
"""Solvers of equal steps, and their names in torchdiffeq."""
DIVERGENCES = ("hutchinson", "exact")


@dataclass(frozen=True)
class Flow:
    """How the flow is solved.

    solver      dopri5, dopri8, bosh3 with rtol and atol; euler, midpoint, heun, rk4 with equal steps
    divergence  `exact`, or `hutchinson` with the mean of so many probes
    """

    solver: str = "dopri5"
    rtol: float = 1e-5
    atol: float = 1e-5
    steps: int | None = None
    divergence: str = "hutchinson"
    probes: int = 1

    def __post_init__(self) -> None:
        if self.solver not in ADAPTIVE | FIXED:
            raise ValueError(f"There is no solver '{self.solver}': use one of {', '.join(ADAPTIVE | FIXED)}.")
        if self.divergence not in DIVERGENCES:
            raise ValueError(f"A divergence is {' or '.join(DIVERGENCES)}, and not {self.divergence!r}.")
        if (self.solver in FIXED) != (self.steps is not None) or (self.steps or 1) < 1:
            raise ValueError(
                f"Solver {self.solver} takes "
                + ("steps, one or more." if self.solver in FIXED else "rtol and atol, not steps.")
            )
        if self.probes < 1 or min(self.rtol, self.atol) <= 0:
            raise ValueError("The flow needs one or more probes and tolerances above 0.")

    @property
    def protocol(self) -> str:
        """In words, for the record."""
        if self.solver in FIXED:
            solver = f"{self.solver} {self.steps} steps"
        else:
            solver = f"{self.solver} rtol={self.rtol:g} atol={self.atol:g}"
        probes = "exact divergence" if self.divergence == "exact" else f"rademacher×{self.probes}"
        return f"ode {solver}, {probes}"


def flow_log_density(
    denoiser: Denoiser, x_BCHW: Tensor, flow: Flow, generator: torch.Generator | None = None
) -> Tensor:
    """ln p_0(x) of each image, (B,) float64 nats."""
    if denoiser.clip:
        raise ValueError("A clipped denoiser has no smooth flow: build it with clip=False.")
    probes = [_rademacher(x_BCHW, generator) for _ in range(flow.probes)]
    divergence = _exact if flow.divergence == "exact" else _hutchinson(probes)

    def field(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x = state[0].detach().requires_grad_()
            velocity = denoiser(x, t.expand(len(x))).velocity
            trace = divergence(velocity, x)
        return velocity.detach(), trace.detach()

    x_1, integral = _solve(field, x_BCHW, flow)
    return _prior_log_density(x_1, denoiser) + integral.double()


def _solve(
    field: Callable[[Tensor, tuple[Tensor, Tensor]], tuple[Tensor, Tensor]], x: Tensor, flow: Flow
) -> tuple[Tensor, Tensor]:
    """The state at t = 1 from (x, 0) at t = 0."""
    span = torch.linspace(0.0, 1.0, (flow.steps or 1) + 1, dtype=x.dtype, device=x.device)
    method = (ADAPTIVE | FIXED)[flow.solver]
    path = odeint(field, (x, x.new_zeros(len(x))), span, rtol=flow.rtol, atol=flow.atol, method=method)
    return path[0][-1], path[1][-1]


def _prior_log_density(x_1: Tensor, denoiser: Denoiser) -> Tensor:
    sigma, x = denoiser.path.sigma(1.0), x_1.double().flatten(1)
    constant = x.shape[1] * math.log(sigma * math.sqrt(2.0 * math.pi))
    return -0.5 * (x / sigma).square().sum(1) - constant


def _rademacher(x: Tensor, generator: torch.Generator | None) -> Tensor:
    bits = torch.randint(0, 2, x.shape, generator=generator, device=x.device)
    return (2 * bits - 1).to(x.dtype)


def _hutchinson(probes: list[Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """(velocity, x) to the mean of zᵀJz over the probes, (B,)."""

    def estimate(velocity: Tensor, x: Tensor) -> Tensor:
        parts = []
        for index, z in enumerate(probes):
            keep = index + 1 < len(probes)
            (product,) = torch.autograd.grad(velocity, x, z, retain_graph=keep)
            parts.append((product * z).flatten(1).sum(1))
        return torch.stack(parts).mean(0)

    return estimate


def _exact(velocity: Tensor, x: Tensor) -> Tensor:
    """The trace of the Jacobian from one product a dimension, (B,)."""
    flat, trace = velocity.flatten(1), torch.zeros(len(x), dtype=x.dtype, device=x.device)
    for d in range(flat.shape[1]):
        (row,) = torch.autograd.grad(flat[:, d].sum(), x, retain_graph=d + 1 < flat.shape[1])
        trace = trace + row.flatten(1)[:, d]
    return trace
