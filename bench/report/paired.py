"""Differences of likelihoods image by image: what two models or estimates share cancels.

With bits bᵢ and b′ᵢ of the same n images the difference is mean(bᵢ − b′ᵢ), its 95 % interval
±1.96·sd(bᵢ − b′ᵢ)/√n. As if the images were not the same it would be ±1.96·√((sd² + sd′²)/n), which is
wider wherever images that cost one model much cost the other much too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

Bits = Mapping[tuple[str, str], "pd.Series"]
"""(model, cell key) -> bits per dimension of each image, indexed by image."""
NORMAL = 1.96


@dataclass(frozen=True)
class Paired:
    """mean(b − b′) of n images, its 95 % interval, and the widths of this one and of the unpaired one."""

    value: float
    low: float
    high: float
    n: int
    unpaired: float

    @property
    def width(self) -> float:
        """Of the paired interval."""
        return self.high - self.low


def bits_of_images(rows: pd.DataFrame, nats: pd.DataFrame) -> Bits:
    """Bits per dimension of every image of the likelihood `rows`, as far as their nats are known.

    A row's value is mean(nats) / (D ln 2), so the ratio of the two is the unit, whatever D is.
    """
    known = {key: part.set_index("image")["nats"] for key, part in nats.groupby(["model", "cell_key"])}
    found = {}
    for model, cell_key, value in zip(rows["model"], rows["cell_key"], rows["value"], strict=True):
        part = known.get((model, cell_key))
        if part is not None and float(part.mean()) != 0.0:
            found[model, cell_key] = part.astype("float64").sort_index() * (value / float(part.mean()))
    return found


def difference(one: pd.Series | None, other: pd.Series | None) -> Paired | None:
    """What `one` needs more than `other` on the images of both; None where fewer than two are shared."""
    if one is None or other is None:
        return None
    shared = one.index.intersection(other.index)
    n = len(shared)
    if n < 2:
        return None
    first, second = one.loc[shared], other.loc[shared]
    each = first - second
    mean, error = float(each.mean()), NORMAL * float(each.std()) / math.sqrt(n)
    unpaired = 2 * NORMAL * math.sqrt((float(first.var()) + float(second.var())) / n)
    return Paired(mean, mean - error, mean + error, n, unpaired)
