"""Monotonic rational-quadratic splines, and couplings that bend the other half of x with them.

Shapes: B batch, C channels, H height, W width, J bins, "..." any shape. A spline has 3J − 1 raw
parameters: J widths, J heights and J − 1 slopes at the inner knots.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from models.networks.couplings import CouplingNetwork

MINIMUM_SHARE = 1e-2
"""Least width and height of a bin, as a share of the interval [−bound, bound]."""

LOG_SLOPE_LIMIT = 4.0
"""Slopes at the inner knots lie within e^±4, smoothly limited."""


def rational_quadratic(x: Tensor, raw: Tensor, bound: float, inverse: bool = False) -> tuple[Tensor, Tensor]:
    """y(x) and ln dy/dx, or with `inverse` x(y) and ln dx/dy, of a spline of every element.

    Durkan et al. 2019 (1906.04032), equations 4 to 8. Between the knots (x_j, y_j), with ξ the place in
    the bin of width w and height h, s = h/w and slopes d_j, d_{j+1} at its ends:
    y = y_j + h·(s·ξ² + d_j·ξ(1−ξ)) / (s + (d_{j+1} + d_j − 2s)·ξ(1−ξ)).
    Outside [−bound, bound] y = x; the slopes at the ends are 1, so that y is smooth there. raw = 0 is the
    identity.

    x    (...)                raw  (3J − 1, ...): bins first, which is several times as fast as last
    """
    bins = (len(raw) + 1) // 3
    raw_w, raw_h, raw_d = raw.split((bins, bins, bins - 1))
    knots_x, knots_y, slopes = knots(raw_w, bound), knots(raw_h, bound), slopes_at_knots(raw_d, x)
    inside = (x >= -bound) & (x <= bound)
    # What lies outside must still be finite in here: its gradient is multiplied by zero, not left out.
    v = x.clamp(-bound, bound)
    j = ((v >= (knots_y if inverse else knots_x)[1:-1]).sum(0, keepdim=True)).long()
    left, right, low, high, d, d_next = (
        table.gather(0, j + shift).squeeze(0) for table in (knots_x, knots_y, slopes) for shift in (0, 1)
    )
    w, h = right - left, high - low
    xi = _place(v - low, h, h / w, d, d_next) if inverse else (v - left) / w
    y, log_slope = _bin(xi, h, h / w, d, d_next)
    value, log_slope = (left + xi * w, -log_slope) if inverse else (low + y, log_slope)
    return torch.where(inside, value, x), torch.where(inside, log_slope, 0.0)


def knots(raw: Tensor, bound: float) -> Tensor:
    """J + 1 increasing knots from −bound to bound, of raw shares (J, ...)."""
    share = MINIMUM_SHARE + (1 - MINIMUM_SHARE * len(raw)) * raw.softmax(0)
    inner = bound * (2 * share.cumsum(0)[:-1] - 1)
    # The ends are set, not summed: rounding there would open a gap to the linear tails.
    end = torch.full_like(raw[:1], bound)
    return torch.cat([-end, inner, end])


def slopes_at_knots(raw: Tensor, like: Tensor) -> Tensor:
    """J + 1 slopes, those at both ends 1, of raw logarithms (J − 1, ...)."""
    one = torch.ones_like(like)[None]
    return torch.cat([one, (LOG_SLOPE_LIMIT * torch.tanh(raw / LOG_SLOPE_LIMIT)).exp(), one])


def _bin(xi: Tensor, h: Tensor, s: Tensor, d: Tensor, d_next: Tensor) -> tuple[Tensor, Tensor]:
    """y − y_j and ln dy/dx at the place ξ of a bin."""
    product = xi * (1 - xi)
    denominator = s + (d_next + d - 2 * s) * product
    y = h * (s * xi.square() + d * product) / denominator
    slope = d_next * xi.square() + 2 * s * product + d * (1 - xi).square()
    return y, 2 * s.log() + slope.log() - 2 * denominator.log()


def _place(y: Tensor, h: Tensor, s: Tensor, d: Tensor, d_next: Tensor) -> Tensor:
    """ξ of y − y_j: the root of a·ξ² + b·ξ + c in [0, 1], where c ≤ 0 ≤ a + b + c.

    −2c / (b + √(b² − 4ac)) or (−b + √(b² − 4ac)) / 2a, whichever adds numbers of one sign: the other
    would cancel, as a → 0 or in a bin that ends steeply.
    """
    bend = y * (d_next + d - 2 * s)
    a, b, c = h * (s - d) + bend, h * d - bend, -s * y
    root = (b.square() - 4 * a * c).clamp_min(0).sqrt()
    over = torch.where(b >= 0, -2 * c, root - b)
    under = torch.where(b >= 0, b + root, 2 * a)
    return (over / under).clamp(0, 1)


class SplineCoupling(nn.Module):
    """y = m·x + (1 − m)·spline(x), its parameters a function of m·x; ln|det| = Σ (1 − m)·ln spline'.

    mask  (C, H, W) of ones (kept, and seen by the network) and zeros (transformed)
    """

    def __init__(
        self, mask_CHW: Tensor, bins: int, bound: float, features: int, depth: int, dropout: float
    ) -> None:
        super().__init__()
        if bins * MINIMUM_SHARE > 0.5:
            raise ValueError(f"bins must be at most {math.floor(0.5 / MINIMUM_SHARE)}: got {bins}")
        if not bound > 0:
            raise ValueError(f"bound must be above zero: got {bound}")
        self.mask_CHW: Tensor
        self.register_buffer("mask_CHW", mask_CHW.float(), persistent=False)
        C, H, W = mask_CHW.shape
        self.bound, self.parameters_each = float(bound), 3 * bins - 1
        self.network = CouplingNetwork((C, H, W), C * self.parameters_each, features, depth, dropout, last=1)

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        return self._spline(x_BCHW, inverse=False)

    def inverse(self, y_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        return self._spline(y_BCHW, inverse=True)

    def _spline(self, x_BCHW: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        """The part that is kept is the same in x and y, and so is the spline."""
        raw = self.network(x_BCHW * self.mask_CHW).unflatten(1, (-1, self.parameters_each)).movedim(2, 0)
        # Steep bins lose digits of float32 in the inverse. Training, which inverts nothing, is faster in it.
        precise = x_BCHW.dtype if self.training else torch.float64
        found = rational_quadratic(x_BCHW.to(precise), raw.to(precise), self.bound, inverse)
        y_BCHW, log_slope_BCHW = (part.to(x_BCHW.dtype) for part in found)
        kept = self.mask_CHW > 0
        log_det_B = log_slope_BCHW.masked_fill(kept, 0.0).flatten(1).sum(1)
        return torch.where(kept, x_BCHW, y_BCHW), log_det_B
