"""Our log-likelihoods against the code of zuko and flow_matching, on one vector field and one spline.

Both solve the same ODE with solvers of their own, so agreement is that of the tolerances, not of the code.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from models.likelihood.probability_flow import Flow, transport
from models.networks.splines import knots, rational_quadratic, slopes_at_knots

D = 6
CLOSE = 1e-4
"""Nats a dimension."""


class Field(nn.Module):
    """dx/dt of (B, D) at times in [0, 1], from data at 0 to noise at 1; with a bend."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(D + 1, 32), nn.Linear(32, D)
        self.double()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        time = t.expand(x.shape[0]).unsqueeze(1)
        return 2.0 * self.second(torch.tanh(2.0 * self.first(torch.cat([x, time], 1)))) - 0.5 * x


def _data() -> Tensor:
    return 1.5 * torch.randn(16, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def _normal(z: Tensor) -> Tensor:
    return -0.5 * (z.square() + math.log(2.0 * math.pi)).flatten(1).sum(1)


def _ours(field: Field, x: Tensor, flow: Flow) -> Tensor:
    """ln p of (B, D), as images of one row."""

    def velocity(x_BCHW: Tensor, t_B: Tensor) -> Tensor:
        return field(x_BCHW.flatten(1), t_B).view(x_BCHW.shape)

    z, integral = transport(velocity, x.view(-1, 1, 1, D), flow)
    return _normal(z) + integral


@pytest.mark.parametrize(
    "flow",
    [
        Flow("dopri5", 1e-8, 1e-8, divergence="exact"),
        Flow("dopri5", 1e-9, 1e-9, divergence="exact"),
        Flow("rk4", steps=64, divergence="exact"),
    ],
    ids=lambda flow: flow.protocol,
)
def test_ode_likelihood_equals_that_of_zuko(flow: Flow) -> None:
    """Its free-form Jacobian transform, with its own solver and adjoint, in a flow to N(0, I)."""
    zuko = pytest.importorskip("zuko")
    field, x = Field(), _data()

    def derivative(t: Tensor, x: Tensor) -> Tensor:
        return field(x, t.reshape(1))

    transform = zuko.transforms.FreeFormJacobianTransform(derivative, 0.0, 1.0, atol=1e-9, rtol=1e-9)
    base = zuko.distributions.DiagNormal(
        *(make(D, dtype=torch.float64) for make in (torch.zeros, torch.ones))
    )
    theirs = zuko.distributions.NormalizingFlow(transform, base).log_prob(x)
    ours = _ours(field, x, flow)
    assert float((ours - theirs).abs().max()) / D < CLOSE
    assert float(ours.std()) > 1.0, "densities that differ"


def test_ode_likelihood_equals_that_of_flow_matching() -> None:
    """Its time ends at the data, so its field is ours backwards."""
    pytest.importorskip("flow_matching")
    from flow_matching.solver import ODESolver

    field, x = Field(), _data()

    class Reversed(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return -field(x, 1.0 - t.reshape(1))

    _, theirs = ODESolver(Reversed()).compute_likelihood(
        x_1=x,
        log_p0=_normal,
        step_size=None,
        method="dopri5",
        atol=1e-9,
        rtol=1e-9,
        time_grid=torch.tensor([1.0, 0.0], dtype=torch.float64),
        exact_divergence=True,
    )
    ours = _ours(field, x, Flow("dopri5", 1e-8, 1e-8, divergence="exact"))
    assert float((ours - theirs.detach()).abs().max()) / D < CLOSE


@pytest.mark.parametrize("inverse", [False, True])
def test_splines_and_their_log_determinants_equal_those_of_zuko(inverse: bool) -> None:
    """The same knots and slopes in its monotonic rational-quadratic spline, also outside of the bound."""
    zuko = pytest.importorskip("zuko")
    bins, bound = 7, 3.0
    generator = torch.Generator().manual_seed(2)
    raw = torch.randn(3 * bins - 1, 40, generator=generator, dtype=torch.float64)
    x = 2.0 * torch.randn(40, generator=generator, dtype=torch.float64)
    ours, log_slope = rational_quadratic(x, raw, bound, inverse)
    widths, heights, slopes = raw.split((bins, bins, bins - 1))
    theirs = zuko.transforms.MonotonicRQSTransform(widths.T, heights.T, slopes.T, bound)
    theirs.horizontal, theirs.vertical = knots(widths, bound).T, knots(heights, bound).T
    theirs.derivatives = slopes_at_knots(slopes, x).T
    if inverse:
        wanted = theirs.inv(x)
        wanted_slope = -theirs.log_abs_det_jacobian(wanted, x)
    else:
        wanted, wanted_slope = theirs.call_and_ladj(x)
    assert float((ours - wanted).abs().max()) < 1e-8
    assert float((log_slope - wanted_slope).abs().max()) < CLOSE
