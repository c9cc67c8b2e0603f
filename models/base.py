"""What every image model offers: a training loss, a likelihood, samples.

Shapes: B batch, C channels, H height, W width, D = C·H·W dimensions, K levels of a pixel.
`pixels` are integer levels 0…K−1 (uint8); inside, models see x in [−1, 1].
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor, nn

from models.conditioning import UNCONDITIONAL, Conditioning

if TYPE_CHECKING:
    from models.samplers import Sampler
    from models.seeds import Seeds

LikelihoodKind = Literal["exact", "bound", "estimate"]


class LikelihoodUnavailable(Exception):
    """The family has no likelihood; the record says `n/a` and nothing is substituted."""


@dataclass(frozen=True)
class Likelihood:
    """Negative log-likelihood of a batch of images, −ln P(pixels), in nats.

    nats       (B,) float64, one number an image
    kind       `exact`, `bound` (from above, in expectation) or `estimate` (neither)
    protocol   how the number was obtained, in words fit to stand beside it
    breakdown  named parts or companions of the number, each (B,) nats
    floor      nats that every image costs at least; None where those of one image scatter, and only their
               mean cannot be below 0
    """

    nats: Tensor
    kind: LikelihoodKind
    protocol: str
    breakdown: dict[str, Tensor] = field(default_factory=dict)
    floor: float | None = None


class ImageModel(nn.Module, ABC):
    """A generator of images of one `shape` = (C, H, W) with `levels` = K levels a pixel.

    A subclass keeps the module that does the work in `self.network`: the harness counts its
    evaluations there, so that no family reports its own cost.
    """

    family: ClassVar[str]
    """What the report calls the family, e.g. `autoregressive`."""

    native_sampler: ClassVar[str | None] = None
    """Name of the only way this family samples; None: any sampler of `models.samplers`."""

    builds_on: ClassVar[str] = ""
    """What must be trained before it and is given to `learn_from`, e.g. `autoencoder`; empty: nothing."""

    conditioning: Conditioning = UNCONDITIONAL
    """What it is told about an image beside its pixels; set by the constructor of a conditional model."""

    network: nn.Module

    def __init__(self, shape: tuple[int, int, int], levels: int) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.levels = levels
        self.dims = shape[0] * shape[1] * shape[2]

    @abstractmethod
    def loss(
        self, pixels: Tensor, condition: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Scalar training objective of uint8 pixels (B, C, H, W), in nats a dimension or as documented."""

    @abstractmethod
    def nll(
        self, pixels: Tensor, condition: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Likelihood:
        """−ln P(pixels) of each image. Families without a likelihood raise `LikelihoodUnavailable`.

        Further keyword arguments of a subclass are its protocol (probes, tolerances, K …) and can be
        set from a suite.
        """

    @abstractmethod
    def sample(
        self, n: int, sampler: Sampler | None, seeds: Seeds, condition: Tensor | None = None
    ) -> Tensor:
        """n images as uint8 pixels (n, C, H, W); all randomness comes from `seeds`.

        A conditional model also takes `guidance: float = 1.0`, the w of classifier-free guidance.
        """

    def learn_from(
        self, teacher: ImageModel, pixels: Tensor, generator: torch.Generator | None = None
    ) -> None:
        """Take over what the trained model that it `builds_on` knows, once, before training."""
        raise TypeError(f"{type(self).__name__} builds on no other model")

    def prepare(self, pixels: Tensor) -> Tensor | None:
        """What `loss` may be given in place of these pixels, row by row, without noise: what costs much and
        stays the same in every epoch. None where there is no such thing.
        """
        return None

    def calibrate(self, pixels: Tensor, generator: torch.Generator | None = None) -> None:
        """Fit what is fitted once after training, on training pixels, with the averaged weights."""

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return next(self.parameters()).device

    def to_signed(self, pixels: Tensor) -> Tensor:
        """Levels 0…K−1 to x in [−1, 1]: x = 2k/(K−1) − 1, so that the ends are reached exactly."""
        return pixels.to(torch.float32) * (2.0 / (self.levels - 1)) - 1.0

    def to_pixels(self, x: Tensor) -> Tensor:
        """The nearest level of x in [−1, 1], ends clamped; refuses what is not finite."""
        if not bool(torch.isfinite(x).all()):
            bad = int((~torch.isfinite(x).flatten(1).all(1)).nonzero()[0])
            raise NonFiniteSamples(bad)
        scaled = (x.clamp(-1.0, 1.0) + 1.0) * ((self.levels - 1) / 2.0)
        return scaled.round().to(torch.uint8)

    def dequantise(self, pixels: Tensor, noise: Tensor) -> Tensor:
        """Uniform dequantisation y = 2(k + u)/K − 1 in [−1, 1), u in [0, 1); scale s = 2/K a dimension."""
        return (pixels.to(noise.dtype) + noise) * (2.0 / self.levels) - 1.0

    def quantise(self, y: Tensor) -> Tensor:
        """The bin of y in [−1, 1): the inverse of `dequantise` for every u; refuses what is not finite."""
        if not bool(torch.isfinite(y).all()):
            bad = int((~torch.isfinite(y).flatten(1).all(1)).nonzero()[0])
            raise NonFiniteSamples(bad)
        bins = ((y + 1.0) * (self.levels / 2.0)).floor()
        return bins.clamp(0, self.levels - 1).to(torch.uint8)


class NonFiniteSamples(Exception):
    """A sampler produced NaN or infinity; `image` is the index within the batch."""

    def __init__(self, image: int, step: int | None = None) -> None:
        self.image = image
        self.step = step
        where = f"image {image} of the batch" + ("" if step is None else f", step {step}")
        super().__init__(f"the sampler produced a value that is not finite ({where})")
