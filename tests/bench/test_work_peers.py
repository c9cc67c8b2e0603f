"""Protects the comparisons of one work done by both sides: they agree; what fails or is missing is a row."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bench.cli.peers import TABLES, show_peers
from bench.peers import KINDS, flows, likelihood, pipelines
from bench.peers.work import Side, Work, rows_of

CLOSE = {"likelihood": 1e-4, "flows": 1e-3, "pipelines": 1e-5}
"""Adaptive solvers differ within tolerances; an inverse in float32 loses digits where a bin is steep."""


@pytest.mark.parametrize("module", [likelihood, flows, pipelines], ids=lambda m: m.__name__.split(".")[-1])
def test_both_sides_of_every_work_agree(module: object) -> None:
    """With the real packages where they are installed."""
    kind = module.__name__.split(".")[-1]  # type: ignore[attr-defined]
    small = {"sizes": [(32, 2)]} if kind == "pipelines" else {}
    rows = list(module.rows(repeats=1, **small))  # type: ignore[attr-defined]
    for row in rows:
        assert row.status in ("ok", "skipped"), row.note
        if row.status == "ok":
            assert row.ratio.median > 0
            assert row.apart is None or row.apart < CLOSE[kind], row
    assert any(row.apart is not None for row in rows)


def _work(theirs: Side, **more: object) -> Work:
    def build() -> tuple[Side, Side]:
        return lambda: torch.ones(3), theirs

    return Work("numpy", "theirs", "ours", "a work", build, **more)  # type: ignore[arg-type]


def _raise(error: Exception) -> Callable[[], Tensor]:
    def side() -> Tensor:
        raise error

    return side


def test_a_work_is_compared_timed_or_says_why_not(capsys: pytest.CaptureFixture[str]) -> None:
    works = [
        _work(lambda: torch.tensor([1.0, 1.0, 1.5])),
        _work(lambda: torch.zeros(3), comparable=False, note="noise of its own"),
        _work(_raise(ZeroDivisionError("its own\ndefect"))),
        _work(_raise(ModuleNotFoundError("no", name="missing"))),
    ]
    near, own, failed, missing = rows_of(works, 3, "pip install it")
    assert near.apart == 0.5
    assert near.seconds_ours is not None
    assert (own.apart, own.note) == (None, "noise of its own")
    assert (failed.status, failed.note) == ("failed", "ZeroDivisionError: its own defect")
    assert missing.note == "numpy needs missing, which is not installed: pip install it."
    assert capsys.readouterr().out == ""


def test_every_kind_has_a_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert set(TABLES) == set(KINDS)
    monkeypatch.setattr(flows, "works", lambda: [_work(lambda: torch.ones(3))])
    assert show_peers("flows", as_json=False, repeats=1)
    printed = capsys.readouterr().out
    assert "a work" in printed
    assert "ratio" in printed
