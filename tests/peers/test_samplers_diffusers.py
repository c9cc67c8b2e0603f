"""Our samplers against schedulers of diffusers: one exact network, one start, one noise, one grid, float32.

A scheduler is driven as its pipelines do; ours runs on the noise levels that it has. Where a scheduler is
wrong, a test says so, so that its repair is noticed, and holds ours to the exact flow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.data.mixture import anisotropic
from bench.peers.diffusers_samplers import FLOW, VE, VP, Scheduler, make, pairing, pairings, times_of
from bench.peers.pairing import Pairing
from bench.peers.samplers import compared
from models.denoiser import Denoiser
from models.gaussian_path import GaussianPath
from models.samplers import sampler
from tests.models.oracles import isotropic

pytest.importorskip("diffusers")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

TOLERANCE = 2e-4

PUBLISHED = {"curvature": "published"}
"""3M as diffusers has it from its authors' code."""


def _same(pair: Pairing, steps: int) -> None:
    found = compared(pair, pair.build(steps), 64)
    assert found["largest"] is not None, "no number"
    assert found["largest"] <= TOLERANCE
    if pair.ours != "deis":
        assert found["evaluations_ours"] == found["evaluations_theirs"]


@pytest.mark.parametrize("steps", [4, 20])
@pytest.mark.parametrize("pair", [p for p in pairings() if not p.defect], ids=lambda p: p.theirs)
def test_every_row_of_the_table_is_the_same_sampler(pair: Pairing, steps: int) -> None:
    """What `noisebench peers samplers` times against each other does the same."""
    _same(pair, steps)


@pytest.mark.parametrize("pair", [p for p in pairings() if p.defect], ids=lambda p: p.theirs)
def test_every_row_said_to_be_wrong_is_not_the_same(pair: Pairing) -> None:
    """A repaired peer is noticed: its row must then be one of the others."""
    steps = pair.steps or 20
    found = compared(pair, pair.build(steps), 64)
    assert found["largest"] is None or found["largest"] > TOLERANCE


@pytest.mark.parametrize("steps", [10, 50])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_ddim(steps: int, spacing: str, eta: float, schedule: str) -> None:
    """On every schedule, where N divides 1000: there the scheduler stays on its grid."""
    options = {"beta_schedule": schedule, "timestep_spacing": spacing}
    noise = "generator" if eta else ""
    pair = pairing(
        "DDIMScheduler",
        "",
        "ddim",
        VP,
        scheduler=options,
        options={"eta": eta},
        noise=noise,
        keywords={"eta": eta},
    )
    _same(pair, steps)


@pytest.mark.parametrize("steps", [10, 100])
@pytest.mark.parametrize("spacing", ["leading", "linspace"])
@pytest.mark.parametrize("variance", ["small", "large"])
def test_ddpm(steps: int, spacing: str, variance: str) -> None:
    options = {"variance_type": f"fixed_{variance}", "timestep_spacing": spacing}
    ours = {"variance": variance}
    _same(pairing("DDPMScheduler", "", "ddpm", VP, scheduler=options, options=ours, noise="generator"), steps)


class _WithVariance(torch.nn.Module):
    """The exact ε, and beside it the place of the variance between small and large."""

    def __init__(self) -> None:
        super().__init__()
        self.oracle = isotropic(VP, "epsilon")

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.cat([self.oracle(x, t), x.tanh()], 1)


def test_ddpm_with_learned_variance() -> None:
    """Interpolated in the logarithm, as `learned_range` does."""
    options = {"variance_type": "learned_range", "timestep_spacing": "leading"}
    peer = Scheduler(make("DDPMScheduler", **options), VP, {"num_inference_steps": 20}, "generator")
    network, x = _WithVariance(), _start(VP, peer.times[0])
    peer.reset(x, 3)
    chosen, generator = sampler("ddpm", 20, variance="learned"), torch.Generator().manual_seed(3)
    denoiser = Denoiser(network, VP, "epsilon")
    ours = chosen(
        denoiser, x, peer.times, noise=lambda x: torch.randn(x.shape, generator=generator, dtype=x.dtype)
    )
    assert _largest(ours, peer(network, x)) <= TOLERANCE


