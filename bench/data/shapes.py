"""Captioned shapes: 32×32 RGB scenes of one to three coloured shapes, drawn from a seed; no download.

Half of the training scenes hold one thing; the others two in a relation, two joined by "and", or two or
three alike. Splits:

    train      20 of the 24 pairs (shape, colour)
    test       scenes from the same law that training does not have
    held-out   the same layouts, made of the four pairs that training never shows
    longer     three things of two or three kinds, a layout that training never shows

Precedents: Okawa et al. 2023 (2310.09336) for held-out combinations, GenEval (Ghosh et al. 2023, 2310.11513)
for what is asked; here scene, caption and `bench.metrics.scene_checker` are exact.

Legend: N scenes, M = 3 places for things, G groups, L tokens.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from bench.data import Captions, ImageData
from bench.data.captions import VOCABULARY, Group, Meaning, encode_all
from bench.data.scenes import (
    BORDER,
    COLOURS,
    GAP,
    MOST,
    QUARTERS,
    SHAPES,
    SIDE,
    SIZES,
    Scenes,
    Thing,
    relation,
    render,
)

LEVELS = 256
CLEAR = 4
"""Pixels by which the longer way between two things in a relation is longer."""
LAYOUTS: dict[str, tuple[int, ...]] = {
    "one": (0,),
    "relation": (0, 1),
    "pair": (0, 1),
    "two": (0, 0),
    "three": (0, 0, 0),
    "trio": (0, 1, 2),
    "two and one": (0, 0, 1),
}
"""The group that each thing of a scene belongs to; things of a group look alike."""
USUAL = (*("one",) * 8, *("relation",) * 4, *("pair",) * 2, "two", "three")
LONGER = ("trio", "two and one")
SIZE_SAID = 4
"""One caption in so many leaves out the size of a group."""

Pairs = Sequence[tuple[int, int]]


def held_out(shape: int, colour: int) -> bool:
    """The rule: indices of shape and colour add up to 5; one colour of each shape, none twice."""
    return shape + colour == len(COLOURS) - 1


SEEN = tuple((s, c) for s in range(len(SHAPES)) for c in range(len(COLOURS)) if not held_out(s, c))
UNSEEN = tuple((s, c) for s in range(len(SHAPES)) for c in range(len(COLOURS)) if held_out(s, c))


@dataclass(frozen=True)
class Law:
    """Which scenes a split has: a seed, how many, of which pairs (shape, colour), layouts equally likely."""

    seed: int
    n: int
    pairs: Pairs = SEEN
    layouts: tuple[str, ...] = USUAL


SPLITS = {
    "train": Law(1, 24_576),
    "test": Law(2, 2_048),
    "held-out": Law(3, 1_024, UNSEEN),
    "longer": Law(4, 1_024, SEEN, LONGER),
}


class Bits:
    """Whole numbers from the raw 64-bit stream of PCG64, which no release of numpy may change."""

    def __init__(self, seed: int) -> None:
        self._source = np.random.PCG64(seed)

    def below(self, limit: int | np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """int64 in 0…limit − 1, by the upper half of the product with 32 bits (bias below 2⁻²⁵)."""
        high = self._source.random_raw(int(np.prod(shape))).reshape(shape) >> np.uint64(32)
        return ((high * np.asarray(limit).astype(np.uint64)) >> np.uint64(32)).astype(np.int64)


def draw(law: Law) -> tuple[Scenes, list[Meaning]]:
    """Scenes and what their captions ask for; the same for the same law on every machine."""
    bits = Bits(law.seed)
    choice = bits.below(len(law.layouts), (law.n,))
    group = np.asarray([(*LAYOUTS[name], 0, 0)[:MOST] for name in law.layouts])[choice]
    count = np.asarray([len(LAYOUTS[name]) for name in law.layouts])[choice]
    related = np.asarray([name == "relation" for name in law.layouts])[choice]
    pair = np.asarray(law.pairs)[_distinct(bits, law.n, len(law.pairs))]
    size, said = bits.below(len(SIZES), (law.n, MOST)), bits.below(SIZE_SAID, (law.n, MOST)) > 0
    shape, colour, size = (np.take_along_axis(a, group, 1) for a in (pair[..., 0], pair[..., 1], size))
    x, y = place(bits, count, size, related)
    scenes = Scenes(count, shape, colour, size, x, y)
    meanings = [_meaning(scenes.things(n), group[n], said[n], bool(related[n])) for n in range(law.n)]
    return scenes, meanings


def _distinct(bits: Bits, n: int, limit: int) -> np.ndarray:
    """(n, M) indices below the limit, no two in a row equal: steps from the first, the second skipped."""
    first, one, two = (bits.below(limit - less, (n,)) for less in range(MOST))
    one = one + 1
    two = two + 1 + (two + 1 >= one)
    return np.stack([first, first + one, first + two], 1) % limit


def place(bits: Bits, count: np.ndarray, size: np.ndarray, related: np.ndarray) -> tuple[np.ndarray, ...]:
    """Centres x, y (N, M) in quarter pixels, uniform among those where nothing touches: drawn until so.

    Where `related`, the first two things lie clearly beside or above each other.
    """
    reach = QUARTERS * np.asarray(tuple(SIZES.values()))[size]
    low = reach + QUARTERS * BORDER
    x, y = np.zeros_like(low), np.zeros_like(low)
    pending = np.arange(len(count))
    while len(pending):
        span = QUARTERS * SIDE - 2 * low[pending] + 1
        x[pending], y[pending] = (low[pending] + bits.below(span, span.shape) for _ in range(2))
        good = _apart(x[pending], y[pending], reach[pending], count[pending])
        dx, dy = (np.abs(a[pending, 0] - a[pending, 1]) for a in (x, y))
        good &= ~related[pending] | (np.abs(dx - dy) >= QUARTERS * CLEAR)
        pending = pending[~good]
    return x, y


def _apart(x: np.ndarray, y: np.ndarray, reach: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Whether the discs of all pairs of things have the gap between them."""
    good = np.ones(len(count), bool)
    for one in range(MOST):
        for two in range(one + 1, MOST):
            apart = reach[:, one] + reach[:, two] + QUARTERS * GAP
            far = (x[:, one] - x[:, two]) ** 2 + (y[:, one] - y[:, two]) ** 2 >= apart**2
            good &= far | (count <= two)
    return good


