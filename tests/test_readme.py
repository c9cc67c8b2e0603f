"""Protects the README: its worked example runs as printed, and it lists what there is."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from bench import registry
from bench.suite import load_suite
from models.grids import GRIDS
from models.samplers import catalogue
from tests.conftest import ROOT, environment

README = (ROOT / "README.md").read_text()


def _block(language: str, containing: str) -> str:
    blocks = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    (found,) = [block for block in blocks if containing in block]
    return found


def test_the_worked_example_runs_as_printed(
    tmp_path: Path, noisebench: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    (tmp_path / "pixel_histogram.py").write_text(_block("python", "class PixelHistogram"))
    (tmp_path / "mine.yaml").write_text(_block("yaml", "pixel_histogram:PixelHistogram"))
    program, *arguments = shlex.split(_block("sh", "mine.yaml"))
    assert program == "noisebench"
    assert arguments[-2:] == ["--models", "histogram,vae"]
    done = noisebench(*arguments[:-1], "histogram")
    assert done.returncode == 0, done.stderr + done.stdout
    (results,) = (tmp_path / "results" / "runs").glob("*/results.json")
    rows = {(row["model"], row["metric"]): row for row in json.loads(results.read_text())}
    trained = rows["histogram", "bits/dim"]["value"]
    counted = rows["per-pixel histogram", "bits/dim"]["value"]
    assert trained == pytest.approx(counted, abs=0.03)


def test_the_suite_in_the_readme_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "more.yaml"
    path.write_text(_block("yaml", "name: more-steps"))
    assert load_suite(str(path)).name == yaml.safe_load(path.read_text())["name"]


def test_every_model_and_verb_is_listed() -> None:
    for name in registry.BUILTIN:
        assert f"| `{name}` |" in README
    for name in [*catalogue.names(), *GRIDS]:
        assert f"`{name}`" in README or f"`-{name.removeprefix('dpmpp-')}`" in README, name
    for verb in (
        "run",
        "plan",
        "ls",
        "report",
        "compare",
        "evaluate",
        "peers",
        "kernels",
        "verify",
        "doctor",
    ):
        assert f"| `noisebench {verb}" in README


def test_every_file_it_points_to_exists() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_notebook_example_prints_what_is_printed_there(tmp_path: Path) -> None:
    (tmp_path / "results").symlink_to(ROOT / "results")
    done = subprocess.run(
        [sys.executable, "-c", _block("python", "bench.load")],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shown = README[README.index("bench.load(") :].split("```\n")[2]
    assert done.stdout.strip().splitlines() == shown.strip().splitlines()
    assert (tmp_path / "evaluations.png").is_file()
