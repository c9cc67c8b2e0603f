"""The two latest results of `make micro` side by side: medians and their ratio, slowest change first."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def latest(folder: Path) -> list[Path]:
    """The two newest files, older first; exits with one sentence where there are fewer."""
    found = sorted(folder.glob("*/*.json"), key=lambda path: path.stat().st_mtime)
    if len(found) < 2:
        sys.exit(f"{folder} holds {len(found)} of two results: run make micro before a change and after it.")
    return found[-2:]


def medians(path: Path) -> dict[str, tuple[float, float]]:
    """Median and interquartile range in seconds by name."""
    told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return {one["fullname"]: (one["stats"]["median"], one["stats"]["iqr"]) for one in told["benchmarks"]}


def table(before: Path, after: Path) -> list[str]:
    """A line each benchmark that both have."""
    old, new = medians(before), medians(after)
    ratios = {name: new[name][0] / old[name][0] for name in old if name in new}
    lines = [f"{before.stem} → {after.stem}", f"{'before, µs':>14} {'after, µs':>14} {'ratio':>7}"]
    for name in sorted(ratios, key=lambda name: -ratios[name]):
        (a, spread_a), (b, spread_b) = old[name], new[name]
        told = [f"{1e6 * value:.4g} ± {1e6 * spread:.1g}" for value, spread in ((a, spread_a), (b, spread_b))]
        lines.append(f"{told[0]:>14} {told[1]:>14} {ratios[name]:>7.3f}  {name.partition('::')[2]}")
    return lines


if __name__ == "__main__":
    print("\n".join(table(*latest(Path(sys.argv[1] if len(sys.argv) > 1 else ".benchmarks")))))
