"""Examines the installation and what runs left: damaged files, files nobody needs, locks, room on the disk.

Nothing is ever removed that cannot be made again by the same command, and nothing that is being worked on.
"""

from __future__ import annotations

import dataclasses
import fcntl
import functools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock

from bench import files, provenance
from bench.errors import UsageError
from bench.identity import content_key
from bench.present import run_folders
from bench.run import RESULTS, RUN, read_records, read_run
from bench.runtime import resolve
from bench.store import CELL, DONE, Store

LITTLE = 10**9
"""Bytes of free disk below which a run may end for lack of room."""


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be, and whether it was put right."""

    what: str
    fixed: bool


@dataclass(frozen=True)
class Examination:
    """What was looked at and what was found.

    busy  cells that a process is at work on now
    free  bytes that the disk has left
    """

    environment: dict[str, str]
    cells: int
    unfinished: int
    busy: int
    bytes: int
    free: int
    findings: list[Finding]

    @property
    def healthy(self) -> bool:
        """Nothing found, or everything found was put right."""
        return all(finding.fixed for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**dataclasses.asdict(self), "healthy": self.healthy}


def examine(results: Path, *, repair: bool = False, prune: bool = False) -> Examination:
    """Check every file of runs and store against what was sealed; `repair` removes what is bad."""
    store = Store(results / "store")
    keys = list(store)
    busy = {key for key in keys if _is_busy(store, key)}
    checks: list[Iterator[Finding]] = [
        _room(results),
        _leftovers(results, repair),
        _damage(store, [key for key in keys if key not in busy], repair),
        _references(store, repair),
        _locks(store, set(keys), repair),
        _runs(results, repair),
    ]
    findings = [finding for check in checks for finding in check]
    if prune:
        findings += _prune(store, keys, results)
    remaining = list(store)
    sealed = sum(1 for key in remaining if (store.folder(key) / DONE).is_file())
    return Examination(
        environment={**provenance.versions(), "device": str(provenance.hardware(resolve())["device"])},
        cells=sealed,
        unfinished=len(remaining) - sealed,
        busy=len(busy),
        bytes=sum(store.size(key) for key in remaining),
        free=shutil.disk_usage(_existing(results)).free,
        findings=findings,
    )


def _existing(path: Path) -> Path:
    """The folder, or the nearest above it that exists."""
    path = path.absolute()
    while not path.is_dir():
        path = path.parent
    return path


def _is_busy(store: Store, key: str) -> bool:
    """Whether a process holds the cell, or a shard of it."""
    if not store.lock_path(key).exists() and not store.claims_path(key).exists():
        return False
    try:
        with store.lock(key).acquire(timeout=0):
            return store.is_claimed(key)
    except filelock.Timeout:
        return True
    except OSError:  # nobody can be at work where nothing can be written
        return False


def _room(results: Path) -> Iterator[Finding]:
    """Space, and whether the file system can do what a run relies on."""
    place = _existing(results)
    free = shutil.disk_usage(place).free
    if free < LITTLE:
        yield Finding(f"the disk of {place} has {free / 1e6:.0f} MB left: make room, or use --results", False)
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 0)
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        yield Finding(f"{place} cannot be written with locks ({error.strerror}): use --results", False)


def _leftovers(results: Path, repair: bool) -> Iterator[Finding]:
    """Temporary files whose process was killed."""
    for path in files.stale_temporaries(results) if results.is_dir() else []:
        if repair:
            path.unlink(missing_ok=True)
        yield Finding(f"unfinished file {path}, left by a process that is gone", repair)


def _damage(store: Store, keys: list[str], repair: bool) -> Iterator[Finding]:
    """Cells whose files differ from what was sealed, or cannot be read."""
    for key in keys:
        bad = store.damage(key) or list(_unreadable(store, key))
        if bad:
            if repair:
                store.discard_damage(key)
                for name in bad:
                    (store.folder(key) / name).unlink(missing_ok=True)
            remedy = "it will be made again" if repair else "the next run will make it again"
            yield Finding(f"cell {key[:12]}: {', '.join(bad)} missing or altered; {remedy}", repair)
        for path in _strangers(store, key):
            if repair:
                path.unlink(missing_ok=True)
            yield Finding(f"cell {key[:12]}: {path.name} does not belong to it", repair)


def _unreadable(store: Store, key: str) -> Iterator[str]:
    """Of a cell without a seal: shards that cannot be read, and a specification of another key."""
    folder = store.folder(key)
    if (folder / DONE).is_file():
        return
    for path in sorted(folder.glob("*.safetensors")):
        if not _is_readable(functools.partial(files.read_arrays, path)):
            yield path.name
    if (folder / CELL).is_file() and not _is_readable(functools.partial(_matches, store, key)):
        yield CELL


def _matches(store: Store, key: str) -> None:
    told = store.told(key)
    if content_key({"schema": told["schema"], "kind": told["kind"], **told["spec"]}) != key:
        raise ValueError


def _is_readable(read: Callable[[], object]) -> bool:
    try:
        read()
    except Exception:  # whatever a damaged file raises
        return False
    return True


def _strangers(store: Store, key: str) -> list[Path]:
    """Files in a sealed cell that its seal does not name."""
    named = store.sealed(key)
    if named is None:
        return []
    return sorted(
        path
        for path in store.folder(key).iterdir()
        if path.name not in (*named, DONE) and files.TEMPORARY not in path.name and path.is_file()
    )


def _references(store: Store, repair: bool) -> Iterator[Finding]:
    """Moments of real images that cannot be read."""
    for path in sorted((store.root / "references").glob("*.safetensors")):
        if not _is_readable(functools.partial(files.read_arrays, path)):
            if repair:
                path.unlink(missing_ok=True)
            yield Finding(f"{path} is damaged; it is made again when it is needed", repair)


def _locks(store: Store, keys: set[str], repair: bool) -> Iterator[Finding]:
    """Lock files of cells that are no more."""
    for path in sorted((store.root / "locks").glob("*")):
        if path.stem not in keys and not _is_busy(store, path.stem):
            if repair:
                path.unlink(missing_ok=True)
            yield Finding(f"lock {path.name[:12]}… of a cell that is no more", repair)


def _runs(results: Path, repair: bool) -> Iterator[Finding]:
    """Runs whose files cannot be read; the same command writes them anew from the store."""
    for folder in sorted((results / "runs").glob("*/")):
        for name, read in ((RUN, read_run), (f"{RESULTS}.json", read_records)):
            path = folder / name
            try:
                if path.exists():
                    read(folder)
            except UsageError:
                if repair:
                    path.unlink(missing_ok=True)
                yield Finding(f"{path} is damaged; running the suite again writes it anew", repair)


def _prune(store: Store, keys: list[str], results: Path) -> list[Finding]:
    """Cells that no run's results name, unless another process is at work on them."""
    shown: set[str] = set()
    for folder in run_folders(results):
        shown |= {record.cell_key for record in read_records(folder)}
    findings = []
    for key in keys:
        if key not in shown:
            try:
                with store.lock(key).acquire(timeout=0):
                    if store.is_claimed(key):
                        continue
                    store.remove(key)
            except filelock.Timeout:
                continue
            findings.append(Finding(f"cell {key[:12]} removed: no run shows it", True))
    for path in sorted((store.root / "prepared").glob("*.npy")):
        size = path.stat().st_size
        for each in path.parent.glob(f"{path.stem}*"):
            each.unlink(missing_ok=True)
        findings.append(
            Finding(f"{size / 1e6:.1f} MB of encoded images removed: a training makes them anew", True)
        )
    return findings
