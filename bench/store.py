"""The store: trained weights, shards and finished cells by content key, shared by all runs.

    <root>/cells/<key[:2]>/<key>/
        cell.json                what the key is the hash of
        part-000.safetensors …   one file a shard, written once, whole
        records.json             the numbers
        DONE                     size and SHA-256 of every file above, written last
    <root>/locks/<key>.lock
    <root>/references/<key>.safetensors   moments of real images' features, for who compares runs

A cell without DONE is unfinished, whatever files it has; its finished parts are used.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock

from bench import files
from bench.identity import SCHEMA, content_key, file_sha256
from bench.records import Record, from_rows, to_rows

if TYPE_CHECKING:
    import numpy as np

    from bench.metrics.moments import Moments

DONE = "DONE"
RECORDS = "records.json"
CELL = "cell.json"
PACE = "pace"
"""In a timed part: seconds of fixed work beside it, see `bench.drivers.pace`."""


@dataclass(frozen=True)
class Part:
    """One shard's result: arrays, and what describes them."""

    arrays: Mapping[str, np.ndarray]
    info: Mapping[str, Any]


class Store:
    """Finished work by content key under one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, key: str) -> Path:
        """Where a cell's files are."""
        return self.root / "cells" / key[:2] / key

    def lock(self, key: str) -> filelock.BaseFileLock:
        """Held by the one process that works on a cell; the kernel frees it when that process dies."""
        path = self.lock_path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        return filelock.FileLock(path)

    def lock_path(self, key: str) -> Path:
        """The file of a cell's lock, there or not."""
        return self.root / "locks" / f"{key}.lock"

    def claims_path(self, key: str) -> Path:
        """The file whose bytes are the claims on a cell's parts."""
        return self.root / "locks" / f"{key}.parts"

    @contextlib.contextmanager
    def claim(self, key: str, index: int) -> Iterator[bool]:
        """Whether this process alone works on a part now. The kernel frees the claim when the process dies.

        A claim is a byte of one file a cell; a process holds one at a time, since closing the file frees all.
        """
        path = self.claims_path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        # A byte-range lock, not flock: it is one byte's, and file systems of clusters have it too.
        with path.open("a+b") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, index)
            except OSError:
                yield False
                return
            yield True

    def is_claimed(self, key: str) -> bool:
        """Whether a process works on any part of a cell now."""
        path = self.claims_path(key)
        if not path.is_file():
            return False
        with path.open("a+b") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return True
        return False

    def begin(self, key: str, kind: str, spec: Mapping[str, Any]) -> Path:
        """The folder of a cell about to be computed, its specification written."""
        folder = self.folder(key)
        folder.mkdir(parents=True, exist_ok=True)
        files.sweep(folder)
        files.write_json(folder / CELL, {"schema": SCHEMA, "kind": kind, "key": key, "spec": spec})
        return folder

    def part_path(self, key: str, index: int) -> Path:
        """The file of one shard."""
        return self.folder(key) / f"part-{index:03d}.safetensors"

    def save_part(self, key: str, index: int, part: Part) -> None:
        """Write one shard, whole or not at all."""
        files.write_arrays(self.part_path(key, index), part.arrays, part.info)

    def load_part(self, key: str, index: int) -> Part | None:
        """A shard written before; None where there is none, or where it is damaged (it is removed)."""
        path = self.part_path(key, index)
        if not path.is_file():
            return None
        try:
            return Part(*files.read_arrays(path))
        except Exception:  # whatever a damaged file raises, the remedy is to compute it again
            path.unlink(missing_ok=True)
            return None

    def finish(self, key: str, records: Sequence[Record]) -> None:
        """Record the numbers and seal the cell."""
        folder = self.folder(key)
        files.write_json(folder / RECORDS, to_rows(records))
        names = sorted(p.name for p in folder.iterdir() if p.name != DONE and files.TEMPORARY not in p.name)
        manifest = {n: [(folder / n).stat().st_size, file_sha256(folder / n)] for n in names}
        files.write_json(folder / DONE, manifest)
        files.sweep(folder)

    def is_finished(self, key: str) -> bool:
        """Whether the cell is sealed and every file has its recorded size, the numbers also their hash."""
        return not self.damage(key, thorough=False) and (self.folder(key) / DONE).is_file()

    def damage(self, key: str, thorough: bool = True) -> list[str]:
        """Files of a sealed cell that are missing or differ from what was sealed."""
        folder = self.folder(key)
        if not (folder / DONE).is_file():
            return []
        manifest = _manifest(folder / DONE)
        if manifest is None:
            return [DONE]
        bad = []
        for name, (size, sha256) in manifest.items():
            path = folder / name
            hashed = thorough or name in (RECORDS, CELL)
            if not path.is_file() or path.stat().st_size != size or (hashed and file_sha256(path) != sha256):
                bad.append(name)
        return bad

    def discard_damage(self, key: str) -> list[str]:
        """Break the seal of a damaged cell and remove its bad files, so that they are made again."""
        bad = self.damage(key)
        for name in (*bad, *([DONE] if bad else [])):
            (self.folder(key) / name).unlink(missing_ok=True)
        return bad

    def sealed(self, key: str) -> dict[str, tuple[int, str]] | None:
        """Size and SHA-256 of a cell's files by name, as sealed; None without a seal that can be read."""
        path = self.folder(key) / DONE
        return _manifest(path) if path.is_file() else None

    def told(self, key: str) -> dict[str, Any]:
        """What is said of a cell: `schema`, `kind`, `key` and `spec`."""
        return dict(json.loads((self.folder(key) / CELL).read_bytes()))

    def spec(self, key: str) -> dict[str, Any]:
        """What the key is the hash of."""
        return dict(self.told(key)["spec"])

    def records(self, key: str) -> list[Record]:
        """The numbers of a finished cell."""
        return from_rows(json.loads((self.folder(key) / RECORDS).read_text()))

    def save_reference(self, data: str, features: str, moments: Moments) -> None:
        """Keep the moments of the training images of a data set (by fingerprint) in a feature space."""
        path = self._reference(data, features)
        if not path.is_file():
            import numpy as np

            arrays = {"n": np.asarray(moments.n), "mean": moments.mean, "scatter": moments.scatter}
            files.write_arrays(path, arrays, {"data": data, "features": features})

    def load_reference(self, data: str, features: str) -> Moments | None:
        """What `save_reference` kept; None where there is nothing, or it is damaged."""
        from bench.metrics.moments import Moments

        path = self._reference(data, features)
        if not path.is_file():
            return None
        try:
            arrays, _ = files.read_arrays(path)
            return Moments(int(arrays["n"]), arrays["mean"], arrays["scatter"])
        except Exception:  # whatever a damaged file raises, the remedy is to compute it again
            path.unlink(missing_ok=True)
            return None

    def _reference(self, data: str, features: str) -> Path:
        return self.root / "references" / f"{content_key([SCHEMA, data, features])}.safetensors"

    def __iter__(self) -> Iterator[str]:
        """Keys of every cell, finished or not."""
        for folder in sorted((self.root / "cells").glob("*/*")):
            if folder.is_dir():
                yield folder.name

    def size(self, key: str) -> int:
        """Bytes on disk."""
        return sum(path.stat().st_size for path in self.folder(key).iterdir() if path.is_file())

    def remove(self, key: str) -> None:
        """Delete a cell."""
        shutil.rmtree(self.folder(key), ignore_errors=True)
        for suffix in ("lock", "parts"):
            (self.root / "locks" / f"{key}.{suffix}").unlink(missing_ok=True)


def _manifest(path: Path) -> dict[str, tuple[int, str]] | None:
    """Size and SHA-256 by file, as the seal says; None where it does not say."""
    try:
        found = json.loads(path.read_bytes())
        named = {str(name): (int(size), str(sha256)) for name, (size, sha256) in found.items()}
    except (ValueError, TypeError, AttributeError):
        return None
    whole = RECORDS in named and CELL in named and all(Path(name).name == name for name in named)
    return named if whole else None


def machine_lock() -> filelock.ReadWriteLock:
    """Shared by everything that computes on this machine; a timing takes it alone."""
    return filelock.ReadWriteLock(Path(tempfile.gettempdir()) / f"noisebench-{os.getuid()}.lock.db")
