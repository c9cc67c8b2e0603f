"""Feature arrays as every sample metric takes them: checked once, walked in blocks.

A feature array is (n, d): n rows (images), d dimensions; a numpy array, a torch tensor on any device, or
anything numpy makes an array of. Torch is never imported here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK = 1024
"""Rows of a block: two blocks of d = 2048 and their products take 40 MB."""

Rows = NDArray[np.floating[Any]]
"""Feature rows (n, d): float32 where they were given so, which is half the memory, else float64."""

Doubles = NDArray[np.float64]


def rows_of(features: Any, name: str, least: int = 2) -> Rows:
    """Rows (n, d) of a feature array, finite and at least `least` of them, or one clear sentence.

    Float32 rows are not copied: metrics make float64 of a block at a time, with `double`.
    """
    rows = _as_array(features, name)
    if rows.ndim != 2 or rows.shape[1] < 1:
        raise ValueError(f"the {name} features must be (n, d), not {rows.shape}: flatten them to rows.")
    if len(rows) < least:
        raise ValueError(f"at least {least} {name} rows are needed, and there are {len(rows)}: give more.")
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        raise ValueError(
            f"{np.count_nonzero(~finite)} of {len(rows)} {name} rows hold NaN or infinity, first in row "
            f"{int(np.argmin(finite))}: check the images and the feature network."
        )
    return rows


def pair_of_rows(
    first: Any, second: Any, names: tuple[str, str] = ("generated", "real"), least: int = 2
) -> tuple[Rows, Rows]:
    """Both arrays as checked rows of one width."""
    x, y = rows_of(first, names[0], least), rows_of(second, names[1], least)
    check_widths(x, y, names)
    return x, y


def check_widths(x: Rows, y: Rows, names: tuple[str, str]) -> None:
    """ValueError unless both have the same number of dimensions."""
    if x.shape[1] != y.shape[1]:
        raise ValueError(
            f"{names[0]} features of {x.shape[1]} and {names[1]} features of {y.shape[1]} dimensions cannot "
            "be compared: extract both with one network and one layer."
        )


def double(rows: Rows) -> Doubles:
    """The same rows in float64; a copy only where they are not."""
    return np.asarray(rows, np.float64)


def blocks(n: int, block: int = BLOCK) -> Iterator[slice]:
    """Slices of `block` rows that cover n rows in order."""
    if block < 1:
        raise ValueError(f"a block holds at least one row, not {block}.")
    return (slice(start, min(start + block, n)) for start in range(0, n, block))


def _as_array(features: Any, name: str) -> Rows:
    if hasattr(features, "detach"):  # a torch tensor, maybe on a device, maybe of half precision
        features = features.detach().cpu()
        features = (features if features.dtype.itemsize == 8 else features.float()).numpy()
    array = np.asarray(features)
    if array.dtype.kind not in "fiu":
        raise ValueError(f"the {name} features must be real numbers, not {array.dtype}.")
    single = array.dtype.kind == "f" and array.dtype.itemsize <= 4
    return np.ascontiguousarray(array, np.float32 if single else np.float64)
