"""Protects throughput by batch and latency: the intervals of quantiles, and a whole small run of it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.metrics.scaling import quantile_interval
from bench.records import Record, to_frame
from bench.report import tables
from bench.report.batches import by_batch, latencies, throughput_by_batch


@pytest.mark.parametrize("quantile", [0.5, 0.9, 0.99])
def test_the_interval_covers_the_quantile_whatever_the_distribution(quantile: float) -> None:
    rng = np.random.default_rng(0)
    truth, hits, trials = -np.log(1.0 - quantile), 0, 1500
    for _ in range(trials):
        found = quantile_interval(np.sort(rng.exponential(size=500)), quantile)
        assert found is not None
        hits += found[0] <= truth <= found[1]
    assert 0.94 <= hits / trials <= 0.995


def test_too_few_timings_have_no_interval() -> None:
    """Of 100 the largest is below the 99th percentile in 37 %: nothing brackets it."""
    few = np.arange(100.0)
    assert quantile_interval(few, 0.99) is None
    assert quantile_interval(np.arange(5.0), 0.5) is None
    assert quantile_interval(few, 0.5) == (39.0, 60.0)


def _rows(model: str, rates: dict[int, float]) -> list[Record]:
    row = {"model": model, "family": "f", "sampler": "heun", "steps": 10, "status": "ok"}
    found = [
        Record(metric=f"throughput at batch {b}", value=v, low=0.9 * v, high=1.1 * v, unit="images/s", **row)
        for b, v in rates.items()
    ]
    return [*found, Record(metric="latency p50", value=1000 / rates[1], low=1.0, high=2.0, unit="ms", **row)]


def test_the_knee_is_the_smallest_batch_that_is_nearly_as_fast_as_the_best() -> None:
    records = tables.tidy(
        to_frame(
            [
                *_rows("a", {1: 10.0, 4: 39.0, 16: 100.0, 64: 120.0}),
                *_rows("b", {1: 5.0, 4: 5.1, 16: 5.2, 64: 3.0}),
            ]
        )
    )
    rows = by_batch(records)
    knees = dict(zip(rows["model"][rows["knee"]], rows["batch"][rows["knee"]], strict=True))
    assert knees == {"a": 16.0, "b": 1.0}
    chart = throughput_by_batch(records)
    assert chart is not None
    assert "knee at 16" in chart.to_dict()["description"]
    table = latencies(records)
    assert [line["model"] for line in table] == ["a", "b"]
    assert table[0]["latency p50"] == (100.0, 1.0, 2.0)
    assert (table[0]["knee"], table[0]["speed"][0]) == (16.0, 100.0)
    assert throughput_by_batch(records[records["metric"] == "latency p50"]) is None


SUITE = """
name: fast
dataset: digits
metrics: [scaling]
training: {steps: 2, batch_size: 8, learning_rate: 0.001}
models: {vae: {}, ddpm: {samplers: [{name: euler, steps: [2]}]}}
quality: {features: digits-features, group: 360}
scaling: {batches: [1, 3], repeats: 3, images: 4}
"""


def test_a_run_measures_it_and_the_report_shows_it(
    tmp_path: Path, noisebench: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    (tmp_path / "fast.yaml").write_text(SUITE)
    done = noisebench("run", "fast.yaml", "--quiet")
    assert done.returncode == 0, done.stderr + done.stdout
    assert done.stdout.startswith("Report: ")
    assert len(done.stdout.splitlines()) == 1
    (folder,) = (tmp_path / "results" / "runs").iterdir()
    rows = pd.DataFrame(json.loads((folder / "results.json").read_text()))
    rows = rows[rows["metric"].str.startswith(("throughput at batch", "latency"))]
    assert len(rows) == 2 * (2 + 3)
    assert set(rows[rows["metric"].str.startswith("latency")]["n"]) == {12}
    assert set(rows[rows["model"] == "ddpm"]["nfe"]) == {2.0}
    tails = rows[rows["metric"] == "latency p99"]
    assert tails["low"].isna().all()
    assert all("do not bracket this quantile" in text for text in tails["protocol"])
    page, text = (folder / "report.html").read_text(), (folder / "report.md").read_text()
    assert "Latency of one image" in page
    assert "## Latency of one image" in text
    assert (folder / "figures" / "batches.png").is_file()
    again = noisebench("run", "fast.yaml", "--plain")
    assert "0 computed, 4 cached" in again.stdout
