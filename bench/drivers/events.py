"""What happens while cells are computed: drivers yield these, the command line prints them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from bench.cells import Cell
from bench.records import Record


@dataclass(frozen=True)
class Started:
    """A cell is about to be computed; `done` of `total` items (images, steps) exist already."""

    cell: Cell
    done: int
    total: int


@dataclass(frozen=True)
class Advanced:
    """`done` of `total` items of a cell exist; `note` is worth showing beside that."""

    cell: Cell
    done: int
    total: int
    note: str = ""


@dataclass(frozen=True)
class Waiting:
    """Another process works on the cell, or is timing on this machine."""

    cell: Cell
    reason: str


@dataclass(frozen=True)
class Noted:
    """Something was done otherwise than asked for: one sentence."""

    text: str


@dataclass(frozen=True)
class Finished:
    """A cell has its numbers, was found in the store, or failed with the sentence in `error`."""

    cell: Cell
    outcome: Literal["ok", "cached", "failed", "skipped"]
    records: list[Record] = field(default_factory=list)
    seconds: float = 0.0
    error: str = ""
    trace: str = ""


@dataclass(frozen=True)
class Of:
    """An event of process `rank`, where one place follows several."""

    rank: int
    event: Started | Advanced | Waiting | Noted | Finished


Event = Started | Advanced | Waiting | Noted | Finished
