"""Protects what holds for every sampler: names, cost, noise only from where it is given, no host reads."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.peers.metering import Counter, Metered
from models.denoiser import PREDICTIONS, Denoiser
from models.grids import GRIDS, Grid, grid
from models.networks.unet import UNet
from models.paths import PATHS, path
from models.samplers import catalogue, names, sampler
from tests.models.oracles import GaussianOracle, isotropic, latents, normal_like
from tests.models.oracles import denoiser as plain

NOISY: list[tuple[str, dict[str, Any]]] = [
    ("ddpm", {}),
    ("ddpm", {"variance": "large"}),
    ("ddpm", {"variance": "learned"}),
    ("ddim", {"eta": 1.0}),
    ("euler-ancestral", {}),
    ("dpmpp-2m-sde", {}),
    ("dpmpp-2m-sde", {"solver": "heun", "eta": 0.5}),
    ("edm", {"churn": 40.0}),
    ("sde-euler", {}),
    ("sde-heun", {"diffusion": "increasing-decreasing"}),
]
QUIET: list[tuple[str, dict[str, Any]]] = [
    ("ddim", {}),
    ("euler", {}),
    ("heun", {}),
    ("midpoint", {}),
    ("rk4", {}),
    ("dpmpp-1", {}),
    ("dpmpp-2m", {}),
    ("dpmpp-3m", {}),
    ("dpmpp-2s", {}),
    ("dpmpp-3s", {}),
    ("deis", {}),
    ("deis", {"order": 3}),
    ("lms", {}),
    ("unipc", {}),
    ("unipc", {"order": 3, "variant": "bh1"}),
    ("edm", {}),
]
ALL = NOISY + QUIET
FIXED = [name for name in names() if not catalogue.ENTRIES[name].adaptive]
COST = {
    "N": lambda n: n,
    "2N": lambda n: 2 * n,
    "2N − 1": lambda n: 2 * n - 1,
    "3N − 2": lambda n: 3 * n - 2,
    "4N − 1": lambda n: 4 * n - 1,
}


def test_every_sampler_of_fixed_steps_is_in_the_lists_above() -> None:
    """A new one that is forgotten here would be tested by nothing."""
    assert {name for name, _ in ALL} == set(FIXED)
    assert all(catalogue.ENTRIES[name].stochastic(options) for name, options in NOISY)
    assert not any(catalogue.ENTRIES[name].stochastic(options) for name, options in QUIET)


class WithVariance(nn.Module):
    """An oracle that says a reverse variance too, between small and large; constant, or as given."""

    def __init__(self, oracle: nn.Module, extra: float = 0.3) -> None:
        super().__init__()
        self.oracle, self.extra = oracle, extra

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.cat([self.oracle(x, t), torch.full_like(x, self.extra)], 1)


def denoiser(oracle: GaussianOracle, extra: float = 0.3) -> Denoiser:
    """An oracle that any sampler can use with any option."""
    return Denoiser(WithVariance(oracle, extra), oracle.path, oracle.kind)


@pytest.mark.parametrize(("name", "options"), ALL)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_evaluations_are_what_the_catalogue_says(name: str, options: dict[str, Any], steps: int) -> None:
    """Counted at the network."""
    oracle, calls = isotropic(path("cosine")), []
    oracle.register_forward_pre_hook(lambda *_: calls.append(1))
    times = grid("shared", oracle.path, steps)
    found = sampler(name, steps, **options)(denoiser(oracle), latents(2, 4, 1.0), times, noise=normal_like(0))
    assert len(calls) == COST[catalogue.ENTRIES[name].evaluations](steps)
    assert bool(torch.isfinite(found).all())


@pytest.mark.parametrize(("name", "options"), ALL)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_loop_never_reads_a_tensor_on_the_host(
    name: str, options: dict[str, Any], prediction: str
) -> None:
    """With a real network: on a device each such read is a wait."""
    p = path("linear-vp")
    network = Denoiser(UNet((1, 8, 8), channels=8, channels_out=2), p, prediction, clip=True)
    x = torch.randn(2, 1, 8, 8)
    outside = Metered(network.network)  # not what is called: reads within the network count too
    with torch.no_grad(), Counter(outside, x) as counted:
        sampler(name, 3, **options)(network, x, grid("shared", p, 3), noise=torch.randn_like)
    assert counted.reads == 0
    with Counter(outside, x) as counted:
        float(x.sum())
    assert counted.reads == 1, "the counter sees a read when there is one"


class _Silent(nn.Module):
    """Costs no operation: what is counted is the sampler."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize(
    ("name", "options", "prediction", "most"),
    [
        ("euler", {}, "velocity", 1.0),
        ("heun", {}, "velocity", 1.5),
        ("midpoint", {}, "velocity", 1.0),
        ("rk4", {}, "velocity", 1.75),
        *(("ddim", {}, kind, 2.0) for kind in PREDICTIONS),
        ("dpmpp-2m", {}, "x0", 3.0),
        *(("dpmpp-2m", {}, kind, 4.0) for kind in PREDICTIONS if kind != "x0"),
        ("dpmpp-3m", {}, "epsilon", 6.0),
        ("dpmpp-2s", {}, "epsilon", 3.0),
        ("deis", {}, "epsilon", 3.0),
        ("lms", {}, "epsilon", 5.0),
        ("unipc", {}, "epsilon", 9.0),
        ("edm", {}, "epsilon", 3.0),
        ("ddpm", {}, "epsilon", 4.0),
    ],
)
def test_full_size_operations_of_an_evaluation(
    name: str, options: dict[str, Any], prediction: str, most: float
) -> None:
    """Each is one pass over the images, or one kernel of a device; drawing noise is one of ddpm's."""
    p, network = path("cosine"), Metered(_Silent())
    x = torch.randn(2, 3, 8, 8)
    chosen, times = sampler(name, 20, **options), grid("shared", p, 20)
    with torch.no_grad(), Counter(network, x) as counted:
        chosen(Denoiser(network, p, prediction), x, times, noise=torch.randn_like)  # type: ignore[arg-type]
    found = counted.operations / network.evaluations
    assert found <= most
    assert found > 0.7 * most, "a bound that means something"


