"""The causal transformer: no token sees the future, and the cache changes nothing.

Shapes: B batch, L tokens, E embedding.
"""

from __future__ import annotations

import pytest
import torch

from models.networks.transformer import CausalTransformer, KeyValueCache


def _transformer(backend: str = "auto") -> CausalTransformer:
    """Random weights throughout: at its start a branch adds almost nothing and would hide a leak."""
    torch.manual_seed(0)
    network = CausalTransformer(width=16, depth=3, heads=4, backend=backend).double().eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return network


def test_token_depends_on_its_past_alone() -> None:
    """∂ output_i/∂ input_j is zero for j > i and not for j ≤ i, for every pair."""
    network = _transformer()
    x_1LE = torch.randn(1, 6, 16, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(network, x_1LE)[0, :, :, 0]  # type: ignore[index]
    reach_LL = jacobian.abs().amax(dim=(1, 3))
    assert torch.equal(reach_LL > 0, torch.ones(6, 6, dtype=torch.bool).tril())


@pytest.mark.parametrize("backend", ["auto", "math", "reference"])
def test_cache_reproduces_the_full_pass(backend: str) -> None:
    """Token by token with the cache equals all tokens at once."""
    network = _transformer(backend)
    x_BLE = torch.randn(2, 9, 16, dtype=torch.float64)
    cache = KeyValueCache()
    steps = [network(x_BLE[:, i : i + 1], cache) for i in range(9)]
    torch.testing.assert_close(torch.cat(steps, 1), network(x_BLE), atol=1e-12, rtol=1e-10)


def test_bad_input_is_one_sentence() -> None:
    with pytest.raises(ValueError, match="width 10 is not divisible by 4 heads: choose a multiple of 4"):
        CausalTransformer(width=10, depth=1, heads=4)
    with pytest.raises(ValueError, match="one token at a time: got 2"):
        _transformer()(torch.zeros(1, 2, 16, dtype=torch.float64), KeyValueCache())
