"""Diversity within prompts: how different are several images that one prompt was given?

Fidelity to a prompt can be had by drawing one image again and again. Two figures of the rows of one prompt,
each averaged over prompts:

    distance = mean over pairs i < j of |x_i − x_j|
    Vendi    = exp(−Σ λ log λ), λ the eigenvalues of K/n, K_ij = cos(x_i, x_j)

The first is customary with perceptual distances (Zhu et al. 2017, 1711.11586); here it is Euclidean in the
space of the features. The Vendi score (Friedman and Dieng 2023, 2210.02410) is the effective number of
different images: 1 for copies of one, n for n orthogonal ones. It grows with n, so all prompts must have as
many images. Prompts are what varies, so errors are the spread over prompts.

Shapes: n rows of one prompt, P prompts, d dimensions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.metrics.estimate import Estimate, normal_estimate
from bench.metrics.neighbours import direct_squares
from bench.metrics.rows import Doubles, double, rows_of


@dataclass(frozen=True)
class PromptDiversity:
    """Both means over P prompts of `images` images each; per_prompt is (P, 2), distance and Vendi score."""

    distance: Estimate
    vendi: Estimate
    images: int
    prompts: tuple[Any, ...]
    per_prompt: NDArray[np.float64]


def prompt_diversity(features: Any, prompts: Any) -> PromptDiversity:
    """Diversity of the rows of every prompt; `prompts` holds one label (number or text) a row."""
    x = double(rows_of(features, "generated"))
    labels = np.asarray(prompts.detach().cpu().numpy() if hasattr(prompts, "detach") else prompts)
    if labels.shape != (len(x),):
        raise ValueError(f"{len(x)} rows need one prompt each, and the prompts are {labels.shape}.")
    names, counts = np.unique(labels, return_counts=True)
    if len(names) < 2:
        raise ValueError("there is only one prompt, and the error is the spread over prompts: give several.")
    if counts.min() < 2 or counts.min() != counts.max():
        raise ValueError(
            f"prompts have from {counts.min()} to {counts.max()} images: generate equally many, 2 or more, "
            "for each, because diversity grows with their number."
        )
    figures = np.array([(mean_distance(x[labels == name]), vendi_score(x[labels == name])) for name in names])
    tail = f"[{counts[0]} images of each of {len(names)} prompts, error over prompts]"
    errors = figures.std(0, ddof=1) / math.sqrt(len(names))
    distance, vendi = (
        normal_estimate(float(value), float(error), len(x), f"{name} within prompts {tail}")
        for name, value, error in zip(("mean distance", "Vendi score"), figures.mean(0), errors, strict=True)
    )
    return PromptDiversity(distance, vendi, int(counts[0]), tuple(names.tolist()), figures)


def mean_distance(features: Any) -> float:
    """Mean distance of pairs of different rows, by direct difference: 0 for copies."""
    x = double(rows_of(features, "generated"))
    total = sum(float(np.sqrt(direct_squares(row, x[i + 1 :])).sum()) for i, row in enumerate(x[:-1]))
    return total / (len(x) * (len(x) - 1) / 2)


def vendi_score(features: Any) -> float:
    """The Vendi score with the cosine kernel, from the smaller of the (n, n) and (d, d) matrices."""
    x = _unit(double(rows_of(features, "generated")))
    gram = x @ x.T if len(x) <= x.shape[1] else x.T @ x
    shares = np.linalg.eigvalsh(gram / len(x))
    shares = shares[shares > 0]
    return float(math.exp(-(shares * np.log(shares)).sum()))


def _unit(x_nd: Doubles) -> Doubles:
    lengths = np.linalg.norm(x_nd, axis=1, keepdims=True)
    if not lengths.all():
        raise ValueError("a generated row is zero and has no direction: check the images and the network.")
    return np.asarray(x_nd / lengths)
