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
    if extra is None:
        raise ValueError(
            "This network learned no variance: use small or large, or train a model with variance: learned."
        )
    v = 0.5 * (extra + 1.0)
    return (v * _log(large) + (1.0 - v) * _log(small)).exp()


def _log(value: Tensor | float) -> Tensor | float:
    return value.log() if isinstance(value, Tensor) else math.log(value)
