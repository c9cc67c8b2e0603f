"""Protects the conversions between predictions, which exist in one place only."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from models.denoiser import PREDICTIONS, Denoised, Denoiser, target
from models.paths import PATHS, path
from tests.models.oracles import denoiser, isotropic, latents

NAMES = st.sampled_from(sorted(PATHS))
KINDS = st.sampled_from(PREDICTIONS)
VALUES = st.floats(-3, 3)


@given(NAMES, KINDS, st.floats(0.01, 0.98), VALUES, VALUES, st.booleans())
def test_every_view_follows_from_any_prediction(
    name: str, kind: str, t: float, x_0: float, epsilon: float, batched: bool
) -> None:
    """A network that is right in one type is right in all, for a float time and for one an image."""
    p = path(name)
    data, noise = (torch.full((1, 1, 1, 1), v, dtype=torch.float64) for v in (x_0, epsilon))
    time = torch.full((1, 1, 1, 1), t, dtype=torch.float64) if batched else t
    x_t = p.alpha(time) * data + p.sigma(time) * noise
    found = Denoised(x_t, time, target(kind, p, time, data, noise), p, kind)
    velocity = p.alpha_dot(t) * x_0 + p.sigma_dot(t) * epsilon
    wanted = {"x0": x_0, "epsilon": epsilon, "velocity": velocity, "score": -epsilon / p.sigma(t)}
    for view, value in wanted.items():
        assert float(getattr(found, view)) == pytest.approx(value, rel=1e-7, abs=1e-7)


@pytest.mark.parametrize(("name", "kind"), list(itertools.product(sorted(PATHS), PREDICTIONS)))
def test_velocity_is_the_time_derivative_of_the_exact_flow(name: str, kind: str) -> None:
    oracle = isotropic(path(name), kind)
    x, t, h = latents(8, 4, 1.0), 0.6, 1e-5
    difference = (oracle.flow(x, t, t + h) - oracle.flow(x, t, t - h)) / (2 * h)
    assert torch.allclose(denoiser(oracle)(x, t).velocity, difference, atol=1e-8)


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_score_is_the_gradient_of_the_log_density(kind: str) -> None:
    p, t = path("cosine"), 0.4
    oracle = isotropic(p, kind)
    x = latents(8, 4, 1.0)
    variance = p.alpha(t) ** 2 * 0.25 + p.sigma(t) ** 2
    assert torch.allclose(denoiser(oracle)(x, t).score, -(x - p.alpha(t) * 0.3) / variance, atol=1e-10)


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_clipping_keeps_the_views_consistent(kind: str) -> None:
    """After clamping x_0 the noise is what is left of x_t, not the network's own."""
    p, t = path("linear-vp"), 0.7
    oracle = isotropic(p, kind, mean=2.0)
    x = latents(16, 4, 1.0) + 1.0
    found = Denoiser(oracle, p, kind, clip=True)(x, t)
    assert float(found.x0.max()) == 1.0
    assert torch.allclose(p.alpha(t) * found.x0 + p.sigma(t) * found.epsilon, x)
    assert torch.allclose(found.velocity, p.alpha_dot(t) * found.x0 + p.sigma_dot(t) * found.epsilon)


class _Recorder(nn.Module):
    """Says 0 and remembers how it was called."""

    def forward(self, *arguments: Tensor) -> Tensor:
        self.arguments = arguments
        return torch.zeros_like(arguments[0])


def test_the_network_gets_a_time_for_each_image_and_the_condition_only_if_there_is_one() -> None:
    network, labels = _Recorder(), torch.arange(3)
    x = torch.zeros(3, 1, 2, 2)
    Denoiser(network, path("cosine"), "v")(x, 0.25)
    assert len(network.arguments) == 2
    assert torch.equal(network.arguments[1], torch.full((3,), 0.25))
    Denoiser(network, path("cosine"), "v", condition=(labels,))(x, 0.25)
    assert network.arguments[2] is labels


def test_impossible_and_misspelt_predictions_are_refused() -> None:
    x = torch.zeros(1, 1, 1, 1)
    with pytest.raises(ValueError, match="use a grid that avoids this time"):
        Denoised(x, 1.0, x, path("rectified-flow"), "epsilon")
    with pytest.raises(ValueError, match="Did you mean 'velocity'"):
        Denoiser(_Recorder(), path("cosine"), "velocty")
