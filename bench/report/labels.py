"""Where axes end, where ticks lie and where direct labels go, so that nothing overlaps or is cut."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

CHARACTER = 7.0
"""Upper estimate of the width of a character of an 11 px label, in px."""
LINE = 15.0
"""Distance of two lines of labels, in px."""


LONGEST = 30
"""Characters of a name that are written in a figure; the tables have all of it."""
MOST_ROOM = 1.7
"""An axis is stretched to at most this many times its length to make room for names."""


def clipped(name: str) -> str:
    """A name with its end left out where it is too long for a figure."""
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"


def finite(values: Iterable[float]) -> list[float]:
    """The finite ones."""
    return [float(value) for value in values if math.isfinite(value)]


def is_log(values: Sequence[float], ratio: float = 4.0) -> bool:
    """A logarithmic axis is right for positive numbers that span more than `ratio`."""
    return bool(values) and min(values) > 0 and max(values) / min(values) > ratio


def padded(values: Sequence[float], log: bool, share: float = 0.06) -> tuple[float, float]:
    """The domain of an axis: the values with `share` of their span on either side."""
    if log:
        low, high = padded([math.log(value) for value in values], False, share)
        return math.exp(low), math.exp(high)
    low, high = min(values), max(values)
    span = (high - low) or abs(high) or 1.0
    return low - share * span, high + share * span


def fraction(value: float, domain: tuple[float, float], log: bool) -> float:
    """Where a value lies on an axis: 0 at its start, 1 at its end."""
    low, high = domain
    if log:
        value, low, high = math.log(value), math.log(low), math.log(high)
    return (value - low) / (high - low)


def at(share: float, domain: tuple[float, float], log: bool) -> float:
    """The value that lies at `share` of an axis: the inverse of `fraction`."""
    low, high = domain
    if log:
        return math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
    return low + share * (high - low)


def room_for_labels(
    points: Sequence[float], texts: Sequence[str], domain: tuple[float, float], log: bool, width: float
) -> tuple[float, float]:
    """`domain` with its end moved so that each text, written to the right of its point, fits `width` px.

    A text too long for that is left to the caller to place or to leave out.
    """
    end = 1.0
    for point, text in zip(points, texts, strict=True):
        free = width - CHARACTER * len(text) - 16.0
        end = max(end, fraction(point, domain, log) * width / max(free, 0.25 * width))
    return domain[0], at(min(end, MOST_ROOM), domain, log)


def spread(wanted: Sequence[float], low: float, high: float, gap: float = LINE) -> list[float]:
    """Positions near the `wanted` ones, in their order, at least `gap` apart within [low, high].

    Too many for the space: they share it evenly.
    """
    count = len(wanted)
    if count > 1:
        gap = min(gap, (high - low) / (count - 1))
    order = sorted(range(count), key=lambda index: wanted[index])
    placed = [0.0] * count
    floor = low
    for index in order:
        placed[index] = max(wanted[index], floor)
        floor = placed[index] + gap
    ceiling = high
    for index in reversed(order):
        placed[index] = min(placed[index], ceiling)
        ceiling = placed[index] - gap
    return placed


def ticks(domain: tuple[float, float], log: bool, most: int = 7) -> list[float] | None:
    """1-2-5 ticks of a logarithmic axis, fewer where there would be more than `most`; None: automatic."""
    if not log:
        return None
    low, high = domain
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 2, 5), (1, 3), (1,)):
        found = [digit * 10.0**power for power in powers for digit in digits]
        found = [tick for tick in found if low <= tick <= high]
        if len(found) <= most:
            return found
    return found