@pytest.mark.parametrize(("name", "options"), ALL)
def test_noise_comes_only_from_the_given_source(name: str, options: dict[str, Any]) -> None:
    """The same source gives the same samples whatever the global generator does; N − 1 draws or none."""
    oracle, draws = isotropic(path("cosine")), []
    source = normal_like(3)

    def counted(x: Tensor) -> Tensor:
        draws.append(1)
        return source(x)

    times, x = grid("shared", oracle.path, 5), latents(3, 4, 1.0)
    first = sampler(name, 5, **options)(denoiser(oracle), x, times, noise=counted)
    torch.manual_seed(99)
    second = sampler(name, 5, **options)(denoiser(oracle), x, times, noise=normal_like(3))
    assert torch.equal(first, second)
    # EDM churns between 0.05 and 50 only, and also before the last step.
    churned = sum(0.05 <= oracle.path.sigma(t) / oracle.path.alpha(t) <= 50.0 for t in times[:-1])
    wanted = churned if name == "edm" else 4
    assert len(draws) == (wanted if (name, options) in NOISY else 0)


@pytest.mark.parametrize(("name", "options"), [entry for entry in NOISY if entry[0] != "edm"])
def test_the_last_step_adds_no_noise(name: str, options: dict[str, Any]) -> None:
    """One step is the last step: the result is the prediction itself."""
    oracle = isotropic(path("rectified-flow"))
    times, x = grid("shared", oracle.path, 1), latents(3, 4, 1.0)
    found = sampler(name, 1, **options)(denoiser(oracle), x, times)
    assert torch.allclose(found, denoiser(oracle)(x, times[0]).x0, atol=1e-12)


@pytest.mark.parametrize(("name", "options"), ALL)
@pytest.mark.parametrize("grid_name", sorted(GRIDS))
def test_callback_sees_every_state_and_its_time(name: str, options: dict[str, Any], grid_name: str) -> None:
    oracle, seen = isotropic(path("cosine")), []
    chosen = sampler(name, 4, grid_name, **options)
    times = chosen.times(oracle.path, (1, 1, 4))
    found = chosen(
        denoiser(oracle),
        latents(2, 4, 1.0),
        times,
        noise=normal_like(0),
        callback=lambda step, t, x: seen.append((step, t, x)),
    )
    assert [(step, t) for step, t, _ in seen] == list(enumerate(times[1:]))
    assert torch.equal(seen[-1][2], found)
    assert len({id(x) for *_, x in seen}) == 4, "states of earlier steps are not written over"


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("path_name", sorted(PATHS))
@pytest.mark.parametrize("name", names())
def test_every_sampler_runs_on_every_path_and_prediction(name: str, path_name: str, prediction: str) -> None:
    """One step budget, the same data law: the spread of the samples is that of the data."""
    oracle = isotropic(path(path_name), prediction)
    steps = 1 if catalogue.ENTRIES[name].adaptive else 64
    times = grid("shared", oracle.path, steps)
    x = sampler(name, steps)(
        denoiser(oracle), latents(1000, 4, oracle.path.sigma(times[0])), times, noise=normal_like(1)
    )
    assert float(x.mean()) == pytest.approx(0.3, abs=0.03)
    assert float(x.std()) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(("name", "options"), ALL)
def test_clipping_clamps_what_every_sampler_sees(name: str, options: dict[str, Any]) -> None:
    """Data far outside [−1, 1] end at its edge: x_0 is clamped inside the loop, by each of them."""
    oracle = isotropic(path("cosine"), mean=3.0)
    times = grid("shared", oracle.path, 10)
    chain = Denoiser(WithVariance(oracle), oracle.path, oracle.kind, clip=True)
    found = sampler(name, 10, **options)(chain, latents(4, 4, 1.0), times, noise=normal_like(0))
    assert float(found.mean()) == pytest.approx(1.0, abs=0.35)


