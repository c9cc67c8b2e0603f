"""`make micro-compare` reads what pytest-benchmark keeps."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.benchmarks.compare import latest, table


def kept(folder: Path, name: str, median: float, when: float) -> Path:
    path = folder / "Linux" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    stats = {"median": median, "iqr": median / 10}
    path.write_text(json.dumps({"benchmarks": [{"fullname": "tests/x.py::test_y[a]", "stats": stats}]}))
    os.utime(path, (when, when))
    return path


def test_the_two_latest_are_compared(tmp_path: Path) -> None:
    kept(tmp_path, "0001_old", 9.0, 1.0)
    before, after = kept(tmp_path, "0002_before", 1e-6, 2.0), kept(tmp_path, "0003_after", 2e-6, 3.0)
    assert latest(tmp_path) == [before, after]
    lines = table(before, after)
    assert lines[0] == "0002_before → 0003_after"
    assert "2.000" in lines[2]
    assert lines[2].endswith("test_y[a]")


def test_fewer_than_two_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="run make micro before a change and after it"):
        latest(tmp_path)
