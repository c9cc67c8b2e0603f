"""Images from a function of one's own, each from a seed of its own.

    def sample(seeds: list[int]) -> array or tensor of len(seeds) images

Image i gets the seed that follows from (seed, i), so it does not depend on the batch that it was made in, if
the function keeps to its seeds. Floats must lie in [0, 1] and are rounded to the nearest level.

Shapes: n images, C channels, H height, W width.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from bench.images.arrays import channels_first
from bench.images.source import ImageSource

CALL = 64
"""Images asked for at a time."""


class FunctionImages(ImageSource):
    """What a function `package.module:name`, or a callable, makes of n seeds."""

    def __init__(self, function: str | Callable[[Sequence[int]], Any], n: int | None, seed: int = 0) -> None:
        super().__init__()
        self.function = imported(function) if isinstance(function, str) else function
        self.name = function if isinstance(function, str) else getattr(function, "__name__", "function")
        if n is None or n < 1:
            raise ValueError(f"{self.name} makes images: say how many with --n.")
        self.n, self.seed = n, seed

    def __len__(self) -> int:
        return self.n

    def images(self) -> Iterator[np.ndarray]:
        """Each image, the function called for `CALL` at a time."""
        from models.seeds import derive_seed

        for start in range(0, self.n, CALL):
            indices = range(start, min(start + CALL, self.n))
            seeds = [derive_seed("image", self.seed, index) for index in indices]
            found = quantised(_array(self.function(seeds)), self.name)
            if len(found) != len(seeds):
                raise ValueError(f"{self.name} made {len(found)} images of {len(seeds)} seeds: one is one.")
            yield from channels_first(found, self.name)


def imported(name: str) -> Callable[[Sequence[int]], Any]:
    """The attribute of `package.module:name`."""
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{name} cannot be imported ({error}): write package.module:function.") from None
    if not callable(found):
        raise ValueError(f"{name} is a {type(found).__name__}, and images are made by a function.")
    made: Callable[[Sequence[int]], Any] = found
    return made


def _array(found: Any) -> np.ndarray:
    return np.asarray(found.detach().cpu().numpy() if hasattr(found, "detach") else found)


def quantised(array: np.ndarray, name: str) -> np.ndarray:
    """uint8 as it is; floats in [0, 1] to the nearest of 256 levels, halves to even; else ValueError."""
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind != "f":
        raise ValueError(f"{name} gives {array.dtype}, and images are uint8, or floats in [0, 1].")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} gives NaN or infinity: no image is quantised from that.")
    low, high = float(array.min(initial=0.0)), float(array.max(initial=0.0))
    if low < 0.0 or high > 1.0:
        raise ValueError(f"{name} gives {low:.4g} to {high:.4g}, and floats lie in [0, 1]: clamp them.")
    return np.rint(array * 255.0).astype(np.uint8)
