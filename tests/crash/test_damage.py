"""Protects against a disk that lies: any file of a run cut, emptied, altered, or of another day.

Whatever is damaged, running the same command again ends well or with one sentence, and after `doctor
--repair` with the numbers of an undamaged run.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

import pytest

from bench import doctor
from bench.doctor import examine
from tests.crash.runs import Outcome, ended, outcome, said, start

HARMLESS = (".lock", ".parts", ".db", ".db-journal", ".yaml", ".txt")
"""Locks and the test's own files: their content means nothing."""
DERIVED = ("report.html", "report.md", "report.tex", ".report", "results.csv", "results.parquet")
"""Of a run's folder, made again from the rest whatever they hold."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run."""
    folder = tmp_path_factory.mktemp("finished")
    assert ended(start(folder)) == 0, said(folder)
    return folder


def _copy(finished: Path, folder: Path) -> Path:
    shutil.copytree(finished, folder)
    (folder / "output.txt").unlink()
    return folder


def _spoil(path: Path, draw: random.Random) -> str:
    data = path.read_bytes()
    how = draw.choice(["bit", "cut", "empty", "zeros", "text", "longer", "gone"])
    if how == "gone":
        path.unlink()
        return how
    at = draw.randrange(max(1, len(data)))
    path.write_bytes(
        {
            "bit": data[:at] + bytes([(data[at] if data else 0) ^ (1 << draw.randrange(8))]) + data[at + 1 :],
            "cut": data[:at],
            "empty": b"",
            "zeros": bytes(len(data)),
            "text": b"{]",
            "longer": data + b"\x00",
        }[how]
    )
    return how


def _files(folder: Path) -> list[Path]:
    results = folder / "results"
    return sorted(p for p in results.rglob("*") if p.is_file() and not p.name.endswith(HARMLESS))


def _heals(folder: Path, whole: Outcome, draw: random.Random) -> None:
    """Spoil one file to three, go on, repair, go on: no traceback ever, and the same end."""
    spoiled = [(path, _spoil(path, draw)) for path in draw.sample(_files(folder), draw.randint(1, 3))]
    told = [(str(path.relative_to(folder)), how) for path, how in spoiled]
    first = ended(start(folder))
    assert first in (0, 1, 2), (told, said(folder))
    assert "Traceback" not in said(folder), (told, said(folder))
    examine(folder / "results", repair=True)
    assert examine(folder / "results").findings == [], told
    assert ended(start(folder)) == 0, (told, said(folder))
    assert "Traceback" not in said(folder), (told, said(folder))
    assert outcome(folder) == whole, told


@pytest.mark.parametrize("seed", range(2))
def test_any_damage_heals(finished: Path, tmp_path: Path, seed: int) -> None:
    _heals(_copy(finished, tmp_path / "run"), outcome(finished), random.Random(seed))


@pytest.mark.campaign
@pytest.mark.parametrize("lot", range(4))
def test_a_hundred_damaged_runs_heal(finished: Path, tmp_path: Path, lot: int) -> None:
    whole = outcome(finished)
    for seed in range(100 + 25 * lot, 125 + 25 * lot):
        folder = _copy(finished, tmp_path / "run")
        _heals(folder, whole, random.Random(seed))
        shutil.rmtree(folder)


def test_the_doctor_names_every_altered_bit(finished: Path, tmp_path: Path) -> None:
    """Of every file that a number comes from; what is made again from those may hold anything."""
    folder = _copy(finished, tmp_path / "run")
    draw = random.Random(0)
    for path in _files(folder):
        if path.name in DERIVED or "figures" in path.parts or path.name == "run.json":
            continue
        data = path.read_bytes()
        at = draw.randrange(len(data))
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        if path.name == "results.json":
            path.write_bytes(data[:at] + data[at + 1 :])
            try:
                json.loads(path.read_text())
            except ValueError:
                pass
            else:
                path.write_bytes(data)
                continue
        found = [finding.what for finding in examine(folder / "results").findings]
        part = path.parent.name[:12] if "cells" in path.parts else path.name
        assert any(part in what for what in found) or "references" in path.parts, (path, found)
        path.write_bytes(data)
    assert examine(folder / "results").findings == []


def test_what_others_left_is_found_and_removed(finished: Path, tmp_path: Path) -> None:
    folder = _copy(finished, tmp_path / "run")
    results = folder / "results"
    cell = next((results / "store" / "cells").glob("*/*"))
    (cell / "part-099.safetensors").write_bytes(b"from another day")
    (results / "store" / "locks" / f"{'ef' * 32}.lock").touch()
    (results / "store" / "references" / "x.safetensors").write_bytes(b"")
    (results / "runs" / "old").mkdir()
    (results / "runs" / "old" / "run.json").write_text("{}")
    half = results / "store" / "cells" / "ff" / ("ff" * 32)
    half.mkdir(parents=True)
    (half / "part-000.safetensors").write_bytes(b"half")
    (half / "cell.json").write_text('{"schema": 1, "kind": "quality", "spec": {}}')
    found = [finding.what for finding in examine(results).findings]
    for words in (
        "part-099.safetensors does not belong",
        "lock efefefefefef… of a cell that is no more",
        "x.safetensors is damaged",
        "old/run.json is damaged",
        "cell ffffffffffff: part-000.safetensors, cell.json missing or altered",
    ):
        assert any(words in what for what in found), (words, found)
    assert len(found) == 5
    assert all(finding.fixed for finding in examine(results, repair=True).findings)
    assert examine(results).findings == []
    assert examine(results).unfinished == 1


def test_the_doctor_leaves_alone_what_is_at_work(finished: Path, tmp_path: Path) -> None:
    """Held here by this process's lock; a claim of a shard is another's in test_drivers."""
    folder = _copy(finished, tmp_path / "run")
    store = doctor.Store(folder / "results" / "store")
    key = next(iter(store))
    with store.lock(key):
        found = examine(folder / "results", repair=True, prune=True)
        assert found.busy == 1
        assert found.findings == []
    assert examine(folder / "results").busy == 0


def test_a_clock_that_goes_backwards_changes_nothing(finished: Path, tmp_path: Path) -> None:
    """Files from the future and from 1970: done is what is sealed, not what is new."""
    folder = _copy(finished, tmp_path / "run")
    for index, path in enumerate(_files(folder)):
        moment = 0 if index % 2 else 2**32
        os.utime(path, (moment, moment))
    before = outcome(finished)
    assert ended(start(folder)) == 0, said(folder)
    assert "0 computed" in said(folder)
    assert outcome(folder) == before
