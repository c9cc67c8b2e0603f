"""Protects the whole: a run from nothing to a report, resumed, killed, failing, and doubled."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.conftest import environment

Call = Callable[..., subprocess.CompletedProcess[str]]
MEASURED = ("throughput", "training time", "other load", "peak memory")


def _folder(tmp_path: Path) -> Path:
    (folder,) = (tmp_path / "results" / "runs").iterdir()
    return folder


def _rows(tmp_path: Path) -> list[dict[str, Any]]:
    return json.loads((_folder(tmp_path) / "results.json").read_text())


def _numbers(tmp_path: Path) -> list[dict[str, Any]]:
    """What must be the same bit for bit: all but timings, and what a number took."""
    rows = [row for row in _rows(tmp_path) if row["metric"] not in MEASURED]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def _start(tmp_path: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "bench", "run", "--threads", "1", *arguments],
        cwd=tmp_path,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an uninterrupted run of the tiny suite."""
    from tests.conftest import TINY

    folder = tmp_path_factory.mktemp("finished")
    (folder / "tiny.yaml").write_text(TINY)
    process = _start(folder, "tiny.yaml")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return folder


def test_a_run_leaves_every_file_and_every_cell_is_ok(finished: Path) -> None:
    names = {path.name for path in _folder(finished).iterdir()}
    assert {"run.json", "results.csv", "results.json", "results.parquet", "report.html", "report.md"} <= names
    rows = _rows(finished)
    assert {row["status"] for row in rows} == {"ok"}
    cells = {(row["model"], row["sampler"], row["metric"]) for row in rows}
    assert {
        ("rectified-flow", "heun", "FD-digits@360"),
        ("rectified-flow", "ddim", "throughput"),
        ("rectified-flow", "", "bits/dim"),
        ("vae", "prior", "FD-digits@360"),
        ("real test images", "", "FD-digits@360"),
        ("uniform", "", "bits/dim"),
    } <= cells


def test_the_evaluations_are_measured(finished: Path) -> None:
    nfe = {(r["sampler"], r["metric"]): r["nfe"] for r in _rows(finished) if r["model"] == "rectified-flow"}
    assert nfe["heun", "FD-digits@360"] == nfe["heun", "throughput"] == 3
    assert nfe["ddim", "FD-digits@360"] == nfe["ddim", "throughput"] == 2


def test_every_number_has_an_interval_or_says_why_not(finished: Path) -> None:
    for row in _rows(finished):
        assert row["protocol"], row
        if row["low"] is None:
            assert "no interval" in row["protocol"], row
        else:
            assert row["low"] <= row["value"] <= row["high"], row


def test_the_three_tables_say_the_same(finished: Path) -> None:
    folder = _folder(finished)
    parquet = pd.read_parquet(folder / "results.parquet")
    csv = pd.read_csv(
        folder / "results.csv", dtype=dict(parquet.dtypes), keep_default_na=False, na_values=[""]
    )
    rows = _rows(finished)
    assert len(parquet) == len(csv) == len(rows)
    assert parquet["value"].tolist() == csv["value"].tolist() == [row["value"] for row in rows]


def test_the_run_tells_how_it_came_about(finished: Path) -> None:
    run = json.loads((_folder(finished) / "run.json").read_text())
    call = run["provenance"][0]
    assert run["spec"]["passed"] == "tiny.yaml"
    assert run["spec"]["resolved"]["models"]["vae"]["training"]["steps"] == 24
    assert call["versions"]["torch"].split(".")[0] == "2"
    assert call["hardware"]["threads"] >= 1
    assert call["command"].endswith("run --threads 1 tiny.yaml")
    assert str(finished) not in json.dumps(run)


def test_a_finished_run_computes_nothing_and_gives_the_same_bytes(finished: Path) -> None:
    folder = _folder(finished)
    kept = ("results.csv", "results.json", "results.parquet", "report.html", "report.md")
    before = {name: (folder / name).read_bytes() for name in kept}
    process = _start(finished, "tiny.yaml")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert "0 computed" in output
    assert {name: (folder / name).read_bytes() for name in kept} == before


def test_the_report_can_be_made_again_from_the_store(finished: Path, noisebench: Call) -> None:
    page = _folder(finished) / "report.html"
    before = page.read_bytes()
    page.unlink()
    done = noisebench("report", "--results", str(finished / "results"), "--json")
    assert done.returncode == 0, done.stderr
    assert Path(json.loads(done.stdout)["report"]) == page
    assert page.read_bytes() == before


