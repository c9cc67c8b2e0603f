"""The real digits for tests of training: the fixed split, a short training loop, the histogram anchor.

Shapes: N images, C channels, H height, W width.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from torch import Tensor

from models.base import ImageModel

PER_PIXEL_HISTOGRAM_BITS = 2.430
"""Test bits a dimension of 64 independent, smoothed histograms: what any model must beat."""


@cache
def split() -> tuple[Tensor, Tensor]:
    """1437 training and 360 test images, uint8 (N, 1, 8, 8), levels 0…16."""
    from sklearn.datasets import load_digits

    order = np.random.RandomState(0).permutation(1797)
    pixels = torch.from_numpy(load_digits().images[order].astype(np.uint8))[:, None]
    return pixels[:1437], pixels[1437:]


def train(model: ImageModel, steps: int, learning_rate: float, batch_size: int = 32) -> ImageModel:
    """AdamW with linear decay to zero on training digits; returns the model ready for evaluation."""
    torch.set_num_threads(1)  # small layers: a second thread costs more than it brings on a busy machine
    pixels, generator = split()[0], torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    model.train()
    for _ in range(steps):
        chosen = torch.randint(len(pixels), (batch_size,), generator=generator)
        optimizer.zero_grad()
        model.loss(pixels[chosen], None, generator).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


def bits(nats: Tensor, model: ImageModel) -> float:
    """Mean bits a dimension of nats an image."""
    return float(nats.mean()) / (model.dims * math.log(2))


def every_image(shape: tuple[int, int, int], levels: int) -> Tensor:
    """All K^D images of a tiny space, uint8 (K^D, C, H, W)."""
    dims = math.prod(shape)
    axes = [torch.arange(levels, dtype=torch.uint8)] * dims
    return torch.cartesian_prod(*axes).view(-1, *shape)


def randomise(model: ImageModel, std: float = 0.5, seed: int = 0) -> ImageModel:
    """Random weights throughout and float64: what starts at zero would make most identities trivial."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.double().parameters():
        torch.nn.init.normal_(parameter, std=std, generator=generator)
    return model.eval()
