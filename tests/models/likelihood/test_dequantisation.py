"""Protects the laws of dequantisation: densities of mass one, and bounds that weighting tightens."""

from __future__ import annotations

import math

import pytest
import torch

from models.likelihood.dequantisation import LAWS, importance_weighted


def _drawn(law: str, spread: float, n: int = 40_000) -> tuple[torch.Tensor, torch.Tensor]:
    like = torch.empty(n, 1, dtype=torch.float64)
    w, log_q = LAWS[law](like, spread, torch.Generator().manual_seed(0))
    return w[:, 0], log_q


@pytest.mark.parametrize("spread", [0.2, 0.6, 3.0])
def test_truncated_normal_is_that_of_the_closed_form(spread: float) -> None:
    """Within ±1; variance r²(1 − 2bφ(b)/Z) with b = 1/r, Z = 2Φ(b) − 1; entropy from the same terms."""
    w, log_q = _drawn("truncated-normal", spread)
    b = 1.0 / spread
    phi, mass = math.exp(-0.5 * b * b) / math.sqrt(2 * math.pi), math.erf(b / math.sqrt(2))
    variance = spread**2 * (1 - 2 * b * phi / mass)
    entropy = math.log(spread * mass * math.sqrt(2 * math.pi * math.e)) - b * phi / mass
    assert float(w.abs().max()) <= 1.0
    assert float(w.var()) == pytest.approx(variance, rel=0.03)
    assert -float(log_q.mean()) == pytest.approx(entropy, abs=0.02)


@pytest.mark.parametrize("law", LAWS)
def test_densities_integrate_to_one(law: str) -> None:
    """E_q[1/q] is the length of the interval that q lives on, 2."""
    _, log_q = _drawn(law, 0.7)
    assert float((-log_q).exp().mean()) == pytest.approx(2.0, rel=0.02)


def test_offsets_add_up_over_entries() -> None:
    _, log_q = LAWS["uniform"](torch.empty(3, 1, 2, 5), 0.0, None)
    assert torch.allclose(log_q, torch.full((3,), -10 * math.log(2.0), dtype=torch.float64))


def test_weighting_has_its_log_k_and_only_tightens() -> None:
    """Equal draws are left as they are; others give less than their mean and more than their least."""
    equal = torch.full((7, 2), 3.0, dtype=torch.float64)
    assert torch.allclose(importance_weighted(equal), equal[0])
    nats = torch.tensor([[1.0], [4.0], [2.0]], dtype=torch.float64)
    found = float(importance_weighted(nats))
    assert found == pytest.approx(-math.log(sum(math.exp(-n) for n in (1, 4, 2)) / 3))
    assert 1.0 < found < float(nats.mean())
