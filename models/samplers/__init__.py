"""Samplers: one family a file, one signature for all.

    sampler(denoiser, x_T, grid, *, noise, callback) -> x_0

`grid` is a strictly falling sequence of N + 1 host times that ends at 0, `noise(x)` draws standard normal
noise like x and is the only source of randomness, `callback(step, t, x)` sees the state after each step.
Samplers keep no state and, but for those of adaptive steps, never read a tensor on the host, so a device
is not waited for. Their formulas are recorded once a grid (`models.samplers.tape`), then only run.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from models.grids import Grid
from models.names import unknown
from models.samplers import catalogue

if TYPE_CHECKING:
    from torch import Tensor

    from models.denoiser import Denoiser
    from models.gaussian_path import GaussianPath
    from models.guidance import Guidance
    from models.samplers.program import Program

    Noise = Callable[[Tensor], Tensor]
    Callback = Callable[[int, float, Tensor], object]

EXECUTIONS = ("eager", "compiled", "cuda-graph")
"""One operation after another; steps compiled by torch.compile; the whole loop captured as a CUDA graph."""


@dataclass(frozen=True)
class Sampler:
    """One sampler with its number of steps, its grid and its options; calling it samples.

    grid       a name or a `models.grids.Grid`; `native` is the sampler's own
    execution  of `EXECUTIONS`; results agree up to rounding

    >>> sampler("heun", 10).grid
    Grid('shared')
    """

    name: str
    steps: int
    grid: Grid | str = "shared"
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    execution: str = "eager"

    def __post_init__(self) -> None:
        catalogue.check(self.name, self.options, self.grid, self.steps)
        native = catalogue.ENTRIES[self.name].native_grid
        object.__setattr__(self, "grid", Grid.parse(self.grid).resolved(native))
        catalogue.check(self.name, self.options, self.grid, self.steps)  # `native` may allow fewer steps
        if self.execution not in EXECUTIONS:
            raise ValueError(unknown("execution", self.execution, EXECUTIONS))
        if self.execution != "eager" and catalogue.ENTRIES[self.name].adaptive:
            raise ValueError(f"Sampler {self.name} chooses its steps on the way: it can only be run eagerly.")

    @property
    def stochastic(self) -> bool:
        """Whether it draws noise on the way, with the options it has."""
        return catalogue.ENTRIES[self.name].stochastic(self.options)

    def times(self, path: GaussianPath, shape: Sequence[int] | None = None) -> tuple[float, ...]:
        """Its grid on a path, for states of a shape."""
        return Grid.parse(self.grid)(path, self.steps, shape)

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
        noise = noise or _no_noise
        if catalogue.ENTRIES[self.name].adaptive:
            integrate: Callable[..., Tensor] = _function(self.name)
            return integrate(denoiser, x_T, checked(grid), noise=noise, callback=callback, **self.options)
        return _runner(self.execution)(plan(self, denoiser, grid), denoiser, x_T, noise, callback)


def sampler(
    name: str, steps: int = 1, grid: Grid | str = "shared", execution: str = "eager", **options: Any
) -> Sampler:
    """The sampler of a name; unknown names, options and values are refused with the nearest valid one.

    steps  left out for a sampler that chooses its own
    """
    return Sampler(name, steps, grid, options, execution)


def names() -> tuple[str, ...]:
    """All samplers."""
    return catalogue.names()


@functools.cache
def _runner(execution: str) -> Callable[..., Tensor]:
    """Who runs a program; found late, since names and options are known without torch."""
    from models.samplers import execution as faster
    from models.samplers import program

    return program.run if execution == "eager" else functools.partial(faster.run, execution)


def plan(chosen: Sampler, denoiser: Denoiser, grid: Sequence[float]) -> Program:
    """The recorded operations of a sampler of fixed steps, remembered for paths that are plain values."""
    rule = denoiser.rule
    known = denoiser.path, denoiser.prediction, denoiser.clip, rule if rule.active else None
    make = _plan if "__dataclass_params__" in vars(type(denoiser.path)) else _plan.__wrapped__
    return make(chosen.name, tuple(chosen.options.items()), tuple(grid), *known)


@functools.lru_cache(maxsize=256)
def _plan(
    name: str,
    options: tuple[tuple[str, Any], ...],
    grid: tuple[float, ...],
    path: GaussianPath,
    prediction: str,
    clip: bool,
    guidance: Guidance | None,
) -> Program:
    from models.guidance import NONE
    from models.samplers.tape import Tape

    fixed = catalogue.ENTRIES[name].fixed
    defaults = {option: known.default for option, known in catalogue.ENTRIES[name].options.items()}
    tape = Tape(path, prediction, clip, guidance or NONE, checked(grid))
    return tape.record(_function(name), **{**fixed, **defaults, **dict(options)})


def _function(name: str) -> Callable[..., Any]:
    module, _, function = catalogue.ENTRIES[name].function.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(f"models.samplers.{module}"), function)
    return found


def checked(grid: Sequence[float]) -> tuple[float, ...]:
    """The grid as floats, refused unless it falls strictly and ends at 0."""
    times = tuple(float(t) for t in grid)
    falls = all(s < t for t, s in pairwise(times))
    if len(times) < 2 or not falls or times[-1] != 0.0:
        raise ValueError("A grid is two or more strictly falling times that end at 0: see models.grids.grid.")
    return times


def _no_noise(x: Tensor) -> Tensor:
    raise ValueError("This sampler draws noise on the way: pass noise=torch.randn_like or a seeded source.")
