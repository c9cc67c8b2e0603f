"""Reads a scene of shapes back from its pixels, and says what of a caption the image shows.

    coverage    c_k = (p − ground)·v_k/‖v_k‖², v_k = colour_k − ground; a pixel belongs to the colour with
                the largest c_k, if that is above one half
    foreign     ‖p − ground − c_k v_k‖ above `FOREIGN`: white, black, … ; an image has fewer than a speck
    things      connected pixels of one colour; specks below `SPECK` pixels are ignored
    matching    IoU = Σ min(c, s)/Σ max(c, s) with the sprite s of each shape and size near the centre of
                gravity; the best one names the thing, and must reach `ACCEPTED`

An image that is not made of such things is not parsable, and fulfils no caption. There is no learned part:
on images drawn by `bench.data.scenes` the checker is exact, and what a caption asks for is taken from its
grammar. What is asked follows GenEval (Ghosh et al. 2023, 2310.11513), which needs a detector for it.

Legend: N images, K colours, H height, W width, S sprite window, P sprites.
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from bench.data.captions import Group, Meaning, decode, parse
from bench.data.scenes import (
    BACKGROUND,
    COLOURS,
    FULL,
    MOST,
    QUARTERS,
    SHAPES,
    SIDE,
    SIZES,
    WINDOW,
    Thing,
    sprites,
)

SPECK = 6
"""Fewer pixels than half of the smallest shape are no thing."""
FOREIGN = 90
"""Distance from the nearest ray of the palette, of 185 between colour and ground: no mixture of the two."""
ACCEPTED = 0.6
"""IoU from which a blot is a shape."""
SEARCH = 2
"""Quarter pixels round the centre of gravity in which the best position is sought."""
QUESTIONS = ("existence", "count", "shape", "colour", "size", "binding", "relation")


@dataclass(frozen=True)
class Reading:
    """What an image shows; `fidelity` is the mean IoU of its things with perfect shapes, 0 of none."""

    things: tuple[Thing, ...]
    parsable: bool
    fidelity: float


@dataclass(frozen=True)
class Verdict:
    """What of a caption an image shows; None where the caption does not ask.

    existence  every shape asked for occurs
    count      as many things as asked for, no more
    shape      every shape as often as asked for        colour, size   likewise
    binding    shape, colour and size meet on the same things, of two or more groups
    relation   the things asked for lie as asked for
    correct    the image is parsable, shows all that is asked for and nothing more
    """

    correct: bool
    existence: bool | None = None
    count: bool | None = None
    shape: bool | None = None
    colour: bool | None = None
    size: bool | None = None
    binding: bool | None = None
    relation: bool | None = None


def read(pixels: np.ndarray) -> list[Reading]:
    """What each image (N, 3, 32, 32) uint8 shows."""
    if pixels.ndim != 4 or pixels.shape[1:] != (3, SIDE, SIDE) or pixels.dtype != np.uint8:
        raise ValueError(
            f"The checker reads uint8 images (N, 3, {SIDE}, {SIDE}), and these are "
            f"{pixels.dtype} {pixels.shape}."
        )
    readings: list[Reading] = []
    for start in range(0, len(pixels), 256):
        readings.extend(_read(pixels[start : start + 256]))
    return readings


def verdict(reading: Reading, meaning: Meaning) -> Verdict:
    """Whether what was read is what a caption asks for."""
    things, wanted = reading.things, meaning.wanted()
    if not wanted:
        return Verdict(correct=reading.parsable)
    bound = _bound(things, wanted)
    related = any(meaning.holds(order) for order in bound)
    colours, sizes = ([getattr(g, name) for g in wanted] for name in ("colour", "size"))
    return Verdict(
        correct=reading.parsable and len(things) == len(wanted) and related,
        existence=all(any(t.shape == g.shape for t in things) for g in wanted),
        count=len(things) == len(wanted),
        shape=_contains([t.shape for t in things], [g.shape for g in wanted]),
        colour=_contains([t.colour for t in things], colours),
        size=_contains([t.size for t in things], sizes),
        binding=bool(bound) if len(meaning.groups) > 1 else None,
        relation=related if meaning.relation else None,
    )


def judge(pixels: np.ndarray, captions: Iterable[str] | np.ndarray) -> dict[str, np.ndarray]:
    """Columns (N,) of 0 and 1 for N images and their captions, text or tokens (N, L); NaN is not asked.

    They are `correct scenes`, `parsable scenes` and the questions of `Verdict` by their names.
    """
    texts = [caption if isinstance(caption, str) else decode(caption) for caption in captions]
    if len(texts) != len(pixels):
        raise ValueError(f"{len(pixels)} images need {len(pixels)} captions, and there are {len(texts)}.")
    readings = read(pixels)
    verdicts = [verdict(reading, parse(text)) for reading, text in zip(readings, texts, strict=True)]
    return {
        "correct scenes": _column(verdicts, "correct"),
        "parsable scenes": _column(readings, "parsable"),
        **{name: _column(verdicts, name) for name in QUESTIONS},
    }


def _bound(things: Sequence[Thing], wanted: Sequence[Group]) -> list[tuple[Thing, ...]]:
    """All ways to give each thing wanted one of its own that fits."""
    fitting = [[i for i, thing in enumerate(things) if group.fits(thing)] for group in wanted]
    orders = (order for order in itertools.product(*fitting) if len(set(order)) == len(order))
    return [tuple(things[i] for i in order) for order in orders]


def _column(rows: Sequence[object], name: str) -> np.ndarray:
    values = [getattr(row, name) for row in rows]
    return np.asarray([np.nan if value is None else value for value in values], np.float64)


def _contains(found: Sequence[str], wanted: Sequence[str | None]) -> bool | None:
    """Whether every word is found as often as wanted; None if nothing is."""
    need = Counter(word for word in wanted if word)
    return need <= Counter(found) if need else None


def _coverage(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The strongest colour (N, H, W), its coverage 0…1, and the distance from its ray."""
    contrast = np.asarray(tuple(COLOURS.values()), np.float32) - BACKGROUND
    rays = contrast / np.square(contrast).sum(1, keepdims=True)
    seen = pixels.astype(np.float32).transpose(0, 2, 3, 1) - BACKGROUND
    coverage = seen @ rays.T
    colour = coverage.argmax(-1)
    strongest = np.take_along_axis(coverage, colour[..., None], -1)
    distance = np.linalg.norm(seen - strongest * contrast[colour], axis=-1)
    return colour, strongest[..., 0].clip(0.0, 1.0), distance


