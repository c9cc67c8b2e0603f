"""Sampler certificates: what a sampler does wrong by itself, on data whose exact denoiser is known.

The data are a Gaussian mixture (`bench.data.mixture`), the network says the exact prediction, everything is
in float64 on the rectified-flow path. What is left is the sampler's own error:

    sampler error       r.m.s. distance, an entry, from the exact end of the probability flow of the same
                        noise, on the suite's grid with its last jump to 0
    order               p of error ∝ steps^(−p), without that jump: on steps of equal log-SNR from −10 to 6,
                        against the exact flow to there, between the two finest numbers of steps
    sampler law error   for a sampler that draws noise, whose end point means nothing: the sliced Wasserstein
                        distance of its samples from the mixture, which is in units of the data too

The jump to 0 is one step of order 1 from noise that the grid decides and not the method: it would hide the
order. The first steps of a multistep method, of lower order, are its own and count. What exact draws of the
same number score is recorded as `sampler law floor`.

Shapes: n noises, S numbers of steps.
Source of errors against the exact flow: Karras et al. 2022 (2206.00364).
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping

import numpy as np

from bench.cells import Cell
from bench.errors import CellFailed
from bench.metrics.sampler_error import (
    BLOCKS,
    DIRECTIONS,
    DRAWS,
    NOISES,
    ORDER_END,
    ORDER_STEPS,
    Certified,
    Numbers,
    flow_errors,
    jackknifed,
    law_errors,
    order,
    order_squares,
    rms,
    setting,
)
from bench.records import Record
from bench.store import Part
from bench.workbench import Workbench
from models.samplers import catalogue, sampler


class Certificates:
    """Cells of kind `certificate`."""

    def part(self, cell: Cell, index: int, bench: Workbench) -> Part:
        """All numbers of steps at once: they take milliseconds each."""
        started, spec = time.perf_counter(), cell.spec
        if spec["options"].get("variance") == "learned":
            return Part(
                {}, {"unavailable": "it needs a variance that was learned, and nothing is learned here"}
            )

        def make(steps: int, grid: str) -> Certified:
            return sampler(spec["sampler"], steps, grid=grid, **spec["options"])

        entry = catalogue.ENTRIES[spec["sampler"]]
        if entry.stochastic(spec["options"]):
            arrays = law_errors(make, spec["steps"], spec["grid"], spec["shape"])
        else:
            arrays = flow_errors(make, spec["steps"], spec["grid"], spec["shape"])
            if not entry.adaptive:
                arrays["order_squares"] = order_squares(make)
        for name, values in arrays.items():
            if not np.isfinite(values).all():
                raise CellFailed(f"{name} of sampler {spec['sampler']} on the mixture is not finite")
        return Part(arrays, {"seconds": time.perf_counter() - started})

    def records(self, cell: Cell, parts: list[Part], bench: Workbench) -> list[Record]:
        """The error at each number of steps, and the order or the floor."""
        (part,) = parts
        row = functools.partial(bench.row, cell, device="cpu")
        if "unavailable" in part.info:
            return [row(metric="sampler error", status="n/a", protocol=part.info["unavailable"])]
        row = functools.partial(row, seconds=part.info["seconds"])
        if "law" in part.arrays:
            return _law_records(row, cell, part.arrays)
        return _flow_records(row, cell, part.arrays)


def _flow_records(row: Callable[..., Record], cell: Cell, arrays: Mapping[str, Numbers]) -> list[Record]:
    entry = catalogue.ENTRIES[cell.spec["sampler"]]
    protocol = (
        f"r.m.s. distance an entry from the exact end of the probability flow, {setting()}, the grid's last "
        f"jump included, {NOISES} start noises; interval by bootstrap over them"
    )
    records = []
    for steps, squares, nfe in zip(cell.spec["steps"], arrays["squares"], arrays["nfe"], strict=True):
        value, low, high = rms(squares)
        known = None if entry.adaptive else steps
        records.append(
            row(
                metric="sampler error",
                value=value,
                low=low,
                high=high,
                steps=known,
                nfe=float(nfe),
                n=NOISES,
                protocol=protocol,
            )
        )
    if "order_squares" in arrays:
        records.append(_order_record(row, arrays["order_squares"]))
    return records


def _order_record(row: Callable[..., Record], squares_Sn: Numbers) -> Record:
    found = order(squares_Sn)
    if found is None:
        return row(
            metric="order", status="n/a", protocol="its error is that of the arithmetic: no order to see"
        )
    value, low, high, at = found
    protocol = (
        f"observed order between {ORDER_STEPS[at]} and {ORDER_STEPS[at + 1]} steps of equal log-SNR from −10 "
        f"to {ORDER_END:g}, start-up included and the jump to 0 left out, {setting()}, {NOISES} start "
        "noises; interval by bootstrap over them"
    )
    return row(metric="order", value=value, low=low, high=high, n=NOISES, protocol=protocol)


def _law_records(row: Callable[..., Record], cell: Cell, arrays: Mapping[str, Numbers]) -> list[Record]:
    protocol = (
        f"sliced Wasserstein-2 distance ({DIRECTIONS} directions) from the mixture, {setting()}, the grid's "
        f"last jump included, {DRAWS} samples; interval by the jackknife over {BLOCKS} blocks; exact draws "
        "score the sampler law floor"
    )
    records = []
    for steps, squares, nfe in zip(cell.spec["steps"], arrays["law"], arrays["nfe"], strict=True):
        value, low, high = jackknifed(squares)
        columns = {"value": value, "low": low, "high": high, "steps": steps, "nfe": float(nfe), "n": DRAWS}
        records.append(row(metric="sampler law error", protocol=protocol, **columns))
    floor = np.sqrt(arrays["floor"])
    low, high = np.quantile(floor, [0.025, 0.975])
    columns = {"value": float(floor.mean()), "low": float(low), "high": float(high), "n": DRAWS}
    said = f"sliced Wasserstein-2 distance of {DRAWS} exact draws; mean and 95 % range of {BLOCKS} sets"
    return [*records, row(metric="sampler law floor", protocol=said, **columns)]
