"""The sliced Wasserstein distance: how far sorted projections on random directions are apart.

    SW² = E_θ ∫₀¹ (F_θ⁻¹(u) − G_θ⁻¹(u))² du,   θ uniform on the sphere

(Rabin et al. 2011; Bonneel et al. 2015). It is the square, as the Fréchet distance is: a mean shift δ in d
dimensions counts |δ|²/d. Two errors are kept apart. Over directions: the spread of the mean of L independent
directions, which more directions remove. Over samples: the delta method with the Kantorovich potentials φ_θ
of every direction, averaged over directions before their variance is taken, because all directions see the
same images,

    Var = Var(φ̄(X))/n + Var(ψ̄(Y))/m,    φ_θ′(x) = 2(x − T_θ(x)),  ψ_θ′(y) = 2(y − T_θ⁻¹(y))

(del Barrio and Loubes 2019, 1705.01299). The interval is that of the value at this n and m, which is biased
upwards, by about c/n.

Shapes: n generated and m real rows, d dimensions, L directions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from bench.metrics.estimate import Z95, Estimate
from bench.metrics.rows import Doubles, double, pair_of_rows

Indices = NDArray[np.int64]

AT_ONCE = 32
"""Directions that are projected together."""


@dataclass(frozen=True)
class SlicedWasserstein(Estimate):
    """The squared distance; `standard_error` joins the two that follow it."""

    m: int
    directions: int
    direction_error: float
    sample_error: float


@dataclass(frozen=True)
class Coupling:
    """The monotone plan between n and m equal masses: step s moves `mass[s]` from x_(i[s]) to y_(j[s])."""

    i: Indices
    j: Indices
    mass: NDArray[np.float64]

    @classmethod
    def of(cls, n: int, m: int) -> Coupling:
        """n + m − 1 steps at most; quantiles are compared as whole numbers, so none is lost to rounding."""
        ends = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)
        starts = np.concatenate([[0], ends[:-1]])
        return cls(starts // m, starts // n, (ends - starts) / (n * m))


def sliced_wasserstein(
    generated: Any, real: Any, *, directions: int = 512, seed: int = 0
) -> SlicedWasserstein:
    """The squared distance over `directions` directions drawn from `seed`, with both errors."""
    x, y = map(double, pair_of_rows(generated, real))
    if directions < 2:
        raise ValueError(f"an error over directions needs at least 2 of them, not {directions}.")
    axes_Ld = unit_directions(directions, x.shape[1], seed)
    plan = Coupling.of(len(x), len(y))
    distances, phi, psi = np.empty(directions), np.zeros(len(x)), np.zeros(len(y))
    for start in range(0, directions, AT_ONCE):
        axes = axes_Ld[start : start + AT_ONCE]
        for offset, (a, b) in enumerate(zip((x @ axes.T).T, (y @ axes.T).T, strict=True)):
            distances[start + offset] = _add_potentials(a, b, plan, phi, psi)
    value = float(distances.mean())
    over_directions = float(distances.std(ddof=1)) / math.sqrt(directions)
    spread = phi.var(ddof=1) / len(x) + psi.var(ddof=1) / len(y)
    over_samples = math.sqrt(spread) / directions
    error = math.hypot(over_directions, over_samples)
    # Few directions know their own spread badly: Student's t for their part.
    half = math.hypot(float(stdtrit(directions - 1, 0.975)) * over_directions, Z95 * over_samples)
    protocol = f"SW² [{directions} directions, seed {seed}, generated n={len(x)}, real n={len(y)}]"
    return SlicedWasserstein(
        value=value,
        standard_error=error,
        low=max(0.0, value - half),
        high=value + half,
        n=len(x),
        protocol=protocol,
        m=len(y),
        directions=directions,
        direction_error=over_directions,
        sample_error=over_samples,
    )


def unit_directions(count: int, d: int, seed: int) -> Doubles:
    """Directions (count, d), uniform on the sphere; the first ones do not depend on how many follow."""
    axes = np.random.default_rng(seed).normal(size=(count, d))
    return np.asarray(axes / np.linalg.norm(axes, axis=1, keepdims=True))


def _add_potentials(
    a_n: NDArray[np.float64],
    b_m: NDArray[np.float64],
    plan: Coupling,
    phi: NDArray[np.float64],
    psi: NDArray[np.float64],
) -> float:
    """The squared distance on one direction; the potentials at every row are added to phi and psi."""
    order_a, order_b = np.argsort(a_n, kind="stable"), np.argsort(b_m, kind="stable")
    a, b = a_n[order_a], b_m[order_b]
    moved_a, moved_b = plan.mass * b[plan.j], plan.mass * a[plan.i]
    phi[order_a] += _potential(a, len(a) * np.bincount(plan.i, moved_a))
    psi[order_b] += _potential(b, len(b) * np.bincount(plan.j, moved_b))
    return float((plan.mass * (a[plan.i] - b[plan.j]) ** 2).sum())


def _potential(points: NDArray[np.float64], images: NDArray[Any]) -> NDArray[np.float64]:
    """∫ 2(t − T(t)) dt by trapezia, at sorted points with T known there, zero at the first."""
    slope = points - images
    return np.concatenate([[0.0], np.cumsum(np.diff(points) * (slope[1:] + slope[:-1]))])
