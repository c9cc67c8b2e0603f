"""Protects the laws of training times: their quantiles, the shift, and the even spread of a batch."""

from __future__ import annotations

import pytest
import torch

from models.times import Times, draw_times, shifted


def _draw(n: int, law: Times) -> torch.Tensor:
    return draw_times(n, law, torch.Generator().manual_seed(0), torch.device("cpu"))


def test_times_are_spread_evenly_and_drawn_from_the_generator() -> None:
    """One in each n-th of (0, 1), shifted together: the loss varies less than with independent times."""
    times = _draw(10, Times())
    assert sorted((times * 10).int().tolist()) == list(range(10))
    assert torch.equal(times, _draw(10, Times()))


def test_a_logit_normal_law_has_its_location_and_scale() -> None:
    logits = _draw(10_000, Times("logit-normal", -0.4, 1.5)).logit()
    assert float(logits.mean()) == pytest.approx(-0.4, abs=0.01)
    assert float(logits.std()) == pytest.approx(1.5, abs=0.02)


@pytest.mark.parametrize("shift", [0.5, 3.0])
def test_a_shift_divides_the_signal_to_noise_ratio_by_its_square(shift: float) -> None:
    t = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    moved = shifted(t, shift)
    ratio = ((1 - t) / t / ((1 - moved) / moved)) ** 2
    assert torch.allclose(ratio, torch.full_like(ratio, shift**2))
    assert torch.equal(Times(shift=shift).quantile(t), moved)
    assert torch.equal(shifted(t, 1.0), t)


def test_bad_laws_get_one_sentence() -> None:
    with pytest.raises(ValueError, match="Did you mean 'logit-normal'"):
        Times("logit-norml")
    with pytest.raises(ValueError, match="a scale and a shift above 0"):
        Times(shift=0.0)
