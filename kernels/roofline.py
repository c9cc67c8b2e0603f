"""The least time that attention can take on a card: by its matrix units, its memory, its exponentials.

Useful work only: for B batch, H heads, L queries, S keys and D columns (the model's, not padded),

    forward   4·B·H·L·S·D operations,  (2·L + 2·S)·B·H·D elements moved,  B·H·L·S exponentials
    backward  2.5 times the operations (five products for two), 8 tensors for 4, the exponentials once more

A card has a roof of each: its published or measured rates. Time is at least the largest of the three.
"""

from __future__ import annotations

from dataclasses import dataclass

DIRECTIONS = ("forward", "backward", "both")


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
class Attention:
    """One call: B batch, H heads, L queries, S keys, D columns, bytes of an element."""

    B: int
    H: int
    L: int
    S: int
    D: int
    element: int = 2

    def operations(self, direction: str) -> float:
        """Floating-point operations, a multiply-add being two."""
        forward = 4.0 * self.B * self.H * self.L * self.S * self.D
        return forward * {"forward": 1.0, "backward": 2.5, "both": 3.5}[direction]

    def bytes(self, direction: str) -> float:
        """Bytes that must be read or written: q, k, v, o, their gradients, log-sum-exp."""
        tensors = 2.0 * (self.L + self.S) * self.B * self.H * self.D * self.element
        sums = 4.0 * self.B * self.H * self.L
        return {"forward": tensors + sums, "backward": 2 * tensors + sums, "both": 3 * (tensors + sums)}[
            direction
        ]

    def exponentials(self, direction: str) -> float:
        """Calls of exp2."""
        return float(self.B * self.H * self.L * self.S) * (2 if direction == "both" else 1)


@dataclass(frozen=True)
class Roof:
    """Least seconds, and which rate sets them."""

    seconds: float
    bound_by: str


def roof(call: Attention, card: Card, direction: str = "forward") -> Roof:
    """The largest of the three times."""
    times = {
        "matrix": call.operations(direction) / card.matrix,
        "bandwidth": call.bytes(direction) / card.bandwidth,
        "exponentials": call.exponentials(direction) / card.exponentials,
    }
    by = max(times, key=lambda name: times[name])
    return Roof(times[by], by)
