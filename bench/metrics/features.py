"""Feature networks: what turns an image into the vector whose distribution is compared.

Shapes: n images, C channels, H height, W width, K levels, d feature dimensions.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import torch
from safetensors.torch import load
from torch import Tensor, nn
from torch.nn import functional as F

from bench.metrics.feature_names import find

BATCH = 64
"""Images are always extracted this many at a time, padded, so that a feature never depends on its batch."""


class FeatureNetwork(ABC):
    """Extracts features of uint8 pixels."""

    name: str
    """What a suite calls it."""
    metric: str
    """What a Fréchet distance in this space is called."""
    identity: str
    """Name and SHA-256 of the weights."""
    resize: str = "none"
    """Policy by which images become the network's size, see `bench.metrics.resize`."""
    layer: str = "features"
    """What is read of it."""
    dtype: str = "float32"
    """How it computes, see `bench.metrics.arithmetic`."""
    levels: int = 256
    """Grey levels of the pixels that it takes."""
    dims: int
    classes: int = 0
    """Classes that `classify` knows; 0 where it cannot."""

    @abstractmethod
    def extract(self, pixels_nCHW: Tensor) -> Tensor:
        """Features (n, d), float32, of pixels (n, C, H, W), uint8."""

    def classify(self, pixels_nCHW: Tensor) -> Tensor:
        """Logits (n, classes) of pixels (n, C, H, W), uint8."""
        raise TypeError(f"{self.name} knows no classes")


def check_pixels(name: str, pixels_nCHW: Tensor) -> None:
    """ValueError unless they are grey or colour images of 256 levels, of any size."""
    if pixels_nCHW.dtype != torch.uint8 or pixels_nCHW.dim() != 4 or pixels_nCHW.shape[1] not in (1, 3):
        raise ValueError(
            f"{name} takes uint8 (n, C, H, W) of 1 or 3 channels, not {pixels_nCHW.dtype} "
            f"{tuple(pixels_nCHW.shape)}."
        )
    if len(pixels_nCHW) >= FEW and 0 < int(pixels_nCHW.max()) < DARK:
        raise ValueError(
            f"{name} takes 256 levels, and the brightest of {len(pixels_nCHW)} images is "
            f"{int(pixels_nCHW.max())}: images of fewer levels are scaled first, pixels·255/(levels − 1)."
        )


FEW, DARK = 16, 32
"""So many images, none of which is brighter than this, are of fewer levels and not of 256."""


class DigitsNetwork(nn.Module):
    """A small classifier of 8×8 digits; the layer before the last gives d = 64 features.

    Smooth activations throughout: a feature that is never zero for all images keeps the covariance of full
    rank. 49 k parameters.
    """

    levels: ClassVar[int] = 17
    dims: ClassVar[int] = 64

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 24, 3, padding=1)
        self.conv2 = nn.Conv2d(24, 32, 3, padding=1, stride=2)
        self.conv3 = nn.Conv2d(32, 48, 3, padding=1)
        self.project = nn.Linear(48 * 2 * 2, self.dims)
        self.classify = nn.Linear(self.dims, 10)

    def features(self, x_nCHW: Tensor) -> Tensor:
        """(n, 64) features of x in [−1, 1]."""
        h = F.silu(self.conv1(x_nCHW))
        h = F.silu(self.conv2(h))
        h = F.avg_pool2d(F.silu(self.conv3(h)), 2)
        return F.silu(self.project(h.flatten(1)))

    def forward(self, x_nCHW: Tensor) -> Tensor:
        """Logits (n, 10)."""
        logits: Tensor = self.classify(self.features(x_nCHW))
        return logits


def scaled(pixels_nCHW: Tensor, levels: int) -> Tensor:
    """Levels 0…K−1 to [−1, 1]."""
    return pixels_nCHW.to(torch.float32) * (2.0 / (levels - 1)) - 1.0


