"""UniPC (Zhao et al. 2023, 2302.04867): a multistep predictor whose error the next evaluation corrects.

In half log-SNR l, with h the step, x̂_k the past predictions of x_0 at r_k = (l_k − l_t)/h and D_k = (x̂_k −
x̂_0)/r_k,

    x_s = (σ_s/σ_t) x − α_s (e^{−h} − 1) x̂_0 − α_s B Σ ρ_k D_k

ρ matches the Taylor expansion of the exact integral (eq. 4 and 9 of the source). The corrector takes the
same step once more with the prediction at s, r = 1, among the D_k, at no evaluation of its own. B = −h is
`bh1`, B = e^{−h} − 1 is `bh2`. Orders go down to 1 at s = 0, where x_s = x̂_0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from models.gaussian_path import GaussianPath
from models.samplers.dpm_solver import half_log_snr
from models.samplers.tape import Tape, Vector


class _Known(NamedTuple):
    """A prediction of x_0 and the half log-SNR where it was made."""

    place: float
    x0: Vector


def unipc(
    x: Vector, denoise: Tape, grid: Sequence[float], *, order: int = 2, variant: str = "bh2"
) -> Iterator[Vector]:
    """One network evaluation a step; the yielded states are predicted, their correction starts the next."""
    path, steps = denoise.path, len(grid) - 1
    past: list[_Known] = []
    base, used = x, 1
    for index, (t, s) in enumerate(pairwise(grid)):
        now = _Known(half_log_snr(path, t), denoise.keep(denoise(x, t).x0))
        if past:
            base = _step(path, grid[index - 1], t, base, past[:used], now, variant)
        base, past = denoise.keep(base), [now, *past][: max(order, 1)]
        used = min(order, index + 1, steps - index)
        x = _step(path, t, s, base, past[:used], None, variant)
        yield x


def _step(
    path: GaussianPath,
    t: float,
    s: float,
    x: Vector,
    past: Sequence[_Known],
    now: _Known | None,
    variant: str,
) -> Vector:
    """From t to s with past predictions, the newest first; corrected where `now`, that at s, is given."""
    h, (first, *others) = half_log_snr(path, s) - half_log_snr(path, t), past
    x = path.sigma(s) / path.sigma(t) * x - path.alpha(s) * math.expm1(-h) * first.x0
    known = [*others] if now is None else [*others, now]
    if not known:
        return x
    ratios = [(each.place - first.place) / h for each in known]
    factor = -h if variant == "bh1" else math.expm1(-h)
    weights = _weights(ratios, h, factor)
    for rho, r, each in zip(weights, ratios, known, strict=True):
        x = x - path.alpha(s) * factor * rho / r * (each.x0 - first.x0)
    return x


def _weights(ratios: Sequence[float], h: float, factor: float) -> list[float]:
    """ρ of Σ_k ρ_k r_k^{m−1} = m! φ_{m+1}(−h)·(−h)^m/(−h·B)…, m = 1 … K; one alone is ½, as in the source."""
    if len(ratios) == 1:
        return [0.5]
    phi, wanted = math.expm1(-h) / -h - 1.0, []
    for m in range(1, len(ratios) + 1):
        wanted.append(phi * math.factorial(m) / factor)
        phi = phi / -h - 1.0 / math.factorial(m + 1)
    powers = np.vander(np.asarray(ratios), increasing=True).T
    return [float(rho) for rho in np.linalg.solve(powers, np.asarray(wanted))]
