"""From the bytes of an image file to uint8 pixels, or the reason why not.

Grey stays one channel, palettes and colour become three. What would be changed in silence is refused: 16 bits
(PIL cuts them off), CMYK, transparency, animations.

Shapes: C channels, H height, W width.
"""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image, UnidentifiedImageError

from models.names import shown

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
"""Files that are taken for images."""

PIXELS = 2**26
"""Pixels of the largest image that is decoded: 8192×8192."""

_GREY, _COLOUR = ("1", "L"), ("RGB", "P")


class Unreadable(ValueError):
    """Why an image cannot be used, to follow its name: `is truncated`."""


def decode(data: bytes) -> np.ndarray:
    """Pixels (C, H, W) uint8; Unreadable with the reason."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data))
            check(image)
            image.load()
    except UnidentifiedImageError:
        raise Unreadable("is no image" if data else "is empty") from None
    except Image.DecompressionBombError:
        raise Unreadable("is larger than an image may be") from None
    except Unreadable:
        raise
    except Exception as error:  # decoders raise whatever reading nonsense leads to
        raise Unreadable(f"is damaged ({shown(error)})") from None
    return plain(image)


def check(image: Image.Image) -> None:
    """Unreadable for what PIL would open and change."""
    if image.width * image.height > PIXELS:
        raise Unreadable(f"has {image.width}×{image.height} pixels, more than {PIXELS}")
    if getattr(image, "n_frames", 1) > 1:
        raise Unreadable("is animated")
    if image.mode.startswith(("I", "F")):
        raise Unreadable("has 16 or more bits a channel")
    if image.mode not in (*_GREY, *_COLOUR, "RGBA", "LA", "PA"):
        raise Unreadable(f"is {image.mode}, not grey or RGB")


def plain(image: Image.Image) -> np.ndarray:
    """Grey or RGB pixels; transparency only where it is none."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA" if image.mode != "LA" else "LA")
        if np.asarray(image.getchannel("A")).min() < 255:
            raise Unreadable("is transparent")
    grey = image.mode in ("1", "L", "LA")
    pixels = np.asarray(image.convert("L" if grey else "RGB"), np.uint8)
    return pixels[None] if grey else np.ascontiguousarray(pixels.transpose(2, 0, 1))
