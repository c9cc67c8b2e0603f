"""TarFlow: invertible, with the density it says, guided as it says, at the cost it says.

Shapes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from models.guidance import guide
from models.networks.tarflow import Place
from models.seeds import Seeds
from models.tarflow import TarFlow
from tests.models.digits import PER_PIXEL_HISTOGRAM_BITS, bits, randomise, split, train

SMALL = {"blocks": 3, "width": 8, "heads": 2}
CASES = [((1, 4, 4), 1), ((1, 4, 4), 2), ((3, 2, 4), 2), ((1, 3, 2), 1)]


def _flow(
    shape: tuple[int, int, int] = (1, 4, 4), patch: int = 2, classes: int = 0, levels: int = 4
) -> TarFlow:
    torch.manual_seed(0)
    model = randomise(TarFlow(shape, levels, patch=patch, classes=classes, **SMALL), std=0.4)
    assert isinstance(model, TarFlow)
    return model


@pytest.mark.parametrize(("shape", "patch"), CASES)
def test_log_density_is_that_of_the_jacobian(shape: tuple[int, int, int], patch: int) -> None:
    """ln N(z) + slogdet of the whole Jacobian from cube to noise, within 1e-6."""
    model, D = _flow(shape, patch), math.prod(shape)
    y = 1.8 * torch.rand(1, *shape, dtype=torch.float64) - 0.9

    def to_noise(v: Tensor) -> Tensor:
        return model.network(torch.logit((v + 1) / 2))[0].flatten()

    jacobian = torch.autograd.functional.jacobian(to_noise, y).reshape(D, D)  # type: ignore[union-attr]
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(to_noise(y)).sum()
    expected = normal + torch.linalg.slogdet(jacobian)[1]
    torch.testing.assert_close(model.log_density(y)[0], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("shape", "patch"), CASES)
@torch.no_grad()
def test_sequential_inverse_undoes_the_flow_in_single_precision(
    shape: tuple[int, int, int], patch: int
) -> None:
    """The cached inverse, token after token, of what was done to all at once: within 1e-5."""
    model = _flow(shape, patch).float()
    x = torch.randn(5, *shape)
    z, _ = model.network(x)
    torch.testing.assert_close(model.invert(z, (), 1.0), x, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(z, x, atol=0.1)


@torch.no_grad()
def test_cached_inverse_equals_the_uncached_one() -> None:
    """The same recursion without a cache: the whole past goes through the block for every token."""
    model = _flow(patch=1)
    z = torch.randn(2, 1, 4, 4, dtype=torch.float64)
    x_BLP = model.network.to_tokens(z)
    for index in (2, 1, 0):
        z_BLP = model.network.order(x_BLP, index)
        x_BLP = z_BLP.clone()
        for i in range(1, 16):
            mu, alpha = model.network.blocks[index](x_BLP[:, :i], None, 0, None)
            x_BLP[:, i] = z_BLP[:, i] * alpha[:, -1].exp() + mu[:, -1]
        x_BLP = model.network.order(x_BLP, index)
    x = model.network.elementwise.inverse(model.network.to_image(x_BLP))[0]
    torch.testing.assert_close(model.invert(z, (), 1.0), x, atol=1e-10, rtol=1e-10)


@torch.no_grad()
def test_guidance_starts_at_the_null_and_reaches_the_label() -> None:
    """w = 0 is the unconditional sample, w = 1 the conditional one, and both are ends of one line."""
    model = _flow(classes=3)
    z, label = torch.randn(4, 1, 4, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    null = model.conditioning.null(4)
    given, free = model.invert(z, (label,), 1.0), model.invert(z, (null,), 1.0)
    assert not torch.allclose(given, free, atol=0.1)
    torch.testing.assert_close(model.invert(z, (label,), 0.0), free)
    torch.testing.assert_close(model.invert(z, (null,), 3.0), free, atol=1e-9, rtol=1e-9)
    # The doubled batch, which only a w other than 0 and 1 takes, goes to the same ends.
    torch.testing.assert_close(model.invert(z, (label,), 1.0 + 1e-12), given, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(model.invert(z, (label,), 1e-12), free, atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_guidance_extrapolates_shift_and_log_scale() -> None:
    """(μ, α) of a guided token are u + w·(c − u) of the two labels, w = 2.5."""
    model = _flow(classes=3)
    x, label = torch.randn(4, 1, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    mu_c, alpha_c = model.network(x, label, place=Place(1))
    mu_u, alpha_u = model.network(x, None, place=Place(1))
    mu, alpha = model._next(x, (label,), Place(1), 2.5)
    torch.testing.assert_close(mu, guide(mu_u, mu_c, 2.5))
    torch.testing.assert_close(alpha, guide(alpha_u, alpha_c, 2.5))


@pytest.mark.parametrize(("guidance", "each"), [(1.0, 1), (0.0, 1), (2.0, 2)])
def test_evaluations_are_counted_token_by_token(guidance: float, each: int) -> None:
    """blocks·(L − 1) rows an image, twice that guided: the sequential inverse does not look like one call."""
    model, rows = _flow(classes=2), []
    model.network.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    model.sample(5, None, Seeds(0, range(5)), torch.zeros(5, dtype=torch.int64), guidance)
    assert sum(rows) == 5 * each * 3 * (4 - 1)
    rows.clear()
    model.nll(torch.zeros(5, 1, 4, 4, dtype=torch.uint8))
    assert sum(rows) == 5


def test_samples_are_the_inverse_of_per_image_noise() -> None:
    """A sample does not depend on its batch, and maps back to its own noise."""
    model = _flow(levels=256).float()
    pixels = model.sample(6, None, Seeds(0, range(6)))
    assert torch.equal(pixels[3:4], model.sample(1, None, Seeds(0, [3])))
    with torch.no_grad():
        x = model.invert(Seeds(0, range(6)).per_image((1, 4, 4)), (), 1.0)
    assert torch.equal(pixels, model.quantise(2 * torch.sigmoid(x.double()) - 1))


def test_learns_what_a_label_means() -> None:
    """Label 0 is dark, 1 is bright: the label saves most of its ln 2 nats, and guided samples obey it."""
    torch.manual_seed(0)
    model = TarFlow((1, 2, 2), 4, patch=1, blocks=2, width=16, heads=2, classes=2, dropout=0.0)
    optimizer, generator = torch.optim.Adam(model.parameters(), lr=2e-2), torch.Generator().manual_seed(0)
    label = torch.arange(128) % 2
    pixels = (3 * label).to(torch.uint8)[:, None, None, None].expand(128, 1, 2, 2)
    for _ in range(100):
        optimizer.zero_grad()
        model.loss(pixels, label, generator).backward()
        optimizer.step()
    model.eval()
    given = float(model.nll(pixels, label, torch.Generator().manual_seed(0)).nats.mean())
    free = float(model.nll(pixels, None, torch.Generator().manual_seed(0)).nats.mean())
    assert given < free - 0.35
    drawn = model.sample(128, None, Seeds(0, range(128)), label, guidance=1.5)
    assert float((drawn == pixels).double().mean()) > 0.8


def test_label_dropout_comes_from_the_generator() -> None:
    """The loss is a function of weights, batch and generator; with everything dropped, labels are mute."""
    model, pixels = _flow(classes=3), torch.randint(4, (8, 1, 4, 4), dtype=torch.uint8)
    label = torch.arange(8) % 3

    def loss(share: float, condition: Tensor | None, seed: int = 0) -> float:
        model.condition_dropout = share
        return float(model.loss(pixels, condition, torch.Generator().manual_seed(seed)).detach())

    assert loss(0.5, label) == loss(0.5, label)
    assert loss(0.5, label) != loss(0.5, label, seed=1)
    assert loss(1.0, label) == loss(1.0, 2 - label)
    assert loss(0.0, label) != loss(0.0, 2 - label)


def test_learns_digits_better_than_histograms() -> None:
    """A few seconds of training beat 64 separate histograms, in spite of uniform dequantisation."""
    torch.manual_seed(0)
    model = train(TarFlow(blocks=4, width=32), steps=150, learning_rate=1.5e-2)
    nats = model.nll(split()[1], generator=torch.Generator().manual_seed(0)).nats
    assert bits(nats, model) < PER_PIXEL_HISTOGRAM_BITS - 0.05


def test_bad_input_is_one_sentence() -> None:
    with pytest.raises(ValueError, match="patch 3 does not divide images of 8×8: choose a divisor"):
        TarFlow(patch=3)
    with pytest.raises(ValueError, match="two tokens or more"):
        TarFlow(patch=8)
    with pytest.raises(ValueError, match="width 10 is not divisible by 4 heads"):
        TarFlow(width=10)
    with pytest.raises(ValueError, match="condition_dropout is a share"):
        TarFlow(classes=2, condition_dropout=1.0)
    model = _flow()
    with pytest.raises(ValueError, match="cannot be guided: leave guidance at 1"):
        model.sample(1, None, Seeds(0, [0]), guidance=2.0)
    with pytest.raises(ValueError, match="TarFlow is unconditional: leave the labels out"):
        model.nll(torch.zeros(1, 1, 4, 4, dtype=torch.uint8), torch.zeros(1))