def test_ddpm_is_ddim_with_noise() -> None:
    """Their DDIM with η = 1 is our `ddpm`, all along the chain."""
    options = {"timestep_spacing": "leading"}
    keywords = {"eta": 1.0}
    pair = pairing("DDIMScheduler", "", "ddpm", VP, scheduler=options, noise="generator", keywords=keywords)
    _same(pair, 50)


@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing", "karras"])
@pytest.mark.parametrize(("order", "steps"), [(1, 20), (2, 10), (2, 20), (3, 12)])
def test_dpm_solver_multistep(spacing: str, order: int, steps: int) -> None:
    """1, 2M and 3M as published. Below 15 steps theirs goes down one order a step towards the end, as ours
    always does."""
    grid = {"use_karras_sigmas": True} if spacing == "karras" else {"timestep_spacing": spacing}
    name = f"dpmpp-{order}m" if order > 1 else "dpmpp-1"
    ours = PUBLISHED if order == 3 else {}
    scheduler = {"solver_order": order, **grid}
    _same(pairing("DPMSolverMultistepScheduler", "", name, VP, scheduler=scheduler, options=ours), steps)


@pytest.mark.parametrize("steps", [20, 60])
def test_3m_has_half_of_its_curvature(steps: int) -> None:
    """D₂ is half of the second derivative, and weighed as if it were all of it; ours is nearer the flow."""
    options = {"solver_order": 3, "use_exponential_sigmas": True}
    peer = Scheduler(make("DPMSolverMultistepScheduler", **options), VP, {"num_inference_steps": steps})
    ours, theirs = _exact(peer.times, "dpmpp-3m"), _exact_theirs(peer)
    assert ours < 0.7 * theirs, "theirs is repaired: compare it with ours as it comes"


@pytest.mark.parametrize("solver", ["midpoint", "heun"])
@pytest.mark.parametrize("steps", [10, 25])
def test_dpm_solver_sde(solver: str, steps: int) -> None:
    """2M SDE in both discretisations, with the noise of one seed."""
    options = {"algorithm_type": "sde-dpmsolver++", "solver_type": solver}
    pair = pairing(
        "DPMSolverMultistepScheduler",
        "",
        "dpmpp-2m-sde",
        VP,
        scheduler=options,
        options={"solver": solver},
        noise="generator",
    )
    _same(pair, steps)


class _Singlestep(Scheduler):
    """Their singlestep solver takes its inner points from its grid: equal steps of the log-SNR put them where
    ours are, and every third one, or second one, is a step of ours."""

    def __init__(self, order: int, steps: int, mend: bool = False) -> None:
        options = {"solver_order": order, "use_exponential_sigmas": True, "lower_order_final": True}
        settings = {"num_inference_steps": order * steps + 1}
        super().__init__(make("DPMSolverSinglestepScheduler", **options), VP, settings)
        self.times, self._mend = (*self.times[:-1][::order], 0.0), mend

    def __call__(self, network: Any, x: Tensor) -> Tensor:
        if not self._mend:
            return super().__call__(network, x)
        for i, (timestep, t_B) in enumerate(zip(self.scheduler.timesteps, self._rows, strict=True)):
            # The inner point by the line whose slope is integrated, which they call heun.
            self.scheduler.register_to_config(solver_type="heun" if i % 3 == 1 else "midpoint")
            x = self.scheduler.step(network(x, t_B), timestep, x).prev_sample
        return x


def _singlestep(order: int, mend: bool = False) -> Pairing:
    def build(steps: int) -> Scheduler:
        return _Singlestep(order, steps, mend)

    return Pairing("diffusers", "", build, f"dpmpp-{order}s", VP, "epsilon")


@pytest.mark.parametrize("steps", [5, 12])
def test_dpm_solver_2s(steps: int) -> None:
    _same(_singlestep(2), steps)


