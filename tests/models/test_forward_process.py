"""Protects the forward process: the chain of T steps and the closed form are one and the same law."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from models.denoiser import Denoised
from models.forward_process import (
    SCHEDULES,
    ForwardProcess,
    forward_process,
    from_betas,
    from_path,
    linear,
    without_terminal_signal,
)
from models.paths import PATHS, path
from models.posterior import posterior
from tests.models.oracles import normal_like

ALL = list(itertools.product(sorted(SCHEDULES), [False, True]))


@pytest.mark.parametrize(("schedule", "zero"), ALL)
@pytest.mark.parametrize("steps", [2, 50, 1000])
def test_composed_steps_have_the_coefficients_of_the_closed_form(
    schedule: str, zero: bool, steps: int
) -> None:
    """Running signal and noise through the chain apart gives α_t = √ᾱ_t and σ_t = √(1 − ᾱ_t), float64."""
    process = forward_process(schedule, steps, zero)
    beta = 1.0 - process.kept.square()
    assert torch.allclose(process.added, beta, atol=1e-15)
    signal, nothing = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    spread = torch.zeros(1, dtype=torch.float64)
    for t in range(1, steps + 1):
        signal = process.step(signal, t, nothing)
        spread = process.step(spread.sqrt(), t, nothing).square() + process.step(nothing, t, 1 + nothing) ** 2
        cumulative = float((1.0 - beta[:t]).prod())
        assert float(signal) == pytest.approx(math.sqrt(cumulative), rel=1e-10, abs=1e-15)
        assert float(spread) == pytest.approx(1.0 - cumulative, rel=1e-10)
        assert float(process.jump(1 + nothing, t, nothing)) == pytest.approx(float(signal), abs=1e-12)
        assert float(process.jump(nothing, t, 1 + nothing)) ** 2 == pytest.approx(float(spread), rel=1e-12)


@pytest.mark.parametrize(("schedule", "zero"), ALL)
def test_simulated_chain_has_the_law_of_the_closed_form(schedule: str, zero: bool) -> None:
    """40 000 runs from 0.8: mean, variance, and the correlation of two times, α_t σ_s/(α_s σ_t)."""
    process = forward_process(schedule, 20, zero)
    n, s, t = 40_000, 5, 12
    states = process.chain(torch.full((n, 1), 0.8, dtype=torch.float64), normal_like(0))
    for i in (1, s, t, 20):
        x, direct = (
            states[i - 1],
            process.jump(torch.full((n, 1), 0.8).double(), i, normal_like(i)(states[0])),
        )
        for found in (x, direct):
            assert float(found.mean()) == pytest.approx(0.8 * float(process.alpha[i - 1]), abs=0.02)
            assert float(found.var()) == pytest.approx(float(process.variance[i - 1]), rel=0.03)
    found = torch.corrcoef(torch.stack([states[s - 1][:, 0], states[t - 1][:, 0]]))[0, 1]
    ratio = (process.alpha / process.variance.sqrt())[t - 1] / (process.alpha / process.variance.sqrt())[
        s - 1
    ]
    assert float(found) == pytest.approx(float(ratio), abs=0.02)


@pytest.mark.parametrize("name", sorted(PATHS))
def test_transitions_of_a_path_compose_to_the_path(name: str) -> None:
    """α and σ of every Gaussian path, whether it keeps the variance or lets it explode."""
    p, times = path(name), [i / 64 for i in range(65)]
    process = from_path(p, times)
    for i, t in enumerate(times[1:]):
        assert float(process.alpha[i]) == pytest.approx(p.alpha(t), rel=1e-10, abs=1e-14)
        assert float(process.variance[i]) == pytest.approx(p.sigma(t) ** 2, rel=1e-10)
    assert process.log_snr[:-1].tolist() == pytest.approx(
        [p.log_snr(t) for t in times[1:-1]], rel=1e-9, abs=1e-9
    )


def test_bayes_rule_of_the_chain_is_the_posterior_of_the_samplers() -> None:
    """q(x_{t−1} | x_t, x_0) from the chain's own coefficients equals `models.posterior` on the path."""
    p, times = path("cosine"), [i / 10 for i in range(11)]
    process = from_path(p, times)
    for i in range(2, 11):
        before = float(process.variance[i - 2])
        kept, added = float(process.kept[i - 1]), float(process.added[i - 1])
        precision = 1.0 / before + kept**2 / added
        c = posterior(p, times[i], times[i - 1])
        assert c.small == pytest.approx(1.0 / precision, rel=1e-9)
        assert c.of_x0 == pytest.approx(float(process.alpha[i - 2]) / before / precision, rel=1e-9)


