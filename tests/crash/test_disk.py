"""Protects what is finished from a disk that is full or must not be written."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.runs import Outcome, ended, finished_work, outcome, said, start


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, int]:
    """How a run with room comes out, and the bytes it takes."""
    folder = tmp_path_factory.mktemp("whole")
    assert ended(start(folder)) == 0, said(folder)
    files = (path for path in (folder / "results").rglob("*") if path.is_file())
    return outcome(folder), sum(path.stat().st_size for path in files)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, in memory, whose size is set by mounting it again."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("only the superuser may mount a small disk, and not in every container")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def _resize(place: Path, kilobytes: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", str(place)], check=True)


CAMPAIGN = pytest.mark.campaign


@pytest.mark.parametrize("share", [0.2, *(pytest.param(s, marks=CAMPAIGN) for s in (0.02, 0.5, 0.8))])
def test_a_full_disk_is_one_sentence_and_the_same_command_goes_on(
    small_disk: Path, tmp_path: Path, whole: tuple[Outcome, int], share: float
) -> None:
    """At several moments of the run; then there is room again."""
    folder = tmp_path / "run"
    folder.mkdir()
    _resize(small_disk, int(whole[1] / 1024 * share) + 8)
    (folder / "results").symlink_to(small_disk)
    assert ended(start(folder)) == 1, said(folder)
    assert "Traceback" not in said(folder)
    assert "No space left on device" in said(folder)
    kept = finished_work(folder)
    _resize(small_disk, int(whole[1] / 1024) * 4)
    assert ended(start(folder)) == 0, said(folder)
    assert outcome(folder) == whole[0]
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert not list(small_disk.rglob(".tmp-*"))


def test_results_that_must_not_be_written_are_one_sentence(
    small_disk: Path, tmp_path: Path, whole: tuple[Outcome, int]
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "results").symlink_to(small_disk)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert ended(start(folder)) == 1
    assert "Read-only file system" in said(folder)
    assert "Traceback" not in said(folder)


def test_a_finished_run_on_a_disk_that_must_not_be_written_can_be_looked_at(
    small_disk: Path, tmp_path: Path, whole: tuple[Outcome, int]
) -> None:
    """Listing, comparing and examining only read."""
    folder = tmp_path / "run"
    assert ended(start(folder)) == 0, said(folder)
    _resize(small_disk, int(whole[1] / 1024) * 4)
    shutil.copytree(folder / "results", small_disk, dirs_exist_ok=True)
    shutil.rmtree(folder / "results")
    (folder / "results").symlink_to(small_disk)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    (folder / "output.txt").unlink()
    run = next((folder / "results" / "runs").iterdir()).name
    for arguments in (["ls", "runs"], ["compare", run, run], ["plan", "--threads", "1", "small.yaml"]):
        assert ended(start(folder, *arguments)) == 0, (arguments, said(folder))
    assert "Traceback" not in said(folder)
    assert ended(start(folder, "doctor")) == 1
    assert "cannot be written with locks (Read-only file system)" in said(folder)
