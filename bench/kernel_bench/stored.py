"""A run of kernels as files: raw samples with provenance, tidy records, tables and figures.

kernels.json    every row with its samples and kernel names, the card's roofs, how the run came about
results.csv     one number a line, with the columns of every other measurement of this project
report.md       tables and links to the figures       figures/*.png
report.html     the same as one page that asks the network for nothing
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import files, provenance
from bench.identity import content_key
from bench.kernel_bench.run import Row
from bench.records import Record, to_frame
from bench.runtime import Runtime, device_name
from kernels.roofline import Card

SUITE = "kernels"


def save(folder: Path, rows: Sequence[Row], card: Card | None, runtime: Runtime) -> Path:
    """Write everything that `rows` say into `folder`, whole files at a time; returns the page."""
    from bench.kernel_bench.page import write_report

    told = {
        "rows": [row.as_dict() for row in rows],
        "card": None if card is None else asdict(card),
        "provenance": provenance.collect(runtime),
    }
    files.write_json(folder / "kernels.json", told)
    frame = to_frame(records(rows, runtime))
    files.write_text(folder / "results.csv", frame.to_csv(index=False))
    return write_report(folder, rows, card, device_name(runtime.device))


def load(folder: Path) -> tuple[list[Row], Card | None]:
    """The rows of an earlier run."""
    told: dict[str, Any] = json.loads((folder / "kernels.json").read_text(encoding="utf-8"))
    found = [Row(**{**row, "kernels": tuple(row["kernels"])}) for row in told["rows"]]
    return found, None if told["card"] is None else Card(**told["card"])


def records(rows: Sequence[Row], runtime: Runtime) -> list[Record]:
    """Times as records: milliseconds with their 20th and 80th percentile, and why there is none."""
    found = []
    for row in rows:
        said = f"{row.operation} {row.direction}, {row.dtype}, providers in turn, cold cache"
        given: dict[str, Any] = {"status": "ok"}
        if row.seconds is not None:
            given |= {"value": 1e3 * row.seconds, "n": len(row.samples)}
            given["protocol"] = (
                f"{said}; median, p20 {1e3 * (row.low or 0):.4g}, p80 {1e3 * (row.high or 0):.4g}"
            )
        else:
            status = {"absent": "skipped", "skipped": "skipped"}.get(row.status, "failed")
            given |= {"status": status, "error": row.note, "protocol": said}
        key = content_key({"case": [row.operation, row.shape, row.direction, row.dtype, row.provider]})
        found.append(
            Record(
                cell_key=key,
                suite=SUITE,
                dataset="random normal",
                model=row.shape,
                family=row.operation,
                sampler=row.provider,
                options=row.direction,
                dtype=row.dtype,
                metric="kernel time",
                unit="ms",
                device=device_name(runtime.device),
                **given,
            )
        )
    return found
