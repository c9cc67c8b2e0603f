"""Small feature networks for MNIST and CIFAR-10, trained by `bench.metrics.train_features`.

They see what their classes are told apart by, in less than a millisecond an image and less than 2 MB: close
enough to the data for differences that Inception, made for photographs, does not see in digits. A distance in
their space is no FID and cannot be compared with one.

Shapes: n images, C channels, H height, W width, d feature dimensions.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from safetensors.torch import load
from torch import Tensor, nn
from torch.nn import functional as F

from bench.metrics.feature_names import FeatureName
from bench.metrics.features import BATCH, FeatureNetwork, scaled

WIDTHS = (32, 64, 128)
LEVELS = 256


class SmallNetwork(nn.Module):
    """A convolution of stride 2, then a residual pair of convolutions a width, each width halving the sides.

    Smooth activations throughout, so that no feature is zero for all images; d = 128.
    """

    dims = WIDTHS[-1]

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.stem = _normed(channels, WIDTHS[0], 4, 2)
        self.pairs = nn.ModuleList(_Pair(width) for width in WIDTHS)
        self.steps = nn.ModuleList(_normed(a, b, 3, 2) for a, b in pairwise(WIDTHS))
        self.project = nn.Linear(WIDTHS[-1], self.dims)
        self.classify = nn.Linear(self.dims, classes)

    def features(self, x_nCHW: Tensor) -> Tensor:
        """(n, 128) features of x in [−1, 1]."""
        h = F.silu(self.stem(x_nCHW))
        for pair, step in zip(self.pairs, [*self.steps, None], strict=True):
            h = pair(h)
            h = h if step is None else F.silu(step(h))
        return F.silu(self.project(h.mean((2, 3))))

    def forward(self, x_nCHW: Tensor) -> Tensor:
        """Logits (n, classes)."""
        logits: Tensor = self.classify(self.features(x_nCHW))
        return logits


class _Pair(nn.Module):
    """x + two convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = _normed(width, width, 3, 1), _normed(width, width, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        """In the shape of x."""
        return F.silu(x + self.second(F.silu(self.first(x))))


def _normed(a: int, b: int, size: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(a, b, size, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(b))


class SmallFeatures(FeatureNetwork):
    """Features of a committed small network, on the processor, whatever device the pixels are on."""

    def __init__(self, name: FeatureName, shape: tuple[int, int, int], classes: int = 10) -> None:
        self.name, self.metric, self.identity = name.name, name.metric, name.identity
        self.shape, self.dims, self.classes = shape, SmallNetwork.dims, classes
        self.network = SmallNetwork(shape[0], classes).eval()
        self.network.load_state_dict(load(name.read()))

    @torch.inference_mode()
    def extract(self, pixels_nCHW: Tensor) -> Tensor:
        """Features (n, 128) of uint8 images of the size it was trained on."""
        return self._in_batches(pixels_nCHW, False)

    @torch.inference_mode()
    def classify(self, pixels_nCHW: Tensor) -> Tensor:
        """Logits (n, classes)."""
        return self._in_batches(pixels_nCHW, True)

    def _in_batches(self, pixels_nCHW: Tensor, logits: bool) -> Tensor:
        if pixels_nCHW.dtype != torch.uint8 or tuple(pixels_nCHW.shape[1:]) != self.shape:
            raise ValueError(
                f"{self.name} takes uint8 (n, {', '.join(map(str, self.shape))}), not {pixels_nCHW.dtype} "
                f"{tuple(pixels_nCHW.shape)}: use a feature network made for these images."
            )
        said = self.network if logits else self.network.features
        rows = []
        for batch in pixels_nCHW.cpu().split(BATCH):
            padded = F.pad(batch, (0, 0, 0, 0, 0, 0, 0, BATCH - len(batch)))
            rows.append(said(scaled(padded, LEVELS))[: len(batch)])
        return torch.cat(rows) if rows else torch.zeros(0, self.classes if logits else self.dims)
