"""Protects results as tables: every file of a run gives the same, and old ones are brought up to date."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import bench
from bench import schema
from bench.errors import UsageError
from bench.records import COLUMNS
from tests.conftest import ROOT

REFERENCE = ROOT / "results" / "reference" / "digits"
OLD = ROOT / "tests" / "data" / "results" / "schema-1"


def test_folder_csv_and_json_are_one_table(tmp_path: Path) -> None:
    whole = bench.load(REFERENCE)
    assert tuple(whole.columns) == COLUMNS
    whole.to_parquet(tmp_path / "results.parquet", index=False)
    for path in (REFERENCE / "results.csv", REFERENCE / "results.json", tmp_path / "results.parquet"):
        pd.testing.assert_frame_equal(bench.load(path), whole)


@pytest.mark.parametrize("name", ["", "results.json", "results.csv"])
def test_results_of_the_first_release_are_read(name: str) -> None:
    """A stored run without the column `options`, as it was written then."""
    found = bench.load(OLD / name)
    assert tuple(found.columns) == COLUMNS
    assert (found["options"] == "").all()
    assert "options" not in json.loads((OLD / "results.json").read_text())[0]
    assert len(found) == 6


def test_every_version_has_its_step() -> None:
    assert sorted(schema.STEPS) == list(range(1, schema.VERSION))


@pytest.mark.parametrize(
    ("run", "sentence"),
    [
        ({"schema": schema.VERSION + 1}, "install a newer noisebench"),
        ({"schema": 0}, "names no version of its results"),
        ({"schema": "2"}, "names no version of its results"),
    ],
)
def test_other_versions_are_refused_with_the_remedy(
    run: dict[str, object], sentence: str, tmp_path: Path
) -> None:
    (tmp_path / "run.json").write_text(json.dumps(run))
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(UsageError, match=sentence):
        bench.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("results.json", "{", "cannot be read"),
        ("results.json", '{"a": 1}', "holds no list of records"),
        ("results.json", '[{"a": 1}]', "holds no records of noisebench"),
        ("results.csv", "a,b\n1,2\n", "holds no records of noisebench"),
        ("results.parquet", "no parquet", "cannot be read"),
        ("results.txt", "", "There are no results at"),
    ],
)
def test_what_holds_no_records_gets_one_sentence(
    name: str, content: str, sentence: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UsageError, match=sentence):
        bench.load(tmp_path / name)
    with pytest.raises(UsageError, match="There are no results at"):
        bench.load(tmp_path / "nowhere")


def test_figures_are_functions_of_the_table(tmp_path: Path) -> None:
    records = bench.load(REFERENCE)
    for name in ("pareto", "bits_per_dimension"):
        chart = getattr(bench.figures, name)(records)
        assert chart.to_dict()["config"]["background"] == "#ffffff"
    panels = bench.figures.quality_vs_evaluations(records)
    assert list(panels) == sorted(panels)
    assert "ddpm" in panels
    bench.figures.save(panels, tmp_path / "panels.png")
    assert (tmp_path / "panels.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match=r"saved as \.png"):
        bench.figures.save(panels, tmp_path / "panels.pdf")
    with pytest.raises(ValueError, match="No cell of these records has a likelihood"):
        bench.figures.bits_per_dimension(records[records["metric"] == "throughput"])


def test_the_package_is_cheap_to_import() -> None:
    code = "import sys, bench; assert not {'torch', 'pandas', 'altair'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = bench.nothing