def _read(pixels: np.ndarray) -> list[Reading]:
    """All images at once up to the blots, then one blot at a time."""
    colour, coverage, distance = _coverage(pixels)
    foreign = (distance > FOREIGN).sum((1, 2)) >= SPECK
    mask = (colour[:, None] == np.arange(len(COLOURS))[:, None, None]) & (coverage > 0.5)[:, None]
    within = np.zeros((3, 3, 3, 3), bool)
    within[1, 1] = True
    marked, _ = ndimage.label(mask, within)
    area = np.bincount(marked.ravel())
    found: list[list[tuple[Thing, float]]] = [[] for _ in pixels]
    for blot, place in enumerate(ndimage.find_objects(marked), start=1):
        if place is not None and area[blot] >= SPECK:
            n, k = place[0].start, place[1].start
            own = marked[n, k] == blot
            found[n].append(_match(np.where(colour[n] == k, coverage[n], 0.0), own, tuple(COLOURS)[k]))
    return [_reading(things, bool(bad)) for things, bad in zip(found, foreign, strict=True)]


def _reading(found: Sequence[tuple[Thing, float]], foreign: bool) -> Reading:
    fidelity = float(np.mean([iou for _, iou in found])) if found else 0.0
    parsable = not foreign and 0 < len(found) <= MOST and all(iou >= ACCEPTED for _, iou in found)
    return Reading(tuple(thing for thing, _ in found), parsable, fidelity)


@functools.cache
def _sheet() -> np.ndarray:
    """Σ-ready sprites (P, Q, Q, S + 2, S + 2) float32 0…1, at −SEARCH … SEARCH + 3 quarters both ways."""
    offsets = range(-SEARCH, QUARTERS + SEARCH)
    flat = sprites().reshape(-1, QUARTERS, QUARTERS, WINDOW, WINDOW)
    sheet = np.zeros((len(flat), len(offsets), len(offsets), WINDOW + 2, WINDOW + 2), np.float32)
    for (i, down), (j, right) in itertools.product(enumerate(offsets), repeat=2):
        y, x = 1 + down // QUARTERS, 1 + right // QUARTERS
        sprite = flat[:, down % QUARTERS, right % QUARTERS]
        sheet[:, i, j, y : y + WINDOW, x : x + WINDOW] = sprite / np.float32(FULL)
    return sheet


def _match(coverage: np.ndarray, own: np.ndarray, colour: str) -> tuple[Thing, float]:
    """The best shape, size and position for the blot `own` of one colour (H, W), and its IoU."""
    blot = np.where(ndimage.binary_dilation(own, np.ones((3, 3), bool)), coverage, 0.0)
    total = float(blot.sum())
    middle = np.arange(SIDE) + 0.5
    y, x = (round(QUARTERS * float(blot.sum(axis) @ middle) / total) for axis in (1, 0))
    pad = WINDOW // 2 + 1
    top, left = y // QUARTERS, x // QUARTERS
    crop = np.pad(blot, pad)[top : top + WINDOW + 2, left : left + WINDOW + 2]
    down, right = (slice(z % QUARTERS, z % QUARTERS + 2 * SEARCH + 1) for z in (y, x))
    tried = _sheet()[:, down, right]
    shared = np.minimum(tried, crop).sum((-2, -1))
    iou = shared / (total + tried.sum((-2, -1)) - shared)
    best, dy, dx = (int(i) for i in np.unravel_index(int(iou.argmax()), iou.shape))
    shape, size = divmod(best, len(SIZES))
    centre = (x + dx - SEARCH) / QUARTERS, (y + dy - SEARCH) / QUARTERS
    return Thing(SHAPES[shape], colour, tuple(SIZES)[size], *centre), float(iou.max())
