"""Scenes of coloured shapes on a plain ground: what they are made of, and how they are drawn.

Positions are multiples of a quarter pixel and coverage is counted on 8×8 points a pixel, so a shape is one
of 4·2·4·4 sprites of whole numbers. Everything from there to the image is integer arithmetic: the same
scene has the same bytes on every machine.

Legend: N scenes, M = 3 places for things, S sprite window, H = W = 32 pixels, y points down.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np

SIDE = 32
BACKGROUND = 128
SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = {
    "red": (235, 25, 25),
    "yellow": (235, 235, 25),
    "green": (25, 235, 25),
    "cyan": (25, 235, 235),
    "blue": (25, 25, 235),
    "magenta": (235, 25, 235),
}
"""Corners of the colour cube seen from the grey ground: neighbours are 70° apart."""
SIZES = {"small": 4, "large": 6}
"""Radius in pixels of the disc that a shape just fits into, its reach."""
RELATIONS = ("left of", "right of", "above", "below")
MOST = 3
GAP, BORDER = 2, 1
"""Pixels that stay free between the discs of two things, and between a disc and the edge."""
QUARTERS = 4
"""Positions a pixel."""
WINDOW = 15
"""Side S of a sprite: the pixel of the centre is in the middle, and all of the largest shape is inside."""
POINTS = 8
FULL = POINTS * POINTS


@dataclass(frozen=True)
class Thing:
    """One object; the centre (x, y) in pixels from the upper left corner of the image."""

    shape: str
    colour: str
    size: str
    x: float
    y: float


@dataclass(frozen=True)
class Scenes:
    """N scenes as numbers (N, M): indices into SHAPES, COLOURS and SIZES, centres in quarter pixels.

    Scene n has count[n] things, in its first places.
    """

    count: np.ndarray
    shape: np.ndarray
    colour: np.ndarray
    size: np.ndarray
    x: np.ndarray
    y: np.ndarray

    def __len__(self) -> int:
        return len(self.count)

    def take(self, rows: np.ndarray) -> Scenes:
        """Some of the scenes."""
        return Scenes(*(getattr(self, field.name)[rows] for field in fields(self)))

    def identities(self) -> list[bytes]:
        """Equal for two scenes if and only if they have the same things in the same order."""
        used = np.arange(MOST) < self.count[:, None]
        columns = [
            np.where(used, array, -1) for array in (self.shape, self.colour, self.size, self.x, self.y)
        ]
        return [row.tobytes() for row in np.ascontiguousarray(np.concatenate(columns, 1))]

    def things(self, n: int) -> tuple[Thing, ...]:
        """Scene n in words."""
        return tuple(self._thing(n, place) for place in range(int(self.count[n])))

    def _thing(self, n: int, place: int) -> Thing:
        shape, colour, size, x, y = (
            int(array[n, place]) for array in (self.shape, self.colour, self.size, self.x, self.y)
        )
        return Thing(SHAPES[shape], tuple(COLOURS)[colour], tuple(SIZES)[size], x / QUARTERS, y / QUARTERS)


def relation(dx: float, dy: float) -> str:
    """Where a thing lies that is dx to the right of and dy below another: along the longer way."""
    if abs(dx) > abs(dy):
        return "left of" if dx < 0 else "right of"
    return "above" if dy < 0 else "below"


def inside(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Which points belong to a shape about the origin, in units of its reach; y points down.

    All four fit into the unit disc and have their centre of gravity at the origin.
    """
    if shape == "circle":
        return x * x + y * y <= 0.81
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) <= 0.7
    if shape == "triangle":  # equilateral, point up: √3 |x| ≤ y + 1
        return (y <= 0.5) & (1.7320508 * np.abs(x) <= y + 1.0)
    longer, shorter = np.maximum(np.abs(x), np.abs(y)), np.minimum(np.abs(x), np.abs(y))
    return (longer <= 0.94) & (shorter <= 0.3)


@functools.cache
def sprites() -> np.ndarray:
    """Points covered (shape, size, y quarter, x quarter, S, S), 0…64 a pixel; read only."""
    point = (np.arange(WINDOW * POINTS) + 0.5) / POINTS - WINDOW // 2
    sheet = np.zeros((len(SHAPES), len(SIZES), QUARTERS, QUARTERS, WINDOW, WINDOW), np.uint8)
    for index in np.ndindex(sheet.shape[:4]):
        shape, size, down, right = index
        reach = tuple(SIZES.values())[size]
        x, y = ((point - quarter / QUARTERS) / reach for quarter in (right, down))
        covered = inside(SHAPES[shape], x[None, :], y[:, None])
        sheet[index] = covered.reshape(WINDOW, POINTS, WINDOW, POINTS).sum((1, 3))
    sheet.setflags(write=False)
    return sheet


def _chunks(n: int, size: int = 2048) -> Iterator[slice]:
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def render(scenes: Scenes) -> np.ndarray:
    """The scenes as images (N, 3, H, W) uint8; an edge pixel mixes colour and ground by its coverage."""
    images = np.empty((len(scenes), 3, SIDE, SIDE), np.uint8)
    for part in _chunks(len(scenes)):
        images[part] = _render(scenes, part)
    return images


def _render(scenes: Scenes, part: slice) -> np.ndarray:
    """Adds up (colour − ground)·coverage; things never overlap."""
    pad = WINDOW // 2
    count = scenes.count[part]
    canvas = np.zeros((len(count), 3, SIDE + 2 * pad, SIDE + 2 * pad), np.int32)
    contrast = np.asarray(tuple(COLOURS.values()), np.int32) - BACKGROUND
    window = np.arange(WINDOW)
    for place in range(MOST):
        here = np.flatnonzero(count > place)
        shape, colour, size, x, y = (
            array[part][here, place]
            for array in (scenes.shape, scenes.colour, scenes.size, scenes.x, scenes.y)
        )
        covered = sprites()[shape, size, y % QUARTERS, x % QUARTERS].astype(np.int32)
        rows, columns = (y // QUARTERS)[:, None] + window, (x // QUARTERS)[:, None] + window
        for channel in range(3):
            canvas[here[:, None, None], channel, rows[:, :, None], columns[:, None, :]] += (
                contrast[colour, channel][:, None, None] * covered
            )
    inner = canvas[:, :, pad : pad + SIDE, pad : pad + SIDE]
    return ((BACKGROUND * FULL + FULL // 2 + inner) // FULL).astype(np.uint8)
