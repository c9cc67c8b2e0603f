"""tr (Σ_a Σ_b)^{1/2} of two covariances, by what is known of their ranks.

    Σ_a = L Lᵀ:                tr = Σ √λ(Lᵀ Σ_b L) = Σ σ(Lᵀ M)  with Σ_b = M Mᵀ

No root of a matrix that is not symmetric is taken, and no eigenvalue is imaginary. A factor is, first of
these that holds: the centred rows, L = Xᵀ/√(n−1), where there are at most d of them and they were kept
(their products have the rank that the covariance has, and not d − n eigenvalues of rounding, whose roots
are far above it); Cholesky's, where no pivot is lost in rounding; and eigenvectors above rounding.

Shapes: n rows, d feature dimensions, r rank.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from bench.metrics.moments import Moments

ROUNDING = 1e-9
NOT_COVARIANCE = (
    "a scatter is not symmetric with eigenvalues ≥ 0, so no features have it: compute the moments again."
)
_SQUARED = 1e-10
"""Eigenvalues of a Gram matrix below this share of the largest lost half their digits: use its factor."""


@dataclass(frozen=True)
class RootTrace:
    """The trace, and how its factors were made: `cholesky`, `centred-rows`, `rank-revealing`."""

    value: float
    method: str


def root_trace(a: Moments, b: Moments) -> RootTrace:
    """Of the covariances of two moments of the same dimensions."""
    if few(a) and few(b):
        product = a.centred @ b.centred.T  # type: ignore[union-attr]
        return RootTrace(nuclear_norm(product) / math.sqrt((a.n - 1) * (b.n - 1)), "centred-rows")
    if few(a) or few(b):
        rows, other = (a, b) if few(a) else (b, a)
        return RootTrace(_of_rows(_contrasts(rows), symmetric_covariance(other)), "centred-rows")
    return _of_covariances(symmetric_covariance(a), symmetric_covariance(b))


def few(moments: Moments) -> bool:
    """Whether there are at most d rows, and they are kept; a single one has no covariance."""
    if moments.n < 2:
        moments.covariance()
    return moments.centred is not None and moments.n <= moments.dims


def symmetric_covariance(moments: Moments) -> np.ndarray:
    """The covariance (d, d), refused where it is not symmetric or a variance is negative."""
    covariance = moments.covariance()
    scale = np.abs(covariance).max(initial=0.0)
    exactly = np.array_equal(covariance, covariance.T)
    if not exactly and np.abs(covariance - covariance.T).max(initial=0.0) > ROUNDING * scale:
        raise ValueError(NOT_COVARIANCE)
    if np.diag(covariance).min(initial=0.0) < -ROUNDING * scale:
        raise ValueError(NOT_COVARIANCE)
    return covariance


def nuclear_norm(product: np.ndarray) -> float:
    """Σ of the singular values."""
    return float(np.linalg.svd(product, compute_uv=False).sum())


def cholesky(covariance: np.ndarray) -> np.ndarray | None:
    """L with L Lᵀ = covariance, or nothing where it is not safely of full rank."""
    try:
        factor = np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:
        return None
    diagonal = np.diag(factor)
    # A pivot lost in rounding means the last columns are noise.
    return factor if diagonal.min() > 1e-7 * diagonal.max() else None


def spectral_factor(covariance: np.ndarray) -> np.ndarray:
    """L (d, r) with L Lᵀ = covariance, of its eigenvalues above rounding."""
    values, vectors = np.linalg.eigh(covariance)
    if values[0] < -ROUNDING * np.abs(values).max():
        raise ValueError(NOT_COVARIANCE)
    kept = values > values[-1] * len(values) * np.finfo(np.float64).eps
    return vectors[:, kept] * np.sqrt(values[kept])


def _contrasts(moments: Moments) -> np.ndarray:
    """Centred rows over √(n − 1), turned by Helmert's contrasts into n − 1 that say the same.

    Centred rows add to zero; without their null direction, products of them are of full rank.
    """
    centred = moments.centred
    assert centred is not None
    n = moments.n
    before = np.cumsum(centred, 0)[:-1]
    k = np.arange(1, n)[:, None]
    return (before - k * centred[1:]) / np.sqrt(k * (k + 1.0) * (n - 1))


def _of_rows(rows: np.ndarray, covariance: np.ndarray) -> float:
    """Σ √λ(R Σ Rᵀ) of few rows (r, d)."""
    spectrum = _checked(np.linalg.eigvalsh(rows @ covariance @ rows.T), rows, covariance)
    if spectrum[0] > _SQUARED * spectrum[-1]:
        return float(np.sqrt(spectrum).sum())
    factor = cholesky(covariance)
    return nuclear_norm(rows @ (spectral_factor(covariance) if factor is None else factor))


def _of_covariances(cov_a: np.ndarray, cov_b: np.ndarray) -> RootTrace:
    factor_a = cholesky(cov_a)
    spectrum = None if factor_a is None else np.linalg.eigvalsh(_lower_congruence(factor_a, cov_b))
    # Where no eigenvalue is near rounding, Σ_b is of full rank, and a factor of it would say nothing more.
    plain = spectrum is not None and spectrum[0] > _SQUARED * spectrum[-1]
    factor_b = None if plain else cholesky(cov_b)
    if factor_a is not None and spectrum is not None and (plain or factor_b is not None):
        spectrum = _checked(spectrum, factor_a, cov_b)
        return RootTrace(float(np.sqrt(np.clip(spectrum, 0.0, None)).sum()), "cholesky")
    if factor_a is None and factor_b is None:
        product = spectral_factor(cov_a).T @ spectral_factor(cov_b)
        return RootTrace(nuclear_norm(product) if product.size else 0.0, "rank-revealing")
    singular, sound = (cov_a, cov_b) if factor_a is None else (cov_b, cov_a)
    return RootTrace(_of_factor(spectral_factor(singular), sound), "rank-revealing")


def _of_factor(factor: np.ndarray, covariance: np.ndarray) -> float:
    """Σ √λ(Lᵀ Σ L)."""
    spectrum = _checked(np.linalg.eigvalsh(factor.T @ covariance @ factor), factor, covariance)
    return float(np.sqrt(np.clip(spectrum, 0.0, None)).sum())


def _lower_congruence(factor: np.ndarray, covariance: np.ndarray, blocks: int = 8) -> np.ndarray:
    """Lower triangle of Lᵀ Σ L with L lower triangular, without products by its zeros: 2/5 of the work.

    Above the diagonal blocks it holds zeros, which `eigvalsh` does not read.
    """
    d = len(factor)
    ends = [d * i // blocks for i in range(blocks + 1)]
    half, found = np.empty_like(covariance), np.zeros_like(covariance)
    for i, j in pairwise(ends):
        half[:, i:j] = covariance[:, i:] @ factor[i:, i:j]
    for i, j in pairwise(ends):
        found[i:j, :j] = factor[i:, i:j].T @ half[i:, :j]
    return found


def _checked(spectrum: np.ndarray, factor: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Rounding makes zeros slightly negative; more than that means Σ is no covariance."""
    scale = np.einsum("ij,ij->", factor, factor) * np.abs(np.diag(covariance)).sum()
    if spectrum.min(initial=0.0) < -ROUNDING * scale:
        raise ValueError(NOT_COVARIANCE)
    return spectrum
