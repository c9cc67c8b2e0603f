"""A run of kernels on the processor: checked before timed, observed, in turn, whole files."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

from bench.kernel_bench import providers as every_provider
from bench.kernel_bench import run as running
from bench.kernel_bench.observed import Claim
from bench.kernel_bench.page import roofline, tables
from bench.kernel_bench.providers import Provider, providers
from bench.kernel_bench.run import Plan, Row, rows
from bench.kernel_bench.shapes import SHAPES, find
from bench.kernel_bench.stored import load, save
from bench.kernel_bench.timing import Times, interleaved
from bench.kernel_bench.work import work
from bench.runtime import Runtime
from kernels.roofline import Card

CPU = torch.device("cpu")


def plan(**changes: object) -> Plan:
    base = {"shapes": find(["smoke-dit"]), "dtype": "float32", "repeats": 3, "device": "cpu"}
    return Plan(**{**base, "only": ("math", "flash", "eager", "triton"), **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def measured() -> list[Row]:
    operations = ("attention", "adaln", "rms-norm")
    return list(
        rows(
            plan(
                shapes=find(["smoke-dit", "smoke-sd3"]), operations=operations, directions=("forward", "both")
            )
        )
    )


def test_every_case_has_a_row_for_every_provider(measured: list[Row]) -> None:
    cases = {(row.operation, row.shape, row.direction) for row in measured}
    assert len(cases) == 2 * (2 * 3 + 1)  # rms-norm only where the model has one
    of_attention = [
        row
        for row in measured
        if (row.operation, row.shape, row.direction) == ("attention", "smoke-dit", "both")
    ]
    assert {row.provider for row in of_attention} == {"math", "flash", "eager", "triton"}


def test_times_errors_and_kernels_are_there(measured: list[Row]) -> None:
    timed = [row for row in measured if row.status == "ok"]
    assert timed
    for row in timed:
        assert row.low is not None
        assert row.seconds is not None
        assert row.high is not None
        assert 0 < row.low <= row.seconds <= row.high
        assert len(row.samples) == 3
        assert row.error is not None
        assert row.error < 1e-5
        assert row.kernels
        assert row.share is None  # no roof of this processor was measured
    flash = next(row for row in timed if row.provider == "flash" and row.direction == "forward")
    assert any("flash" in name for name in flash.kernels)
    of = work("attention", SHAPES[flash.shape], "forward", "float32")
    assert flash.flops == pytest.approx(of.flops / flash.seconds)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU runs our kernels")
def test_ours_without_a_gpu_is_absent_with_the_reason(measured: list[Row]) -> None:
    """The interpreter's time would be nobody's."""
    ours = [row for row in measured if row.provider == "triton"]
    assert ours
    assert all(row.status == "absent" and "NVIDIA GPU" in row.note and row.seconds is None for row in ours)


def with_provider(monkeypatch: pytest.MonkeyPatch, one: Provider) -> list[Row]:
    monkeypatch.setattr(running, "providers", lambda _: [one])
    return list(rows(plan(only=())))


def test_a_wrong_result_fails_and_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = Provider("wrong", lambda _: lambda q, k, v: (2 * v,), lambda _: Claim())
    (row,) = with_provider(monkeypatch, wrong)
    assert (row.status, row.seconds) == ("failed", None)
    assert row.note.startswith("o is wrong: relative error")


def test_another_kernel_than_claimed_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fused path that is silently off must not be timed under its name."""
    right = next(one for one in providers("attention") if one.name == "math")
    silent = dataclasses.replace(right, name="fast", claim=lambda _: Claim(("flash",)))
    (row,) = with_provider(monkeypatch, silent)
    assert (row.status, row.seconds) == ("failed", None)
    assert row.note.startswith("no kernel matching 'flash' ran, but")


def test_out_of_budget_says_so() -> None:
    found = list(rows(plan(budget=-1.0)))
    assert {row.status for row in found} == {"skipped"}
    assert {row.note for row in found} == {"out of time: raise --budget"}


def test_names_of_providers_are_told_apart() -> None:
    for operation in ("attention", "joint-attention", "modulate", "gated-residual", "rms-norm"):
        names = [one.name for one in every_provider.providers(operation)]
        assert len(set(names)) == len(names)
        assert names[-1] == "triton"


def test_providers_take_turns() -> None:
    """Round after round, so that a change of clocks meets all alike."""
    order: list[str] = []
    calls = {name: (lambda name=name: order.append(name)) for name in "abc"}
    times = interleaved(calls, CPU, repeats=4, warmup=0)
    assert order == list("abc" * 4)
    assert all(len(one.samples) == 4 for one in times.values())


def test_a_deadline_ends_the_rounds_after_three() -> None:
    times = interleaved({"a": lambda: time.sleep(0.001)}, CPU, repeats=100, deadline=0.0)
    assert len(times["a"].samples) == 3


def test_median_and_percentiles() -> None:
    times = Times([5.0, 1.0, 2.0, 3.0, 4.0])
    assert times.median == 3.0
    assert times.spread == pytest.approx((1.8, 4.2))


def test_files_hold_all_and_can_be_read_again(measured: list[Row], tmp_path: Path) -> None:
    page = save(tmp_path, measured, None, Runtime("cpu", 1))
    assert load(tmp_path) == (measured, None)
    told = json.loads((tmp_path / "kernels.json").read_text())
    assert {"git", "versions", "hardware", "command"} <= set(told["provenance"])
    frame = pd.read_csv(tmp_path / "results.csv")
    assert len(frame) == len(measured)
    assert set(frame["status"]) == {"ok", "skipped"}
    assert (frame["unit"] == "ms").all()
    text = page.read_text()
    assert "<svg" in text
    assert "No roof is drawn" in text
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert (tmp_path / "figures" / "speedup.png").read_bytes().startswith(b"\x89PNG")


def test_tables_are_fastest_first_and_say_what_is_missing(measured: list[Row]) -> None:
    title, lines, notes = tables(measured)[0]
    assert title == "attention, smoke-dit, forward, float32"
    milliseconds = [float(line[1]) for line in lines]
    assert milliseconds == sorted(milliseconds)
    assert any(note.startswith("triton: absent") for note in notes)


def test_a_roofline_needs_a_measured_card(measured: list[Row]) -> None:
    assert roofline(measured, None) is None
    card = Card("a card", 90, 1e12, 1e11, 1e11, "made up for this test")
    spec = roofline(measured, card).to_dict(validate=False)
    assert len(spec["layer"]) == 2
