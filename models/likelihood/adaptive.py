"""Adaptive Runge–Kutta steps, each image with its own: what an image gets does not depend on its batch.

A step of h from t is accepted where the estimated error e of order h^q is within tolerance,

    r = max over parts of √(mean (e / (w·atol + rtol·max(|y|, |y'|)))²) ≤ 1,

where w is 1 for x, and its number of entries for what is integrated over all of them: there atol is nats a
dimension. It is the image's own r, and its next step is h·clip(0.9·r^(−1/q), 0.2, 5); the first is that of
Hairer, Nørsett and Wanner 1993 (II.4). An image that has arrived waits with steps of 0 for the others of its
batch: they cost it evaluations, and change nothing. `torchdiffeq` has one step for the whole batch, and with
its default norm the error of one image is averaged away by the others.

Shapes: B batch, N entries of an image's state, S stages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

State = tuple[Tensor, ...]
Field = Callable[[Tensor, State], State]
"""(t_B, state) → d state/dt; every part of a state has a row an image."""

MOST = 10_000
"""Attempted steps after which a flow is called too stiff."""
LOST = 20
"""Steps into what is not finite after which an image is given up: 0.2^20 of a step is none."""


@dataclass(frozen=True)
class Pair:
    """An embedded pair whose last stage is the slope at the end of the step.

    times    c, (S,)           rows     a, the last row being the weights b of the solution
    error    b − b̂, (S,)       order    q: the estimate goes as h^q
    """

    times: tuple[float, ...]
    rows: tuple[tuple[float, ...], ...]
    error: tuple[float, ...]
    order: int


PAIRS = {
    # Dormand and Prince 1980.
    "dopri5": Pair(
        (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0),
        (
            (),
            (1 / 5,),
            (3 / 40, 9 / 40),
            (44 / 45, -56 / 15, 32 / 9),
            (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
            (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
            (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
        ),
        (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),
        5,
    ),
    # Bogacki and Shampine 1989.
    "bosh3": Pair(
        (0.0, 1 / 2, 3 / 4, 1.0),
        ((), (1 / 2,), (0.0, 3 / 4), (2 / 9, 1 / 3, 4 / 9)),
        (2 / 9 - 7 / 24, 1 / 3 - 1 / 4, 4 / 9 - 1 / 3, -1 / 8),
        3,
    ),
}


class TooStiff(ValueError):
    """Steps did not get an image to the end."""


@torch.no_grad()
def solve_adaptive(
    field: Field, state: State, solver: str, rtol: float, atol: float, start: float, end: float
) -> State:
    """The state at t = end from that at t = start.

    An image whose slope is not finite, however small its steps, comes back as NaN. Raises TooStiff
    with the image and the time where steps vanish or `MOST` were tried.
    """
    steps = _Steps(field, state, PAIRS[solver], (rtol, atol), start, end)
    for _ in range(MOST):
        if not steps.advance():
            return steps.parts(steps.y_BN)
    raise TooStiff(steps.complaint(f"after {MOST} steps"))


class _Steps:
    """Where every image is, and its next step; all parts of a state side by side as (B, N)."""

    def __init__(
        self,
        field: Field,
        state: State,
        pair: Pair,
        tolerances: tuple[float, float],
        start: float,
        end: float,
    ) -> None:
        self.field, self.pair, (self.rtol, atol) = field, pair, tolerances
        self.shapes = [part.shape[1:] for part in state]
        self.widths = [part[0].numel() for part in state]
        self.y_BN = torch.cat([part.flatten(1) if part.dim() > 1 else part[:, None] for part in state], 1)
        weights = torch.ones(sum(self.widths), dtype=self.y_BN.dtype, device=self.y_BN.device)
        weights[self.widths[0] :] = self.widths[0]
        self.atol_N = atol * weights
        self.start, self.end, self.sign = start, end, 1.0 if end >= start else -1.0
        rows, device = len(self.y_BN), self.y_BN.device
        self.t_B = torch.full((rows,), start, dtype=torch.float64, device=device)
        self.k_BN = self.slope(self.t_B, self.y_BN)
        finite_B = self.y_BN.isfinite().all(1) & self.k_BN.isfinite().all(1)
        self.lost_B = torch.where(finite_B, 0, LOST)
        self.h_B = self._first()

    def parts(self, y_BN: Tensor) -> State:
        """The parts of a state, each in its own shape."""
        columns = y_BN.split(self.widths, 1)
        return tuple(part.reshape(len(y_BN), *s) for part, s in zip(columns, self.shapes, strict=True))

    def slope(self, t_B: Tensor, y_BN: Tensor) -> Tensor:
        """The field at a time for each image."""
        found = self.field(t_B.to(y_BN.dtype), self.parts(y_BN))
        return torch.cat([part.reshape(len(y_BN), -1) for part in found], 1)

    def advance(self) -> bool:
        """Try one step of every image; False once all have arrived."""
        left_B = (self.end - self.t_B).abs()
        h_B = self.sign * torch.minimum(self.h_B, left_B)
        self.y_BN[(self.lost_B >= LOST) | ~h_B.isfinite()] = torch.nan
        going_B = (self.t_B != self.end) & self.y_BN.isfinite().all(1)
        if not bool(going_B.any()):
            return False
        h_B = torch.where(going_B, h_B, 0.0)
        if bool((going_B & (self.t_B + h_B == self.t_B)).any()):
            raise TooStiff(self.complaint("where its step vanishes", going_B & (self.t_B + h_B == self.t_B)))
        y_BN, k_BN, error_BN = self._tried(h_B)
        ratio_B = self.norm(error_BN, self.y_BN, y_BN)
        lost_B = going_B & ~(ratio_B.isfinite() & k_BN.isfinite().all(1))
        self.lost_B += lost_B
        accepted_B = going_B & ~lost_B & (ratio_B <= 1.0)
        t_B = torch.where(h_B.abs() >= left_B, self.end, self.t_B + h_B)
        self.t_B = torch.where(accepted_B, t_B, self.t_B)
        self.y_BN = torch.where(accepted_B[:, None], y_BN, self.y_BN)
        self.k_BN = torch.where(accepted_B[:, None], k_BN, self.k_BN)
        factor_B = (0.9 * ratio_B.clamp(min=1e-10) ** (-1.0 / self.pair.order)).clamp(0.2, 5.0)
        factor_B = torch.where(lost_B, 0.2, factor_B)
        self.h_B = torch.where(going_B, h_B.abs() * factor_B, self.h_B)
        return True

    def norm(self, error_BN: Tensor, *states: Tensor) -> Tensor:
        """r of each image, (B,) float64: the worst part's root mean square in units of the tolerance."""
        size_BN = torch.stack([state.abs() for state in states]).amax(0)
        ratio_BN = (error_BN / (self.atol_N + self.rtol * size_BN)).double()
        parts = ratio_BN.split(self.widths, 1)
        return torch.stack([part.square().mean(1) for part in parts]).amax(0).sqrt()

    def complaint(self, what: str, which_B: Tensor | None = None) -> str:
        """One sentence on the first image that is not there."""
        which_B = (self.t_B != self.end) & self.y_BN.isfinite().all(1) if which_B is None else which_B
        image = int(which_B.nonzero()[0])
        return (
            f"The flow of image {image} of the batch is too stiff: it is at t={float(self.t_B[image]):.4g} "
            f"{what}; use larger tolerances, or a solver of fixed steps."
        )

    def _tried(self, h_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """State and slope at the end of the step, and the estimate of the error."""
        h = h_B.to(self.y_BN.dtype)[:, None]
        slopes, y_BN = [self.k_BN], self.y_BN
        for c, row in zip(self.pair.times[1:], self.pair.rows[1:], strict=True):
            y_BN = self.y_BN + h * _combined(row, slopes)
            slopes.append(self.slope(self.t_B + c * h_B, y_BN))
        return y_BN, slopes[-1], h * _combined(self.pair.error, slopes)

    def _first(self) -> Tensor:
        """The first step of each image, (B,) float64 > 0, from the size of the slope and of its change."""
        span = abs(self.end - self.start)
        size_B = self.norm(self.y_BN, self.y_BN)
        slope_B = self.norm(self.k_BN, self.y_BN)
        near = (size_B < 1e-5) | (slope_B < 1e-5)
        h_B = torch.where(near, 1e-6, 0.01 * size_B / slope_B).clamp(max=span)
        y_BN = self.y_BN + (self.sign * h_B).to(self.y_BN.dtype)[:, None] * self.k_BN
        change_BN = self.slope(self.t_B + self.sign * h_B, y_BN) - self.k_BN
        bend_B = torch.maximum(self.norm(change_BN, self.y_BN) / h_B.clamp(min=1e-300), slope_B)
        wanted_B = torch.where(bend_B <= 1e-15, 1e-3 * h_B, (0.01 / bend_B) ** (1.0 / self.pair.order))
        return torch.minimum(100.0 * h_B, wanted_B).clamp(max=span)


def _combined(weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    """Σ w_i k_i, terms of weight 0 left out."""
    return torch.stack([w * k for w, k in zip(weights, slopes, strict=False) if w]).sum(0)
