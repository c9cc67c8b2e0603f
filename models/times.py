"""Laws of the training time t in (0, 1), each by its quantile function: t = Q(u) with u uniform.

Shapes: n times.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from models.names import unknown

LAWS = ("uniform", "logit-normal")


class TimeLaw(Protocol):
    """Anything with a quantile function."""

    def quantile(self, u: Tensor) -> Tensor:
        """The time below which a share u of all times lies."""
        ...


@dataclass(frozen=True)
class Times:
    """Uniform or logit-normal times, optionally shifted towards noise.

    law       `uniform`, or `logit-normal`: logit t ~ N(location, scale²) (Esser et al. 2024, 2403.03206)
    shift     k: t ← k t/(1 + (k − 1) t), which divides the signal-to-noise ratio α²/σ² of the straight
              path by k²; 1 shifts nothing (same source, section 5.3.2)
    """

    law: str = "uniform"
    location: float = 0.0
    scale: float = 1.0
    shift: float = 1.0

    def __post_init__(self) -> None:
        if self.law not in LAWS:
            raise ValueError(unknown("law of training times", self.law, LAWS))
        if self.scale <= 0 or self.shift <= 0:
            raise ValueError("Training times need a scale and a shift above 0.")

    def quantile(self, u: Tensor) -> Tensor:
        """Q(u), in (0, 1)."""
        if self.law == "logit-normal":
            u = (self.location + self.scale * torch.special.ndtri(u)).sigmoid()
        return shifted(u, self.shift)


def shifted(t: Tensor, shift: float) -> Tensor:
    """k t/(1 + (k − 1) t)."""
    return t if shift == 1.0 else shift * t / (1.0 + (shift - 1.0) * t)


def draw_times(n: int, law: TimeLaw, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """n times spread evenly over their law: u_i = (u + i)/n mod 1, one u for all, (n,) float32.

    This keeps the variance of the loss low (Kingma et al. 2021, 2107.00630, §I.1).
    """
    offset = torch.rand(1, generator=generator, device=device)
    u = torch.frac(offset + torch.arange(n, device=device) / n).clamp(1e-6, 1.0 - 1e-6)
    return law.quantile(u)
