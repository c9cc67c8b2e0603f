"""Versions of what a run's folder holds, and the steps by which older results become today's.

    1  one row a number, without the column `options`
    2  with `options`: how a cell was sampled beyond sampler, grid, steps and weight

Each step takes the rows of one version to the next; results of a later release are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from bench.errors import UsageError

VERSION = 2

Rows = list[dict[str, Any]]


def _with_options(rows: Rows) -> Rows:
    return [{"options": "", **row} for row in rows]


STEPS: dict[int, Callable[[Rows], Rows]] = {1: _with_options}
"""Version -> what makes its rows those of the next."""


def migrated(rows: Sequence[dict[str, Any]], version: int, where: str) -> Rows:
    """Rows of today's version. Raises UsageError where they are of a later release, or of none."""
    if not isinstance(version, int) or version < 1:
        raise UsageError(f"{where} names no version of its results: run the suite again to make them anew.")
    if version > VERSION:
        raise UsageError(
            f"{where} is of version {version} and this release reads up to {VERSION}: install a newer "
            "noisebench."
        )
    found = list(rows)
    for step in range(version, VERSION):
        found = STEPS[step](found)
    return found
