"""TarFlow's blocks: causal in the order they read, cached as well as at once, tokens where they belong.

Shapes: B batch, L tokens, P values of a token.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.networks.tarflow import LARGEST_LOG_SCALE, Place, TarFlowBlocks


def _blocks(blocks: int = 1, patch: int = 1, classes: int = 0) -> TarFlowBlocks:
    """Random weights throughout: a head at zero would make everything the identity."""
    torch.manual_seed(0)
    network = TarFlowBlocks((1, 2, 4), patch, blocks, 8, 2, 2, classes=classes).double().eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return network


@pytest.mark.parametrize("index", [0, 1])
def test_block_is_triangular_in_its_own_order(index: int) -> None:
    """∂z_i/∂x_j is zero for j > i, and not for j ≤ i, but for the first token, which is as it was."""
    network = _blocks(blocks=2)
    x_BLP = torch.randn(1, 8, 1, dtype=torch.float64)

    def transform(x: Tensor) -> Tensor:
        return network._transform(x, None, index)[0].flatten()

    jacobian = torch.autograd.functional.jacobian(transform, x_BLP).view(8, 8)  # type: ignore[union-attr]
    reach_LL = jacobian.abs() > 0
    if index:
        reach_LL = reach_LL.flip(0, 1)
        jacobian = jacobian.flip(0, 1)
    assert torch.equal(reach_LL, torch.ones(8, 8, dtype=torch.bool).tril())
    assert float(jacobian[0, 0]) == 1


def test_values_of_one_token_do_not_see_each_other() -> None:
    """Within a 2×2 patch the Jacobian of a block is diagonal: its four values share one past."""
    network = _blocks(patch=2)
    x_BLP = torch.randn(1, 2, 4, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(  # type: ignore[union-attr]
        lambda x: network._transform(x, None, 0)[0].flatten(), x_BLP
    ).view(8, 8)
    for first in (0, 4):
        inside = jacobian[first : first + 4, first : first + 4]
        assert torch.equal(inside, inside.diag().diag())
    assert bool((jacobian[4:, :4] != 0).all())


def test_token_by_token_equals_all_at_once() -> None:
    """Cached μ and α of each next token are those of the parallel pass, with labels."""
    network = _blocks(blocks=2, classes=3)
    x_BLP, label_B = torch.randn(4, 8, 1, dtype=torch.float64), torch.tensor([0, 2, 3, 1])
    for block in (0, 1):
        mu_BLP, alpha_BLP = network.blocks[block](x_BLP[:, :-1], label_B, 0, None)
        place = Place(block)
        for i in range(7):
            place.token = i
            mu_B1P, alpha_B1P = network(x_BLP[:, i : i + 1], label_B, place)
            torch.testing.assert_close(mu_B1P[:, 0], mu_BLP[:, i], atol=1e-12, rtol=1e-10)
            torch.testing.assert_close(alpha_B1P[:, 0], alpha_BLP[:, i], atol=1e-12, rtol=1e-10)


@torch.no_grad()
def test_log_scale_is_bounded_and_steep_at_zero() -> None:
    """A wild value cannot reach e^α > e³, and small ones pass as they are."""
    network = _blocks()
    block = network.blocks[0]
    torch.nn.init.constant_(block.head.bias, 100.0)
    x_BLP = torch.randn(2, 7, 1, dtype=torch.float64)
    assert bool((block(x_BLP, None, 0, None)[1] <= LARGEST_LOG_SCALE).all())
    torch.nn.init.zeros_(block.head.weight)
    torch.nn.init.constant_(block.head.bias, 0.01)
    assert float(block(x_BLP, None, 0, None)[1].mean()) == pytest.approx(0.01, rel=1e-4)


def test_patches_are_squares_in_raster_order() -> None:
    """Token 1 is the second square of the first row, and the way back is exact, colours too."""
    network = TarFlowBlocks((3, 4, 6), 2, 1, 8, 1, 2)
    x_BCHW = torch.arange(72.0).view(1, 3, 4, 6)
    tokens = network.to_tokens(x_BCHW)
    assert tokens.shape == (1, 6, 12)
    assert set(tokens[0, 1].tolist()) == set(x_BCHW[0, :, 0:2, 2:4].flatten().tolist())
    assert torch.equal(network.to_image(tokens), x_BCHW)


def test_no_label_is_the_null_label() -> None:
    network = _blocks(classes=3)
    x_BCHW = torch.randn(2, 1, 2, 4, dtype=torch.float64)
    null, zero = torch.full((2,), 3), torch.zeros(2, dtype=torch.int64)
    assert torch.equal(network(x_BCHW)[0], network(x_BCHW, null)[0])
    assert not torch.allclose(network(x_BCHW)[0], network(x_BCHW, zero)[0])
