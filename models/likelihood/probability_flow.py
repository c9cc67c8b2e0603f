"""The density of the probability flow dx/dt = f(x, t), from data at t = 0 to noise at t = 1.

    ln p_0(x) = ln N(x_1; 0, σ(1)²) + ∫₀¹ ∇·f(x_t, t) dt        (Chen et al. 2018, 1806.07366)

∇·f exactly, from D products with the Jacobian, or by Hutchinson's estimate zᵀ(∂f/∂x)z, z fixed along one
solution as an adaptive solver requires (Grathwohl et al. 2019, 1810.01367).

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
from models.likelihood.adaptive import PAIRS, solve_adaptive
from models.likelihood.divergence import PROBES, Divergence, each_probe, exact, hutchinson
from models.names import unknown

ADAPTIVE = tuple(PAIRS)
FIXED = {"euler": "euler", "midpoint": "midpoint", "heun": "heun2", "rk4": "rk4"}
"""Solvers of equal steps, and their names in torchdiffeq."""
SOLVERS = (*ADAPTIVE, *FIXED)
DIVERGENCES = ("hutchinson", "exact")


@dataclass(frozen=True)
class Flow:
    """How the flow is solved.

    solver      dopri5, bosh3 with rtol and atol, which each image meets by steps of its own;
                euler, midpoint, heun, rk4 with equal steps
    divergence  `exact`, or `hutchinson` with the mean of so many probes
    law         of a probe: `rademacher` or `gaussian`
    """

    solver: str = "dopri5"
    rtol: float = 1e-5
    atol: float = 1e-5
    steps: int | None = None
    divergence: str = "hutchinson"
    probes: int = 1
    law: str = "rademacher"

    def __post_init__(self) -> None:
        if self.solver not in SOLVERS:
            raise ValueError(unknown("solver", self.solver, SOLVERS))
        if self.divergence not in DIVERGENCES:
            raise ValueError(f"A divergence is {' or '.join(DIVERGENCES)}, and not {self.divergence!r}.")
        if (self.solver in FIXED) != (self.steps is not None) or (self.steps or 1) < 1:
            raise ValueError(
                f"Solver {self.solver} takes "
                + ("steps, one or more." if self.solver in FIXED else "rtol and atol, not steps.")
            )
        if self.probes < 1 or min(self.rtol, self.atol) <= 0:
            raise ValueError("The flow needs one or more probes and tolerances above 0.")
        if self.law not in PROBES:
            raise ValueError(unknown("law of probes", self.law, PROBES))

    @property
    def protocol(self) -> str:
        """In words, for the record."""
        if self.solver in FIXED:
            solver = f"{self.solver} {self.steps} steps"
        else:
            solver = f"{self.solver} rtol={self.rtol:g} atol={self.atol:g} per image"
        probes = "exact divergence" if self.divergence == "exact" else f"{self.law}×{self.probes}"
        return f"ode {solver}, {probes}"


def flow_log_density(
    denoiser: Denoiser,
    x_BCHW: Tensor,
    flow: Flow,
    generator: torch.Generator | None = None,
    each: bool = False,
) -> Tensor:
    """ln p_0(x) of each image, (B,) float64 nats; with `each` (P, B), one row a probe."""
    if denoiser.clip:
        raise ValueError("A clipped denoiser has no smooth flow: build it with clip=False.")

    def velocity(x: Tensor, t_B: Tensor) -> Tensor:
        return denoiser(x, t_B).velocity

    x_1, integral = transport(velocity, x_BCHW, flow, generator, each=each)
    return _prior_log_density(x_1, denoiser.path.sigma(1.0)) + integral.double()


def transport(
    velocity: Callable[[Tensor, Tensor], Tensor],
    x_BCHW: Tensor,
    flow: Flow,
    generator: torch.Generator | None = None,
    start: float = 0.0,
    end: float = 1.0,
    *,
    each: bool = False,
) -> tuple[Tensor, Tensor]:
    """x at t = end of x at t = start, and ∫ ∇·f dt (B,), for a field f = velocity(x, t_B); no gradients.

    each  the integral of every probe alone, (P, B); (1, B) where the divergence is exact
    """
    divergence = _divergence(x_BCHW, flow, generator, each)
    columns = (flow.probes if flow.divergence == "hutchinson" else 1,) if each else ()

    def field(t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            x = state[0].detach().requires_grad_()
            f = velocity(x, t.expand(len(x)))
            trace = divergence(f, x)
        return f.detach(), trace.detach().T if each else trace.detach()

    zeros = x_BCHW.new_zeros(len(x_BCHW), *columns)
    x_1, integral = solve(field, (x_BCHW, zeros), flow, start, end)
    return x_1, integral.T if each else integral


def solve(
    field: Callable[[Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]],
    state: tuple[Tensor, ...],
    flow: Flow,
    start: float = 0.0,
    end: float = 1.0,
) -> tuple[Tensor, ...]:
    """The state at t = end from that at t = start; gradients pass through the steps of a fixed solver.

    Every part of the state has a row an image; the field is told one time, or with an adaptive solver a time
    for each image, see `models.likelihood.adaptive`.
    """
    if flow.solver in ADAPTIVE:
        return solve_adaptive(field, state, flow.solver, flow.rtol, flow.atol, start, end)
    x = state[0]
    span = torch.linspace(start, end, (flow.steps or 1) + 1, dtype=x.dtype, device=x.device)
    path = odeint(field, state, span, method=FIXED[flow.solver])
    return tuple(part[-1] for part in path)


def _divergence(x: Tensor, flow: Flow, generator: torch.Generator | None, each: bool = False) -> Divergence:
    probes = [PROBES[flow.law](x, generator) for _ in range(flow.probes)]
    if flow.divergence == "exact":
        return (lambda f, x: exact(f, x)[None]) if each else exact
    return (each_probe if each else hutchinson)(probes)


def _prior_log_density(x_1: Tensor, sigma: float) -> Tensor:
    x = x_1.double().flatten(1)
    constant = x.shape[1] * math.log(sigma * math.sqrt(2.0 * math.pi))
    return -0.5 * (x / sigma).square().sum(1) - constant
