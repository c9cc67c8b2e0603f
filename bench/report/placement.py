"""Names beside points: each where it covers neither a point nor another name, at every width of the page.

Boxes are (left, top, right, bottom) in px. A chart keeps its height and stretches in width, so a place
counts as free only if it is free at all of the `widths` given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bench.report.labels import CHARACTER

Box = tuple[float, float, float, float]
Align = Literal["left", "center", "right"]
PLACES: tuple[tuple[float, float, Align], ...] = (
    (10, 11, "left"), (12, 1, "left"), (0, 18, "center"), (-10, 12, "right"), (-12, 1, "right"),
    (10, -11, "left"), (0, -16, "center"), (-10, -11, "right"), (10, 24, "left"), (14, 34, "left"),
    (-10, 28, "right"), (0, -30, "center"), (0, 32, "center"), (22, 1, "left"), (-22, 1, "right"),
)  # fmt: skip
"""Offsets of a label's anchor from its point and its alignment, the best place first: right and below."""


@dataclass(frozen=True)
class Point:
    """A point at `share` of the width and `y` px from the top, `up` and `down` the reach of its whisker."""

    share: float
    y: float
    up: float = 6.0
    down: float = 6.0

    def box(self, width: float) -> Box:
        """What it covers."""
        x = self.share * width
        return (x - 6, self.y - self.up, x + 6, self.y + self.down)


@dataclass(frozen=True)
class Label:
    """A text at an offset (dx, dy) from its point."""

    text: str
    dx: float
    dy: float
    align: Align

    def box(self, point: Point, width: float) -> Box:
        """What it covers."""
        span = CHARACTER * len(self.text)
        x = point.share * width + self.dx
        left = {"left": x, "center": x - span / 2, "right": x - span}[self.align]
        return (left, point.y + self.dy - 7, left + span, point.y + self.dy + 7)


def overlap(box: Box, others_n4: NDArray[np.float64]) -> float:
    """The area that a box shares with others."""
    across = np.minimum(box[2], others_n4[:, 2]) - np.maximum(box[0], others_n4[:, 0])
    down = np.minimum(box[3], others_n4[:, 3]) - np.maximum(box[1], others_n4[:, 1])
    return float((np.maximum(across, 0.0) * np.maximum(down, 0.0)).sum())


def place(
    points: Sequence[Point],
    texts: Sequence[Sequence[str]],
    obstacles: Sequence[Point],
    fixed: Sequence[Box],
    widths: Sequence[float],
    height: float,
) -> list[Label]:
    """A label for each of `points`: the first of its `texts` that fits, in the first place where it fits.

    points, texts  what is named, most important first; where nothing fits, the last text of each stands
                   where it covers least
    obstacles      points not to be covered, those named among them
    fixed          boxes not to be covered, measured from the right end of the chart (left < 0)
    """
    taken: dict[float, NDArray[np.float64]] = {
        width: np.array(
            [
                *(point.box(width) for point in obstacles),
                *((left + width, top, right + width, bottom) for left, top, right, bottom in fixed),
            ]
        ).reshape(-1, 4)
        for width in widths
    }
    found = []
    for point, choices in zip(points, texts, strict=True):
        options = [Label(text, *offset) for text in choices for offset in PLACES]
        label = next((option for option in options if _free(option, point, taken, height)), None)
        if label is None:
            label = min(options[-len(PLACES) :], key=lambda option: _covered(option, point, taken, height))
        taken = {width: np.vstack([boxes, label.box(point, width)]) for width, boxes in taken.items()}
        found.append(label)
    return found


def _covered(label: Label, point: Point, taken: Mapping[float, NDArray[np.float64]], height: float) -> float:
    """The area that a label covers of what is there already, over all widths; what is cut counts most."""
    area = 0.0
    for width, boxes in taken.items():
        box = label.box(point, width)
        if box[0] < 0 or box[2] > width or box[1] < 0 or box[3] > height:
            area += 1e6
        area += overlap(box, boxes)
    return area


def _free(label: Label, point: Point, taken: Mapping[float, NDArray[np.float64]], height: float) -> bool:
    for width, boxes in taken.items():
        box = label.box(point, width)
        if box[0] < 2 or box[2] > width or box[1] < 0 or box[3] > height:
            return False
        if overlap(box, boxes) > 0.0:
            return False
    return True
