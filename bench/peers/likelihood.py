"""Log-likelihoods through an ODE, beside flow_matching, zuko and torchdiffeq, on one vector field.

The field is a small network with a bend, from data at t = 0 to N(0, I) at t = 1. With the exact divergence
all must agree within their tolerances; with Hutchinson's each draws probes of its own, and only the time is
told.

Shapes: B points, D dimensions.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from bench.peers.work import Side, Work, WorkRow, rows_of, seeded
from models.likelihood.probability_flow import Flow, transport

INSTALL = "pip install 'noisebench[peers]'"
STEPS = 20
POINTS, DIMS = 64, 16


class Field(nn.Module):
    """dx/dt of (B, D) at one time () or a time a point (B,)."""

    def __init__(self, dims: int, width: int = 128) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.first, self.second = nn.Linear(dims + 1, width), nn.Linear(width, dims)
        self.requires_grad_(False)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """A bounded function of x, and a pull to the origin."""
        time = t.expand(len(x)).unsqueeze(1)
        bend: Tensor = self.second(torch.tanh(2.0 * self.first(torch.cat([x, time], 1))))
        return 2.0 * bend - 0.5 * x


def _normal(z: Tensor) -> Tensor:
    return -0.5 * (z.square() + math.log(2.0 * math.pi)).flatten(1).sum(1)


def _ours(field: Field, x: Tensor, flow: Flow) -> Tensor:
    """ln p of (B, D), as images of one row."""

    def velocity(x_BCHW: Tensor, t_B: Tensor) -> Tensor:
        return field(x_BCHW.flatten(1), t_B).view(x_BCHW.shape)

    generator = torch.Generator().manual_seed(0)
    z, integral = transport(velocity, x.view(len(x), 1, 1, -1), flow, generator)
    return _normal(z) + integral


def _flow_matching(dims: int, flow: Flow, exact: bool) -> tuple[Side, Side]:
    from flow_matching.solver import ODESolver

    field, x = Field(dims), 1.5 * seeded(POINTS, dims)

    class Reversed(nn.Module):
        """Its time ends at the data."""

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return -field(x, 1.0 - t.reshape(()))

    solver = ODESolver(Reversed())

    def theirs() -> Tensor:
        _, found = solver.compute_likelihood(
            x_1=x,
            log_p0=_normal,
            step_size=None if flow.steps is None else 1.0 / flow.steps,
            method=flow.solver,
            atol=flow.atol,
            rtol=flow.rtol,
            time_grid=torch.tensor([1.0, 0.0]),
            exact_divergence=exact,
        )
        return found

    return lambda: _ours(field, x, flow), theirs


def _zuko(dims: int, flow: Flow) -> tuple[Side, Side]:
    import zuko

    field, x = Field(dims), 1.5 * seeded(POINTS, dims)
    transform = zuko.transforms.FreeFormJacobianTransform(
        lambda t, x: field(x, t.reshape(())), 0.0, 1.0, atol=flow.atol, rtol=flow.rtol
    )
    base = zuko.distributions.DiagNormal(torch.zeros(dims), torch.ones(dims))
    found = zuko.distributions.NormalizingFlow(transform, base)
    return lambda: _ours(field, x, flow), lambda: found.log_prob(x)


def _torchdiffeq(dims: int, flow: Flow) -> tuple[Side, Side]:
    """As its examples do it: the state with its log-density, the trace from a gradient a dimension."""
    from torchdiffeq import odeint

    field, x = Field(dims), 1.5 * seeded(POINTS, dims)

    def augmented(t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            z = state[0].detach().requires_grad_()
            f = field(z, t)
            trace = sum(
                torch.autograd.grad(f[:, i].sum(), z, retain_graph=True)[0][:, i] for i in range(dims)
            )
        return f.detach(), torch.as_tensor(trace).detach()

    def theirs() -> Tensor:
        options = {} if flow.steps is None else {"step_size": 1.0 / flow.steps}
        z, integral = odeint(
            augmented,
            (x, torch.zeros(len(x))),
            torch.tensor([0.0, 1.0]),
            atol=flow.atol,
            rtol=flow.rtol,
            method=flow.solver,
            options=options or None,
        )
        return _normal(z[-1]) + integral[-1]

    return lambda: _ours(field, x, flow), theirs


def works() -> Iterator[Work]:
    """Equal steps and adaptive, exact divergence and one probe."""
    fixed, adaptive = Flow("midpoint", steps=STEPS, divergence="exact"), Flow(divergence="exact")
    own = "each image has steps of its own, so that it does not depend on its batch; theirs share them"
    for flow, name, note in ((fixed, f"midpoint, {STEPS} steps", ""), (adaptive, "dopri5 1e-5", own)):
        work = f"{name}, exact divergence, {POINTS}×{DIMS}"
        yield Work(
            "flow_matching",
            "compute_likelihood",
            flow.solver,
            work,
            functools.partial(_flow_matching, DIMS, flow, True),
            note=note,
        )
        build = functools.partial(_torchdiffeq, DIMS, flow)
        yield Work("torchdiffeq", "odeint", flow.solver, work, build, note=note)
    build = functools.partial(_zuko, DIMS, adaptive)
    yield Work("zuko", "FreeFormJacobianTransform", "dopri5", work, build, note=own)
    yield Work(
        "flow_matching",
        "compute_likelihood",
        "midpoint",
        f"midpoint, {STEPS} steps, one probe, {POINTS}×784",
        functools.partial(_flow_matching, 784, Flow("midpoint", steps=STEPS), False),
        comparable=False,
        note="each draws probes of its own",
    )


def rows(repeats: int = 7) -> Iterator[WorkRow]:
    """A row a work."""
    return rows_of(works(), repeats, INSTALL)
