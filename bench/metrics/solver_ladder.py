"""What the solver of a likelihood gets wrong: the same images by coarser and finer settings.

An estimate by few steps is not the bits of any density, and usually flatters: its error looks like the
model's merit. So every estimate that follows an ODE is repeated on some images with other steps or
tolerances, with the same dequantisation and probes, and the differences are recorded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from bench.metrics.nll import bits_per_dimension, evaluate_nll
from models.base import ImageModel


def ladder(
    model: ImageModel, pixels: Tensor, known: Mapping[str, Any], **options: Any
) -> list[dict[str, Any]]:
    """Bits by solver setting, less those of the finest: N/4, N/2, N and 2N steps, or 100 to 0.1 tolerances.

    known  the options with their defaults
    options  as given, with those of `evaluate_nll`

    The same images, dequantisation and probes throughout, so that only the solver differs: what fixed steps
    get wrong looks like the model's. Each has setting, nfe, difference with low and high, and `own` for the
    setting that was asked for.
    """
    rungs = _rungs(known)
    found = [evaluate_nll(model, pixels, **{**options, **changes}) for _, changes in rungs]
    rows = []
    for (setting, changes), one in zip(rungs, found, strict=True):
        value, low, high = bits_per_dimension(one.nats - found[-1].nats, model.dims)
        own = all(known[name] == value for name, value in changes.items())
        told = {"setting": setting, "nfe": one.nfe, "own": own, "n": len(pixels)}
        rows.append({**told, "difference": value, "low": low, "high": high})
    return rows


def _rungs(known: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Settings around the one that is asked for, the finest last, each with its name."""
    if known["steps"] is not None:
        steps = known["steps"]
        counts = sorted({max(1, steps // 4), max(1, steps // 2), steps, 2 * steps})
        return [(f"{n} steps", {"steps": n}) for n in counts]
    rungs = []
    for factor in (100.0, 10.0, 1.0, 0.1):
        rtol, atol = known["rtol"] * factor, known["atol"] * factor
        rungs.append((f"tolerance {rtol:g}", {"rtol": rtol, "atol": atol}))
    return rungs
