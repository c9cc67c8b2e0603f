"""A mixture of discretised logistics over the C channels of a pixel: sums to one exactly over K^C colours.

Shapes: any, written …; M components, C channels, K levels, P parameters.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.discretised_logistic import DiscretisedLogistic

LOG_SCALE_RANGE = (-7.0, 3.0)
"""Limits of ln s: below, a bin of 256 levels is certain; above, every inner bin is as likely."""


@dataclass(frozen=True)
class DiscretisedMixture:
    """P(k_1 … k_C) = Σ_m π_m Π_c DiscretisedLogistic(k_c; μ_mc + Σ_{j<c} a_mcj·x_j, s_mc).

    x_j = 2k_j/(K−1) − 1 is the value of level k_j.
    One component for the whole pixel, whose channels follow the earlier ones linearly (Salimans et al. 2017,
    "PixelCNN++", 1701.05517, sections 2.1 and 2.2). Each conditional P(k_c | k_<c) is a mixture as well, with
    weights π_m·Π_{j<c} P_m(k_j) normalised, so that pixels are drawn channel after channel by inverse CDF.

    log_weight   ln π, (…, M), normalised
    mean         μ, (…, M, C)
    log_scale    ln s, (…, M, C)
    coefficient  a, (…, M, C(C−1)/2), the row of channel c after those of the channels before it
    levels       K
    """

    log_weight: Tensor
    mean: Tensor
    log_scale: Tensor
    coefficient: Tensor
    levels: int

    @classmethod
    def of(cls, raw: Tensor, channels: int, levels: int) -> DiscretisedMixture:
        """From P = `parameters(M, C)` unbounded numbers, (…, P): softmax of weights, tanh of coefficients."""
        C, M = channels, raw.shape[-1] // parameters(1, channels)
        weight, mean, log_scale, coefficient = raw.split([M, M * C, M * C, M * (C * (C - 1) // 2)], -1)
        return cls(
            weight.log_softmax(-1),
            mean.unflatten(-1, (M, C)),
            log_scale.unflatten(-1, (M, C)).clamp(*LOG_SCALE_RANGE),
            coefficient.unflatten(-1, (M, -1)).tanh()
            if C > 1
            else coefficient.new_zeros(*mean.shape[:-1], M, 0),
            levels,
        )

    def log_prob(self, levels: Tensor) -> Tensor:
        """ln P(k_c | k_<c), (…, C), of integer levels (…, C); its sum over channels is ln P(k)."""
        log_joint, total, parts = self.log_weight, torch.zeros_like(self.log_weight[..., 0]), []
        for c in range(self.mean.shape[-1]):
            component = self._component(c, levels[..., :c])
            log_joint = log_joint + component.log_prob(levels[..., c, None])
            seen = log_joint.logsumexp(-1)
            parts.append(seen - total)
            total = seen
        return torch.stack(parts, -1)

    def log_probs(self, levels: Tensor) -> Tensor:
        """ln P(k | k_<c) of every level k of the next channel, (…, K), given those before it (…, c)."""
        log_joint = self.log_weight
        for c in range(levels.shape[-1]):
            log_joint = log_joint + self._component(c, levels[..., :c]).log_prob(levels[..., c, None])
        law = self._component(levels.shape[-1], levels)
        every = torch.arange(self.levels, device=levels.device)
        each = DiscretisedLogistic(law.mean[..., None], law.log_scale[..., None], self.levels).log_prob(every)
        return (log_joint.log_softmax(-1)[..., None] + each).logsumexp(-2)

    def _component(self, c: int, earlier: Tensor) -> DiscretisedLogistic:
        """The law (…, M) of channel c in every component, given the levels (…, c) of the channels before."""
        mean = self.mean[..., c]
        if c:
            x = earlier.to(mean.dtype) * (2.0 / (self.levels - 1)) - 1
            first = c * (c - 1) // 2
            mean = mean + (self.coefficient[..., first : first + c] * x[..., None, :]).sum(-1)
        return DiscretisedLogistic(mean, self.log_scale[..., c], self.levels)


def parameters(components: int, channels: int) -> int:
    """P = M·(1 + 2C + C(C−1)/2): a weight, means, scales and coefficients for each component."""
    return components * (1 + 2 * channels + channels * (channels - 1) // 2)
