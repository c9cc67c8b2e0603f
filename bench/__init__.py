"""noisebench: how good, how likely and how fast the samples of an image generator are.

    noisebench run digits          train, measure and write the comparison report
    noisebench plan digits         what that would do, and what is done already

    bench.load("results/runs/…")   the records of a run as a table
    bench.figures.pareto(records)  a figure of the report from such a table

This package is the harness; `models` holds the mathematics and `kernels` the fused operations.
Importing it is cheap: torch is loaded only where something is computed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench import figures
    from bench.loading import load

__version__ = "0.1.0"
__all__ = ["figures", "load"]


def __getattr__(name: str) -> Any:
    """`bench.load` and `bench.figures`, imported when they are asked for."""
    import importlib

    if name == "load":
        return importlib.import_module("bench.loading").load
    if name == "figures":
        return importlib.import_module("bench.figures")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
