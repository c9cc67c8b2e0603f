"""Our samplers against the schedulers of diffusers, on one analytic network and one grid.

diffusers' DDIM leaves its own grid where it jumps by a fixed number of timesteps; with `leading` spacing and
a number of steps that divides 1000 it stays on it, and then the algorithms must agree.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.paths import GaussianPath
from models.samplers import sampler
from tests.models.oracles import denoiser, isotropic, latents, normal_like

diffusers = pytest.importorskip("diffusers")

TRAIN = 1000


class _Table(GaussianPath):
    """A discrete schedule as a path: time i/1000 has ᾱ of the peer's timestep i − 1."""

    def __init__(self, cumulative: Tensor) -> None:
        object.__setattr__(self, "table", [1.0, *cumulative.double().tolist()])

    def _at(self, t: float | Tensor) -> float:
        return self.table[round(float(torch.as_tensor(t).flatten()[0]) * TRAIN)]  # type: ignore[attr-defined]

    def alpha(self, t: float | Tensor) -> float:  # type: ignore[override]
        return self._at(t) ** 0.5

    def sigma(self, t: float | Tensor) -> float:  # type: ignore[override]
        return (1.0 - self._at(t)) ** 0.5

    def log_snr(self, t: float | Tensor) -> float:  # type: ignore[override]
        a, s = torch.tensor([self.alpha(t), self.sigma(t)], dtype=torch.float64).log().tolist()
        return 2.0 * (a - s)

    def _unused(self, t: float | Tensor) -> float:
        raise NotImplementedError("a table has no derivative")

    alpha_dot = sigma_dot = t_of_log_snr = _unused  # type: ignore[assignment]


def _peer(name: str, steps: int, **options: object) -> tuple[object, _Table, tuple[float, ...]]:
    """The peer's scheduler, its schedule as a path, and its timesteps as our grid."""
    scheduler = getattr(diffusers, name)(
        num_train_timesteps=TRAIN, timestep_spacing="leading", clip_sample=False, **options
    )
    scheduler.set_timesteps(steps)
    table = _Table(scheduler.alphas_cumprod)
    times = tuple((int(i) + 1) / TRAIN for i in scheduler.timesteps)
    return scheduler, table, (*times, 0.0)


def _latents(path: _Table, start: float) -> Tensor:
    return latents(16, 4, path.sigma(start))


@pytest.mark.parametrize("steps", [10, 50, 100])
@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_ddim_equals_diffusers(steps: int, schedule: str) -> None:
    """The same numbers to 2e-4 from the same noise; `set_alpha_to_one` ends both at σ = 0."""
    scheduler, path, times = _peer("DDIMScheduler", steps, beta_schedule=schedule, set_alpha_to_one=True)
    oracle = isotropic(path, "epsilon")
    x = _latents(path, times[0])
    ours = sampler("ddim", steps)(denoiser(oracle), x, times)
    theirs = x
    for index, t in zip(scheduler.timesteps, times, strict=False):  # type: ignore[attr-defined]
        output = oracle(theirs, torch.full((len(x),), t, dtype=torch.float64))
        theirs = scheduler.step(output, int(index), theirs).prev_sample  # type: ignore[attr-defined]
    assert torch.allclose(ours, theirs, atol=2e-4)


@pytest.mark.parametrize("steps", [10, 100])
def test_ancestral_sampling_equals_diffusers_with_the_same_noise(steps: int) -> None:
    """Their DDIM with η = 1 and given noise is our `ddpm`, all along the chain."""
    scheduler, path, times = _peer("DDIMScheduler", steps, set_alpha_to_one=True)
    oracle = isotropic(path, "epsilon")
    x = _latents(path, times[0])
    ours = sampler("ddpm", steps)(denoiser(oracle), x, times, noise=normal_like(5))
    theirs, noise = x, normal_like(5)
    for index, t in zip(scheduler.timesteps, times, strict=False):  # type: ignore[attr-defined]
        output = oracle(theirs, torch.full((len(x),), t, dtype=torch.float64))
        theirs = scheduler.step(  # type: ignore[attr-defined]
            output, int(index), theirs, eta=1.0, variance_noise=noise(theirs)
        ).prev_sample
    assert torch.allclose(ours, theirs, atol=2e-4)
