"""Protects DiT: the published sizes and numbers, silence before training, generality in shape.

Shapes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

import pytest
import torch

from models.networks.dit import DiT, preset
from tests.models.networks.published import dit, random_weights

SMALL = {"width": 24, "depth": 2, "heads": 3}


@pytest.mark.parametrize(
    ("name", "count"),
    [("S/2", 32_865_056), ("B/2", 130_315_808), ("L/2", 457_840_672), ("XL/2", 674_834_720)],
)
def test_published_sizes_have_the_published_number_of_parameters(name: str, count: int) -> None:
    """A bias, a norm or a modulation too many changes it; positions are not trained."""
    with torch.device("meta"):
        network = DiT((4, 32, 32), channels_out=8, classes=1000, **preset(name))
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == count
    assert "pos_embed" in network.state_dict()


@torch.no_grad()
@pytest.mark.parametrize(
    ("shape", "patch", "channels_out", "classes"),
    [((3, 8, 8), 2, 6, 5), ((1, 4, 12), 4, 1, 0), ((2, 6, 3), 3, 2, 1), ((1, 3, 2), 1, 1, 3)],
)
def test_it_equals_the_formulas(shape: tuple, patch: int, channels_out: int, classes: int) -> None:
    """Every operation against an implementation of its own, with labels, non-square and learned variance."""
    network = random_weights(DiT(shape, patch, **SMALL, channels_out=channels_out, classes=classes))
    x, t = torch.randn(3, *shape, dtype=torch.float64), torch.tensor([0.0, 0.37, 1.0]).double()
    label = torch.tensor([0, 1, classes]) if classes else None
    wanted = dit(network.state_dict(), x, t, label, 3, patch)
    found = network(x, t, label) if classes else network(x, t)
    assert found.shape == (3, channels_out, *shape[1:])
    torch.testing.assert_close(found, wanted, atol=1e-10, rtol=1e-8)


@torch.no_grad()
def test_single_precision_stays_within_a_ten_thousandth() -> None:
    network = random_weights(DiT((1, 8, 8), **SMALL))
    x, t = torch.randn(4, 1, 8, 8, dtype=torch.float64), torch.rand(4, dtype=torch.float64)
    wanted = dit(network.state_dict(), x, t, None, 3, 2)
    found = network.float()(x.float(), t.float()).double()
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("classes", [0, 10])
def test_it_says_exactly_nothing_before_training(classes: int) -> None:
    network = DiT((1, 8, 8), classes=classes)
    label = torch.arange(4) if classes else None
    out = network(torch.randn(4, 1, 8, 8), torch.rand(4), label)
    assert torch.equal(out, torch.zeros(4, 1, 8, 8))


def test_blocks_start_as_the_identity() -> None:
    network, x = DiT((1, 8, 8)), torch.randn(2, 16, 128)
    assert torch.equal(network.blocks[0](x, torch.randn(2, 128), "auto"), x)


def test_every_parameter_is_reached_by_the_gradient() -> None:
    network = random_weights(DiT((1, 4, 4), **SMALL, classes=3))
    network(torch.randn(4, 1, 4, 4).double(), torch.rand(4).double(), torch.arange(4)).sum().backward()
    assert all(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in network.parameters())


@torch.no_grad()
def test_no_label_is_the_null_label_and_labels_matter() -> None:
    network = random_weights(DiT((1, 4, 4), **SMALL, classes=3))
    x, t = torch.randn(2, 1, 4, 4).double(), torch.rand(2).double()
    null = network(x, t, torch.tensor([3, 3]))
    assert torch.equal(network(x, t), null)
    assert float((network(x, t, torch.tensor([0, 1])) - null).abs().min()) > 1e-9


@torch.no_grad()
@pytest.mark.parametrize("backend", ["math", "reference"])
def test_attention_backends_agree(backend: str) -> None:
    named, auto = (random_weights(DiT((1, 4, 4), **SMALL, backend=b)) for b in (backend, "auto"))
    x, t = torch.randn(2, 1, 4, 4).double(), torch.rand(2).double()
    torch.testing.assert_close(named(x, t), auto(x, t), atol=1e-10, rtol=1e-8)


@torch.no_grad()
def test_dropout_acts_in_training_alone() -> None:
    network = random_weights(DiT((1, 4, 4), **SMALL, dropout=0.5))
    x, t = torch.randn(2, 1, 4, 4).double(), torch.rand(2).double()
    assert torch.equal(network(x, t), network(x, t))
    network.train()
    assert not torch.equal(network(x, t), network(x, t))


def test_time_scale_is_what_times_are_multiplied_by() -> None:
    thousand, one = (random_weights(DiT((1, 4, 4), **SMALL, time_scale=s)) for s in (1000.0, 1.0))
    x, t = torch.randn(2, 1, 4, 4).double(), torch.rand(2).double()
    torch.testing.assert_close(thousand(x, t), one(x, 1000.0 * t))


def test_bad_requests_get_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"Unknown DiT 'XXL/2'. Did you mean 'XL/2'\?"):
        preset("XXL/2")
    with pytest.raises(ValueError, match="do not tile images of 8x7"):
        DiT((1, 8, 7))
    with pytest.raises(ValueError, match="width 20 is not divisible by 3 heads"):
        DiT((1, 8, 8), width=20, heads=3)
    with pytest.raises(ValueError, match="1 or more: got 16, 0 and 1"):
        DiT((1, 8, 8), width=16, depth=0, heads=1)
    network = DiT((1, 8, 8), **SMALL)
    with pytest.raises(ValueError, match=r"built for images of \(1, 8, 8\): got \(1, 4, 8\)"):
        network(torch.zeros(1, 1, 4, 8), torch.zeros(1))
    with pytest.raises(ValueError, match="knows no labels"):
        network(torch.zeros(1, 1, 8, 8), torch.zeros(1), torch.zeros(1, dtype=torch.int64))
