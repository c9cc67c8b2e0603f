"""Schedulers of diffusers, driven as its pipelines drive them: scale the input, ask the network, step.

A scheduler keeps its place within itself, so each run starts with `set_timesteps`, which is not timed. Its
grid is read from it: ours runs on the noise levels that the scheduler really has.

VP states are those of our VP paths; schedulers of the Euler family keep x/α, which is our path `edm`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from bench.peers.pairing import Network, Pairing, Peer
from models.gaussian_path import GaussianPath
from models.paths import ExplodingPath, LinearVPPath, RectifiedFlowPath

VP, VE, FLOW = LinearVPPath(), ExplodingPath(160.0), RectifiedFlowPath()
EPSILON_AT_VP = (VP, "epsilon")


def times_of(path: GaussianPath, levels: Iterable[float]) -> tuple[float, ...]:
    """Times on a path where σ/α is as given; 0 where it is 0."""
    return tuple(path.t_of_log_snr(-2.0 * math.log(level)) if level > 0 else 0.0 for level in levels)


class Scheduler:
    """A scheduler as a sampler.

    levels  σ/α of its grid, in the scheduler's own precision
    called  the times of the network's calls; the scheduler's own timesteps may be rounded
    """

    def __init__(
        self, scheduler: Any, path: GaussianPath, settings: dict[str, Any], noise: str = "", **keywords: Any
    ) -> None:
        self.scheduler, self._settings, self._noise, self._keywords = scheduler, settings, noise, keywords
        scheduler.set_timesteps(**settings)
        self._scaled = hasattr(scheduler, "scale_model_input")
        self.levels = levels(scheduler)
        if isinstance(path, RectifiedFlowPath):
            called: tuple[float, ...] = self.levels
        else:
            called = times_of(VP, self.levels)
        self._called = called[: len(scheduler.timesteps)]
        on_path = self.levels if path is FLOW else times_of(path, self.levels)
        self.times = tuple(dict.fromkeys(on_path))  # Heun's has each level twice

    def reset(self, x: Tensor, seed: int) -> None:
        """Start again; noise comes from the scheduler's documented generator."""
        self.scheduler.set_timesteps(**self._settings)
        self._rows = [torch.full((len(x),), t, dtype=x.dtype) for t in self._called]
        if self._noise:
            self._keywords[self._noise] = torch.Generator().manual_seed(seed)

    def __call__(self, network: Network, x: Tensor) -> Tensor:
        scheduler, keywords = self.scheduler, self._keywords
        for timestep, t_B in zip(scheduler.timesteps, self._rows, strict=True):
            given = scheduler.scale_model_input(x, timestep) if self._scaled else x
            said = network(given, t_B)
            x = scheduler.step(said, timestep, x, return_dict=False, **keywords)[0]
        return x


def levels(scheduler: Any) -> tuple[float, ...]:
    """σ/α of each timestep and of the end."""
    if hasattr(scheduler, "sigmas"):
        return tuple(float(sigma) for sigma in scheduler.sigmas)
    kept = [float(scheduler.alphas_cumprod[int(timestep)]) for timestep in scheduler.timesteps]
    return (*(((1.0 - a) / a) ** 0.5 for a in kept), 0.0)


