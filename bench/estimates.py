"""What a missing cell will cost, from what the same work cost before.

Work is the same when model class and options, data shape, sampler, steps and sizes are; seed, weights and
code do not matter. First the user's own store is asked, then figures measured on a reference machine that
come with the package (`python -m bench.estimates STORE > bench/suites/estimates.json` makes them).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from bench.cells import Cell
from bench.identity import content_key
from bench.store import CELL, Store

_IRRELEVANT = {"seed", "weights", "code", "runtime", "hardware", "data", "features", "builds_on"}


@dataclass(frozen=True)
class Estimate:
    """Seconds and bytes of a cell; `source` is `history`, `reference` or `unknown` (then 0 and 0)."""

    seconds: float
    bytes: int
    source: str


def workload(kind: str, spec: Mapping[str, Any]) -> str:
    """Identifies the work of a cell, blind to what does not change its cost."""
    return content_key({"kind": kind, **{k: v for k, v in spec.items() if k not in _IRRELEVANT}})[:16]


def _costs(store: Store) -> dict[str, list[float]]:
    """[seconds, bytes] of every finished cell by its workload."""
    costs = {}
    for key in store:
        folder = store.folder(key)
        if store.is_finished(key):
            stored = json.loads((folder / CELL).read_text())
            seconds = max((r.seconds or 0.0 for r in store.records(key)), default=0.0)
            costs[workload(stored["kind"], stored["spec"])] = [round(seconds, 3), store.size(key)]
    return costs


class Estimator:
    """Looks work up in a store and in the figures that come with the package."""

    def __init__(self, store: Store) -> None:
        self._history = _costs(store)
        file = resources.files("bench") / "suites" / "estimates.json"
        self._reference = json.loads(file.read_text())["costs"] if file.is_file() else {}

    def of(self, cell: Cell) -> Estimate:
        """The estimate of one cell."""
        name = workload(cell.kind, cell.spec)
        for source, costs in (("history", self._history), ("reference", self._reference)):
            if name in costs:
                seconds, size = costs[name]
                return Estimate(seconds, int(size), source)
        return Estimate(0.0, 0, "unknown")


def main() -> None:
    """Print the costs in a store as JSON, with the machine they were measured on."""
    from bench.runtime import default_threads, device_name

    machine = f"{device_name('cpu')}, {default_threads()} threads"
    costs = dict(sorted(_costs(Store(Path(sys.argv[1]))).items()))
    print(json.dumps({"machine": machine, "costs": costs}, indent=0))


if __name__ == "__main__":
    main()
