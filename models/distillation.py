"""Distillation of a flow into one step (Liu et al. 2022, 2209.03003, §2.2 and appendix).

    loss  E ‖z − v(z, 1) − x_0‖²/D,  (z, x_0) the ends of the teacher's trajectories

The source distils reflowed flows, whose trajectories are nearly lines, so that little is left to learn; the
teacher may also be a rectified flow. It measures the distance of images by LPIPS, here it is the squared
error.

Shapes: n images, B batch, C channels, H height, W width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from models.base import Likelihood, LikelihoodUnavailable
from models.guidance import NONE, Guidance
from models.reflow import ReflowedFlow

if TYPE_CHECKING:
    from models.samplers import Sampler
    from models.seeds import Seeds


class DistilledFlow(ReflowedFlow):
    """x_0 = z − v(z, 1): one evaluation, starting from the weights of a rectified or reflowed flow.

    Its options are those of `models.reflow.ReflowedFlow`.
    """

    native_sampler: ClassVar[str | None] = "one-step"

    def loss(
        self, pixels: Tensor, condition: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Mean squared error of x_0 a dimension, on as many couples as there are images."""
        self.check_pixels(pixels)
        z, x_0, told = self.draw_couples(len(pixels), generator)
        return self.regression(x_0, z, torch.ones(len(z), device=z.device), told)

    def nll(  # type: ignore[override]
        self, pixels: Tensor, condition: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Likelihood:
        """Raises `LikelihoodUnavailable`."""
        raise LikelihoodUnavailable(
            "a distilled flow is one map from noise to images, trained at t = 1 alone: it has no flow whose "
            "density could be followed; take the likelihood of its teacher"
        )

    @torch.no_grad()
    def sample(
        self,
        n: int,
        sampler: Sampler | None,
        seeds: Seeds,
        condition: Tensor | None = None,
        guidance: float | Guidance = NONE,
    ) -> Tensor:
        """n images as uint8 pixels, from one evaluation, or two where they are guided."""
        self.check_native(n, len(seeds.images), sampler)
        z = seeds.per_image(self.shape, device=self.device)
        return self.decode(z - self.denoiser(condition, guidance=guidance, n=n)(z, 1.0).velocity)
