"""A reverse variance that the network says itself (Nichol & Dhariwal 2021, 2102.09672, eq. 15).

Shapes: any that broadcast; `extra` is what the network says beyond the channels of its prediction.
"""

from __future__ import annotations

import math

from torch import Tensor


def interpolated(extra: Tensor | None, small: Tensor | float, large: Tensor | float) -> Tensor:
    """exp(v ln large + (1 − v) ln small) with v = (extra + 1)/2, so that a network that says 0 is half way.

    v may leave [0, 1], as in the source; `small` and `large` are those of the step, see `models.posterior`.
    """
    return log_interpolated(extra, _log(small), _log(large)).exp()


def log_interpolated(extra: Tensor | None, log_small: Tensor | float, log_large: Tensor | float) -> Tensor:
    """The logarithm of the same, from logarithms."""
    if extra is None:
        raise ValueError(
            "This network learned no variance: use small or large, or train a model with variance: learned."
        )
    v = 0.5 * (extra + 1.0)
    return v * log_large + (1.0 - v) * log_small


def _log(value: Tensor | float) -> Tensor | float:
    return value.log() if isinstance(value, Tensor) else math.log(value)
