"""Our Fréchet distance beside those of pytorch-fid, clean-fid, torch-fidelity and torchmetrics.

All get the same moments in float64 of features whose distance is known: rows X = U S Vᵀ with centred
orthonormal U and one V for both sides, so that the covariances commute and

    d² = |μ_a − μ_b|² + Σ (s_a − s_b)² / (n − 1).

Everything runs in one thread; in each round all take turns, and a ratio is of one round.

Shapes: n rows, d feature dimensions.
"""

from __future__ import annotations

import contextlib
import importlib
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np

from bench.metrics.frechet import frechet_distance
from bench.metrics.moments import Moments
from bench.peers import Row
from bench.peers.metering import Spread, single_thread

INSTALL = "pip install pytorch-fid torchmetrics torch-fidelity clean-fid"


@dataclass(frozen=True)
class Case:
    """Two sides of n rows each; their singular values fall from 1 by `condition` (of the covariance)."""

    name: str
    n: int
    dims: int
    condition: float


@dataclass(frozen=True)
class Problem:
    """A case made: moments of both sides and their true distance."""

    a: Moments
    b: Moments
    truth: float


@dataclass(frozen=True)
class FrechetRow(Row):
    """One package on one case.

    apart     relative distance of their value to ours; errors are absolute, against the truth
    seconds   of the thread, once a round; ratio theirs over ours, round by round
    """

    case: str = ""
    n: int | None = None
    dims: int | None = None
    value: float | None = None
    apart: float | None = None
    error_ours: float | None = None
    error_theirs: float | None = None
    seconds_ours: Spread | None = None
    seconds_theirs: Spread | None = None
    ratio: Spread | None = None


