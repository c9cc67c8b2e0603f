"""The divergence of a field: exact on a linear one, and probes with the mean and variance they should have.

Shapes: B rows, D dimensions.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from models.likelihood.divergence import PROBES, exact, gaussian, hutchinson, product, rademacher

REPEATS = 40_000


def _matrix(seed: int = 0, symmetric: bool = True) -> Tensor:
    """Entries off the diagonal as large as on it: only there Rademacher probes have any variance."""
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randn(4, 4, generator=generator, dtype=torch.float64)
    return 0.5 * (raw + raw.T) if symmetric else raw


def _field(matrix: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """f = Sx for rows of x."""
    x = torch.randn(rows, 4, dtype=torch.float64, requires_grad=True)
    return x @ matrix.T, x


@pytest.mark.parametrize("law", PROBES)
def test_hutchinson_is_unbiased_with_the_known_variance(law: str) -> None:
    """Mean tr S within 5 standard errors; variance 2 Σ_{i≠j} S_ij² or 2‖S‖²_F within 5 %."""
    S = _matrix()
    f, x = _field(S, REPEATS)
    found = hutchinson([PROBES[law](x, torch.Generator().manual_seed(1))])(f, x)
    off = float(S.square().sum() - S.diag().square().sum())
    variance = {"rademacher": 2 * off, "gaussian": 2 * float(S.square().sum())}[law]
    assert off > 1
    assert float(found.mean()) == pytest.approx(float(S.trace()), abs=5 * math.sqrt(variance / REPEATS))
    assert float(found.var()) == pytest.approx(variance, rel=0.05)


def test_probes_average_down() -> None:
    """Four probes have a quarter of the variance of one."""
    S = _matrix()
    f, x = _field(S, REPEATS)
    generator = torch.Generator().manual_seed(2)
    four = hutchinson([rademacher(x, generator) for _ in range(4)])(f, x)
    one = 2 * float(S.square().sum() - S.diag().square().sum())
    assert float(four.var()) == pytest.approx(one / 4, rel=0.05)


def test_signs_cost_nothing_on_a_diagonal() -> None:
    """zᵀJz = tr J for every Rademacher z where J is diagonal, and not for a Gaussian one."""
    S = _matrix().diag().diag()
    for law, same in ((rademacher, True), (gaussian, False)):
        f, x = _field(S, 50)
        found = hutchinson([law(x, torch.Generator().manual_seed(3))])(f, x)
        assert torch.allclose(found, S.trace().expand(50), atol=1e-12) is same


def test_exact_is_the_trace_of_each_row() -> None:
    """A nonlinear field of images: rows have divergences of their own, over all axes."""
    x = torch.randn(3, 1, 2, 2, dtype=torch.float64, requires_grad=True)
    S = _matrix(symmetric=False)
    f = torch.tanh(x.flatten(1) @ S.T).view(x.shape)
    slopes = 1 - torch.tanh(x.detach().flatten(1) @ S.T).square()
    assert torch.allclose(exact(f, x), slopes @ S.diag(), atol=1e-12)


def test_product_is_with_the_transpose_and_differentiable_on_demand() -> None:
    """zᵀJ = Sᵀz, not Sz; and d/dx of ‖zᵀJ‖² exists, as the regulariser needs."""
    S = _matrix(symmetric=False)
    x = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    z = torch.randn(5, 4, dtype=torch.float64)
    assert torch.allclose(product(x @ S.T, x, z), z @ S)
    assert not product(x @ S.T, x, z).requires_grad
    (slope,) = torch.autograd.grad(product(x**3 / 3, x, z, differentiable=True).square().sum(), x)
    assert torch.allclose(slope, 4 * z**2 * x**3)
