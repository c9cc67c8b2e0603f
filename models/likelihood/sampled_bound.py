"""The variational bound as a training objective: one random step of the chain an image.

    L_vlb = prior + T · E_i[term i],  i uniform over the T steps      (Ho et al. 2020, 2006.11239, eq. 5)

The terms are those of `models.likelihood.variational_bound`, all but the last a divergence of two
Gaussians, the last the decoder's; here each image may be at another step.

Shapes: B batch, C channels, H height, W width, T steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from models.learned_variance import interpolated
from models.likelihood.variational_bound import variance_limits
from models.paths import GaussianPath
from models.posterior import posterior
from models.times import Times, draw_times

Decoder = Callable[[Tensor, Tensor, Tensor], Tensor]
"""−ln P of integer pixels, entry by entry, from mean and variance."""


class ChainSteps(nn.Module):
    """Coefficients of the T steps of a chain, to be looked up at a step for each image.

    They follow from path and grid, so they are not saved with the weights; float64.
    """

    time: Tensor
    of_x0: Tensor
    posterior_variance: Tensor
    small: Tensor
    large: Tensor

    def __init__(self, path: GaussianPath, grid: Sequence[float]) -> None:
        super().__init__()
        steps = [posterior(path, t, s) for t, s in pairwise(grid)]
        small, large = variance_limits(path, grid)
        tables = {
            "time": list(grid[:-1]),
            "of_x0": [c.of_x0 for c in steps],
            "posterior_variance": [c.small for c in steps],
            "small": small,
            "large": large,
        }
        for name, values in tables.items():
            self.register_buffer(name, torch.tensor(values, dtype=torch.float64), persistent=False)

    def __len__(self) -> int:
        return len(self.time)

    def draw(self, n: int, generator: torch.Generator | None) -> Tensor:
        """n steps 0…T−1, spread evenly, each alone uniform, (n,) int64."""
        u = draw_times(n, Times(), generator, self.time.device)
        return (u.double() * len(self)).long()

    def variance(self, kind: str, step_B: Tensor, extra_BCHW: Tensor | None) -> Tensor:
        """The reverse variance of kind small, large or learned, (B, 1, 1, 1) or (B, C, H, W)."""
        small, large = (table[step_B].view(-1, 1, 1, 1) for table in (self.small, self.large))
        if kind == "learned":
            return interpolated(None if extra_BCHW is None else extra_BCHW.double(), small, large)
        return small if kind == "small" else large

    def nats(
        self,
        step_B: Tensor,
        pixels: Tensor,
        x_0: Tensor,
        predicted: Tensor,
        variance: Tensor,
        decoder: Decoder,
    ) -> Tensor:
        """The term of each image's step from x̂_0 = `predicted`, (B,) float64; gradients pass."""
        mean, variance = predicted.double(), variance.expand(predicted.shape)
        found = torch.zeros(len(x_0), dtype=torch.float64, device=x_0.device)
        last = step_B == len(self) - 1
        rows = (~last).nonzero()[:, 0]
        found = found.index_add(
            0, rows, self._divergence(step_B[rows], x_0[rows] - mean[rows], variance[rows])
        )
        rows = last.nonzero()[:, 0]
        return found.index_add(0, rows, decoder(pixels[rows], mean[rows], variance[rows]).flatten(1).sum(1))

    def _divergence(self, step_B: Tensor, error: Tensor, variance: Tensor) -> Tensor:
        """½(r − 1 − ln r + c²(x_0 − x̂_0)²/variance), r = posterior's variance/variance; (B,)."""
        small, of_x0 = (table[step_B].view(-1, 1, 1, 1) for table in (self.posterior_variance, self.of_x0))
        ratio = small / variance
        nats = 0.5 * (ratio - 1.0 - ratio.log() + of_x0.square() * error.square() / variance)
        return nats.flatten(1).sum(1)