@pytest.mark.parametrize("steps", [5, 12])
def test_dpm_solver_3s(steps: int) -> None:
    """Once its inner point is found as in Lu et al. 2022, algorithm 2 of 2206.00927, it is ours."""
    _same(_singlestep(3, mend=True), steps)


def test_dpm_solver_3s_as_it_comes_takes_another_inner_point() -> None:
    """By its 2S step, which halves the slope there: of order 3 too, but farther from the flow than ours."""
    pair = _singlestep(3)
    coarse, fine = (compared(pair, pair.build(steps), 64)["rms"] for steps in (20, 40))
    assert coarse > TOLERANCE, "theirs is as published now: leave `mend` out"
    assert fine < coarse / 6.0
    assert _exact(_Singlestep(3, 10).times, "dpmpp-3s") < 0.1 * _exact_theirs(_Singlestep(3, 10))


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("spacing", ["linspace", "trailing", "karras"])
@pytest.mark.parametrize("steps", [8, 25])
def test_unipc(order: int, spacing: str, steps: int) -> None:
    """bh2, whose orders go down to 1 at σ = 0 on both sides."""
    grid = {"use_karras_sigmas": True} if spacing == "karras" else {"timestep_spacing": spacing}
    options = {"solver_order": order, **grid}
    _same(
        pairing("UniPCMultistepScheduler", "", "unipc", VP, scheduler=options, options={"order": order}),
        steps,
    )


@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing", "karras"])
def test_euler(spacing: str) -> None:
    """In x/α; so it is our Euler on the path `edm`, and DDIM on any."""
    grid = {"use_karras_sigmas": True} if spacing == "karras" else {"timestep_spacing": spacing}
    for ours in ("euler", "ddim"):
        _same(pairing("EulerDiscreteScheduler", "", ours, VE, scheduler=grid), 20)


@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing"])
def test_euler_ancestral(spacing: str) -> None:
    grid = {"timestep_spacing": spacing}
    pair = pairing(
        "EulerAncestralDiscreteScheduler", "", "euler-ancestral", VE, scheduler=grid, noise="generator"
    )
    _same(pair, 20)


@pytest.mark.parametrize("spacing", ["linspace", "trailing", "karras"])
def test_heun(spacing: str) -> None:
    """In x/α, where Heun in the path's time of `edm` and EDM without churn are the same."""
    grid = {"use_karras_sigmas": True} if spacing == "karras" else {"timestep_spacing": spacing}
    for ours in ("edm", "heun"):
        _same(pairing("HeunDiscreteScheduler", "", ours, VE, scheduler=grid), 15)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_lms(order: int) -> None:
    pair = pairing("LMSDiscreteScheduler", "", "lms", VE, options={"order": order}, keywords={"order": order})
    _same(pair, 12)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [4, 28])
def test_flow_matching_euler(shift: float, steps: int) -> None:
    """On the levels it has, and on those of `sigmas=`, which it shifts once."""
    name, options = "FlowMatchEulerDiscreteScheduler", {"shift": shift}
    _same(pairing(name, "", "euler", FLOW, scheduler=options), steps)

    def build(steps: int) -> Scheduler:
        equal = [1.0 - i / steps for i in range(steps)]
        peer = Scheduler(make(name, **options), FLOW, {"sigmas": equal})
        wanted = [shift * u / (1.0 + (shift - 1.0) * u) for u in equal]
        assert peer.times == pytest.approx((*wanted, 0.0), abs=1e-6)
        return peer

    _same(Pairing("diffusers", "", build, "euler", FLOW, "velocity"), steps)


# States on the way, where the ends are not the same.


def _their_states(peer: Scheduler, network: Any, x: Tensor) -> list[Tensor]:
    peer.reset(x, 0)
    states = []
    for timestep, t_B in zip(peer.scheduler.timesteps, peer._rows, strict=True):
        x = peer.scheduler.step(network(x, t_B), timestep, x).prev_sample
        states.append(x)
    return states


