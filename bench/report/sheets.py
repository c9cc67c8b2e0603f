"""Sample sheets: images side by side as one PNG, pixel for pixel.

Shapes: n images, C channels (1 or 3), H height, W width, K levels a pixel.
"""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray


def contact_sheet(
    pixels_nCHW: NDArray[np.uint8], levels: int = 256, columns: int | None = None, scale: int = 4
) -> bytes:
    """PNG of n images in rows of `columns` (default: nearly square), each pixel a square of `scale` px.

    Level k of K becomes grey round(255·k/(K−1)); gaps are transparent, so the sheet fits a light and a
    dark page. The same pixels give the same bytes.
    """
    _check(pixels_nCHW, levels, columns, scale)
    n, _, height, width = pixels_nCHW.shape
    columns = min(n, columns or math.ceil(math.sqrt(n)))
    rows = -(-n // columns)
    gap = max(1, scale // 2)
    tile = np.array([height, width]) * scale + gap
    canvas = np.zeros((rows * tile[0] - gap, columns * tile[1] - gap, 4), np.uint8)
    for index, image in enumerate(_colours(pixels_nCHW, levels, scale)):
        top, left = (index // columns) * tile[0], (index % columns) * tile[1]
        canvas[top : top + height * scale, left : left + width * scale] = image
    return encode_png(canvas)


def nearest_in_pixels(
    pixels_nCHW: NDArray[np.uint8], train_mCHW: NDArray[np.uint8], block: int = 4096
) -> NDArray[np.int64]:
    """For each of n images the index of the nearest of m, by Euclidean distance; the first of equals.

    Levels are whole, so |x|² + |y|² − 2x·y is exact in float64.
    """
    x = pixels_nCHW.reshape(len(pixels_nCHW), -1).astype(np.float64)
    best, found = np.full(len(x), np.inf), np.zeros(len(x), np.int64)
    for start in range(0, len(train_mCHW), block):
        y = train_mCHW[start : start + block].reshape(-1, x.shape[1]).astype(np.float64)
        squares = (x * x).sum(1)[:, None] + (y * y).sum(1) - 2.0 * x @ y.T
        index = squares.argmin(1)
        least = squares[np.arange(len(x)), index]
        closer = least < best
        best[closer], found[closer] = least[closer], index[closer] + start
    return found


def encode_png(canvas: NDArray[np.uint8]) -> bytes:
    """RGBA pixels (H, W, 4) as PNG bytes; grey ones as grey with alpha, which is half the size."""
    from PIL import Image

    grey = bool((canvas[..., 0] == canvas[..., 1]).all() and (canvas[..., 1] == canvas[..., 2]).all())
    image: Any = Image.fromarray(canvas).convert("LA" if grey else "RGBA")
    stream = io.BytesIO()
    image.save(stream, format="PNG", optimize=True)
    return stream.getvalue()


def _colours(pixels_nCHW: NDArray[np.uint8], levels: int, scale: int) -> NDArray[np.uint8]:
    """(n, H·scale, W·scale, 4) opaque RGBA."""
    bright = np.rint(pixels_nCHW.astype(np.float64) * (255.0 / (levels - 1))).astype(np.uint8)
    rgb = np.repeat(bright, 3, axis=1) if bright.shape[1] == 1 else bright
    rgba = np.concatenate([rgb, np.full_like(rgb[:, :1], 255)], axis=1).transpose(0, 2, 3, 1)
    return rgba.repeat(scale, axis=1).repeat(scale, axis=2)


def _check(pixels_nCHW: NDArray[np.uint8], levels: int, columns: int | None, scale: int) -> None:
    shape = pixels_nCHW.shape
    if len(shape) != 4 or shape[1] not in (1, 3) or shape[0] == 0:
        raise ValueError(f"a sheet needs images of shape (n, 1 or 3, H, W) with n > 0, not {shape}")
    if pixels_nCHW.dtype != np.uint8:
        raise TypeError(f"a sheet needs uint8 levels, not {pixels_nCHW.dtype}: quantise the images first")
    if not 2 <= levels <= 256 or pixels_nCHW.max() >= levels:
        raise ValueError(
            f"pixels reach {pixels_nCHW.max()} but levels is {levels}: pass the data set's number of levels, "
            "2 to 256"
        )
    if scale < 1 or (columns is not None and columns < 1):
        raise ValueError(f"columns and scale must be at least 1, not {columns} and {scale}")
