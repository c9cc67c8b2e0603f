"""A Gaussian over the K levels of a pixel, with open ends, so that it sums to one exactly.

Level k stands at x_k = 2k/(K−1) − 1 and owns the interval x_k ± 1/(K−1); the outermost intervals reach to
infinity (Ho et al. 2020, 2006.11239, eq. 13). Uses the normal distribution function itself, in the tail
where it is accurate.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def log_interval(low: Tensor, high: Tensor) -> Tensor:
    """ln(Φ(high) − Φ(low)) for low < high, infinite ends allowed; evaluated in the lower tail."""
    mirrored = low + high > 0
    low, high = torch.where(mirrored, -high, low), torch.where(mirrored, -low, high)
    log_high = torch.special.log_ndtr(high)
    return log_high + torch.log(-torch.expm1(torch.special.log_ndtr(low) - log_high))


def discretised_gaussian_nats(pixels: Tensor, mean: Tensor, variance: Tensor, levels: int) -> Tensor:
    """−ln P(k | mean, variance) for each entry of integer `pixels`; float64, shapes broadcast."""
    if levels < 2:
        raise ValueError(f"A discretised Gaussian needs two or more levels, and not {levels}.")
    k, deviation = pixels.double(), variance.double().sqrt()
    edges = ((2.0 * k + side) / (levels - 1) - 1.0 for side in (-1.0, 1.0))
    low, high = ((edge - mean.double()) / deviation for edge in edges)
    low = torch.where(k == 0, -math.inf, low)
    high = torch.where(k == levels - 1, math.inf, high)
    return -log_interval(low, high)
