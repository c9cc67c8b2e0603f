"""A picture of nearest pairs: each generated image beside the training image it lies nearest to.

A score of memorisation lives in a feature space; whether two images are the same is seen. Shapes: n generated
and t training images, C channels (1 or 3), H height, W width, K levels a pixel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.metrics.memorisation import NearestPairs
from bench.report.sheets import contact_sheet


def pair_sheet(
    generated_nCHW: Any,
    training_tCHW: Any,
    pairs: NearestPairs,
    *,
    levels: int = 256,
    columns: int = 4,
    scale: int = 4,
) -> bytes:
    """PNG of the pairs, nearest first in rows of `columns`: generated on the left, training on the right.

    The two images of a pair touch; pairs are apart. The same pixels give the same bytes.
    """
    x, t = _pixels(generated_nCHW, "generated"), _pixels(training_tCHW, "training")
    if x.shape[1:] != t.shape[1:]:
        raise ValueError(
            f"generated images {x.shape[1:]} and training images {t.shape[1:]} differ in shape: pass both as "
            "they were before features were taken, at one size."
        )
    if pairs.generated.max() >= len(x) or pairs.training.max() >= len(t):
        raise ValueError(
            f"the pairs point beyond {len(x)} generated or {len(t)} training images: pass the images whose "
            "features were compared, in the same order."
        )
    return contact_sheet(
        np.concatenate([x[pairs.generated], t[pairs.training]], axis=3), levels, columns, scale
    )


def _pixels(images: Any, name: str) -> NDArray[np.uint8]:
    found = np.asarray(images.detach().cpu().numpy() if hasattr(images, "detach") else images)
    if found.ndim != 4 or found.dtype != np.uint8:
        raise ValueError(f"{name} images must be uint8 (n, C, H, W), not {found.dtype} {found.shape}.")
    return found
