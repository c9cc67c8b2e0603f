"""Trains feature networks of MNIST and CIFAR-10: `python -m bench.metrics.train_features mnist --out FILE`.

Only training images are used, shifted by up to two pixels, CIFAR-10's also mirrored. The same machine and
versions give the same bytes; the committed weights are the ones that count, and their hash stands in
`feature_names`.
"""

from __future__ import annotations

import argparse
import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional as F

from bench import data
from bench.data import ImageData
from bench.files import write_bytes
from bench.metrics.features import scaled
from bench.metrics.small_network import SmallNetwork
from bench.training import batch_indices

BATCH, RATE, SHIFT = 128, 4e-3, 2


@dataclass(frozen=True)
class Recipe:
    """Passes over the training images, and whether they may be mirrored."""

    epochs: int
    mirrored: bool


RECIPES = {"mnist": Recipe(4, False), "cifar10": Recipe(5, True)}


def varied(x_nCHW: Tensor, mirrored: bool, generator: torch.Generator) -> Tensor:
    """Each image moved by up to two pixels either way, background moved in, and half of them mirrored."""
    n, _, height, width = x_nCHW.shape
    padded = F.pad(x_nCHW, (SHIFT,) * 4, mode="reflect")
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    move = torch.randint(0, 2 * SHIFT + 1, (2, n), generator=generator)
    moved = windows[torch.arange(n), :, move[0], move[1]]
    turned = (
        (torch.rand(n, generator=generator) < 0.5).view(-1, 1, 1, 1) if mirrored else torch.zeros(1).bool()
    )
    return torch.where(turned, moved.flip(3), moved)


def train(images: ImageData, recipe: Recipe, seed: int = 0) -> SmallNetwork:
    """The trained classifier."""
    torch.manual_seed(seed)
    pixels, y = torch.from_numpy(images.train), torch.from_numpy(images.train_labels)
    network = SmallNetwork(images.shape[0], images.classes).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=1e-2)
    steps = recipe.epochs * (len(pixels) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        index = batch_indices(len(pixels), BATCH, seed, step)
        x = varied(scaled(pixels[index], images.levels), recipe.mirrored, generator)
        loss = F.cross_entropy(network(x), y[index], label_smoothing=0.05)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


@torch.inference_mode()
def accuracy(network: SmallNetwork, images: ImageData) -> float:
    """Share of test images recognised."""
    said = [
        network(scaled(batch, images.levels)).argmax(1) for batch in torch.from_numpy(images.test).split(500)
    ]
    return float((torch.cat(said) == torch.from_numpy(images.test_labels)).float().mean())


def main() -> None:
    """Train, store, and print what must be known of the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", choices=sorted(RECIPES))
    parser.add_argument("--out", type=Path, required=True, help="safetensors file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    images = data.load(arguments.dataset)
    network = train(images, RECIPES[arguments.dataset])
    weights = save(network.state_dict())
    write_bytes(arguments.out, weights)
    print(f"test accuracy {accuracy(network, images):.4f}")
    print(f"{len(weights)} bytes, SHA-256 {hashlib.sha256(weights).hexdigest()}")


if __name__ == "__main__":
    main()
