"""Samplers: one algorithm a file, one signature for all.

    sampler(denoiser, x_T, grid, *, noise, callback) -> x_0

`grid` is a strictly falling sequence of N + 1 host times that ends at 0, `noise(x)` draws standard normal
noise like x and is the only source of randomness, `callback(step, t, x)` sees the state after each step.
Samplers keep no state and never read a tensor on the host, so a device is not waited for.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from models.samplers import catalogue

if TYPE_CHECKING:
    from torch import Tensor

    from models.denoiser import Denoiser

    Noise = Callable[[Tensor], Tensor]
    Callback = Callable[[int, float, Tensor], object]


@dataclass(frozen=True)
class Sampler:
    """One sampler with its number of steps, its grid and its options; calling it samples.

    >>> sampler("heun", 10).grid
    'shared'
    """

    name: str
    steps: int
    grid: str = "shared"
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        catalogue.check(self.name, self.options, self.grid, self.steps)

    @property
    def stochastic(self) -> bool:
        """Whether it draws noise on the way, with the options it has."""
        if "eta" in self.options:
            return bool(self.options["eta"] > 0)
        return catalogue.ENTRIES[self.name].stochastic

    def __call__(
        self,
        denoiser: Denoiser,
        x_T: Tensor,
        grid: Sequence[float],
        *,
        noise: Noise | None = None,
        callback: Callback | None = None,
    ) -> Tensor:
        """From x_T at time grid[0] to x_0; `noise` may be left out where none is drawn."""
        module = importlib.import_module(catalogue.ENTRIES[self.name].module)
        integrate: Callable[..., Tensor] = getattr(module, self.name)
        return integrate(
            denoiser,
            x_T,
            checked(grid),
            noise=noise or _no_noise,
            callback=callback or _ignore,
            **self.options,
        )


def sampler(name: str, steps: int, grid: str = "shared", **options: Any) -> Sampler:
    """The sampler of a name; unknown names, options and values are refused with the nearest valid one."""
    return Sampler(name, steps, grid, options)


def names() -> tuple[str, ...]:
    """All samplers."""
    return catalogue.names()


def checked(grid: Sequence[float]) -> tuple[float, ...]:
    """The grid as floats, refused unless it falls strictly and ends at 0."""
    times = tuple(float(t) for t in grid)
    falls = all(s < t for t, s in pairwise(times))
    if len(times) < 2 or not falls or times[-1] != 0.0:
        raise ValueError("A grid is two or more strictly falling times that end at 0: see models.grids.grid.")
    return times


def _no_noise(x: Tensor) -> Tensor:
    raise ValueError("This sampler draws noise on the way: pass noise=torch.randn_like or a seeded source.")


def _ignore(step: int, t: float, x: Tensor) -> None:
    """The callback of who gives none."""
