"""Our samplers against k-diffusion's functions: one exact denoiser, one start, one noise, one grid, float32.

Its states are those of our path `edm`. Noise goes in by `noise_sampler`; where a function has no such hook it
draws from torch's global generator, which is seeded.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.data.mixture import anisotropic
from bench.peers.k_diffusion_samplers import PATH, pairing, pairings
from bench.peers.networks import by_noise
from bench.peers.pairing import Pairing
from bench.peers.samplers import compared
from models.denoiser import Denoiser
from models.samplers import sampler

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    sampling = pytest.importorskip("k_diffusion.sampling", exc_type=ImportError)

TOLERANCE = 2e-4

GRIDS: dict[str, Callable[[int], Tensor]] = {
    "karras": lambda n: sampling.get_sigmas_karras(n, 0.002, 80.0),
    "exponential": lambda n: sampling.get_sigmas_exponential(n, 0.01, 80.0),
    "vp": lambda n: sampling.get_sigmas_vp(n),
}


def _same(pair: Pairing, steps: int) -> None:
    found = compared(pair, pair.build(steps), 64)
    assert found["largest"] is not None, "no number"
    assert found["largest"] <= TOLERANCE
    assert found["evaluations_ours"] == found["evaluations_theirs"]


@pytest.mark.parametrize("pair", pairings(), ids=lambda p: p.theirs)
def test_every_row_of_the_table_is_the_same_sampler(pair: Pairing) -> None:
    """What `noisebench peers samplers` times against each other does the same."""
    _same(pair, 20)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("steps", [7, 20])
@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("sample_euler", "euler"),
        ("sample_euler", "ddim"),
        ("sample_heun", "edm"),
        ("sample_heun", "heun"),
        ("sample_lms", "lms"),
        ("sample_dpmpp_2m", "dpmpp-2m"),
    ],
)
def test_without_noise(theirs: str, ours: str, steps: int, grid: str) -> None:
    """Euler, Heun, LMS and 2M on its own grids."""
    _same(pairing(theirs, ours, grid=GRIDS[grid]), steps)


@pytest.mark.parametrize("grid", GRIDS)
def test_2s_without_noise(grid: str) -> None:
    """The singlestep solver, whose inner points need not be on the grid."""
    _same(pairing("sample_dpmpp_2s_ancestral", "dpmpp-2s", grid=GRIDS[grid], eta=0.0), 12)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_lms(order: int) -> None:
    _same(pairing("sample_lms", "lms", our_options={"order": order}, order=order), 12)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_euler_ancestral(eta: float, grid: str) -> None:
    """DDIM with noise, as it is called there; η = 0 is Euler."""
    options = {"eta": eta}
    pair = pairing(
        "sample_euler_ancestral",
        "euler-ancestral",
        noisy=True,
        grid=GRIDS[grid],
        our_options=options,
        **options,
    )
    _same(pair, 20)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_2m_sde_by_the_midpoint(eta: float, grid: str) -> None:
    """With the same draws in place of its Brownian tree; η = 0 is 2M."""
    options = {"eta": eta}
    pair = pairing(
        "sample_dpmpp_2m_sde",
        "dpmpp-2m-sde",
        noisy=True,
        grid=GRIDS[grid],
        our_options=options,
        **options,
    )
    _same(pair, 20)


@pytest.mark.parametrize("grid", GRIDS)
def test_2m_sde_by_heun(grid: str) -> None:
    """Its other discretisation."""
    pair = pairing(
        "sample_dpmpp_2m_sde",
        "dpmpp-2m-sde",
        noisy=True,
        grid=GRIDS[grid],
        our_options={"solver": "heun"},
        solver_type="heun",
    )
    _same(pair, 20)


# Churn: its functions draw in every step, ours where noise is added.


def _both(
    name: str, sigmas: Tensor, draws: Callable[[list[Tensor]], list[Tensor]], **churn: float
) -> tuple[Tensor, Tensor]:
    """Ours and theirs with churn; `draws` are those of its draws that count."""
    network = anisotropic().network(PATH, "x0")
    times, steps = tuple(float(s) / PATH.sigma_max for s in sigmas), len(sigmas) - 1
    x = _x(sigmas)
    names = {"churn": "s_churn", "churn_min": "s_tmin", "churn_max": "s_tmax", "churn_noise": "s_noise"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        drawn: Iterator[Tensor] = iter(draws([torch.randn_like(x) for _ in range(steps)]))
        torch.manual_seed(5)
        options: dict[str, Any] = {names[option]: value for option, value in churn.items()}
        theirs = getattr(sampling, name)(by_noise(network, PATH), x, sigmas, disable=True, **options)
    denoiser = Denoiser(network, PATH, "x0")
    ours = sampler("edm", steps, **churn)(denoiser, x, times, noise=lambda _: next(drawn))
    assert next(drawn, None) is None, "as many draws as steps with churn"
    return ours, theirs


@pytest.mark.parametrize("steps", [1, 7, 18])
@pytest.mark.parametrize("churn", [1.0, 40.0])
@pytest.mark.parametrize("noise", [1.0, 1.007])
def test_edm_with_churn(steps: int, churn: float, noise: float) -> None:
    """Algorithm 2 of Karras et al. with churn in every step, below its limit √2 − 1 and at it."""
    ours, theirs = _both(
        "sample_heun",
        GRIDS["karras"](steps),
        lambda draws: draws,
        churn=churn,
        churn_min=0.0,
        churn_max=100.0,
        churn_noise=noise,
    )
    assert float((ours - theirs).abs().max()) <= TOLERANCE


def test_edm_with_churn_within_a_range_of_noise() -> None:
    """Only where S_min ≤ σ ≤ S_max."""
    sigmas, low, high = GRIDS["karras"](18), 0.05, 50.0
    within = [low <= float(sigma) <= high for sigma in sigmas[:-1]]
    assert 0 < sum(within) < 18

    def counting(draws: list[Tensor]) -> list[Tensor]:
        return [draw for draw, counts in zip(draws, within, strict=True) if counts]

    ours, theirs = _both("sample_heun", sigmas, counting, churn=20.0, churn_min=low, churn_max=high)
    assert float((ours - theirs).abs().max()) <= TOLERANCE


def test_the_last_step_of_edm_with_churn_is_that_of_euler_with_churn() -> None:
    """One step, where `sample_euler` is comparable."""
    ours, theirs = _both(
        "sample_euler", GRIDS["karras"](1), lambda draws: draws, churn=40.0, churn_min=0.0, churn_max=100.0
    )
    assert float((ours - theirs).abs().max()) <= TOLERANCE


def test_churn_is_seen() -> None:
    """The tests above would notice a sampler that ignores it."""
    sigmas = GRIDS["karras"](18)
    denoise = by_noise(anisotropic().network(PATH, "x0"), PATH)
    quiet = sampling.sample_heun(denoise, _x(sigmas), sigmas, disable=True)
    ours, _ = _both("sample_heun", sigmas, lambda draws: draws, churn=40.0, churn_min=0.0, churn_max=100.0)
    assert float((ours - quiet).abs().max()) > 0.05


def _x(sigmas: Tensor) -> Tensor:
    return float(sigmas[0]) * torch.randn(64, 1, 1, 2, generator=torch.Generator().manual_seed(1))
