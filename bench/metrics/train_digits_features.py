"""Trains the digits feature network: `python -m bench.metrics.train_digits_features --out FILE`.

Only training images are used, shifted by up to one pixel. The same machine and versions give the same
bytes; the committed weights are the ones that count, and their hash stands in `feature_names`.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional as F

from bench import data
from bench.files import write_bytes
from bench.metrics.features import DigitsNetwork, scaled
from bench.training import batch_indices

STEPS, BATCH, RATE = 3000, 64, 2e-3


def shifted(x_nCHW: Tensor, generator: torch.Generator) -> Tensor:
    """Each image moved by −1, 0 or 1 pixel either way, background moved in."""
    n, _, height, width = x_nCHW.shape
    padded = F.pad(x_nCHW, (1, 1, 1, 1), value=-1.0)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # (n, C, 3, 3, H, W)
    move = torch.randint(0, 3, (2, n), generator=generator)
    return windows[torch.arange(n), :, move[0], move[1]]


def train(seed: int = 0) -> DigitsNetwork:
    """The trained classifier."""
    torch.manual_seed(seed)
    digits = data.load("digits")
    x = scaled(torch.from_numpy(digits.train), digits.levels)
    y = torch.from_numpy(digits.train_labels)
    network = DigitsNetwork().train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS)
    generator = torch.Generator().manual_seed(seed)
    for step in range(STEPS):
        index = batch_indices(len(x), BATCH, seed, step)
        logits = network(shifted(x[index], generator))
        loss = F.cross_entropy(logits, y[index], label_smoothing=0.05)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


@torch.inference_mode()
def accuracy(network: DigitsNetwork) -> float:
    """Share of test digits recognised."""
    digits = data.load("digits")
    logits = network(scaled(torch.from_numpy(digits.test), digits.levels))
    return float((logits.argmax(1) == torch.from_numpy(digits.test_labels)).float().mean())


def main() -> None:
    """Train, store, and print what must be known of the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="safetensors file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    network = train()
    weights = save(network.state_dict())
    write_bytes(arguments.out, weights)
    print(f"test accuracy {accuracy(network):.4f}")
    print(f"{len(weights)} bytes, SHA-256 {hashlib.sha256(weights).hexdigest()}")


if __name__ == "__main__":
    main()
