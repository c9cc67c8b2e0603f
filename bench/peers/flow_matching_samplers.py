"""`ODESolver` of flow_matching on a grid of times, which end at the data: its velocity is turned round."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bench.peers.networks import towards_data
from bench.peers.pairing import Network, Pairing, Peer
from models.paths import RectifiedFlowPath

PATH = RectifiedFlowPath()


class Solver:
    """One of its methods of fixed steps."""

    def __init__(self, method: str, grid: Tensor) -> None:
        from flow_matching.solver import ODESolver

        self._solver, self._method, self._grid = ODESolver, method, grid
        self.times = tuple(1.0 - float(t) for t in grid)

    def reset(self, x: Tensor, seed: int) -> None:
        """Nothing: a solver is made for each velocity."""

    def __call__(self, network: Network, x: Tensor) -> Tensor:
        solver = self._solver(velocity_model=network)
        found: Tensor = solver.sample(x, step_size=None, method=self._method, time_grid=self._grid)
        return found


def pairings() -> tuple[Pairing, ...]:
    """Its methods that do the same here; nothing is imported yet. Its rk4 is the 3/8 rule, ours Kutta's."""
    return tuple(pairing(method, bare) for method, bare in (("euler", "euler"), ("midpoint", "")))


def pairing(method: str, bare: str = "", grid: Callable[[int], Tensor] | None = None) -> Pairing:
    """A method and ours of its name, on equal steps or on a grid of its times for a number of steps."""

    def build(steps: int) -> Peer:
        return Solver(method, torch.linspace(0.0, 1.0, steps + 1) if grid is None else grid(steps))

    return Pairing(
        "flow_matching", f"ODESolver {method}", build, method, PATH, "velocity", adapt=towards_data, bare=bare
    )
