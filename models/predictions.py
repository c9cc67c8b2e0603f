"""What a network on a Gaussian path may predict, and how one prediction becomes another.

A prediction k is one linear combination k = p·x_0 + q·ε of what was mixed in x_t = α·x_0 + σ·ε, so the two
equations give, with the determinant Δ = α q − σ p,

    x_0 = (q x_t − σ k)/Δ        ε = (α k − p x_t)/Δ

and from these velocity = α'x_0 + σ'ε (the probability flow, dx/dt) and score = −ε/σ = ∇ ln p_t(x_t).
All conversions live here, as pairs of coefficients of x_t and of k.
Sources: Salimans & Ho 2022 (2202.00512) for v, Lipman et al. 2022 (2210.02747) for the velocity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from models.gaussian_path import GaussianPath
from models.names import unknown

PREDICTIONS = ("epsilon", "x0", "v", "velocity")
"""ε; x_0; v = αε − σx_0; velocity = α'x_0 + σ'ε."""

Scalar = Any
"""A float, or a tensor that broadcasts against x_t."""

Pair = tuple[Scalar, Scalar]
"""Coefficients of x_t and of the prediction."""


def check_prediction(kind: str) -> None:
    """Refuse an unknown prediction type, naming the nearest."""
    if kind not in PREDICTIONS:
        raise ValueError(unknown("prediction", kind, PREDICTIONS))


def combination(kind: str, path: GaussianPath, t: Scalar) -> tuple[Scalar, Scalar]:
    """(p, q) of the prediction k = p·x_0 + q·ε at time t."""
    check_prediction(kind)
    if kind == "epsilon":
        return 0.0 * t, 0.0 * t + 1.0
    if kind == "x0":
        return 0.0 * t + 1.0, 0.0 * t
    if kind == "v":
        return -path.sigma(t), path.alpha(t)
    return path.alpha_dot(t), path.sigma_dot(t)


def target(kind: str, path: GaussianPath, t: Scalar, x_0: Tensor, epsilon: Tensor) -> Tensor:
    """What a network that predicts `kind` should say."""
    p, q = combination(kind, path, t)
    return p * x_0 + q * epsilon


@dataclass(frozen=True)
class Conversion:
    """x_0 and ε as combinations of x_t and the prediction, at one time.

    x0, epsilon   coefficients of (x_t, k)
    alpha, sigma  of the path
    """

    x0: Pair
    epsilon: Pair
    alpha: Scalar
    sigma: Scalar


def conversion(kind: str, path: GaussianPath, t: Scalar) -> Conversion:
    """How x_0 and ε follow from a prediction; refused at a float time where they do not."""
    alpha, sigma = path.alpha(t), path.sigma(t)
    p, q = combination(kind, path, t)
    delta = alpha * q - sigma * p
    if not isinstance(t, Tensor) and delta == 0:
        raise ValueError(
            f"A prediction of {kind} says nothing about the rest of x_t at t = {t}: "
            "use a grid that avoids this time, or prediction v."
        )
    return Conversion((q / delta, -sigma / delta), (-p / delta, alpha / delta), alpha, sigma)
