"""The squared maximum mean discrepancy of two sets of features, exact over all pairs, with its error.

    MMD²(P, Q) = E k(x, x′) + E k(y, y′) − 2 E k(x, y)                 Gretton et al. 2012 (JMLR 13)

estimated by the unbiased U-statistic over all pairs i ≠ j. No subsets are drawn, so there is no seed; no
n×n matrix is kept, only the sums of its rows: O(block² + n) memory beside the features, which are made
float64 a block at a time.

Standard error from Hoeffding's decomposition of the two-sample U-statistic. With a(x) = E k(x, X′),
b(x) = E k(x, Y), g = a − b, and τ² the variance that is left of a kernel once its projections are taken off,

    Var = 4/n·Var g(X) + 4/m·Var g(Y) + 2τ²_xx/n(n−1) + 2τ²_yy/m(m−1) + 4τ²_xy/nm

(compare Sutherland and Deka 2019, 1906.02104). Row means also hold noise of order τ²/n; it is taken off
Var g, but never below zero, so where P = Q and the first-order terms vanish the error is right or too
large, never too small by much: conservative. Both sets are taken as samples.

Shapes: n generated rows x, m real rows y, d dimensions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bench.metrics.estimate import Estimate, normal_interval
from bench.metrics.rows import BLOCK, Doubles, Rows, blocks, double, pair_of_rows, rows_of

Vector = NDArray[np.float64]


class Kernel(Protocol):
    """A kernel less a constant, which cancels in the discrepancy and would only cost digits."""

    @property
    def label(self) -> str:
        """How the kernel is written in a protocol."""
        ...

    def __call__(self, x_nd: Doubles, y_md: Doubles) -> Doubles:
        """(n, m) values."""
        ...


@dataclass(frozen=True)
class Cubic:
    """(x·y/d + 1)³ − 1, the kernel of KID (Bińkowski et al. 2018, 1801.01401)."""

    label: str = "cubic kernel"

    def __call__(self, x_nd: Doubles, y_md: Doubles) -> Doubles:
        z = x_nd @ y_md.T
        z /= x_nd.shape[1]
        # (z + 1)³ − 1 = z(z(z + 3) + 3): no digits are lost to the one.
        value = z + 3.0
        value *= z
        value += 3.0
        value *= z
        return value


@dataclass(frozen=True)
class Gaussian:
    """exp(−|x − y|²/2σ²) − 1."""

    sigma: float = 10.0

    def __post_init__(self) -> None:
        if not self.sigma > 0:
            raise ValueError(f"the width sigma of a Gaussian kernel must be positive, not {self.sigma}.")

    @property
    def label(self) -> str:
        return f"Gaussian kernel σ={self.sigma:g}"

    def __call__(self, x_nd: Doubles, y_md: Doubles) -> Doubles:
        squares = (x_nd**2).sum(1)[:, None] + (y_md**2).sum(1)[None, :]
        squares -= 2.0 * (x_nd @ y_md.T)
        np.clip(squares, 0.0, None, out=squares)
        squares *= -0.5 / self.sigma**2
        return np.expm1(squares, out=squares)


@dataclass(frozen=True)
class MmdEstimate(Estimate):
    """The unbiased value of MMD² (it may be negative), with `n` generated and `m` real rows.

    `biased` is the V-statistic, which counts each row's pair with itself; it is never negative.
    """

    m: int
    biased: float


@dataclass(frozen=True)
class WithinSums:
    """Of pairs i ≠ j of one set: sums by row (n,), the sum of squares, and the sum of k(x_i, x_i)."""

    rows: Vector
    squares: float
    diagonal: float


@dataclass(frozen=True)
class CrossSums:
    """Of pairs of x and y: sums by row of x (n,), by row of y (m,), and the sum of squares."""

    rows: Vector
    columns: Vector
    squares: float


def kid(generated: Any, real: Any, *, block: int = BLOCK) -> MmdEstimate:
    """Kernel inception distance over all pairs (Bińkowski et al. 2018, 1801.01401).

    The published implementations average it over random subsets; the expectation is the same, and their
    printed deviation is the spread of a subset, not the error of the mean. n and m need not be equal.
    """
    return mmd(generated, real, Cubic(), name="KID", block=block)


def cmmd(
    generated: Any, real: Any, *, sigma: float = 10.0, scale: float = 1000.0, block: int = BLOCK
) -> MmdEstimate:
    """CLIP maximum mean discrepancy (Jayasumana et al. 2024, 2401.09603): 1000·MMD², Gaussian kernel, σ = 10.

    Rows are scaled to unit length here, as the paper has its CLIP embeddings. The value is the unbiased
    estimate that the paper argues for; the code published with the paper computes the biased one, with the
    diagonal, which is `biased` here. The two differ by about scale·(1/n + 1/m)·(1 − mean k).
    """
    x, y = pair_of_rows(generated, real)
    name = f"CMMD×{scale:g}"
    return mmd(_unit(x, "generated"), _unit(y, "real"), Gaussian(sigma), name=name, scale=scale, block=block)


def mmd(
    generated: Any,
    real: Any,
    kernel: Kernel,
    *,
    name: str = "MMD²",
    scale: float = 1.0,
    block: int = BLOCK,
) -> MmdEstimate:
    """scale·MMD² of any kernel, with its standard error and 95 % interval."""
    x, y = pair_of_rows(generated, real, least=4)
    xx, yy = within_sums(x, kernel, block), within_sums(y, kernel, block)
    xy = cross_sums(x, y, kernel, block)
    n, m = len(x), len(y)
    value = xx.rows.sum() / (n * (n - 1)) + yy.rows.sum() / (m * (m - 1)) - 2.0 * xy.rows.sum() / (n * m)
    biased = (xx.rows.sum() + xx.diagonal) / n**2 + (yy.rows.sum() + yy.diagonal) / m**2
    biased -= 2.0 * xy.rows.sum() / (n * m)
    error = math.sqrt(_variance(xx, yy, xy))
    low, high = normal_interval(value, error)
    protocol = f"{name} [{kernel.label}, all pairs, unbiased, n={n}, m={m}, U-statistic error of both sets]"
    return MmdEstimate(
        value=float(scale * value),
        standard_error=scale * error,
        low=float(scale * low),
        high=float(scale * high),
        n=n,
        protocol=protocol,
        m=m,
        biased=float(scale * biased),
    )


def within_sums(x_nd: Rows, kernel: Kernel, block: int = BLOCK) -> WithinSums:
    """Sums over the pairs of one set; each pair is computed once."""
    rows, squares, diagonal = np.zeros(len(x_nd)), 0.0, 0.0
    for i in blocks(len(x_nd), block):
        x = double(x_nd[i])
        values = kernel(x, x)
        diagonal += float(np.trace(values))
        np.fill_diagonal(values, 0.0)
        rows[i] += values.sum(1)
        squares += float(np.vdot(values, values))
        for j in blocks(len(x_nd), block):
            if j.start > i.start:
                values = kernel(x, double(x_nd[j]))
                rows[i] += values.sum(1)
                rows[j] += values.sum(0)
                squares += 2.0 * float(np.vdot(values, values))
    return WithinSums(rows, squares, diagonal)


def cross_sums(x_nd: Rows, y_md: Rows, kernel: Kernel, block: int = BLOCK) -> CrossSums:
    """Sums over the pairs of two sets."""
    rows, columns, squares = np.zeros(len(x_nd)), np.zeros(len(y_md)), 0.0
    for i in blocks(len(x_nd), block):
        x = double(x_nd[i])
        for j in blocks(len(y_md), block):
            values = kernel(x, double(y_md[j]))
            rows[i] += values.sum(1)
            columns[j] += values.sum(0)
            squares += float(np.vdot(values, values))
    return CrossSums(rows, columns, squares)


def _variance(xx: WithinSums, yy: WithinSums, xy: CrossSums) -> float:
    """The variance of the unbiased estimate, all terms of Hoeffding's decomposition."""
    n, m = len(xx.rows), len(yy.rows)
    tau_xx, tau_yy = _residual_within(xx), _residual_within(yy)
    tau_xy = _residual_cross(xy)
    first_x = _first_order(xx.rows / (n - 1) - xy.rows / m, tau_xx / (n - 1) + tau_xy / m)
    first_y = _first_order(yy.rows / (m - 1) - xy.columns / n, tau_yy / (m - 1) + tau_xy / n)
    second = 2.0 * tau_xx / (n * (n - 1)) + 2.0 * tau_yy / (m * (m - 1)) + 4.0 * tau_xy / (n * m)
    return 4.0 * first_x / n + 4.0 * first_y / m + second


