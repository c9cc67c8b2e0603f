"""Where the randomness of a batch of samples comes from.

Image i draws from a generator of its own, seeded by (seed, i), so that it is the same image in any
batch, shard or process. What a stochastic sampler draws on the way comes from one generator a shard,
seeded by (seed, shard): one launch a step instead of one an image.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor


def derive_seed(*parts: object) -> int:
    """A 63-bit seed from any labels: the first bits of SHA-256 of their text."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


class Seeds:
    """Randomness of `images` (global indices) under `seed`, and the stream of their shard.

    >>> a = Seeds(0, [0, 1, 2]).per_image((4,))
    >>> b = Seeds(0, [2]).per_image((4,))
    >>> bool((a[2] == b[0]).all())
    True
    """

    def __init__(self, seed: int, images: Sequence[int], stream: torch.Generator | None = None) -> None:
        self.images = list(images)
        self._generators = [
            torch.Generator().manual_seed(derive_seed("image", seed, index)) for index in self.images
        ]
        self.stream = stream if stream is not None else shard_stream(seed, 0)

    def per_image(
        self,
        shape: Sequence[int],
        law: Literal["normal", "uniform"] = "normal",
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """(n, *shape) float32, row i drawn from the generator of image i alone; later calls go on."""
        draw = torch.randn if law == "normal" else torch.rand
        rows = [draw(tuple(shape), generator=generator) for generator in self._generators]
        return torch.stack(rows).to(device)

    def noise_like(self, x: Tensor) -> Tensor:
        """Standard normal noise in the shape of x from the shard's stream."""
        return torch.randn(x.shape, generator=self.stream, device=x.device, dtype=x.dtype)


def shard_stream(seed: int, shard: int, device: torch.device | str = "cpu") -> torch.Generator:
    """The generator of one shard's sampler noise."""
    return torch.Generator(device=device).manual_seed(derive_seed("shard", seed, shard))
