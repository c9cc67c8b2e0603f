"""Our paths, velocities and transport against flow_matching and torchcfm; their time ends at the data."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.denoiser import target
from models.optimal_transport import coupled
from models.paths import path


def _draws(n: int = 32) -> tuple[Tensor, Tensor, Tensor]:
    """Images, noise and our times, float64."""
    generator = torch.Generator().manual_seed(0)
    x_0, epsilon = (torch.randn(n, 1, 4, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    return x_0, epsilon, torch.rand(n, generator=generator, dtype=torch.float64) * 0.98 + 0.01


def _ours(name: str, x_0: Tensor, epsilon: Tensor, t_B: Tensor) -> tuple[Tensor, Tensor]:
    """x_t and the velocity with our time reversed, so that it points at the data as theirs does."""
    ours, t = path(name), t_B.view(-1, 1, 1, 1)
    return ours.alpha(t) * x_0 + ours.sigma(t) * epsilon, -target("velocity", ours, t, x_0, epsilon)


@pytest.mark.parametrize(
    ("name", "scheduler", "options"),
    [
        ("rectified-flow", "CondOTScheduler", {}),
        ("cosine", "CosineScheduler", {}),
        ("linear-vp", "VPScheduler", {"beta_min": 0.1, "beta_max": 20.0}),
    ],
)
def test_paths_equal_those_of_flow_matching(name: str, scheduler: str, options: dict[str, float]) -> None:
    """The same state and velocity for given image, noise and time."""
    pytest.importorskip("flow_matching")
    from flow_matching.path import AffineProbPath
    from flow_matching.path import scheduler as schedulers

    x_0, epsilon, t_B = _draws()
    theirs = AffineProbPath(scheduler=getattr(schedulers, scheduler)(**options))
    sample = theirs.sample(x_0=epsilon, x_1=x_0, t=1.0 - t_B)
    x_t, velocity = _ours(name, x_0, epsilon, t_B)
    assert torch.allclose(sample.x_t, x_t, atol=1e-6)
    assert torch.allclose(sample.dx_t, velocity, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "matcher"),
    [("rectified-flow", "ConditionalFlowMatcher"), ("cosine", "VariancePreservingConditionalFlowMatcher")],
)
def test_states_and_velocities_equal_those_of_torchcfm(name: str, matcher: str) -> None:
    """Their path of width σ = 0."""
    peer = pytest.importorskip("torchcfm.conditional_flow_matching")
    x_0, epsilon, t_B = _draws()
    theirs = getattr(peer, matcher)(sigma=0.0)
    state = theirs.sample_xt(epsilon, x_0, 1.0 - t_B, torch.zeros_like(x_0))
    x_t, velocity = _ours(name, x_0, epsilon, t_B)
    assert torch.allclose(state, x_t, atol=1e-9)
    found = theirs.compute_conditional_flow(epsilon, x_0, 1.0 - t_B, state)
    assert torch.allclose(found, velocity, atol=1e-9)


def test_transport_costs_what_that_of_torchcfm_costs() -> None:
    """Their plan puts 1/n on each pair of a permutation of the same total squared distance."""
    peer = pytest.importorskip("torchcfm.optimal_transport")
    x_0, epsilon, _ = _draws(64)
    plan = torch.as_tensor(peer.OTPlanSampler(method="exact").get_map(epsilon, x_0))
    theirs = float((plan * torch.cdist(epsilon.flatten(1), x_0.flatten(1)) ** 2).sum())
    ours = float((coupled(x_0, epsilon) - x_0).square().sum()) / len(x_0)
    assert ours == pytest.approx(theirs, rel=1e-6)
