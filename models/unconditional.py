"""What the likelihood families share: one way to sample, no condition, and the checks of their input.

Shapes: B batch, C channels, H height, W width, K levels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from models.base import ImageModel, NonFiniteSamples

if TYPE_CHECKING:
    from models.samplers import Sampler


class UnconditionalModel(ImageModel):
    """An `ImageModel` of P(pixels) alone, which samples in its native way only."""

    def __init__(self, shape: tuple[int, int, int], levels: int) -> None:
        if len(shape) != 3 or min(shape) < 1:
            raise ValueError(f"shape must be (channels, height, width), each at least 1: got {tuple(shape)}")
        if not 2 <= levels <= 256:
            raise ValueError(f"levels must be 2 to 256, as pixels are uint8: got {levels}")
        super().__init__(shape, levels)

    def signed(self, pixels: Tensor) -> Tensor:
        """`to_signed` in the precision of the weights."""
        return self.to_signed(pixels).to(next(self.parameters()).dtype)

    def check_pixels(self, pixels: Tensor, condition: Tensor | None) -> None:
        """ValueError where the images are not (B, C, H, W) of this model, or a condition is given."""
        self.check_condition(condition)
        if pixels.dim() != 4 or tuple(pixels.shape[1:]) != self.shape:
            expected, got = ("B", *self.shape), tuple(pixels.shape)
            raise ValueError(f"this model was built for pixels {expected}: got {got}; resize or rebuild it")
        if pixels.is_floating_point():
            raise ValueError(f"pixels must be integer levels 0…{self.levels - 1}: got {pixels.dtype}")

    def check_levels(self, pixels: Tensor) -> None:
        """ValueError where a level is K or more: a wrong K would give a wrong likelihood in silence."""
        if pixels.numel() and int(pixels.max()) >= self.levels:
            raise ValueError(
                f"a pixel has level {int(pixels.max())}, but this model has {self.levels} levels, "
                f"0…{self.levels - 1}: set levels to what the data set has"
            )

    def check_sampling(self, sampler: Sampler | None, condition: Tensor | None) -> None:
        """ValueError where a sampler or a condition is asked for that this family cannot use."""
        self.check_condition(condition)
        if sampler is not None:
            raise ValueError(
                f"{type(self).__name__} samples by {self.native_sampler} only: leave sampler out"
            )

    def check_finite(self, finite_B: Tensor) -> None:
        """NonFiniteSamples for the first image that is not finite, before anything is quantised."""
        if not bool(finite_B.all()):
            raise NonFiniteSamples(int((~finite_B).nonzero()[0]))

    def check_condition(self, condition: Tensor | None) -> None:
        """ValueError where labels are given to a model of P(pixels)."""
        if condition is not None:
            raise ValueError(f"{type(self).__name__} is unconditional: leave the labels out")


def at_least_one(**options: int) -> None:
    """ValueError naming the first option that is not a whole number above zero."""
    for name, value in options.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a whole number, at least 1: got {value!r}")
