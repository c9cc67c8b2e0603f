"""Which grids there are: names, formulas, options. Nothing here imports torch, for `ls` and `--help`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from models.grids import spacing
from models.grids.spacing import TIMESTEPS, GridTimes
from models.options import Interval, Option


@dataclass(frozen=True)
class Entry:
    """One grid.

    function  called with path, steps and the options by name
    most      the largest number of steps; None: any
    by_shape  whether it needs the shape of what is sampled too
    """

    name: str
    summary: str
    function: Callable[..., GridTimes]
    options: Mapping[str, Option] = field(default_factory=dict)
    most: int | None = None
    by_shape: bool = False


_RHO, _FINEST, _WIDEST = Interval(7.0, 1.0, 100.0), Interval(0.002, 1e-5, 0.5), Interval(80.0, 1.0, 148.0)

GRIDS = {
    entry.name: entry
    for entry in (
        Entry("shared", "the same noise on every path: equal steps of u = σ/(α + σ)", spacing.shared),
        Entry("uniform", "equal steps of the path's own time t", spacing.uniform),
        Entry("leading", "k⌊1000/N⌋ of 1000 timesteps", spacing.leading, most=TIMESTEPS),
        Entry("trailing", "round(1000 k/N) − 1 of 1000 timesteps", spacing.trailing, most=TIMESTEPS),
        Entry("linspace", "round(999 k/(N − 1)) of 1000 timesteps", spacing.linspace, most=TIMESTEPS),
        Entry(
            "log-snr",
            "equal steps of log-SNR, −10 to end",
            spacing.log_snr,
            {"end": Interval(10.0, -5.0, 30.0)},
        ),
        Entry(
            "karras",
            "equal steps of (σ/α)^(1/rho), e⁵ to sigma_min (Karras et al. 2022)",
            spacing.karras,
            {"rho": _RHO, "sigma_min": _FINEST},
        ),
        Entry(
            "edm",
            "karras from sigma_max, as published",
            spacing.karras,
            {"rho": _RHO, "sigma_min": _FINEST, "sigma_max": _WIDEST},
        ),
        Entry(
            "shifted",
            "u → k u/(1 + (k − 1) u), k = shift (Esser et al. 2024)",
            spacing.shifted,
            {"shift": Interval(3.0, 0.01, 100.0)},
        ),
        Entry(
            "resolution-shifted",
            "shifted by k = √(H·W/base)",
            spacing.resolution_shifted,
            {"base": Interval(1024.0, 1.0, 65536.0)},
            by_shape=True,
        ),
        Entry("native", "the sampler's own", spacing.native),
    )
}
