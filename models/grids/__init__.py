"""Noise grids: the times a sampler visits, t_0 > t_1 > … > t_N = 0, on the host in float64.

    Grid("karras", {"rho": 5})(path, 20)        the same as Grid.parse("karras rho=5")(path, 20)

N steps are exactly N intervals. Every grid starts at the log-SNR −10, or at less noise, instead of t = 1, so
that some data is left (α > 0) and every prediction type is defined; the prior there is N(0, σ(t_0)²). The
last step is the jump to 0, from noise that differs much between grids.

`models.grids.spacing` has the formulas, `models.grids.catalogue` the names and options.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from models import options as option
from models.grids.catalogue import GRIDS
from models.grids.spacing import START_LOG_SNR, GridTimes
from models.names import unknown

if TYPE_CHECKING:
    from models.paths import GaussianPath

__all__ = ["GRIDS", "START_LOG_SNR", "Grid", "GridTimes", "check", "grid"]


@dataclass(frozen=True, repr=False)
class Grid:
    """A grid by name with its options; calling it gives its times.

    options  given as a mapping, kept as pairs in the order of `GRIDS` without those that equal their default,
             so that grids are equal and hash alike where they are the same

    >>> str(Grid("karras", {"rho": 5, "sigma_min": 0.002}))
    'karras rho=5'
    """

    name: str = "shared"
    options: Mapping[str, Any] | tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or self.name not in GRIDS:
            raise ValueError(unknown("grid", self.name, GRIDS))
        known, given = GRIDS[self.name].options, dict(self.options)
        option.check(f"grid {self.name}", given, known)
        object.__setattr__(self, "options", tuple(option.changed(given, known).items()))

    def __call__(self, path: GaussianPath, steps: int, shape: Sequence[int] | None = None) -> GridTimes:
        """The N + 1 times on a path; `shape`, (…, H, W), is needed where the grid depends on it."""
        self.check_steps(steps)
        entry = GRIDS[self.name]
        values = {name: known.default for name, known in entry.options.items()} | dict(self.options)
        if entry.by_shape:
            if shape is None or len(shape) < 2:
                raise ValueError(f"Grid {self.name} needs the shape of a sample: pass shape=(C, H, W).")
            values["shape"] = shape
        return entry.function(path, steps, **values)

    def __str__(self) -> str:
        pairs = (f"{name}={option.text(value)}" for name, value in dict(self.options).items())
        return " ".join([self.name, *pairs])

    def __repr__(self) -> str:
        return f"Grid({self.name!r}, {dict(self.options)})" if self.options else f"Grid({self.name!r})"

    def check_steps(self, steps: int) -> None:
        """Refuse a number of steps below one, and one above what the grid has."""
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise ValueError(f"A grid needs a whole number of steps, one or more, and not {steps!r}.")
        most = GRIDS[self.name].most
        if most is not None and steps > most:
            raise ValueError(f"Grid {self.name} chooses from {most} timesteps: {steps} steps are too many.")

    def resolved(self, native: str | Grid) -> Grid:
        """Itself, or where it is `native` the grid that a sampler calls its own."""
        return Grid.parse(native) if self.name == "native" else self

    @classmethod
    def parse(cls, value: object) -> Grid:
        """From a name, the text `karras rho=5`, a mapping {name: karras, rho: 5}, or a grid itself."""
        if isinstance(value, Grid):
            return value
        if isinstance(value, Mapping):
            if "name" not in value:
                raise ValueError("A grid given as a mapping needs its name, such as {name: karras, rho: 5}.")
            return cls(value["name"], {key: given for key, given in value.items() if key != "name"})
        if not isinstance(value, str):
            raise ValueError(f"A grid is a name or a mapping with a name, and not {value!r}.")
        name, *pairs = value.split() or [""]
        return cls(name, dict(_pair(name, pair) for pair in pairs))


def check(value: object, steps: int) -> None:
    """Refuse what is no grid with the nearest name, and a number of steps that it cannot have."""
    Grid.parse(value).check_steps(steps)


def grid(value: object, path: GaussianPath, steps: int, shape: Sequence[int] | None = None) -> GridTimes:
    """The N + 1 times on a path of whatever `Grid.parse` takes."""
    return Grid.parse(value)(path, steps, shape)


def _pair(name: str, pair: str) -> tuple[str, object]:
    key, equals, value = pair.partition("=")
    if not (key and equals and value):
        raise ValueError(f"Options of grid {name} are written as in karras rho=5, and not '{pair}'.")
    return key, option.value(value)