class Announced(Scheduler):
    """A scheduler that is wrong, compared on the grid that it should have used."""

    def __init__(self, *arguments: Any, announced: Sequence[float], **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.times = tuple(announced)


def make(name: str, **options: Any) -> Any:
    """A scheduler by the name of its class."""
    import diffusers

    if name in ("DDIMScheduler", "DDPMScheduler"):
        options["clip_sample"] = False
    return getattr(diffusers, name)(**options)


def pairing(
    name: str,
    said: str,
    ours: str,
    path: GaussianPath,
    *,
    options: dict[str, Any] | None = None,
    noise: str = "",
    scheduler: dict[str, Any] | None = None,
    keywords: dict[str, Any] | None = None,
    **rest: Any,
) -> Pairing:
    """A scheduler and ours.

    name, said  its class, and the rest of what the row calls it
    noise       the keyword of its step that takes a generator, where it draws noise
    scheduler   options of its class; `keywords` those of its step
    """

    def build(steps: int) -> Peer:
        settings = {"num_inference_steps": steps}
        return Scheduler(make(name, **(scheduler or {})), path, settings, noise, **(keywords or {}))

    prediction = "velocity" if path is FLOW else "epsilon"
    theirs = f"{name} {said}".strip()
    own = EPSILON_AT_VP if path is VE else None
    return Pairing(
        "diffusers", theirs, build, ours, path, prediction, options or {}, their_network=own, **rest
    )


def _wrong_ddim(steps: int) -> Peer:
    scheduler = make("DDIMScheduler", timestep_spacing="linspace")
    return Scheduler(scheduler, VP, {"num_inference_steps": steps})


def _wrong_trailing(steps: int) -> Peer:
    """Its first N timesteps and the end, which is what trailing means; for N = 61 it has one more."""
    scheduler = make("DDIMScheduler", timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    kept = [float(scheduler.alphas_cumprod[int(i)]) for i in scheduler.timesteps[:steps]]
    announced = (*times_of(VP, (((1.0 - a) / a) ** 0.5 for a in kept)), 0.0)
    return Announced(scheduler, VP, {"num_inference_steps": steps}, announced=announced)


def _wrong_shift(steps: int, shift: float = 3.0) -> Peer:
    """Once shifted, as Esser et al. 2024 have it: equal steps of u from 1 to 1/1000, then u ← 3u/(1 + 2u)."""
    scheduler = make("FlowMatchEulerDiscreteScheduler", shift=shift)
    equal = [1.0 - (1.0 - 1e-3) * i / (steps - 1) for i in range(steps)]
    announced = (*(shift * u / (1.0 + (shift - 1.0) * u) for u in equal), 0.0)
    return Announced(scheduler, FLOW, {"num_inference_steps": steps}, announced=announced)


def _wrong_large(steps: int) -> Peer:
    scheduler = make("DDPMScheduler", timestep_spacing="trailing", variance_type="fixed_large")
    return Scheduler(scheduler, VP, {"num_inference_steps": steps}, "generator")


def _defects() -> tuple[Pairing, ...]:
    def wrong(theirs: str, build: Any, ours: str, path: GaussianPath, defect: str, **rest: Any) -> Pairing:
        prediction = "velocity" if path is FLOW else "epsilon"
        return Pairing("diffusers", theirs, build, ours, path, prediction, defect=defect, **rest)

    return (
        wrong(
            "DDIMScheduler linspace",
            _wrong_ddim,
            "ddim",
            VP,
            "steps by 1000 // N timesteps, off the grid it announces (#9261)",
        ),
        wrong(
            "DDIMScheduler trailing, N=61",
            _wrong_trailing,
            "ddim",
            VP,
            "one timestep too many, the last −1, which is the noisiest",
            steps=61,
        ),
        wrong(
            "DDPMScheduler fixed_large trailing",
            _wrong_large,
            "ddpm",
            VP,
            "leaves noise in the end: it draws where t > 0 and not until the last step",
            options={"variance": "large"},
        ),
        wrong(
            "FlowMatchEulerDiscreteScheduler shift=3",
            _wrong_shift,
            "euler",
            FLOW,
            "shifts its lowest level twice (#13243)",
        ),
        pairing(
            "DPMSolverMultistepScheduler",
            "order 3, N=12",
            "dpmpp-3m",
            VP,
            scheduler={"solver_order": 3},
            defect="weighs D₂, which is half of the second derivative, as all of it: its order is 2",
            steps=12,  # from 15 on its orders towards the end differ too
        ),
        pairing(
            "UniPCMultistepScheduler",
            "order 2 bh1",
            "unipc",
            VP,
            scheduler={"solver_type": "bh1"},
            options={"variant": "bh1"},
            defect="B = −h is infinite in its last step, to σ = 0",
        ),
    )


def pairings() -> tuple[Pairing, ...]:
    """Every scheduler that has a counterpart here; nothing is imported yet."""
    leading = {"timestep_spacing": "leading"}
    sde = {"algorithm_type": "sde-dpmsolver++"}
    return (
        pairing("EulerDiscreteScheduler", "", "euler", VE, bare="euler"),
        pairing(
            "FlowMatchEulerDiscreteScheduler",
            "own sigmas",
            "euler",
            FLOW,
            scheduler={"shift": 3.0},
            bare="euler",
        ),
        pairing("DDIMScheduler", "leading", "ddim", VP, scheduler=leading, bare="ddim"),
        pairing(
            "DDIMScheduler",
            "leading η=1",
            "ddim",
            VP,
            scheduler=leading,
            options={"eta": 1.0},
            noise="generator",
            keywords={"eta": 1.0},
        ),
        pairing("DDPMScheduler", "fixed_small leading", "ddpm", VP, scheduler=leading, noise="generator"),
        pairing(
            "DDPMScheduler",
            "fixed_large leading",
            "ddpm",
            VP,
            scheduler={**leading, "variance_type": "fixed_large"},
            options={"variance": "large"},
            noise="generator",
        ),
        pairing("DPMSolverMultistepScheduler", "order 2", "dpmpp-2m", VP, bare="2m"),
        pairing(
            "DPMSolverMultistepScheduler",
            "sde order 2",
            "dpmpp-2m-sde",
            VP,
            scheduler=sde,
            noise="generator",
        ),
        pairing("UniPCMultistepScheduler", "order 2 bh2", "unipc", VP),
        pairing(
            "DEISMultistepScheduler",
            "order 2",
            "deis",
            VP,
            scheduler={"lower_order_final": False},
            note="ends at σ = 0.01, where ours is compared; reads its sigmas by numpy, which no counter sees",
        ),
        pairing("HeunDiscreteScheduler", "", "edm", VE),
        pairing(
            "LMSDiscreteScheduler",
            "order 4",
            "lms",
            VE,
            note="integrates by scipy in every step",
        ),
        pairing("EulerAncestralDiscreteScheduler", "", "euler-ancestral", VE, noise="generator"),
        *_defects(),
    )