def _first_order(projection: Vector, noise: float) -> float:
    """Var g from the row means less their noise, never below zero."""
    return max(0.0, float(projection.var(ddof=1)) - noise)


def _residual_within(sums: WithinSums) -> float:
    """τ² of one set: Var k − 2 Var a, where the variance of the row means is Var a + τ²/(n − 1)."""
    n = len(sums.rows)
    pairs = n * (n - 1)
    spread = sums.squares / pairs - (sums.rows.sum() / pairs) ** 2
    left = spread - 2.0 * float((sums.rows / (n - 1)).var(ddof=1))
    return max(0.0, left / (1.0 - 2.0 / (n - 1)))


def _residual_cross(sums: CrossSums) -> float:
    """τ² of two sets: Var k − Var b − Var c, and the row means hold a share 1/m and 1/n of it as noise."""
    n, m = len(sums.rows), len(sums.columns)
    spread = sums.squares / (n * m) - (sums.rows.sum() / (n * m)) ** 2
    left = spread - float((sums.rows / m).var(ddof=1)) - float((sums.columns / n).var(ddof=1))
    return max(0.0, left / (1.0 - 1.0 / n - 1.0 / m))


def _unit(x_nd: Rows, name: str) -> Rows:
    lengths = np.linalg.norm(double(x_nd), axis=1, keepdims=True)
    if not lengths.all():
        raise ValueError(f"a {name} row is zero and has no direction: check the images and the network.")
    return rows_of(x_nd / lengths, name)