def _meaning(things: Sequence[Thing], group: np.ndarray, said: np.ndarray, related: bool) -> Meaning:
    """The groups of a scene in their order, with the sizes that are said."""
    members: dict[int, list[Thing]] = {}
    for thing, index in zip(things, group.tolist(), strict=False):
        members.setdefault(index, []).append(thing)
    groups = tuple(
        Group(len(alike), alike[0].shape, alike[0].colour, alike[0].size if said[index] else None)
        for index, alike in members.items()
    )
    if not related:
        return Meaning(groups)
    return Meaning(groups, relation(things[0].x - things[1].x, things[0].y - things[1].y))


@functools.cache
def _drawn(name: str) -> tuple[Scenes, list[Meaning]]:
    """The scenes of a split; those of `test` that training has are left out."""
    law = SPLITS[name]
    if name != "test":
        return draw(law)
    known = set(_drawn("train")[0].identities())
    scenes, meanings = draw(replace(law, n=law.n + law.n // 8))
    fresh = [n for n, identity in enumerate(scenes.identities()) if identity not in known][: law.n]
    return scenes.take(np.asarray(fresh)), [meanings[n] for n in fresh]


@functools.cache
def split(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 3, H, W) uint8 and captions (N, L) int64 of a split."""
    scenes, meanings = _drawn(name)
    return render(scenes), encode_all(str(meaning) for meaning in meanings)


def load() -> ImageData:
    """The data set; its labels are the number of things less one. Further prompts:

    single            captions of the test split that ask for one thing
    held-out, longer  captions of the splits of these names
    """
    (train, train_tokens), (test, test_tokens) = split("train"), split("test")
    counts = {name: _drawn(name)[0].count for name in ("train", "test")}
    further = {name: split(name)[1] for name in ("held-out", "longer")}
    return ImageData(
        name="shapes",
        train=train,
        test=test,
        train_labels=counts["train"] - 1,
        test_labels=counts["test"] - 1,
        levels=LEVELS,
        classes=MOST,
        captions=Captions(
            train=train_tokens,
            test=test_tokens,
            vocabulary=VOCABULARY,
            prompts={"single": test_tokens[counts["test"] == 1], **further},
        ),
    )