@pytest.mark.parametrize("name", ["ddpm", "unipc", "edm"])
def test_threads_share_a_sampler(name: str) -> None:
    """Nothing is kept between calls: eight at once, of different lengths, give what each gives alone."""
    oracle, steps = isotropic(path("linear-vp")), range(3, 11)

    def once(n: int) -> Tensor:
        times = grid("shared", oracle.path, n)
        return sampler(name, n)(plain(oracle), latents(8, 4, 1.0, seed=n), times, noise=normal_like(n))

    alone, together = {n: once(n) for n in steps}, {}
    threads = [threading.Thread(target=lambda n=n: together.update({n: once(n)})) for n in steps]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(alone[n], together[n]) for n in steps)


def test_a_network_that_writes_into_its_times_spoils_no_later_run() -> None:
    """The tensors of times are kept between runs."""

    class _Rude(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            found = x * t.view(-1, 1, 1, 1)
            t.zero_()
            return found

    p = path("cosine")
    times, x = grid("shared", p, 4), latents(2, 4, 1.0)
    first, second = (sampler("euler", 4)(Denoiser(_Rude(), p, "v"), x, times) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize(("extra", "fixed"), [(-1.0, "small"), (1.0, "large")])
def test_learned_variance_at_its_ends_is_a_fixed_one(extra: float, fixed: str) -> None:
    """The same noise gives the same samples, for the interval that the sampler steps, whatever its grid."""
    oracle = isotropic(path("cosine"))
    times, x = grid("shared", oracle.path, 7), latents(5, 4, 1.0)
    learned = sampler("ddpm", 7, variance="learned")(denoiser(oracle, extra), x, times, noise=normal_like(2))
    wanted = sampler("ddpm", 7, variance=fixed)(plain(oracle), x, times, noise=normal_like(2))
    assert torch.allclose(learned, wanted, atol=1e-12)


def test_learned_variance_of_a_guided_model_is_the_conditional_one() -> None:
    """Guidance moves the mean alone: with w = 3 the spread is still what the condition says."""

    class _Conditional(nn.Module):
        def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
            extra = torch.where(label == 0, -1.0, 1.0).to(x.dtype).view(-1, 1, 1, 1).expand_as(x)
            return torch.cat([torch.zeros_like(x), extra], 1)

    p, label = path("cosine"), torch.zeros(4, dtype=torch.int64)
    times, x = grid("shared", p, 5), latents(4, 4, 1.0)
    ends = []
    for guidance in (1.0, 3.0):
        chain = Denoiser(_Conditional(), p, "v", (label,), null=(label + 1,), guidance=guidance)
        ends.append(sampler("ddpm", 5, variance="learned")(chain, x, times, noise=normal_like(0)))
    small = sampler("ddpm", 5)(Denoiser(_Conditional(), p, "v", (label,)), x, times, noise=normal_like(0))
    assert torch.allclose(ends[0], small, atol=1e-12)
    assert torch.allclose(ends[1], small, atol=1e-12)


def test_learned_variance_of_a_network_without_one_is_refused() -> None:
    oracle = isotropic(path("cosine"))
    times = grid("shared", oracle.path, 3)
    with pytest.raises(ValueError, match="use small or large"):
        sampler("ddpm", 3, variance="learned")(plain(oracle), latents(1, 4, 1.0), times, noise=normal_like(0))


@pytest.mark.parametrize(
    ("name", "steps", "grid_name", "options", "message"),
    [
        ("dddim", 5, "shared", {}, "Did you mean 'ddim'"),
        ("ddim", 5, "shared", {"etta": 1.0}, "Did you mean 'eta'"),
        ("ddim", 5, "shared", {"eta": 2.0}, "from 0 to 1"),
        ("ddpm", 5, "shared", {"variance": "middle"}, "one of small, large, learned"),
        ("unipc", 5, "shared", {"order": 4}, "one of 1, 2, 3"),
        ("euler", 5, "shared", {"eta": 0.0}, "leave it out"),
        ("euler", 0, "shared", {}, "one or more"),
        ("euler", 5, "unifrom", {}, "Did you mean 'uniform'"),
        ("ddpm", 1001, "native", {}, "1000"),
        ("dopri5", 5, "shared", {}, "leave steps out and set rtol and atol"),
    ],
)
def test_bad_requests_get_one_sentence(
    name: str, steps: int, grid_name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        sampler(name, steps, grid_name, **options)


def test_native_is_the_grid_of_the_sampler() -> None:
    assert sampler("edm", 5, "native").grid == Grid("edm")
    assert {sampler(name, 1, "native").grid for name in FIXED} > {Grid("leading"), Grid("log-snr")}


@pytest.mark.parametrize("times", [(0.5,), (0.5, 0.5, 0.0), (0.2, 0.5, 0.0), (0.5, 0.1)])
def test_grids_that_do_not_fall_to_zero_are_refused(times: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="end at 0"):
        sampler("euler", 2)(denoiser(isotropic(path("cosine"))), latents(1, 4, 1.0), times)


def test_a_stochastic_sampler_without_a_source_of_noise_says_so() -> None:
    oracle = isotropic(path("cosine"))
    with pytest.raises(ValueError, match="pass noise="):
        sampler("ddpm", 2)(denoiser(oracle), latents(1, 4, 1.0), grid("shared", oracle.path, 2))
