"""How images become the size that a feature network takes; the policy is part of a metric's name.

    tf-bilinear       TensorFlow 1's bilinear resize without antialiasing, corners as in the original graph
    clean-bicubic     PIL's antialiased bicubic resize of float channels (Parmar et al. 2022, 2104.11222)
    pytorch-bilinear  PyTorch's bilinear resize without antialiasing, as pytorch-fid has it
    none              images stay as they are

The first two are called from the packages that people compare with, torch-fidelity and clean-fid.

Shapes: n images, H height, W width; S side of the square that comes out.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.names import unknown

Resize = Callable[[Tensor, int], Tensor]
"""(uint8 (n, 3, H, W), S) → float32 (n, 3, S, S) in 0…255."""


def tf_bilinear(pixels_n3HW: Tensor, side: int) -> Tensor:
    """As the graph of 2015 does it; upsampling and downsampling alike."""
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

    found: Tensor = interpolate_bilinear_2d_like_tensorflow1x(
        pixels_n3HW.float(), size=(side, side), align_corners=False
    )
    return found


def clean_bicubic(pixels_n3HW: Tensor, side: int) -> Tensor:
    """Image by image through PIL, values beyond 0…255 kept."""
    from cleanfid.resize import make_resizer

    resizer = make_resizer("PIL", False, "bicubic", (side, side))
    images = pixels_n3HW.cpu().permute(0, 2, 3, 1).numpy()
    resized = np.stack([np.asarray(resizer(image), np.float32) for image in images])
    return torch.from_numpy(resized).permute(0, 3, 1, 2)


def pytorch_bilinear(pixels_n3HW: Tensor, side: int) -> Tensor:
    """Of levels in [0, 1], which are then levels again, so that the last digit is pytorch-fid's too."""
    found = F.interpolate(pixels_n3HW.float() / 255.0, (side, side), mode="bilinear", align_corners=False)
    return found * 255.0


def none(pixels_n3HW: Tensor, side: int) -> Tensor:
    """Only images that have the size already."""
    if tuple(pixels_n3HW.shape[2:]) != (side, side):
        raise ValueError(
            f"this network takes {side}×{side} images as they are, not {tuple(pixels_n3HW.shape[2:])}: "
            "choose a network whose name says how it resizes."
        )
    return pixels_n3HW.float()


POLICIES: dict[str, Resize] = {
    "tf-bilinear": tf_bilinear,
    "clean-bicubic": clean_bicubic,
    "pytorch-bilinear": pytorch_bilinear,
    "none": none,
}


def policy(name: str) -> Resize:
    """The policy of a name; ValueError with the nearest."""
    if name not in POLICIES:
        raise ValueError(unknown("resize policy", name, POLICIES))
    return POLICIES[name]
