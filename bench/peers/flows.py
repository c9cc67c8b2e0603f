"""Transforms of normalizing flows beside zuko and normflows: rational-quadratic splines, both ways.

Knots and slopes are given to both sides where they take them. Results are values and ln dy/dx side by side.

Shapes: N elements, J bins.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from torch import Tensor

from bench.peers.work import Side, Work, WorkRow, rows_of, seeded
from models.networks.splines import knots, rational_quadratic, slopes_at_knots

INSTALL = "pip install 'noisebench[peers]'"
ELEMENTS, BINS, BOUND = 65_536, 8, 3.0


def _parameters() -> tuple[Tensor, Tensor]:
    """x (N,) partly out of bounds, and raw parameters (3J − 1, N)."""
    return 2.0 * seeded(ELEMENTS, seed=1), seeded(3 * BINS - 1, ELEMENTS)


def _ours(inverse: bool) -> Side:
    x, raw = _parameters()
    return lambda: torch.stack(rational_quadratic(x, raw, BOUND, inverse))


def _zuko(inverse: bool) -> tuple[Side, Side]:
    import zuko

    x, raw = _parameters()
    widths, heights, slopes = (part.T.contiguous() for part in raw.split((BINS, BINS, BINS - 1)))

    def theirs() -> Tensor:
        transform = zuko.transforms.MonotonicRQSTransform(widths, heights, slopes, BOUND)
        # Its own shares have another least one.
        transform.horizontal, transform.vertical = knots(widths.T, BOUND).T, knots(heights.T, BOUND).T
        transform.derivatives = slopes_at_knots(slopes.T, x).T
        if not inverse:
            return torch.stack(transform.call_and_ladj(x))
        y = transform.inv(x)
        return torch.stack([y, -transform.log_abs_det_jacobian(y, x)])

    return _ours(inverse), theirs


def _normflows(inverse: bool) -> tuple[Side, Side]:
    from normflows.utils.splines import unconstrained_rational_quadratic_spline

    x, raw = _parameters()
    widths, heights, slopes = (part.T.contiguous() for part in raw.split((BINS, BINS, BINS - 1)))

    def theirs() -> Tensor:
        return torch.stack(
            unconstrained_rational_quadratic_spline(
                x, widths, heights, slopes, inverse=inverse, tails="linear", tail_bound=BOUND
            )
        )

    return _ours(inverse), theirs


def works() -> Iterator[Work]:
    """Splines both ways."""
    for inverse in (False, True):
        way = "inverse" if inverse else "forward"
        work = f"spline of {BINS} bins, {ELEMENTS} elements, {way}"
        yield Work(
            "zuko", "MonotonicRQSTransform", "rational_quadratic", work, functools.partial(_zuko, inverse)
        )
        yield Work(
            "normflows",
            "rational_quadratic_spline",
            "rational_quadratic",
            work,
            functools.partial(_normflows, inverse),
            comparable=False,
            note="its least bins and slopes are its own, so the curves differ",
        )


def rows(repeats: int = 15) -> Iterator[WorkRow]:
    """A row a work."""
    return rows_of(works(), repeats, INSTALL)
