"""What each image does to the Fréchet distance: its influence values, by the Gaussian optimal-transport map.

    d² = |μ_a − μ_b|² + tr Σ_a + tr Σ_b − 2 tr (Σ_a Σ_b)^{1/2}
    ψ(x) = 2 (μ_a − μ_b)ᵀ(x − μ_a) + (x − μ_a)ᵀ(I − T)(x − μ_a) − tr (I − T) Σ_a

with T the map of a to b, T Σ_a T = Σ_b, since d tr (Σ_a Σ_b)^{1/2} = ½ tr T dΣ_a. With Σ_a = L Lᵀ and
Lᵀ Σ_b L = U Λ Uᵀ it is T = L⁻ᵀ U Λ^{1/2} Uᵀ L⁻¹ (Dowson and Landau 1982; Takatsu 2011). The mean of ψ over
the n images is the first-order error of d², so Var ψ / n is its variance: the delta method.

Shapes: n images, d feature dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.metrics.indexed_moments import IndexedMoments
from bench.metrics.moments import Moments
from bench.metrics.root_trace import cholesky, spectral_factor, symmetric_covariance

Rows = np.ndarray | Callable[[], Iterable[Any]]
"""Features (n, d), or what gives their batches, in order, each time it is called."""

BATCH = 4096


def batches(rows: Rows) -> Iterator[np.ndarray]:
    """The features in float64, one batch after another."""
    if callable(rows):
        for batch in rows():
            yield np.asarray(batch, np.float64)
        return
    for first in range(0, len(rows), BATCH):
        yield np.asarray(rows[first : first + BATCH], np.float64)


def moments_of(rows: Rows) -> Moments:
    """In one pass; centred rows are kept where there are at most d."""
    if not callable(rows) and len(rows) <= rows.shape[-1]:
        return Moments.of(rows)
    return IndexedMoments.of(batches(rows)).moments()


@dataclass(frozen=True)
class Influence:
    """ψ for the images of side a of d²(a, b).

    linear     2 (μ_a − μ_b), (d,)
    quadratic  I − T, (d, d)
    """

    mean: np.ndarray
    linear: np.ndarray
    quadratic: np.ndarray
    constant: float

    @classmethod
    def towards(cls, a: Moments, b: Moments) -> Influence:
        """Of images of a on the distance to b; a needs more images than dimensions."""
        if a.mean.shape != b.mean.shape:
            raise ValueError(
                f"features of {a.dims} and of {b.dims} dimensions cannot be compared: use one network."
            )
        if a.n <= a.dims:
            raise ValueError(
                f"{a.n} images in {a.dims} dimensions determine no transport map, so no standard error: "
                f"give more than {a.dims} images."
            )
        cov = symmetric_covariance(a)
        quadratic = np.eye(a.dims) - transport(cov, symmetric_covariance(b))
        return cls(a.mean, 2.0 * (a.mean - b.mean), quadratic, float(np.einsum("ij,ij->", quadratic, cov)))

    def values(self, rows: Rows) -> np.ndarray:
        """ψ of each image (n,), in one pass: squared distance units."""
        found = []
        for batch in batches(rows):
            x = batch - self.mean
            found.append(x @ self.linear + np.einsum("ij,ij->i", x @ self.quadratic, x) - self.constant)
        return np.concatenate(found) if found else np.zeros(0)


def transport(cov_a: np.ndarray, cov_b: np.ndarray) -> np.ndarray:
    """T (d, d) of the normal law of covariance a to that of b; where a is singular, on its range."""
    factor = cholesky(cov_a)
    if factor is None:
        factor = spectral_factor(cov_a)
        inverse = (factor / np.einsum("ij,ij->j", factor, factor)).T  # L⁺: columns of L are orthogonal
    else:
        inverse = np.linalg.inv(factor)
    values, vectors = np.linalg.eigh(factor.T @ cov_b @ factor)
    half = (inverse.T @ vectors) * np.clip(values, 0.0, None) ** 0.25
    return half @ half.T


def largest_contributions(values: np.ndarray, count: int = 16) -> list[tuple[int, float]]:
    """Indices and ψ of the images that raise the distance most, largest first; ties by index."""
    order = np.argsort(-values, kind="stable")[:count]
    return [(int(i), float(values[i])) for i in order]
