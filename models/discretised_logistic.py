"""The discretised logistic: a distribution over K ordered levels that sums to one exactly.

Shapes: any, written …; K levels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class DiscretisedLogistic:
    """A logistic law of mean μ and scale s over x in [−1, 1], cut into the bins of K levels.

    P(k) = σ((x_k + h − μ)/s) − σ((x_k − h − μ)/s) with x_k = 2k/(K−1) − 1 and half a bin h = 1/(K−1);
    the first bin is open below and the last above, so the sum telescopes to one (Salimans et al. 2017,
    "PixelCNN++", section 2.1). No clamp and no small constant: σ(b) − σ(a) = σ(b)·σ(−a)·(1 − e^(a−b)).

    mean       μ, (…)
    log_scale  ln s, (…)
    levels     K
    """

    mean: Tensor
    log_scale: Tensor
    levels: int

    def log_prob(self, levels: Tensor) -> Tensor:
        """ln P(k), (…), of integer levels (…)."""
        half = 1.0 / (self.levels - 1)
        x = levels.to(self.mean.dtype) * (2 * half) - 1
        inverse_scale = (-self.log_scale).exp()
        upper, lower = (x + half - self.mean) * inverse_scale, (x - half - self.mean) * inverse_scale
        last, first = levels == self.levels - 1, levels == 0
        # ln(1 − e^(−w)) for a bin of w scales: only inner bins have both edges.
        width = torch.log(-torch.expm1(-2 * half * inverse_scale))
        return (
            F.logsigmoid(upper).masked_fill(last, 0)
            + F.logsigmoid(-lower).masked_fill(first, 0)
            + width.masked_fill(first | last, 0)
        )

    def sample(self, u: Tensor) -> Tensor:
        """The level whose bin holds the logistic quantile of u in [0, 1), as uint8 (…): inverse CDF."""
        open_u = u.double().clamp(min=torch.finfo(torch.float64).tiny)
        quantile = self.mean.double() + self.log_scale.double().exp() * torch.logit(open_u)
        nearest = ((quantile + 1) * ((self.levels - 1) / 2)).round()
        return nearest.clamp(0, self.levels - 1).to(torch.uint8)