def _wait_for(folder: Path, pattern: str, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 240
    while not list(folder.glob(pattern)):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    "moment",
    [
        "results/store/cells/*/*/checkpoint.safetensors",
        "results/store/cells/*/*/weights.safetensors",
        "results/store/cells/*/*/part-001.safetensors",
    ],
)
def test_a_killed_run_goes_on_to_the_same_numbers(tiny: Path, finished: Path, moment: str) -> None:
    folder = tiny.parent
    process = _start(folder, "tiny.yaml")
    _wait_for(folder, moment, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("results/store/cells/*/*/DONE")}
    again = _start(folder, "tiny.yaml")
    output, _ = again.communicate(timeout=300)
    assert again.returncode == 0, output
    assert _numbers(folder) == _numbers(finished)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_two_runs_in_one_folder_do_every_cell_once(tiny: Path, finished: Path) -> None:
    folder = tiny.parent
    pair = [_start(folder, "tiny.yaml") for _ in range(2)]
    outputs = [process.communicate(timeout=300)[0] for process in pair]
    assert [process.returncode for process in pair] == [0, 0], outputs
    done = [
        line.split(":")[0] for output in outputs for line in output.splitlines() if line.startswith("ok ")
    ]
    assert len(done) == len(set(done)) == len(list(folder.glob("results/store/cells/*/*/DONE")))
    assert _numbers(folder) == _numbers(finished)


def test_a_failing_model_is_shown_and_the_others_go_on(tiny: Path) -> None:
    folder = tiny.parent
    tiny.write_text(
        tiny.read_text().replace(
            "  vae: {}\n",
            "  vae: {}\n"
            "  diverging: {model: 'tests.bench.toys:Diverging'}\n"
            "  faulty: {model: 'tests.bench.toys:Faulty'}\n"
            "  silent: {model: 'tests.bench.toys:Silent'}\n",
        )
    )
    process = _start(folder, "tiny.yaml", "--metrics", "quality,likelihood")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 1, output
    rows = {(row["model"], row["metric"]): row for row in _rows(folder)}
    sentence = rows["faulty", "quality"]["error"]
    assert "shard 1, image 261, step 3" in sentence
    assert "sampler independent" in sentence
    assert rows["faulty", "bits/dim"]["error"] == "ZeroDivisionError: a defect in the model"
    assert "not finite" in rows["diverging", "training"]["error"]
    assert rows["diverging", "quality"]["status"] == "skipped"
    assert rows["silent", "bits/dim"]["status"] == "n/a"
    assert rows["silent", "bits/dim"]["value"] is None
    assert rows["silent", "FD-digits@360"]["status"] == "ok"
    assert rows["vae", "bits/dim"]["status"] == "ok"
    assert "image 261" in (_folder(folder) / "report.html").read_text()
    (trace,) = (_folder(folder) / "errors").glob("*.txt")
    assert "ZeroDivisionError" in trace.read_text()


def test_a_damaged_cell_is_found_and_made_again(finished: Path, noisebench: Call) -> None:
    before = _numbers(finished)
    part = next(finished.glob("results/store/cells/*/*/part-001.safetensors"))
    part.write_bytes(part.read_bytes()[:-9])
    results = str(finished / "results")
    examined = noisebench("doctor", "--results", results, "--json")
    assert examined.returncode == 1
    assert part.name in json.loads(examined.stdout)["findings"][0]["what"]
    assert noisebench("doctor", "--results", results, "--repair").returncode == 0
    process = _start(finished, "tiny.yaml")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "1 computed" in output
    assert _numbers(finished) == before


def test_pruning_removes_only_what_no_run_shows(finished: Path, noisebench: Call) -> None:
    results = str(finished / "results")
    cells = len(list(finished.glob("results/store/cells/*/*/DONE")))
    orphan = finished / "results" / "store" / "cells" / "ff" / ("ff" * 32)
    orphan.mkdir(parents=True)
    (orphan / "cell.json").write_text("{}")
    done = json.loads(noisebench("doctor", "--results", results, "--prune", "--json").stdout)
    # It is no cell at all, and no run shows it.
    altered, removed = (finding["what"] for finding in done["findings"])
    assert altered.startswith(f"cell {'ff' * 6}: cell.json missing or altered")
    assert removed == f"cell {'ff' * 6} removed: no run shows it"
    assert not orphan.exists()
    assert len(list(finished.glob("results/store/cells/*/*/DONE"))) == cells


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_without_permission_is_one_sentence(tiny: Path, noisebench: Call) -> None:
    (tiny.parent / "results").mkdir(mode=0o500)
    done = noisebench("run", "tiny.yaml")
    assert done.returncode == 1
    assert "Permission denied" in done.stderr
    assert "Traceback" not in done.stderr
