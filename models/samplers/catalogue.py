"""Which samplers there are, without importing them: names, options, cost.

`ls` and the validation of a suite need no more than this, so nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from models import grids
from models.names import unknown


@dataclass(frozen=True)
class Choice:
    """An option with a few possible words."""

    default: str
    words: tuple[str, ...]

    def check(self, sampler: str, name: str, value: object) -> None:
        """Refuse any other word."""
        if value not in self.words:
            raise ValueError(f"Option {name} of {sampler} is one of {', '.join(self.words)}, not {value!r}.")


@dataclass(frozen=True)
class Interval:
    """An option that is a number between two ends, both included."""

    default: float
    low: float
    high: float

    def check(self, sampler: str, name: str, value: object) -> None:
        """Refuse what is no number between the ends."""
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not self.low <= value <= self.high:  # type: ignore[operator]
            raise ValueError(
                f"Option {name} of {sampler} is a number from {self.low:g} to {self.high:g}, not {value!r}."
            )


@dataclass(frozen=True)
class Entry:
    """One sampler.

    module       where it lives; the function has the sampler's name
    evaluations  network evaluations of N steps, as a formula for people; the harness counts them itself
    stochastic   whether it draws noise on the way with its default options
    """

    name: str
    module: str
    summary: str
    evaluations: str
    stochastic: bool
    options: Mapping[str, Choice | Interval] = field(default_factory=dict)


ENTRIES = {
    entry.name: entry
    for entry in (
        Entry(
            "ddpm",
            "models.samplers.ddpm",
            "ancestral sampling from the path's posterior (Ho et al. 2020)",
            "N",
            True,
            {"variance": Choice("small", ("small", "large", "learned"))},
        ),
        Entry(
            "ddim",
            "models.samplers.ddim",
            "deterministic at eta = 0, ancestral at eta = 1 (Song et al. 2021)",
            "N",
            False,
            {"eta": Interval(0.0, 0.0, 1.0)},
        ),
        Entry("euler", "models.samplers.euler", "probability flow, first order", "N", False),
        Entry(
            "heun",
            "models.samplers.heun",
            "probability flow, second order, last step first order (Karras et al. 2022)",
            "2N − 1",
            False,
        ),
    )
}


def names() -> tuple[str, ...]:
    """All samplers."""
    return tuple(ENTRIES)


def check(name: str, options: Mapping[str, object], grid: str = "shared", steps: int = 1) -> None:
    """Refuse an unknown sampler, option, value or grid with one sentence that names the nearest."""
    if name not in ENTRIES:
        raise ValueError(unknown("sampler", name, ENTRIES))
    known = ENTRIES[name].options
    for option, value in options.items():
        if option not in known:
            raise ValueError(unknown(f"option of sampler {name}", option, known))
        known[option].check(name, option, value)
    grids.check(grid, steps)
