"""The same work done by a peer and by us: whether the results agree, and how long each takes, in turns."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import torch
from torch import Tensor

from bench.peers import Row
from bench.peers.metering import Spread, single_thread

Side = Callable[[], Tensor]
"""Does the work once."""


@dataclass(frozen=True)
class Work:
    """One row of such a comparison.

    package     what its users install; `theirs` what is run of it, `ours` the same here
    name        what is done, with its size
    build       imports the package and makes both sides ready: (ours, theirs)
    comparable  whether both results should be equal; not where each draws noise of its own
    note        what else to know
    """

    package: str
    theirs: str
    ours: str
    name: str
    build: Callable[[], tuple[Side, Side]]
    comparable: bool = True
    note: str = ""


@dataclass(frozen=True)
class WorkRow(Row):
    """One work.

    apart    largest distance of the results, relative to the largest of ours
    seconds  of one thread, once a round; ratio theirs over ours, round by round
    """

    work: str = ""
    apart: float | None = None
    seconds_ours: Spread | None = None
    seconds_theirs: Spread | None = None
    ratio: Spread | None = None


def rows_of(works: Iterable[Work], repeats: int, install: str) -> Iterator[WorkRow]:
    """A row a work, in one thread; who starts a round changes from one to the next."""
    for work in works:
        said: dict[str, Any] = {
            "peer": work.package,
            "theirs": work.theirs,
            "ours": work.ours,
            "work": work.name,
        }
        try:
            with single_thread(), _quiet():
                ours, theirs = work.build()
                apart = _apart(ours(), theirs()) if work.comparable else None
                rounds = [_round(ours, theirs, turn) for turn in range(-1, repeats)][1:]
        except ModuleNotFoundError as error:
            note = f"{work.package} needs {error.name}, which is not installed: {install}."
            yield WorkRow(**said, version="", status="skipped", note=note)
        except Exception as error:  # another's code may fail in any way
            version = metadata.version(work.package)
            note = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            yield WorkRow(**said, version=version, status="failed", note=note)
        else:
            yield WorkRow(
                **said,
                version=metadata.version(work.package),
                status="ok",
                note=work.note,
                apart=apart,
                seconds_ours=Spread.of([a for a, _ in rounds]),
                seconds_theirs=Spread.of([b for _, b in rounds]),
                ratio=Spread.of([b / a for a, b in rounds]),
            )


def _apart(ours: Tensor, theirs: Tensor) -> float:
    ours, theirs = ours.detach().double(), theirs.detach().double()
    return float((ours - theirs).abs().max() / ours.abs().max())


def _round(ours: Side, theirs: Side, turn: int) -> tuple[float, float]:
    """Seconds of this thread of both, ours first in even rounds."""
    seconds = {}
    for side in (ours, theirs) if turn % 2 == 0 else (theirs, ours):
        start = time.thread_time()
        side()
        seconds[side] = time.thread_time() - start
    return seconds[ours], seconds[theirs]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings(), contextlib.redirect_stdout(None):
        warnings.simplefilter("ignore")
        yield


def seeded(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal numbers by seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