class DigitsFeatures(FeatureNetwork):
    """Features of the committed digits network."""

    levels = DigitsNetwork.levels

    def __init__(self) -> None:
        name = find("digits-features")
        self.name, self.metric, self.identity = name.name, name.metric, name.identity
        self.dims, self.classes = DigitsNetwork.dims, 10
        self.network = DigitsNetwork().eval()
        self.network.load_state_dict(load(name.read()))

    @torch.inference_mode()
    def extract(self, pixels_nCHW: Tensor) -> Tensor:
        """Features (n, 64) of digits (n, 1, 8, 8), on the processor, whatever device the pixels are on."""
        return self._in_batches(pixels_nCHW, self.network.features, self.dims)

    @torch.inference_mode()
    def classify(self, pixels_nCHW: Tensor) -> Tensor:
        """Logits (n, 10) of digits (n, 1, 8, 8), on the processor."""
        return self._in_batches(pixels_nCHW, self.network, self.classes)

    def _in_batches(self, pixels_nCHW: Tensor, network: Callable[[Tensor], Tensor], width: int) -> Tensor:
        if pixels_nCHW.dtype != torch.uint8 or tuple(pixels_nCHW.shape[1:]) != (1, 8, 8):
            raise ValueError(
                f"digits-features takes uint8 (n, 1, 8, 8), not {pixels_nCHW.dtype} "
                f"{tuple(pixels_nCHW.shape)}: use a feature network made for these images."
            )
        if pixels_nCHW.numel() and int(pixels_nCHW.max()) >= DigitsNetwork.levels:
            raise ValueError(
                f"digits-features takes levels 0…16, and a pixel is {int(pixels_nCHW.max())}: "
                "use a feature network made for these images."
            )
        rows = []
        for batch in pixels_nCHW.cpu().split(BATCH):
            padded = F.pad(batch, (0, 0, 0, 0, 0, 0, 0, BATCH - len(batch)))
            rows.append(network(scaled(padded, DigitsNetwork.levels))[: len(batch)])
        return torch.cat(rows) if rows else torch.zeros(0, width)


class PooledPixels(FeatureNetwork):
    """The means of 4×4 tiles in every channel: a feature space without weights, for images of any data set.

    It sees layout and colour and no detail: coarse, but the same for everybody and nothing to download.
    """

    side = 4
    levels = 256

    def __init__(self) -> None:
        name = find("pooled-pixels")
        self.name, self.metric, self.identity = name.name, name.metric, name.identity

    @torch.inference_mode()
    def extract(self, pixels_nCHW: Tensor) -> Tensor:
        """Features (n, 16·C) of (n, C, H, W) in [0, 1], H and W at least 4."""
        if (
            pixels_nCHW.dtype != torch.uint8
            or pixels_nCHW.dim() != 4
            or min(pixels_nCHW.shape[2:]) < self.side
        ):
            raise ValueError(
                f"pooled-pixels takes uint8 (n, C, H, W) of {self.side}×{self.side} pixels or more, not "
                f"{pixels_nCHW.dtype} {tuple(pixels_nCHW.shape)}."
            )
        # Sums of whole levels are exact in float64, so no feature depends on its batch.
        tiles = F.adaptive_avg_pool2d(pixels_nCHW.cpu().double(), self.side) / (self.levels - 1)
        return tiles.flatten(1).float()


_NETWORKS: dict[str, type[FeatureNetwork]] = {
    "digits-features": DigitsFeatures,
    "pooled-pixels": PooledPixels,
}
SMALL = {"mnist-features": (1, 28, 28), "cifar10-features": (3, 32, 32)}
"""Small networks that come with the package, and the shape of their images."""


def feature_network(
    name: str | FeatureNetwork | Callable[[Tensor], Tensor],
    weights: Path | str | None = None,
    *,
    dtype: str = "float32",
    compiled: bool = False,
) -> FeatureNetwork:
    """The feature network of a name; or one of your own, as `package.module:attribute`, module or function.

    weights  file or folder with its weights, where they do not come with the package; `download` fetches the
             published ones. Without: the folder of `bench.metrics.weights_store`
    dtype, compiled  of networks whose weights come from elsewhere, see `bench.metrics.arithmetic`

    Raises ValueError with the nearest name if there is none, and in one sentence where weights are missing.
    """
    if isinstance(name, FeatureNetwork):
        return name
    if not isinstance(name, str) or ":" in name:
        from bench.metrics.own_features import OwnFeatures

        return OwnFeatures.imported(name) if isinstance(name, str) else OwnFeatures(name)
    found = find(name)
    if not found.external:
        if weights is not None:
            raise ValueError(f"{found.name} has weights of its own: leave --weights out.")
        if (dtype, compiled) != ("float32", False):
            raise ValueError(f"{found.name} computes in float32, eagerly: leave dtype and compile out.")
        return _packaged(found.name)
    from bench.metrics.arithmetic import Arithmetic

    arithmetic = Arithmetic(dtype, compiled)
    if found.hub:
        from bench.metrics.transformer_features import TransformerFeatures

        return TransformerFeatures(found, weights, arithmetic)
    from bench.metrics.inception import InceptionFeatures

    return InceptionFeatures(found, weights, arithmetic)


@functools.cache
def _packaged(name: str) -> FeatureNetwork:
    if name in SMALL:
        from bench.metrics.small_network import SmallFeatures

        return SmallFeatures(find(name), SMALL[name])
    return _NETWORKS[name]()
