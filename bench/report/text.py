"""Numbers as text: as many digits as the interval supports, and never `nan`."""

from __future__ import annotations

import math
from typing import Any

MISSING = "–"


def is_number(value: Any) -> bool:
    """True for a finite number (not None, not pandas NA, not NaN)."""
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError):
        return False


def decimals(value: float, low: float, high: float) -> int | None:
    """Decimals that show two digits of the half width of the interval; None without an interval."""
    if not (is_number(low) and is_number(high)) or not high > low:
        return None
    return min(4, max(0, 1 - math.floor(math.log10((high - low) / 2))))


def number(value: Any, places: int | None = None) -> str:
    """One number: fixed decimals, or five significant digits where `places` is None.

    >>> number(4.08746), number(48211.7, 0), number(float("nan"))
    ('4.0875', '48,212', '–')
    """
    if not is_number(value):
        return MISSING
    if places is not None:
        return f"{float(value):,.{places}f}"
    digits = f"{float(value):,.5g}"
    return digits if "e" not in digits or abs(value) < 1 else f"{float(value):,.0f}"


def interval(value: Any, low: Any = None, high: Any = None) -> str:
    """A value with its interval.

    >>> interval(1.934, 1.712, 2.149), interval(1.934)
    ('1.93 [1.71, 2.15]', '1.934')
    """
    return f"{short(value, low, high)} {ends(value, low, high)}".strip()


def ends(value: Any, low: Any, high: Any) -> str:
    """The interval alone, `[1.71, 2.15]`; empty where there is none."""
    places = decimals(value, low, high)
    if places is None or not is_number(value):
        return ""
    return f"[{number(low, places)}, {number(high, places)}]"


def short(value: Any, low: Any = None, high: Any = None) -> str:
    """The value alone, with the digits that its interval supports."""
    return number(value, decimals(value, low, high))


def signed(value: Any, low: Any = None, high: Any = None) -> str:
    """A difference: a value with its sign and the digits that its interval supports.

    >>> signed(0.0123, 0.0101, 0.0145), signed(-0.5), signed(0.0)
    ('+0.0123', '-0.5', '0')
    """
    text = short(value, low, high)
    return f"+{text}" if is_number(value) and float(value) > 0 else text


def plural(count: int, noun: str) -> str:
    """`1 cell`, `2 cells`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
