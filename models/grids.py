"""Noise grids: the times a sampler visits, t_0 > t_1 > … > t_N = 0, on the host in float64.

N steps are exactly N intervals. Every grid starts at the log-SNR −10 instead of t = 1, so that some data
is left (α > 0) and every prediction type is defined; the prior there is N(0, σ(t_0)²).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from models.names import unknown

if TYPE_CHECKING:
    from collections.abc import Callable

    from models.paths import GaussianPath

START_LOG_SNR = -10.0
"""Where grids start; just inside the linear-β path, whose noisiest log-SNR is −10.05."""

Grid = tuple[float, ...]


def shared(path: GaussianPath, steps: int) -> Grid:
    """The same noise levels on every path: those of equal steps on the straight line α = 1 − t, σ = t.

    λ_i = 2 ln((1 − u_i)/u_i), u_i = u_0 (1 − i/N), u_0 = 1/(1 + e⁻⁵); then t_i = t(λ_i), t_N = 0.
    """
    start = 1.0 / (1.0 + math.exp(0.5 * START_LOG_SNR))
    straight = [start * (steps - i) / steps for i in range(steps)]
    return (*(path.t_of_log_snr(2.0 * math.log((1.0 - u) / u)) for u in straight), 0.0)


def uniform(path: GaussianPath, steps: int) -> Grid:
    """Equal steps in the path's own time: t_i = t_0 (1 − i/N)."""
    start = path.t_of_log_snr(START_LOG_SNR)
    return tuple(start * (steps - i) / steps for i in range(steps + 1))


GRIDS: dict[str, Callable[[GaussianPath, int], Grid]] = {"shared": shared, "uniform": uniform}


def check(name: str, steps: int) -> None:
    """Refuse an unknown grid with the nearest name, and a number of steps below one."""
    if name not in GRIDS:
        raise ValueError(unknown("grid", name, GRIDS))
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"A grid needs a whole number of steps, one or more, and not {steps!r}.")


def grid(name: str, path: GaussianPath, steps: int) -> Grid:
    """The N + 1 times of a named grid on a path."""
    check(name, steps)
    return GRIDS[name](path, steps)
