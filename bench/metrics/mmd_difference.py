"""Which of two models is nearer to the data: the difference of their MMD² against one reference.

    D = MMD²(P₁, Q) − MMD²(P₂, Q),     negative where the first model is nearer

The reference's own pairs cancel, and what its sampling does to both models is the same. Where row i of both
models came from the same starting noise, their errors share much more, and the paired interval is narrower
than two separate ones suggest (Gao et al. 2025, 2501.18897, argue for relative comparisons).

Standard error: with w_i = 2(g₁(x_i) − g₂(x′_i)) the difference of the row projections and
v_j = 2(c₁(y_j) − c₂(y_j)) that of the reference's, Var = Var w/n + Var v/m. The second-order noise stays in
both, at least once too often, so the error is conservative where both models fit equally well.

Shapes: n generated rows of each model, m real rows, d dimensions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from bench.metrics.estimate import Estimate, normal_interval
from bench.metrics.mmd import Cubic, Kernel, Vector, cross_sums, within_sums
from bench.metrics.rows import BLOCK, Rows, check_widths, pair_of_rows, rows_of


@dataclass(frozen=True)
class MmdDifference(Estimate):
    """First less second; `unpaired_error` is the error that ignores that rows belong together."""

    m: int
    unpaired_error: float
    paired: bool


def mmd_difference(
    first: Any,
    second: Any,
    real: Any,
    kernel: Kernel | None = None,
    *,
    paired: bool = True,
    scale: float = 1.0,
    name: str = "KID",
    block: int = BLOCK,
) -> MmdDifference:
    """scale·D with its 95 % interval; the kernel is KID's unless another is given.

    `paired` says that row i of both models was drawn from the same seed.
    """
    kernel = kernel or Cubic()
    one, y = pair_of_rows(first, real, ("first", "real"), least=4)
    two = rows_of(second, "second", least=4)
    check_widths(one, two, ("first", "second"))
    if paired and len(one) != len(two):
        raise ValueError(
            f"rows of {len(one)} and {len(two)} images cannot be paired: draw both models with the same "
            "seeds, or pass paired=False."
        )
    value_one, g_one, c_one = _projections(one, y, kernel, block)
    value_two, g_two, c_two = _projections(two, y, kernel, block)
    reference = float((c_one - c_two).var(ddof=1)) / len(y)
    apart = float(g_one.var(ddof=1)) / len(one) + float(g_two.var(ddof=1)) / len(two)
    together = float((g_one - g_two).var(ddof=1)) / len(one) if paired else apart
    value = scale * (value_one - value_two)
    error = scale * 2.0 * math.sqrt(together + reference)
    low, high = normal_interval(value, error)
    return MmdDifference(
        value=value,
        standard_error=error,
        low=low,
        high=high,
        n=len(one),
        protocol=(
            f"{name} difference [{kernel.label}, all pairs, n={len(one)} and {len(two)}, m={len(y)}, "
            f"{'paired by row' if paired else 'unpaired'}, one reference]"
        ),
        m=len(y),
        unpaired_error=scale * 2.0 * math.sqrt(apart + reference),
        paired=paired,
    )


def _projections(x_nd: Rows, y_md: Rows, kernel: Kernel, block: int) -> tuple[float, Vector, Vector]:
    """MMD² less the reference's own pairs, g at the rows of x, and the row means of the reference."""
    within, cross = within_sums(x_nd, kernel, block), cross_sums(x_nd, y_md, kernel, block)
    n, m = len(x_nd), len(y_md)
    value = float(within.rows.sum() / (n * (n - 1)) - 2.0 * cross.rows.sum() / (n * m))
    return value, within.rows / (n - 1) - cross.rows / m, cross.columns / n