def test_published_schedules_are_those_of_the_papers() -> None:
    """Anchors: β of Ho et al. at both ends, ᾱ of Nichol & Dhariwal and of Jabri et al. in the middle."""
    classic = linear(1000)
    assert classic.added[[0, -1]].tolist() == pytest.approx([1e-4, 0.02])
    assert float(classic.alpha[-1]) ** 2 == pytest.approx(4.0358e-5, rel=1e-3)
    f = [math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2 for u in (0.0, 0.5)]
    assert float(forward_process("cosine", 1000).alpha[499]) ** 2 == pytest.approx(f[1] / f[0], rel=1e-9)
    assert float(forward_process("sigmoid", 1000).alpha[499]) ** 2 == pytest.approx(0.5, abs=1e-9)
    for name in ("cosine", "sigmoid"):
        assert float(forward_process(name, 1000).added.max()) == pytest.approx(0.999)


@pytest.mark.parametrize("schedule", sorted(SCHEDULES))
def test_zero_terminal_signal_keeps_the_first_and_loses_the_last(schedule: str) -> None:
    """Lin et al. 2023: √ᾱ_1 stays, √ᾱ_T = 0, the steps between keep their proportions."""
    before = forward_process(schedule, 100)
    after = without_terminal_signal(before)
    assert float(after.alpha[0]) == pytest.approx(float(before.alpha[0]), rel=1e-12)
    assert float(after.alpha[-1]) == 0.0
    assert float(after.variance[-1]) == 1.0
    assert float(after.log_snr[-1]) == -math.inf
    ratio = (after.alpha[:-1].diff() / before.alpha[:-1].diff()).tolist()
    assert ratio == pytest.approx([ratio[0]] * 98, rel=1e-6)


def test_noise_says_nothing_of_the_data_without_signal() -> None:
    """Why such a schedule needs v or x_0: ε at α = 0 is refused, v is not."""
    x, p = torch.ones(1, 1, 1, 1), path("rectified-flow")
    with pytest.raises(ValueError, match="or prediction v"):
        Denoised(x, 1.0, x, p, "epsilon")
    assert float(Denoised(x, 1.0, x, p, "v").x0) == -1.0


def test_jump_takes_a_step_for_each_image() -> None:
    process, x = linear(10), torch.ones(3, 1, 2, 2)
    found = process.jump(x, torch.tensor([1, 5, 10]), torch.zeros_like(x))
    assert found.dtype == torch.float32
    assert torch.allclose(found[:, 0, 0, 0].double(), process.alpha[[0, 4, 9]], atol=1e-7)


def _process(kept: list[float], added: list[float]) -> ForwardProcess:
    return ForwardProcess(torch.tensor(kept), torch.tensor(added))


def test_bad_requests_get_one_sentence() -> None:
    x: Tensor = torch.zeros(1, 1)
    with pytest.raises(ValueError, match="Did you mean 'cosine'"):
        forward_process("cosin", 10)
    with pytest.raises(ValueError, match="two or more steps"):
        forward_process("linear", 1)
    with pytest.raises(ValueError, match="steps 1 … 10, and not 11"):
        linear(10).step(x, 11, x)
    with pytest.raises(ValueError, match="steps 1 … 10, and not 0"):
        linear(10).jump(x, torch.tensor([0]), x)
    with pytest.raises(ValueError, match="rising times"):
        from_path(path("cosine"), [0.1, 0.5])
    with pytest.raises(ValueError, match="above 0"):
        from_betas([0.1, 0.0])
    with pytest.raises(ValueError, match="adds some noise"):
        _process([1.0], [0.0])
    with pytest.raises(ValueError, match="one added variance for each"):
        _process([1.0, 1.0], [0.1])