def _our_states(network: Any, name: str, x: Tensor, times: Sequence[float], **options: Any) -> list[Tensor]:
    states: list[Tensor] = []
    denoiser = Denoiser(network, VP, "epsilon")
    chosen = sampler(name, len(times) - 1, **options)
    chosen(denoiser, x, times, callback=lambda step, s, x: states.append(x))
    return states


def _states(peer: Scheduler, name: str, **options: Any) -> tuple[list[Tensor], list[Tensor]]:
    times = peer.times if peer.times[-1] == 0.0 else (*peer.times, 0.0)
    x = VP.sigma(times[0]) * torch.randn(64, 1, 1, 2, generator=torch.Generator().manual_seed(0))
    network = anisotropic().network(VP, "epsilon")
    return _our_states(network, name, x, times, **options), _their_states(peer, network, x)


@pytest.mark.parametrize(("order", "steps", "kept"), [(1, 20, 20), (2, 20, 20), (2, 10, 9), (3, 20, 18)])
def test_deis(order: int, steps: int, kept: int) -> None:
    """tAB-DEIS. Theirs stops at σ = 0.01 and goes down in order elsewhere: what is the same counts."""
    peer = Scheduler(make("DEISMultistepScheduler", solver_order=order), VP, {"num_inference_steps": steps})
    ours, theirs = _states(peer, "deis", order=order)
    assert max(_largest(a, b) for a, b in zip(ours[:kept], theirs[:kept], strict=True)) <= TOLERANCE


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("end", ["zero", "sigma_min"])
def test_unipc_bh1(order: int, end: str) -> None:
    """All states but the last, which theirs makes NaN where it ends at σ = 0, else has of a lower order."""
    options = {"solver_order": order, "solver_type": "bh1", "final_sigmas_type": end}
    peer = Scheduler(make("UniPCMultistepScheduler", **options), VP, {"num_inference_steps": 20})
    ours, theirs = _states(peer, "unipc", order=order, variant="bh1")
    kept = 19 if end == "zero" else 20 - max(1, order - 1)
    assert max(_largest(a, b) for a, b in zip(ours[:kept], theirs[:kept], strict=False)) <= TOLERANCE


def test_3m_goes_down_in_order_later_than_ours() -> None:
    """From 15 steps on theirs keeps order 3 in its last but one step; all before are the same."""
    peer = Scheduler(make("DPMSolverMultistepScheduler", solver_order=3), VP, {"num_inference_steps": 20})
    ours, theirs = _states(peer, "dpmpp-3m", **PUBLISHED)
    assert max(_largest(a, b) for a, b in zip(ours[:18], theirs[:18], strict=True)) <= TOLERANCE
    assert _largest(ours[18], theirs[18]) > TOLERANCE


