"""Arrays larger than memory: filled from the front once, read from disk ever after.

NAME.npy           the whole array, read by mapping the file
NAME.json          its shape, kind and SHA-256, written last: without it the array is not there
NAME.npy.partial   what is filled so far; NAME.progress.json says how far, so that filling goes on there
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from bench import files
from bench.identity import file_sha256

CHECKPOINT = 4096
"""Rows between two notes of how far an array is filled."""


class LargeArray:
    """The array at `folder`/`name`.npy, of a shape and kind that are known before it is filled."""

    def __init__(self, folder: Path, name: str, shape: tuple[int, ...], dtype: Any) -> None:
        self.path, self.shape, self.dtype = folder / f"{name}.npy", shape, np.dtype(dtype)
        self._sealed = folder / f"{name}.json"
        self._partial, self._progress = folder / f"{name}.npy.partial", folder / f"{name}.progress.json"

    def made(self, fill: Callable[[int], Iterable[np.ndarray]]) -> np.ndarray:
        """The whole array, filled first where it is not there; one process fills, others wait for it.

        fill  rows from a start on, some at a time
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(f"{self.path}.lock"):
            if not self._is_whole():
                self._fill(fill)
        # Copy on write: torch takes no array that must not be written, and the file is never changed.
        return np.load(self.path, mmap_mode="c")

    @property
    def sha256(self) -> str:
        """SHA-256 of the file, as it was when it was whole."""
        return str(json.loads(self._sealed.read_bytes())["sha256"])

    def _is_whole(self) -> bool:
        try:
            told = json.loads(self._sealed.read_bytes())
            return (tuple(told["shape"]), told["dtype"]) == (self.shape, self.dtype.str) and (
                self.path.stat().st_size == told["bytes"]
            )
        except (OSError, ValueError, TypeError, KeyError):
            return False

    def _fill(self, fill: Callable[[int], Iterable[np.ndarray]]) -> None:
        self._sealed.unlink(missing_ok=True)
        done = noted = self._done()
        made: np.memmap[Any, Any] | None = None
        for rows in fill(done):
            if done + len(rows) > self.shape[0]:
                raise ValueError(
                    f"{self.path.name} has {self.shape[0]} rows, and more came: fetch the data again."
                )
            if made is None:
                made = self._opened(new=not done)
            made[done : done + len(rows)] = rows
            done += len(rows)
            if done - noted >= CHECKPOINT:
                made.flush()
                files.write_json(self._progress, {"done": done, "shape": self.shape})
                noted = done
        if done != self.shape[0]:
            raise ValueError(
                f"{self.path.name} has {self.shape[0]} rows, and {done} came: fetch the data again."
            )
        if made is not None:
            made.flush()
        del made
        with self._partial.open("rb+") as file:
            os.fsync(file.fileno())
        told = {"shape": self.shape, "dtype": self.dtype.str, "bytes": self._partial.stat().st_size}
        sha256 = file_sha256(self._partial)
        self._partial.replace(self.path)
        files.write_json(self._sealed, {**told, "sha256": sha256})
        self._progress.unlink(missing_ok=True)

    def _opened(self, new: bool) -> np.memmap[Any, Any]:
        how = {"mode": "w+", "dtype": self.dtype, "shape": self.shape} if new else {"mode": "r+"}
        return np.lib.format.open_memmap(self._partial, **how)

    def _done(self) -> int:
        """Rows that an earlier process filled, as far as it noted."""
        try:
            told = json.loads(self._progress.read_bytes())
            there = np.load(self._partial, mmap_mode="r")
            if (there.shape, there.dtype) == (self.shape, self.dtype) and tuple(told["shape"]) == self.shape:
                return min(int(told["done"]), len(there))
        except (OSError, ValueError, TypeError, KeyError):
            pass
        return 0
