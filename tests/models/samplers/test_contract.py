"""Protects what holds for every sampler: names, cost, noise only from where it is given, no host reads."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from models.denoiser import PREDICTIONS, Denoiser
from models.grids import GRIDS, grid
from models.networks.unet import UNet
from models.paths import PATHS, path
from models.samplers import catalogue, names, sampler
from tests.models.oracles import GaussianOracle, isotropic, latents, normal_like
from tests.models.oracles import denoiser as plain

NOISY = [
    ("ddpm", {}),
    ("ddpm", {"variance": "large"}),
    ("ddpm", {"variance": "learned"}),
    ("ddim", {"eta": 1.0}),
]
QUIET = [("ddim", {}), ("euler", {}), ("heun", {})]
ALL = NOISY + QUIET


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
    """Counted at the network: N, and 2N − 1 for Heun."""
    oracle, calls = isotropic(path("cosine")), []
    oracle.register_forward_pre_hook(lambda *_: calls.append(1))
    times = grid("shared", oracle.path, steps)
    sampler(name, steps, **options)(denoiser(oracle), latents(2, 4, 1.0), times, noise=normal_like(0))
    wanted = {"N": steps, "2N − 1": 2 * steps - 1}[catalogue.ENTRIES[name].evaluations]
    assert len(calls) == wanted


class _HostReads(TorchDispatchMode):
    """Counts operations that make the host wait for a value."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in (
            torch.ops.aten._local_scalar_dense.default,
            torch.ops.aten.item.default,
            torch.ops.aten.is_nonzero.default,
            torch.ops.aten.nonzero.default,
        )
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("name", "options"), ALL)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_loop_never_reads_a_tensor_on_the_host(
    name: str, options: dict[str, Any], prediction: str
) -> None:
    """With a real network: on a device each such read is a wait."""
    p = path("linear-vp")
    network = Denoiser(UNet((1, 8, 8), channels=8, channels_out=2), p, prediction, clip=True)
    x = torch.randn(2, 1, 8, 8)
    with torch.no_grad(), _HostReads() as reads:
        sampler(name, 3, **options)(network, x, grid("shared", p, 3), noise=torch.randn_like)
    assert reads.count == 0
    with _HostReads() as reads:
        float(x.sum())
    assert reads.count == 1, "the counter sees a read when there is one"


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
    assert len(draws) == (4 if (name, options) in NOISY else 0)


@pytest.mark.parametrize(("name", "options"), NOISY)
def test_the_last_step_adds_no_noise(name: str, options: dict[str, Any]) -> None:
    """One step is the last step: the result is the prediction itself."""
    oracle = isotropic(path("rectified-flow"))
    times, x = grid("shared", oracle.path, 1), latents(3, 4, 1.0)
    found = sampler(name, 1, **options)(denoiser(oracle), x, times)
    assert torch.allclose(found, denoiser(oracle)(x, times[0]).x0, atol=1e-12)


@pytest.mark.parametrize(("name", "options"), ALL)
@pytest.mark.parametrize("grid_name", sorted(GRIDS))
def test_callback_sees_every_state_and_its_time(name: str, options: dict[str, Any], grid_name: str) -> None:
    oracle = isotropic(path("cosine"))
    times, seen = grid(grid_name, oracle.path, 4), []
    found = sampler(name, 4, grid_name, **options)(
        denoiser(oracle),
        latents(2, 4, 1.0),
        times,
        noise=normal_like(0),
        callback=lambda step, t, x: seen.append((step, t, x)),
    )
    assert [(step, t) for step, t, _ in seen] == list(enumerate(times[1:]))
    assert torch.equal(seen[-1][2], found)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("path_name", sorted(PATHS))
@pytest.mark.parametrize("name", names())
def test_every_sampler_runs_on_every_path_and_prediction(name: str, path_name: str, prediction: str) -> None:
    """One step budget, the same data law: the spread of the samples is that of the data."""
    oracle = isotropic(path(path_name), prediction)
    times = grid("shared", oracle.path, 64)
    x = sampler(name, 64)(
        denoiser(oracle), latents(1000, 4, oracle.path.sigma(times[0])), times, noise=normal_like(1)
    )
    assert float(x.mean()) == pytest.approx(0.3, abs=0.03)
    assert float(x.std()) == pytest.approx(0.5, abs=0.03)


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
        ("euler", 5, "shared", {"eta": 0.0}, "leave it out"),
        ("euler", 0, "shared", {}, "one or more"),
        ("euler", 5, "unifrom", {}, "Did you mean 'uniform'"),
    ],
)
def test_bad_requests_get_one_sentence(
    name: str, steps: int, grid_name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        sampler(name, steps, grid_name, **options)


@pytest.mark.parametrize("times", [(0.5,), (0.5, 0.5, 0.0), (0.2, 0.5, 0.0), (0.5, 0.1)])
def test_grids_that_do_not_fall_to_zero_are_refused(times: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="end at 0"):
        sampler("euler", 2)(denoiser(isotropic(path("cosine"))), latents(1, 4, 1.0), times)


def test_a_stochastic_sampler_without_a_source_of_noise_says_so() -> None:
    oracle = isotropic(path("cosine"))
    with pytest.raises(ValueError, match="pass noise="):
        sampler("ddpm", 2)(denoiser(oracle), latents(1, 4, 1.0), grid("shared", oracle.path, 2))
