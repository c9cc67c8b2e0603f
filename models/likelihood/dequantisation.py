"""Dequantisation: from the levels of a pixel to a density, by noise w within half the distance of two levels.

    x = α (x_k + h w), w ~ q on (−1, 1);      −ln P(k) ≤ E_q [ −ln p(x) + ln q(w) ] − D ln(α h)

x_k is the place of a level, h half the distance of two, α the path's share of data at the time where the
density is taken: the offset follows from the scale, s = 2h, and is no constant.

    uniform           q = ½, so that the offset is −D ln(α s)
    truncated-normal  q ∝ N(w; 0, r²), r = σ/(α h) of that time: the path's own noise, cut at the middle
                      between two levels (Zheng et al. 2023, 2305.03935)

With K draws, −ln (1/K) Σ p/q is tighter as K grows (Burda et al. 2016, 1509.00519).

Shapes: B batch, D entries.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Law = Callable[[Tensor, float, torch.Generator | None], tuple[Tensor, Tensor]]
"""(like, r, generator) → w in the shape of `like`, and ln q(w) of each row, (B,) float64."""


def uniform(like: Tensor, spread: float, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """w = 2u − 1; `spread` is not used."""
    u = torch.rand(like.shape, generator=generator, device=like.device, dtype=like.dtype)
    dims = like[0].numel() if len(like) else 0
    return 2.0 * u - 1.0, torch.full((len(like),), -dims * math.log(2.0), device=like.device).double()


def truncated_normal(like: Tensor, spread: float, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """w = r Φ⁻¹(½ + (u − ½) Z), Z = erf(1/(r√2)) the mass within ±1; r = `spread`."""
    mass = math.erf(1.0 / (spread * math.sqrt(2.0)))
    u = torch.rand(like.shape, generator=generator, device=like.device, dtype=torch.float64)
    normal = torch.special.ndtri((0.5 + (u - 0.5) * mass).clamp(1e-16, 1.0 - 1e-16))
    constant = math.log(spread * math.sqrt(2.0 * math.pi) * mass)
    log_q = (-0.5 * normal.square() - constant).flatten(1).sum(1)
    return (spread * normal).to(like.dtype), log_q


LAWS: dict[str, Law] = {"uniform": uniform, "truncated-normal": truncated_normal}
"""Laws of w, by name."""


def importance_weighted(nats_KB: Tensor) -> Tensor:
    """−ln (1/K) Σ_k e^{−nats_k} of each image, (B,): for K = 1 the nats themselves."""
    return math.log(len(nats_KB)) - (-nats_KB).logsumexp(0)
