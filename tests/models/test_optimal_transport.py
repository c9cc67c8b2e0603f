"""Protects the transport within a batch: exact, cheaper than chance, and silent about the marginals."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from models.optimal_transport import assignment, coupled


def _cost(x: Tensor, y: Tensor) -> float:
    return float((x - y).square().sum())


def _draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("seed", range(5))
def test_assignment_is_the_best_of_all_permutations(seed: int) -> None:
    """Five points, 120 permutations; a cost of plain instead of squared distances would differ."""
    x, epsilon = _draw(5, 1, 2, 2, seed=seed), _draw(5, 1, 2, 2, seed=seed + 100)
    best = min(itertools.permutations(range(5)), key=lambda order: _cost(x, epsilon[list(order)]))
    assert assignment(x, epsilon).tolist() == list(best)


def test_squared_and_not_plain_distances_are_summed() -> None:
    """On a line plain distances tie: 0→1, 1→2 costs as much as 0→2, 1→1; squares prefer the first."""
    x, epsilon = torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0], [1.0]])
    assert assignment(x, epsilon).tolist() == [1, 0]


def test_coupling_permutes_and_costs_less() -> None:
    x, epsilon = _draw(64, 1, 4, 4), _draw(64, 1, 4, 4, seed=1)
    found = coupled(x, epsilon)
    assert torch.equal(found.flatten(1).sort(0).values, epsilon.flatten(1).sort(0).values)
    assert sorted(map(tuple, found.flatten(1).tolist())) == sorted(map(tuple, epsilon.flatten(1).tolist()))
    assert _cost(x, found) < 0.8 * _cost(x, epsilon)


def test_noise_of_a_label_stays_with_it_and_is_best_there() -> None:
    x, epsilon = _draw(12, 3), _draw(12, 3, seed=1)
    label = torch.tensor([0, 3, 0, 1, 3, 3, 0, 1, 1, 0, 2, 0])
    found = coupled(x, epsilon, label)
    for c in label.unique():
        rows = label == c
        assert torch.equal(found[rows], coupled(x[rows], epsilon[rows]))
    captions = torch.stack([label, 2 * label], 1)
    assert torch.equal(coupled(x, epsilon, captions), found)


def test_only_transport_within_labels_keeps_the_noise_of_a_label_standard_normal() -> None:
    """Two classes at ±1: over the whole batch the noise of class 1 is pushed up."""
    epsilon = _draw(500, 8, 1)
    label = torch.tensor([0, 1] * 4)
    x = (2.0 * label - 1.0)[:, None] + 0.1 * _draw(500, 8, 1, seed=1)
    whole = torch.stack([coupled(a, b) for a, b in zip(x, epsilon, strict=True)])
    within = torch.stack([coupled(a, b, label) for a, b in zip(x, epsilon, strict=True)])
    assert float(whole[:, label == 1].mean()) > 0.6
    assert abs(float(within[:, label == 1].mean())) < 0.08  # 3.6 standard errors of 2000 normals
    assert float(within[:, label == 1].std()) == pytest.approx(1.0, abs=0.06)
    for found in (whole, within):
        assert float(found.mean()) == pytest.approx(float(epsilon.mean()), abs=1e-6)


def test_bad_batches() -> None:
    """Unequal shapes are refused; what is not finite is left for the loss to report."""
    with pytest.raises(ValueError, match="equal batches"):
        assignment(torch.zeros(3, 2), torch.zeros(4, 2))
    x = torch.tensor([[float("nan")], [0.0]])
    assert assignment(x, torch.ones(2, 1)).tolist() == [0, 1]
    assert coupled(torch.zeros(0, 2), torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64)).shape == (0, 2)
