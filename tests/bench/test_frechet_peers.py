"""Protects `noisebench peers frechet`: its problems have the truth it says, and missing packages are rows."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata

import numpy as np
import pytest

from bench.cli.peers import TABLES, show_peers
from bench.errors import UsageError
from bench.metrics.frechet import frechet_distance
from bench.peers import compare
from bench.peers import frechet as peers
from bench.peers.frechet import Case, Problem, problem

Call = Callable[..., subprocess.CompletedProcess[str]]
SMALL = Case("small", 60, 16, 1e3)


def _peer(monkeypatch: pytest.MonkeyPatch, off: float = 0.0, fails: bool = False) -> None:
    """Numpy as a peer that answers as we do, or off, or not."""

    def build(made: Problem) -> Callable[[], float]:
        def run() -> float:
            if fails:
                raise ZeroDivisionError("its own")
            return frechet_distance(made.a, made.b).value * (1 + off)

        return run

    monkeypatch.setattr(peers, "PEERS", {"numpy": ("a distance", build)})


def test_the_truth_of_a_problem_is_that_of_its_matrices() -> None:
    """By a root of the product taken another way: eigenvalues of Σ_a Σ_b."""
    made = problem(SMALL)
    product = made.a.covariance() @ made.b.covariance()
    root = np.sqrt(np.linalg.eigvals(product).real.clip(0)).sum()
    shift = made.a.mean - made.b.mean
    value = shift @ shift + np.trace(made.a.covariance()) + np.trace(made.b.covariance()) - 2 * root
    assert made.truth == pytest.approx(value, rel=1e-8)
    assert np.linalg.cond(made.a.covariance()) == pytest.approx(1e3, rel=2.0)


def test_cases_are_full_few_and_nearly_singular() -> None:
    full, few, near = peers.cases()
    assert (full.n > full.dims, few.n, few.dims, near.condition) == (True, 1000, 2048, 1e12)
    assert peers.problem(dataclasses.replace(few, n=20, dims=32)).a.centred is not None


def test_a_row_has_everything_that_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    _peer(monkeypatch, off=1e-3)
    (row,) = peers.rows(repeats=3, given=[SMALL], peers=["numpy"])
    assert (row.status, row.note, row.version) == ("ok", "", metadata.version("numpy"))
    assert row.apart == pytest.approx(1e-3)
    assert row.error_ours is not None
    assert row.error_theirs is not None
    assert row.error_ours < 1e-9 < row.error_theirs
    for spread in (row.seconds_ours, row.seconds_theirs, row.ratio):
        assert spread is not None
        assert 0 < spread.low <= spread.median <= spread.high


def test_a_peer_that_fails_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    _peer(monkeypatch, fails=True)
    (row,) = peers.rows(repeats=2, given=[SMALL], peers=["numpy"])
    assert (row.status, row.note, row.ratio) == ("failed", "ZeroDivisionError: its own", None)


def test_a_peer_that_answers_no_number_has_no_error_to_show(monkeypatch: pytest.MonkeyPatch) -> None:
    _peer(monkeypatch, off=float("nan"))
    (row,) = peers.rows(repeats=1, given=[SMALL], peers=["numpy"])
    assert (row.status, row.note, row.apart) == ("ok", "theirs is no number", None)
    json.dumps(dataclasses.asdict(row), allow_nan=False)


def test_missing_packages_are_skipped_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pytorch_fid", "cleanfid", "torch_fidelity", "torchmetrics"):
        for loaded in [module for module in sys.modules if module.partition(".")[0] == name]:
            monkeypatch.delitem(sys.modules, loaded)
        monkeypatch.setitem(sys.modules, name, None)
    rows = list(compare("frechet", repeats=1, given=[SMALL]))
    assert [row.peer for row in rows] == list(peers.PEERS)
    for row in rows:
        assert row.status == "skipped"
        assert "which is not installed: pip install pytorch-fid" in row.note


@pytest.mark.parametrize("as_json", [False, True])
def test_what_is_printed(
    as_json: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _peer(monkeypatch)
    assert show_peers("frechet", as_json, repeats=2, given=[SMALL], peers=["numpy"])
    printed = capsys.readouterr().out
    if as_json:
        assert json.loads(printed)[0]["ratio"].keys() == {"median", "low", "high"}
        return
    head, section, first, *_ = printed.splitlines()
    columns = "theirs ours case n | d apart error ours error theirs s ours s theirs ratio"
    assert " ".join(head.split()) == columns
    assert section.strip() == f"numpy {metadata.version('numpy')}"
    assert first.split()[:7] == ["a", "distance", "cholesky", "small", "60", "|", "16"]
    assert "frechet" in TABLES


def test_an_option_that_a_comparison_does_not_take_is_refused(noisebench: Call) -> None:
    with pytest.raises(UsageError, match="frechet takes no --steps"):
        compare("frechet", steps=5)
    done = noisebench("peers", "frechet", "--steps", "5")
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (2, 1)
    assert "The comparison of frechet takes no --steps: leave it out." in done.stderr
