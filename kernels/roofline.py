"""The least time that work can take on a card: by its matrix units, its memory, its exponentials.

A card has a rate of each, published or measured. Time is no less than the longest of the three (Williams,
Waterman and Patterson 2009, with the special function units of attention's exponentials as a third roof).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """A GPU's rates: half-precision dense matrix operations, bytes, and exp2 a second; and who says so."""

    name: str
    capability: int
    matrix: float
    bandwidth: float
    exponentials: float
    source: str


def _exponentials(processors: int, boost_ghz: float) -> float:
    """Sixteen a clock and processor (CUDA C++ Programming Guide, "Arithmetic Instructions")."""
    return 16.0 * processors * boost_ghz * 1e9


CARDS = {
    "h200": Card(
        "NVIDIA H200 SXM", 90, 790e12, 4.3e12, _exponentials(132, 1.755), "large matmul and copy, as measured"
    ),
    "h100": Card("NVIDIA H100 SXM", 90, 989e12, 3.35e12, _exponentials(132, 1.83), "published, dense"),
    "a100": Card("NVIDIA A100 SXM 80 GB", 80, 312e12, 2.039e12, _exponentials(108, 1.41), "published, dense"),
    "b200": Card("NVIDIA B200", 100, 2250e12, 8.0e12, _exponentials(148, 1.85), "published, dense"),
}
"""By the name that people use; any other card has no roof here until it is measured."""


@dataclass(frozen=True)
class Roof:
    """Least seconds, and which rate sets them."""

    seconds: float
    bound_by: str


def roof(operations: float, moved: float, exponentials: float, card: Card) -> Roof:
    """The longest of three times: of matrix operations, of bytes moved, of calls of exp2."""
    times = {
        "matrix": operations / card.matrix,
        "bandwidth": moved / card.bandwidth,
        "exponentials": exponentials / card.exponentials,
    }
    by = max(times, key=lambda name: times[name])
    return Roof(times[by], by)
