"""Which samplers there are, without importing them: names, options, order, cost.

`ls` and the validation of a suite need no more than this, so nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from models import grids
from models.names import unknown
from models.options import Choice, Interval, Option, changed, text
from models.options import check as check_options


@dataclass(frozen=True)
class Entry:
    """One sampler.

    function     where it lives, `module:name` under `models.samplers`
    evaluations  network evaluations of N steps, as a formula for people; the harness counts them itself
    order        of its global error on the probability flow; None: it samples a law, not a flow
    noisy        whether it draws noise on the way, or the option that makes it where above 0
    native_grid  the grid that its authors use it on
    fixed        keywords of the function that make it this sampler
    adaptive     chooses its own steps, so that it takes tolerances in place of N
    """

    name: str
    function: str
    summary: str
    evaluations: str
    order: int | None
    native_grid: str
    noisy: bool | str = False
    options: Mapping[str, Option] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    adaptive: bool = False

    def value(self, option: str, options: Mapping[str, Any]) -> Any:
        """What an option is set to, or its default."""
        return options.get(option, self.options[option].default)

    def stochastic(self, options: Mapping[str, Any]) -> bool:
        """Whether it draws noise on the way, with these options."""
        return self.noisy if isinstance(self.noisy, bool) else bool(self.value(self.noisy, options) > 0)


_ETA = Interval(1.0, 0.0, 1.0)
_TOLERANCE = Interval(1e-5, 1e-12, 1.0)
_SDE: dict[str, Option] = {
    "diffusion": Choice(
        "sigma", ("sigma", "constant", "linear", "decreasing", "increasing-decreasing", "sbdm")
    ),
    "scale": Interval(1.0, 0.0, 100.0),
}
_CHURN: dict[str, Option] = {
    "churn": Interval(0.0, 0.0, 1000.0),
    "churn_min": Interval(0.05, 0.0, 100.0),
    "churn_max": Interval(50.0, 0.0, 100.0),
    "churn_noise": Interval(1.0, 0.5, 2.0),
}

_ALL = (
    Entry(
        "ddpm",
        "ddpm:ddpm",
        "ancestral sampling from the path's posterior (Ho et al. 2020)",
        "N",
        None,
        "leading",
        True,
        {"variance": Choice("small", ("small", "large", "learned"))},
    ),
    Entry(
        "ddim",
        "ddim:ddim",
        "deterministic at eta = 0, ancestral at eta = 1 (Song et al. 2021)",
        "N",
        1,
        "leading",
        "eta",
        {"eta": Interval(0.0, 0.0, 1.0)},
    ),
    Entry(
        "euler-ancestral",
        "ddim:ddim",
        "DDIM with noise, as Euler's method in σ/α is called then",
        "N",
        None,
        "karras",
        "eta",
        {"eta": _ETA},
    ),
    Entry("euler", "runge_kutta:euler", "probability flow in the path's time", "N", 1, "uniform"),
    Entry(
        "heun",
        "runge_kutta:heun",
        "probability flow in the path's time, last step Euler's",
        "2N − 1",
        2,
        "uniform",
    ),
    Entry("midpoint", "runge_kutta:midpoint", "probability flow in the path's time", "2N", 2, "uniform"),
    Entry("rk4", "runge_kutta:rk4", "the same, last step Ralston's third-order one", "4N − 1", 4, "uniform"),
    Entry(
        "dopri5",
        "dopri5:dopri5",
        "adaptive steps in σ/α, the error of the worst image within tolerance (Dormand & Prince 1980)",
        "by tolerance",
        5,
        "shared",
        options={"rtol": _TOLERANCE, "atol": _TOLERANCE},
        adaptive=True,
    ),
    *(
        Entry(
            name,
            f"dpm_solver:{'singlestep' if name.endswith('s') else 'multistep'}",
            f"DPM-Solver++, {what} (Lu et al. 2022)",
            evaluations,
            order,
            "log-snr",
            options={"curvature": Choice("exact", ("exact", "published"))} if name == "dpmpp-3m" else {},
            fixed={"order": order},
        )
        for name, what, evaluations, order in (
            ("dpmpp-1", "order 1, which is DDIM", "N", 1),
            ("dpmpp-2m", "multistep, order 2", "N", 2),
            ("dpmpp-3m", "multistep, order 3", "N", 3),
            ("dpmpp-2s", "singlestep, order 2", "2N − 1", 2),
            ("dpmpp-3s", "singlestep, order 3", "3N − 2", 3),
        )
    ),
    Entry(
        "dpmpp-2m-sde",
        "dpm_solver:sde",
        "DPM-Solver++ for the reverse SDE, multistep (Lu et al. 2022)",
        "N",
        None,
        "karras",
        "eta",
        {"eta": _ETA, "solver": Choice("midpoint", ("midpoint", "heun"))},
    ),
    Entry(
        "deis",
        "multistep:deis",
        "Adams–Bashforth with polynomials in ln σ/α (Zhang & Chen 2022)",
        "N",
        2,
        "uniform",
        options={"order": Choice(2, (1, 2, 3))},
    ),
    Entry(
        "lms",
        "multistep:lms",
        "Adams–Bashforth with polynomials in σ/α",
        "N",
        4,
        "karras",
        options={"order": Choice(4, (1, 2, 3, 4))},
    ),
    Entry(
        "unipc",
        "unipc:unipc",
        "predictor and corrector without evaluations of its own (Zhao et al. 2023)",
        "N",
        3,
        "log-snr",
        options={"order": Choice(2, (1, 2, 3)), "variant": Choice("bh2", ("bh1", "bh2"))},
    ),
    Entry(
        "edm",
        "edm:edm",
        "Heun in σ/α, with churn a stochastic sampler (Karras et al. 2022)",
        "2N − 1",
        2,
        "edm",
        "churn",
        _CHURN,
    ),
    Entry(
        "sde-euler",
        "interpolant:sde_euler",
        "Euler–Maruyama on the reverse SDE of an interpolant (Ma et al. 2024)",
        "N",
        None,
        "uniform",
        "scale",
        _SDE,
    ),
    Entry(
        "sde-heun",
        "interpolant:sde_heun",
        "noise, then Heun's step of the same SDE",
        "2N − 1",
        None,
        "uniform",
        "scale",
        _SDE,
    ),
)

ENTRIES = {entry.name: entry for entry in _ALL}


def names() -> tuple[str, ...]:
    """All samplers."""
    return tuple(ENTRIES)


def check(
    name: str, options: Mapping[str, object], grid: str | grids.Grid = "shared", steps: int | None = 1
) -> None:
    """Refuse an unknown sampler, option, value or grid with one sentence that names the nearest."""
    if name not in ENTRIES:
        raise ValueError(unknown("sampler", name, ENTRIES))
    entry = ENTRIES[name]
    check_options(f"sampler {name}", options, entry.options)
    if entry.adaptive and steps not in (None, 1):
        raise ValueError(f"Sampler {name} chooses its own steps: leave steps out and set rtol and atol.")
    if not entry.adaptive and steps is None:
        raise ValueError(f"Sampler {name} needs a number of steps.")
    grids.check(grid, 1 if steps is None else steps)


def describe(name: str, options: Mapping[str, Any]) -> str:
    """The options that differ from their defaults, `eta=1, order=3`, in the order of the catalogue."""
    given = changed(options, ENTRIES[name].options)
    return ", ".join(f"{option}={text(value)}" for option, value in given.items())
