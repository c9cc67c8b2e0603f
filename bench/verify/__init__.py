"""Checks of an installation against what is known in closed form.

    for row in verify("digits"): ...

Each check computes one number through the estimators that measure models, on data or networks for which the
answer is known, and compares it with that answer, written down anew in `bench.verify.closed_form`. A number
that only scatters about its answer has a tolerance of so many standard errors; seeds are fixed.

Nothing here imports torch before rows are asked for.
"""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

Relation = Literal["=", "≤", "≥"]

MODULES = (
    "bench.verify.units",
    "bench.verify.variational",
    "bench.verify.flow",
    "bench.verify.divergence",
    "bench.verify.normalisation",
    "bench.verify.bounds",
    "bench.verify.latents",
)
"""Where the checks are, each module with a function `checks()`."""

SETTINGS = "bench.verify.solver"
"""Where a suite's own are: `checks_of(suite)`."""


@dataclass(frozen=True)
class Finding:
    """What a check found: got = expected, got ≤ expected or got ≥ expected, each up to the tolerance."""

    expected: float
    got: float
    tolerance: float
    relation: Relation = "="

    @property
    def ok(self) -> bool:
        """Whether it holds; never for what is not finite."""
        excess = self.got - self.expected
        off = {"=": abs(excess), "≤": excess, "≥": -excess}[self.relation]
        return math.isfinite(self.got) and off <= self.tolerance


@dataclass(frozen=True)
class Check:
    """One comparison.

    group    what is checked, e.g. `units`
    name     the case
    measure  computes both sides
    """

    group: str
    name: str
    measure: Callable[[], Finding]


@dataclass(frozen=True)
class Row:
    """A check that was run; without numbers where it broke off, and then `note` says how."""

    group: str
    check: str
    expected: float | None
    relation: Relation
    got: float | None
    tolerance: float | None
    ok: bool
    seconds: float
    note: str = ""


def verify(suite: str = "") -> Iterator[Row]:
    """Every check as soon as it is done; with a suite also the solver settings that it uses."""
    settings: list[Check] = []
    if suite:  # first, so that a name that is wrong is told at once
        settings = importlib.import_module(SETTINGS).checks_of(suite)
    modules = [importlib.import_module(name) for name in MODULES]
    yield from run([*(check for module in modules for check in module.checks()), *settings])


def run(checks: Iterable[Check]) -> Iterator[Row]:
    """The rows of some checks; what raises is a failed row, and the others go on."""
    for check in checks:
        started = time.perf_counter()
        try:
            found, note = check.measure(), ""
        except Exception as error:
            found, note = None, f"{type(error).__name__}: {error}"
        seconds = time.perf_counter() - started
        if found is None:
            yield Row(check.group, check.name, None, "=", None, None, False, seconds, note)
        else:
            numbers = (found.expected, found.relation, found.got, found.tolerance, found.ok)
            yield Row(check.group, check.name, *numbers, seconds)