def cases(dims: int = 2048) -> tuple[Case, ...]:
    """Full rank, fewer images than dimensions, nearly singular."""
    return (
        Case("full rank", 5 * dims // 2, dims, 1e4),
        Case("few images", 1000 * dims // 2048, dims, 1e4),
        Case("condition 1e12", 5 * dims // 2, dims, 1e12),
    )


def problem(case: Case, seed: int = 0) -> Problem:
    """Features of both sides, as their moments."""
    rng = np.random.default_rng(seed)
    n, d = case.n, case.dims
    rank = min(n - 1, d)
    v = np.linalg.qr(rng.normal(size=(d, rank)))[0]
    base = case.condition ** (-0.5 * np.arange(rank) / max(1, rank - 1)) * np.sqrt(n - 1)
    sides, spectra = [], []
    for mean in (np.zeros(d), rng.normal(size=d) / np.sqrt(d)):
        u = np.linalg.qr(_centred(rng.normal(size=(n, rank))))[0]
        s = base * rng.uniform(0.7, 1.3, rank)
        sides.append(Moments.of((u * s) @ v.T + mean))
        spectra.append(s)
    shift = sides[1].mean - sides[0].mean
    return Problem(
        sides[0], sides[1], float(shift @ shift + ((spectra[0] - spectra[1]) ** 2).sum() / (n - 1))
    )


def _centred(rows: np.ndarray) -> np.ndarray:
    return rows - rows.mean(0)


Distance = Callable[[], float]


def _pytorch_fid(p: Problem) -> Distance:
    theirs = importlib.import_module("pytorch_fid.fid_score").calculate_frechet_distance
    cov = (p.a.covariance(), p.b.covariance())
    return lambda: float(theirs(p.a.mean, cov[0], p.b.mean, cov[1]))


def _clean_fid(p: Problem) -> Distance:
    theirs = importlib.import_module("cleanfid.fid").frechet_distance
    cov = (p.a.covariance(), p.b.covariance())
    return lambda: float(theirs(p.a.mean, cov[0], p.b.mean, cov[1]))


def _torch_fidelity(p: Problem) -> Distance:
    theirs = importlib.import_module("torch_fidelity.metric_fid").fid_statistics_to_metric
    stats = [{"mu": m.mean, "sigma": m.covariance()} for m in (p.a, p.b)]
    return lambda: float(theirs(*stats, verbose=False)["frechet_inception_distance"])


def _torchmetrics(p: Problem) -> Distance:
    import torch

    theirs = importlib.import_module("torchmetrics.image.fid")._compute_fid
    given = [torch.from_numpy(x) for m in (p.a, p.b) for x in (m.mean, m.covariance())]
    return lambda: float(theirs(*given))


PEERS: Mapping[str, tuple[str, Callable[[Problem], Distance]]] = {
    "pytorch-fid": ("sqrtm of scipy", _pytorch_fid),
    "clean-fid": ("sqrtm of scipy", _clean_fid),
    "torch-fidelity": ("eigvals of numpy", _torch_fidelity),
    "torchmetrics": ("eigvals of torch", _torchmetrics),
}
"""By package: how it takes the root, and how its function is made ready."""


def rows(
    repeats: int = 3,
    dims: int = 2048,
    given: Iterable[Case] | None = None,
    peers: Iterable[str] = tuple(PEERS),
) -> Iterator[FrechetRow]:
    """A row a package and case; repeats are rounds of all packages on one case."""
    names = tuple(peers)
    for case in cases(dims) if given is None else given:
        with one_thread():
            found = list(_of_case(case, names, repeats))
        yield from found


def _of_case(case: Case, names: tuple[str, ...], repeats: int) -> Iterator[FrechetRow]:
    made = problem(case)
    ours = frechet_distance(made.a, made.b)
    ready: dict[str, Distance] = {"ours": lambda: frechet_distance(made.a, made.b).value}
    values: dict[str, float] = {}
    notes: dict[str, tuple[str, str]] = {}
    for name in names:
        notes[name], found = _prepared(name, made)
        if found is not None:
            ready[name] = found
    ready["ours"]()  # the first call also pays for fresh memory
    seconds = _turns(ready, repeats, values, notes)
    for name in names:
        status, note = notes[name]
        version = "" if status == "skipped" else metadata.version(name)
        row = {"case": case.name, "n": case.n, "dims": case.dims, "value": ours.value}
        row["error_ours"] = abs(ours.value - made.truth)
        if status == "ok":
            row |= _compared(values[name], ours.value, made.truth)
            note = "" if np.isfinite(values[name]) else "theirs is no number"
            row |= _timed(seconds["ours"], seconds[name])
        yield FrechetRow(name, version, PEERS[name][0], ours.method, status, note, **row)  # type: ignore[arg-type]


def _compared(theirs: float, ours: float, truth: float) -> dict[str, Any]:
    if not np.isfinite(theirs):
        return {}
    return {"apart": abs(theirs - ours) / abs(ours), "error_theirs": abs(theirs - truth)}


def _timed(ours: list[float], theirs: list[float]) -> dict[str, Spread]:
    return {
        "seconds_ours": Spread.of(ours),
        "seconds_theirs": Spread.of(theirs),
        "ratio": Spread.of([b / a for a, b in zip(ours, theirs, strict=True)]),
    }


def _prepared(name: str, made: Problem) -> tuple[tuple[str, str], Distance | None]:
    """Status and note, and what to run where the package is there."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ("ok", ""), PEERS[name][1](made)
    except ModuleNotFoundError as error:
        return ("skipped", f"{name} needs {error.name}, which is not installed: {INSTALL}."), None
    except Exception as error:  # another's code may fail in any way
        return ("failed", f"{type(error).__name__}: {error}"), None


def _turns(
    ready: Mapping[str, Distance], repeats: int, values: dict[str, float], notes: dict[str, tuple[str, str]]
) -> dict[str, list[float]]:
    """Seconds of each, in rounds whose order turns; a package that fails is noted and left out."""
    seconds: dict[str, list[float]] = {name: [] for name in ready}
    for turn in range(repeats):
        names = list(ready)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            if notes.get(name, ("ok", ""))[0] != "ok":
                continue
            start = time.thread_time()
            try:
                with warnings.catch_warnings(), contextlib.redirect_stdout(None):
                    warnings.simplefilter("ignore")
                    values[name] = ready[name]()
            except Exception as error:
                notes[name] = ("failed", f"{type(error).__name__}: {error}")
            seconds[name].append(time.thread_time() - start)
    return seconds


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Of torch and of every BLAS that numpy and scipy brought along."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    with single_thread(), threadpool_limits(1):
        yield
