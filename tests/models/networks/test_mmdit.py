"""Protects MM-DiT: the published sizes and numbers, every option, and what text may and may not do.

Shapes: B batch, C channels, H height, W width, L text tokens.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.networks.mmdit import MMDiT, resolution_shift
from tests.models.networks.published import mmdit, random_weights

SMALL = {"width": 24, "depth": 3, "heads": 2, "context_width": 7, "pooled_width": 5}


def _inputs(shape: tuple[int, int, int], tokens: int = 4, n: int = 3) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    return tuple(
        torch.randn(size, generator=generator, dtype=torch.float64).abs()
        for size in ((n, *shape), (n,), (n, tokens, 7), (n, 5))
    )


def _whole(rows: int, columns: int) -> Tensor:
    """Indices of all positions of a table that the image fills in its longer side, centred in the other."""
    S = max(rows, columns)
    top, left = (S - rows) // 2, (S - columns) // 2
    return torch.tensor([(top + i) * S + left + j for i in range(rows) for j in range(columns)])


@torch.no_grad()
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"qk_norm": None},
        {"dual_blocks": 2},
        {"dual_blocks": 3, "qk_norm": None},
        {"depth": 1},
        {"channels_out": 4, "expansion": 2.0},
    ],
)
def test_it_equals_the_formulas(options: dict) -> None:
    """With and without QK norm, dual attention, a single (pre-only) block; on a non-square image."""
    shape = (2, 4, 8)
    network = random_weights(MMDiT(shape, **{**SMALL, **options}))
    inputs = _inputs(shape)
    wanted = mmdit(network.state_dict(), *inputs, heads=2, patch=2, crop=_whole(2, 4))
    assert wanted.shape[1] == options.get("channels_out", 2)
    torch.testing.assert_close(network(*inputs), wanted, atol=1e-10, rtol=1e-8)


@torch.no_grad()
def test_single_precision_stays_within_a_ten_thousandth() -> None:
    network, inputs = random_weights(MMDiT((1, 4, 4), **SMALL, dual_blocks=1)), _inputs((1, 4, 4))
    wanted = mmdit(network.state_dict(), *inputs, heads=2, patch=2, crop=_whole(2, 2))
    found = network.float()(*(x.float() for x in inputs)).double()
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("depth", "options", "count"),
    [
        (24, {"qk_norm": None, "positions": 192}, 2_028_328_000),
        (24, {"dual_blocks": 13, "positions": 384}, 2_243_171_520),
        (38, {"positions": 192}, 8_056_627_520),
    ],
)
def test_published_sizes_are_reproduced(depth: int, options: dict, count: int) -> None:
    """SD3-medium, SD3.5-medium and SD3.5-large: 2.0, 2.2 and 8.1 thousand million parameters."""
    with torch.device("meta"):
        network = MMDiT(
            (16, 128, 128),
            width=64 * depth,
            depth=depth,
            heads=depth,
            context_width=4096,
            pooled_width=2048,
            **options,
        )
    assert sum(p.numel() for p in network.parameters()) == count


def test_it_says_exactly_nothing_before_training() -> None:
    network = MMDiT((3, 8, 8), dual_blocks=2)
    out = network(torch.randn(2, 3, 8, 8), torch.rand(2), torch.randn(2, 5, 64), torch.randn(2, 64))
    assert torch.equal(out, torch.zeros(2, 3, 8, 8))


def test_every_parameter_is_reached_by_the_gradient() -> None:
    """All but what the last text stream computes for queries that nobody reads, as published."""
    network = random_weights(MMDiT((1, 4, 4), **SMALL, dual_blocks=1))
    network(*_inputs((1, 4, 4))).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.any()) != (name == "joint_blocks.2.context_block.attn.ln_q.weight"), name


@torch.no_grad()
def test_text_acts_by_its_tokens_and_by_its_pooled_vector() -> None:
    """Each alone changes the result, the order of tokens does not (they carry their own positions)."""
    network = random_weights(MMDiT((1, 4, 4), **SMALL))
    x, t, context, pooled = _inputs((1, 4, 4))
    out = network(x, t, context, pooled)
    assert float((network(x, t, 2 * context, pooled) - out).abs().max()) > 1e-6
    assert float((network(x, t, context, 2 * pooled) - out).abs().max()) > 1e-6
    torch.testing.assert_close(network(x, t, context.flip(1), pooled), out, atol=1e-10, rtol=1e-8)
    torch.testing.assert_close(network(x[:1], t[:1], context[:1], pooled[:1]), out[:1])


@torch.no_grad()
def test_other_image_sizes_use_the_middle_of_the_table() -> None:
    network = random_weights(MMDiT((1, 12, 12), **SMALL, positions=6))
    inputs = _inputs((1, 4, 8))
    crop = torch.tensor([(2 + i) * 6 + 1 + j for i in range(2) for j in range(4)])
    wanted = mmdit(network.state_dict(), *inputs, heads=2, patch=2, crop=crop)
    torch.testing.assert_close(network(*inputs), wanted, atol=1e-10, rtol=1e-8)


@torch.no_grad()
def test_backends_agree_and_dropout_acts_in_training_alone() -> None:
    inputs = _inputs((1, 4, 4))
    auto, named = (
        random_weights(MMDiT((1, 4, 4), **SMALL, dropout=0.5, backend=b)) for b in ("auto", "reference")
    )
    torch.testing.assert_close(auto(*inputs), named(*inputs), atol=1e-10, rtol=1e-8)
    auto.train()
    assert not torch.equal(auto(*inputs), auto(*inputs))


def test_resolution_shift_keeps_the_ends_and_follows_the_root_of_the_tokens() -> None:
    """k = 3 for nine times the tokens, as from 341² to 1024²; the same number of tokens shifts nothing."""
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    found = resolution_shift(t, 9 * 256, 256)
    torch.testing.assert_close(found, 3 * t / (1 + 2 * t))
    assert found[0] == 0
    assert found[-1] == 1
    torch.testing.assert_close(resolution_shift(found, 256, 9 * 256), t)
    assert torch.equal(resolution_shift(t, 64, 64), t)


def test_bad_requests_get_one_sentence() -> None:
    with pytest.raises(ValueError, match="Unknown qk_norm 'rmss'"):
        MMDiT((1, 4, 4), **SMALL, qk_norm="rmss")
    with pytest.raises(ValueError, match="dual_blocks must be 0 to the depth 3: got 4"):
        MMDiT((1, 4, 4), **SMALL, dual_blocks=4)
    with pytest.raises(ValueError, match="4x4 patches do not fit a table of 2x2 positions"):
        MMDiT((1, 8, 8), **SMALL, positions=2)
    network = MMDiT((1, 4, 4), **SMALL).double()
    with pytest.raises(ValueError, match="3x2 patches do not fit a table of 2x2"):
        network(*_inputs((1, 6, 4)))
    with pytest.raises(ValueError, match="do not tile images of 5x4"):
        network(*_inputs((1, 5, 4)))
