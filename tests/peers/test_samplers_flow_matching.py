"""Our Runge–Kutta methods against `ODESolver` of flow_matching and torchdiffeq: one exact velocity, float32.

Their time runs from noise at 0 to data at 1, ours the other way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.data.mixture import anisotropic
from bench.peers.flow_matching_samplers import PATH, pairing, pairings
from bench.peers.networks import towards_data
from bench.peers.pairing import Pairing
from bench.peers.samplers import compared
from models.denoiser import Denoiser
from models.grids import grid
from models.samplers import sampler

TOLERANCE = 2e-4


def _uneven(steps: int) -> Tensor:
    """Shifted towards the noise by 3."""
    u = torch.linspace(1.0, 0.0, steps + 1)
    return 1.0 - 3.0 * u / (1.0 + 2.0 * u)


GRIDS: dict[str, Callable[[int], Tensor] | None] = {"even": None, "shifted": _uneven}


def _same(pair: Pairing, steps: int) -> None:
    pytest.importorskip("flow_matching")
    found = compared(pair, pair.build(steps), 64)
    assert found["largest"] is not None
    assert found["largest"] <= TOLERANCE
    assert found["evaluations_ours"] == found["evaluations_theirs"]


@pytest.mark.parametrize("pair", pairings(), ids=lambda p: p.theirs)
def test_every_row_of_the_table_is_the_same_sampler(pair: Pairing) -> None:
    """What `noisebench peers samplers` times against each other does the same."""
    _same(pair, 20)


@pytest.mark.parametrize("method", ["euler", "midpoint"])
@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("steps", [1, 8, 50])
def test_euler_and_midpoint(method: str, name: str, steps: int) -> None:
    """On even and uneven grids, ends included."""
    _same(pairing(method, grid=GRIDS[name]), steps)


def _velocity() -> Any:
    return anisotropic().network(PATH, "velocity")


def _x() -> Tensor:
    return torch.randn(64, 1, 1, 2, generator=torch.Generator().manual_seed(0))


def _ours(name: str, steps: int, times: tuple[float, ...], **options: Any) -> list[Tensor]:
    states: list[Tensor] = []
    denoiser = Denoiser(_velocity(), PATH, "velocity")
    chosen = sampler(name, steps, **options)
    chosen(denoiser, _x(), times, callback=lambda step, s, x: states.append(x))
    return states


def _backwards() -> Callable[[Tensor, Tensor], Tensor]:
    """dx/dτ for torchdiffeq, which gives the time first."""
    velocity = towards_data(_velocity())
    return lambda t, x: velocity(x, t)


@pytest.mark.parametrize("method", ["euler", "midpoint"])
def test_states_on_the_way_are_those_of_torchdiffeq(method: str) -> None:
    """All of them, on an uneven grid."""
    from torchdiffeq import odeint

    times = _uneven(20)
    theirs = odeint(_backwards(), _x(), times, method=method)
    ours = _ours(method, 20, tuple(1.0 - float(t) for t in times))
    for a, b in zip(ours, theirs[1:], strict=True):
        assert float((a - b).abs().max()) <= TOLERANCE


@pytest.mark.parametrize("steps", [5, 20])
def test_rk4_is_the_classical_one_of_torchdiffeq(steps: int) -> None:
    """Its classical step, which no method of `odeint` uses; ours ends with a step of the midpoint rule."""
    common = pytest.importorskip("torchdiffeq._impl.rk_common")
    times, x = torch.linspace(0.0, 1.0, steps + 1), _x()
    velocity = _backwards()
    ours = _ours("rk4", steps, tuple(1.0 - float(t) for t in times))

    def slope(t: Tensor, x: Tensor, perturb: object = None) -> Tensor:
        return velocity(t, x)

    for i in range(steps - 1):
        x = x + common.rk4_step_func(slope, times[i], times[i + 1] - times[i], times[i + 1], x)
        assert float((ours[i] - x).abs().max()) <= TOLERANCE


def test_rk4_of_flow_matching_is_the_rule_of_three_eighths() -> None:
    """Another method of order 4 under this name: at 40 steps the two are the same to their error."""
    solver = pytest.importorskip("flow_matching.solver")
    times = torch.linspace(0.0, 1.0, 41)
    theirs = solver.ODESolver(velocity_model=towards_data(_velocity())).sample(
        _x(), step_size=None, method="rk4", time_grid=times, return_intermediates=True
    )
    ours = _ours("rk4", 40, tuple(1.0 - float(t) for t in times))
    for a, b in zip(ours[:-1], theirs[1:-1], strict=True):
        assert float((a - b).abs().max()) <= TOLERANCE


@pytest.mark.parametrize("peer", ["torchdiffeq", "flow_matching"])
def test_dopri5(peer: str) -> None:
    """The same end, though theirs steps in time, with one error for the batch, and ours in ln σ/α."""
    x, times = _x(), grid("uniform", PATH, 1)
    span, tight = torch.tensor([1.0 - times[0], 1.0]), {"rtol": 1e-6, "atol": 1e-6}
    if peer == "torchdiffeq":
        from torchdiffeq import odeint

        theirs = odeint(_backwards(), x, span, method="dopri5", **tight)[-1]
    else:
        solver = pytest.importorskip("flow_matching.solver")
        theirs = solver.ODESolver(velocity_model=towards_data(_velocity())).sample(
            x, step_size=None, method="dopri5", time_grid=span, **tight
        )
    ours = _ours("dopri5", 1, times, **tight)[-1]
    assert float((ours - theirs).abs().max()) <= TOLERANCE