def _largest(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


# Where theirs is wrong: both against the exact flow of one Gaussian.


def _start(path: GaussianPath, t: float) -> Tensor:
    return path.sigma(t) * torch.randn(
        256, 1, 1, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )


def _exact(times: Sequence[float], name: str, path: GaussianPath = VP, **options: Any) -> float:
    """Our largest distance to the exact end point."""
    prediction = "velocity" if path is FLOW else "epsilon"
    oracle, x = isotropic(path, prediction), _start(path, times[0])
    found = sampler(name, len(times) - 1, **options)(Denoiser(oracle, path, prediction), x, times)
    return _largest(found, oracle.flow(x, times[0], 0.0))


def _exact_theirs(peer: Scheduler, path: GaussianPath = VP, start: float | None = None) -> float:
    prediction = "velocity" if path is FLOW else "epsilon"
    start = peer.times[0] if start is None else start
    oracle, x = isotropic(path, prediction), _start(path, start)
    peer.reset(x, 0)
    return _largest(peer(oracle, x), oracle.flow(x, start, 0.0))


@pytest.mark.parametrize("spacing", ["linspace", "trailing"])
def test_ddim_leaves_its_own_grid_where_ours_stays_on_it(spacing: str) -> None:
    """It steps by 1000 // N timesteps, whatever the next one is (huggingface/diffusers#9261). N = 300."""
    scheduler = make("DDIMScheduler", timestep_spacing=spacing)
    peer = Scheduler(scheduler, VP, {"num_inference_steps": 300})
    ours, theirs = _exact(peer.times, "ddim"), _exact_theirs(peer)
    assert ours < 0.03
    assert theirs > 3.0 * ours, "theirs is repaired: move this spacing to test_ddim"


@pytest.mark.parametrize("name", ["DDIMScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"])
def test_trailing_has_a_timestep_too_many(name: str) -> None:
    """np.arange(1000, 0, −1000/61) has 62 entries, so the last timestep is −1, of the noisiest level."""
    scheduler = make(name, timestep_spacing="trailing")
    scheduler.set_timesteps(61)
    assert len(scheduler.timesteps) == 62, "theirs is repaired"
    assert int(scheduler.timesteps[-1]) == -1
    levels = ((1.0 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod).sqrt()
    times = (*times_of(VP, (float(levels[int(i)]) for i in scheduler.timesteps[:61])), 0.0)
    assert _exact(times, "ddim" if name == "DDIMScheduler" else "dpmpp-2m") < 0.15


def test_trailing_with_a_timestep_too_many_ends_in_noise() -> None:
    """What that costs DDIM, whose step by 1000 // 61 = 16 is off its grid too."""
    peer = Scheduler(make("DDIMScheduler", timestep_spacing="trailing"), VP, {"num_inference_steps": 61})
    assert _exact_theirs(peer, start=peer.times[0]) > 0.5


def test_unipc_bh1_ends_in_no_number_where_ours_does() -> None:
    """B = −h is infinite in the step to σ = 0, its default."""
    peer = Scheduler(make("UniPCMultistepScheduler", solver_type="bh1"), VP, {"num_inference_steps": 20})
    assert math.isnan(_exact_theirs(peer)), "theirs is repaired: compare the end in test_unipc"
    assert _exact(peer.times, "unipc", variant="bh1") < 0.05


def test_ddpm_with_large_variance_and_trailing_leaves_noise() -> None:
    """It draws noise where t > 0, and its last timestep is 19; ours returns the mean of the last step."""
    options = {"variance_type": "fixed_large", "timestep_spacing": "trailing"}
    peer = Scheduler(make("DDPMScheduler", **options), VP, {"num_inference_steps": 50}, "generator")
    ends = []
    for variance in (1e-8, 0.25):
        oracle, x = isotropic(VP, "epsilon", variance=variance), _start(VP, peer.times[0])
        peer.reset(x, 3)
        theirs, generator = peer(oracle, x), torch.Generator().manual_seed(3)
        ours = sampler("ddpm", 50, variance="large")(
            Denoiser(oracle, VP, "epsilon"),
            x,
            peer.times,
            noise=lambda x, g=generator: torch.randn(x.shape, generator=g, dtype=x.dtype),
        )
        ends.append((ours, theirs))
    point, wide = ends
    assert float((point[0] - 0.3).abs().max()) < 1e-3, "data at one point are found exactly"
    for ours, theirs in (point, wide):
        assert 0.03 < float((ours - theirs).std()) < 0.15, "theirs is repaired: move it to test_ddpm"


def test_flow_matching_euler_shifts_its_lowest_level_twice() -> None:
    """huggingface/diffusers#13243: 0.0089 in place of 0.0030; given `sigmas=` it shifts once."""
    peer = Scheduler(make("FlowMatchEulerDiscreteScheduler", shift=3.0), FLOW, {"num_inference_steps": 500})
    once = [3.0 * u / (1.0 + 2.0 * u) for u in (1.0 - 0.999 * i / 499 for i in range(500))]
    assert once[-1] == pytest.approx(0.002994, abs=1e-6)
    assert peer.times[-2] == pytest.approx(0.008929, abs=1e-6), "theirs is repaired"
    assert _exact((*once, 0.0), "euler", FLOW) < 0.02
