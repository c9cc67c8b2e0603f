"""Protects what a person sees while cells are computed."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from bench.cells import Cell
from bench.cli import progress
from bench.drivers.events import Advanced, Finished, Started, Waiting
from bench.records import Record

CELL = Cell("quality", "vae · prior", {"a": 1}, {}, items=(256, 104))
RECORD = Record(metric="FD-digits@360", value=7.933, low=6.5, high=9.25)


def _shown(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> str:
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, width=100, highlight=False, soft_wrap=True)
    monkeypatch.setattr(progress, "console", console)
    with progress._Screen({"quality vae · prior": 4.0, "training ddpm · training": 80.0}) as screen:
        screen.show(Started(CELL, 0, 360))
        screen.show(Advanced(CELL, 256, 360))
        if terminal:
            screen._bar.refresh()
        screen.show(Waiting(CELL, "another process is computing it"))
        screen.show(Finished(CELL, "ok", [RECORD], seconds=1.25))
        screen.show(Finished(CELL, "failed", error="a [sample] is not finite: shard 1"))
        screen.show(Finished(CELL, "cached", [RECORD]))
    return output.getvalue()


def test_without_a_terminal_there_is_one_line_a_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _shown(monkeypatch, terminal=False).splitlines() == [
        "wait    vae · prior: another process is computing it",
        "ok      vae · prior: FD-digits@360 7.933 [6.5, 9.25] (1.2 s)",
        "failed  vae · prior: a [sample] is not finite: shard 1",
    ]


def test_a_terminal_shows_speed_and_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = _shown(monkeypatch, terminal=True)
    assert "71 %" in shown
    assert "images/s" in shown
    assert "1 min 20 s in all" in shown
