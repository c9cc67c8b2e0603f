"""The networks of PixelCNN: what each pixel sees, and that the cache changes nothing but the work.

Shapes: B batch, C channels, H height, W width, F features, K levels.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from models.networks.pixelcnn import CausalConv, MixtureHead, PixelCache, PixelCNNNetwork, SoftmaxHead


def _network(
    shape: tuple[int, int, int], depth: int = 2, radius: int = 1, classes: int = 0
) -> PixelCNNNetwork:
    """Random weights throughout, so that nothing that starts at zero hides a leak."""
    torch.manual_seed(0)
    network = PixelCNNNetwork(shape, 6, depth, radius, classes, dropout=0.5).double().eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return network


def _labels(n: int, label: int = 0) -> Tensor:
    return torch.full((n,), label)


def _images(n: int, shape: tuple[int, int, int]) -> Tensor:
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize(("depth", "radius"), [(1, 1), (2, 1), (1, 2)])
def test_pixel_sees_its_whole_receptive_field_and_nothing_else(depth: int, radius: int) -> None:
    """∂ features/∂ input is zero outside the field in the docstring and nowhere zero inside: no blind spot.

    The one-stack PixelCNN misses a growing wedge to the upper right; any kernel that sees its own pixel
    shows here as well.
    """
    H, W = 8, 9
    network, n = _network((1, H, W), depth, radius), radius * (depth + 1)
    jacobian = torch.autograd.functional.jacobian(
        lambda x_1CHW: network(x_1CHW, _labels(1))[0].pow(2).sum(-1), _images(1, (1, H, W))
    )
    assert isinstance(jacobian, Tensor)
    reach_HWHW = jacobian[:, :, 0, 0].abs() > 0
    for h, w in itertools.product(range(H), range(W)):
        expected = torch.zeros(H, W, dtype=torch.bool)
        expected[max(0, h - 1 - n) : h, max(0, w - n) : w + n + 1] = True
        expected[h, max(0, w - 1 - n) : w] = True
        assert torch.equal(reach_HWHW[h, w], expected), (h, w)


@pytest.mark.parametrize("shape", [(1, 5, 4), (3, 4, 3), (2, 1, 3), (1, 3, 1), (1, 1, 1)])
@pytest.mark.parametrize("radius", [1, 3])
def test_cache_reproduces_the_full_pass(shape: tuple[int, int, int], radius: int) -> None:
    """Pixel by pixel with the cache equals all pixels at once; images smaller than a kernel included."""
    network, x_BCHW, label_B = _network(shape, 2, radius, classes=3), _images(2, shape), torch.tensor([1, 3])
    full_BHWF, cache = network(x_BCHW, label_B), PixelCache()
    for h, w in itertools.product(range(shape[1]), range(shape[2])):
        # What is not known yet while sampling must not be read either: it is filled with NaN.
        known = x_BCHW.clone()
        known[:, :, h, w:] = float("nan")
        known[:, :, h + 1 :] = float("nan")
        step_BF = network(known, label_B, cache)[:, 0, 0]
        torch.testing.assert_close(step_BF, full_BHWF[:, h, w], atol=1e-12, rtol=1e-10)


def test_cached_steps_together_cost_one_full_pass() -> None:
    """Every convolution computes each pixel of the image once over all steps: no pixel's work is repeated."""
    H, W = 4, 5
    network, computed = _network((1, H, W), depth=3), {}
    for name, module in network.named_modules():
        if isinstance(module, CausalConv):
            computed[name] = 0

            def count(_module: object, args: tuple[Tensor, ...], name: str = name) -> None:
                computed[name] += args[0].shape[1] * args[0].shape[2]

            module.register_forward_pre_hook(count)
    cache = PixelCache()
    for _ in range(H * W):
        network(_images(1, (1, H, W)), _labels(1), cache)
    assert len(computed) == 8
    assert set(computed.values()) == {H * W}


def test_every_parameter_is_used() -> None:
    """Dead weights would be counted and stored: each parameter gets a gradient."""
    network = _network((2, 5, 5), classes=2)
    network(_images(3, (2, 5, 5)), torch.tensor([0, 1, 2])).sum().pow(2).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().max()) > 0, name


def test_label_changes_every_pixel() -> None:
    """The first one as well, which nothing else informs."""
    network, x_BCHW = _network((1, 3, 3), classes=2), _images(1, (1, 3, 3))
    difference = network(x_BCHW, _labels(1, 0)) - network(x_BCHW, _labels(1, 1))
    assert bool((difference.abs().amax(-1) > 1e-6).all())


def test_rows_do_not_touch_each_other() -> None:
    """The norm is over the features of one pixel: no statistics of the batch."""
    network, x_BCHW = _network((1, 4, 4)), _images(3, (1, 4, 4))
    torch.testing.assert_close(network(x_BCHW, _labels(3))[1:2], network(x_BCHW[1:2], _labels(1)))


@pytest.mark.parametrize("kind", ["softmax", "mixture"])
def test_head_conditions_each_channel_on_those_before_it(kind: str) -> None:
    """`log_prob` gathers `log_probs`; channel c moves with every channel before c and with none after.

    Which channel has which level matters: each has a table, or a coefficient, of its own.
    """
    torch.manual_seed(0)
    head: SoftmaxHead | MixtureHead
    head = SoftmaxHead(3, 5, 8) if kind == "softmax" else MixtureHead(3, 5, 8, 4)
    for parameter in head.double().parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    features_BF, levels_BC = torch.randn(2, 8, dtype=torch.float64), torch.tensor([[0, 4, 2], [3, 1, 1]])
    before_BC = head.log_prob(features_BF, levels_BC)
    for c in range(3):
        table_BK = head.log_probs(features_BF, levels_BC[:, :c])
        torch.testing.assert_close(table_BK.exp().sum(1), torch.ones(2, dtype=torch.float64))
        torch.testing.assert_close(table_BK.gather(1, levels_BC[:, c : c + 1])[:, 0], before_BC[:, c])
        other_BC = levels_BC.clone()
        other_BC[:, c] = (other_BC[:, c] + 2) % 5
        moved_C = ((head.log_prob(features_BF, other_BC) - before_BC).abs() > 1e-9).all(0)
        assert torch.equal(moved_C, torch.arange(3) >= c), c
    swapped_BK = head.log_probs(features_BF, levels_BC[:, [1, 0]])
    assert bool(((swapped_BK - head.log_probs(features_BF, levels_BC[:, :2])).abs().amax(1) > 1e-6).all())


def test_mixture_starts_with_components_apart() -> None:
    """Equal components would get equal gradients and stay one."""
    head = MixtureHead(2, 16, 8, 5)
    means = head._law(torch.zeros(8)).mean.detach()
    assert bool((means.diff(dim=0) > 0.2).all())
    assert float(means.abs().max()) < 1
