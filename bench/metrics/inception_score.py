"""The Inception score: are images sharp for a classifier and varied over its classes?

    log IS = mean_i KL(p_i ‖ p̄) = H(p̄) − mean_i H(p_i),    p̄ = mean_i p_i

(Salimans et al. 2016, 1606.03498). It lies between 1 and the number of classes C. Nothing real enters: a
model that draws one perfect image of each class scores C (Barratt and Sharma 2018, 1801.01973).

Error by the delta method: the influence of image i on log IS is KL(p_i ‖ p̄) less its mean, the change of p̄
included, so SE(log IS) = sd(KL)/√n, and the interval is taken on the log scale. Bias: the entropy of a mean
of n is too low by about Σ_c Var(p_c)/(2n·p̄_c), so the score is too low, and ten splits of n/10 images, as is
customary, are biased ten times as much as the whole set.

Shapes: n images, C classes.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.metrics.estimate import Z95, Estimate
from bench.metrics.rows import Doubles, double, rows_of


@dataclass(frozen=True)
class InceptionScore(Estimate):
    """The score at n images; `log_bias` is that of log IS (negative), `debiased` the score without it."""

    log_bias: float
    debiased: float


@dataclass(frozen=True)
class SplitScore(Estimate):
    """Mean of the scores of equal splits, and the standard deviation over splits that papers print."""

    splits: int
    spread: float


def inception_score(*, logits: Any = None, probabilities: Any = None) -> InceptionScore:
    """The score of the whole set, exact, with its 95 % interval; give logits or probabilities."""
    p = _probabilities(logits, probabilities)
    n = len(p)
    divergences, mean = _divergences(p)
    log_score = float(divergences.mean())
    log_error = float(divergences.std(ddof=1)) / math.sqrt(n)
    seen = mean > 0
    log_bias = -float((p.var(0, ddof=1)[seen] / mean[seen]).sum()) / (2 * n)
    value = math.exp(log_score)
    return InceptionScore(
        value=value,
        standard_error=value * log_error,
        low=math.exp(log_score - Z95 * log_error),
        high=math.exp(log_score + Z95 * log_error),
        n=n,
        protocol=f"IS [whole set, n={n}, {p.shape[1]} classes, delta method]",
        log_bias=log_bias,
        debiased=math.exp(log_score - log_bias),
    )


def split_inception_score(splits: int = 10, *, logits: Any = None, probabilities: Any = None) -> SplitScore:
    """The customary mean over consecutive splits, in the order given: shuffle first where order has meaning.

    The error is that of the mean of splits as they are, spread/√(splits − 1); it does not see their bias.
    """
    p = _probabilities(logits, probabilities)
    if not 2 <= splits <= len(p) // 2:
        raise ValueError(
            f"{len(p)} images cannot be split {splits} times: take from 2 to {len(p) // 2} "
            "splits, or the score of the whole."
        )
    edges = [i * len(p) // splits for i in range(splits + 1)]
    scores = np.array([math.exp(_divergences(p[a:b])[0].mean()) for a, b in itertools.pairwise(edges)])
    value, spread = float(scores.mean()), float(scores.std())
    error = spread / math.sqrt(splits - 1)
    half = Z95 * error
    protocol = f"IS [{splits} splits of n={len(p)}, {p.shape[1]} classes, error over splits]"
    return SplitScore(value, error, value - half, value + half, len(p), protocol, splits, spread)


def _divergences(p_nC: Doubles) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """KL(p_i ‖ p̄) of every image, with 0·log 0 = 0, and p̄."""
    mean = p_nC.mean(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(p_nC > 0, p_nC * (np.log(p_nC) - np.log(mean)), 0.0)
    return terms.sum(1), mean


def _probabilities(logits: Any, probabilities: Any) -> Doubles:
    if (logits is None) == (probabilities is None):
        raise ValueError("an Inception score needs logits or probabilities, one of the two.")
    if logits is not None:
        rows = double(rows_of(logits, "logit"))
        rows = np.exp(rows - rows.max(1, keepdims=True))
        return np.asarray(rows / rows.sum(1, keepdims=True))
    rows = double(rows_of(probabilities, "probability"))
    if rows.min() < 0 or np.abs(rows.sum(1) - 1).max() > 1e-3:
        raise ValueError(
            "probabilities must be at least 0 and sum to 1 in every row: pass logits=… if they are logits."
        )
    return rows / rows.sum(1, keepdims=True)
