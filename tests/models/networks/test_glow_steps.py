"""The layers of a Glow: inverse, log-determinant, and the initialisation that looks at the data."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from models.networks.couplings import AffineCoupling, Chain, Elementwise, Squeeze, channelwise
from models.networks.glow_steps import ActNorm, FactorOut, InvertibleConvolution, random_rotation
from tests.models.flows import slogdet

SHAPE = (4, 2, 2)


def _factored() -> FactorOut:
    """With a squeeze and a coupling in what goes on."""
    inner = (8, 1, 1)
    coupling = AffineCoupling(channelwise(inner, 0), features=5, depth=1, dropout=0.0)
    return FactorOut(SHAPE, Chain([Squeeze(), coupling, Elementwise(inner)], inner), 5, 1, 0.0)


LAYERS = {
    "actnorm of channels": lambda: ActNorm((4, 1, 1)),
    "actnorm of elements": lambda: ActNorm(SHAPE),
    "convolution": lambda: InvertibleConvolution(4),
    "factor out": _factored,
}


def _layer(name: str) -> nn.Module:
    """In float64, with weights moved at random from where they start."""
    torch.manual_seed(1)
    layer = LAYERS[name]().double().eval()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.4 * torch.randn(parameter.shape)
    return layer


def _images(batch: int = 3) -> Tensor:
    return torch.randn(batch, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("name", LAYERS)
def test_inverse_undoes_and_log_determinants_cancel(name: str) -> None:
    """A wrong inverse would draw samples from another density than the one that is reported."""
    layer, x = _layer(name), _images()
    y, log_det = layer(x)
    back, log_det_back = layer.inverse(y)  # type: ignore[operator]
    assert not torch.allclose(y, x)
    torch.testing.assert_close(back, x, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(log_det_back, -log_det, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("name", LAYERS)
def test_log_determinant_is_that_of_the_jacobian(name: str) -> None:
    """slogdet of the whole D × D Jacobian: a factor H·W that is left out shows here."""
    layer, x = _layer(name), _images(2)
    log_det = layer(x)[1].detach()
    for i in range(2):
        brute = slogdet(lambda v: layer(v)[0], x[i : i + 1])
        torch.testing.assert_close(log_det[i], brute, atol=1e-6, rtol=0)


@pytest.mark.parametrize("shape", [(4, 1, 1), SHAPE])
def test_actnorm_standardises_the_first_training_batch_only(shape: tuple[int, int, int]) -> None:
    """Mean 0 and variance 1 of each channel, or element; later batches find it as it is."""
    layer, x = ActNorm(shape), 5 * _images(40).float() - 3
    untouched, log_det = layer.eval()(x)
    assert torch.equal(untouched, x)
    assert not bool(layer.initialised)
    y, log_det = layer.train()(x)
    axes = (0, 2, 3) if shape == (4, 1, 1) else (0,)
    variance, mean = torch.var_mean(y, axes, correction=0)
    torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-5, rtol=0)
    torch.testing.assert_close(variance, torch.ones_like(mean), atol=1e-5, rtol=0)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    again, _ = layer(x)
    layer(10 * x + 1)
    assert torch.equal(again, y)
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
    assert float(log_det[0].detach()) == pytest.approx(-16 * math.log(5), rel=0.05)


def test_actnorm_that_was_saved_does_not_initialise_again() -> None:
    """A resumed run would else throw away what it had learned, and go on from other numbers."""
    saved, x = ActNorm((4, 1, 1)), _images(40).float()
    saved.train()(x)
    loaded = ActNorm((4, 1, 1)).train()
    loaded.load_state_dict(saved.state_dict())
    assert torch.equal(loaded(3 * x + 7)[0], saved(3 * x + 7)[0])


def test_actnorm_of_what_never_varies_is_finite() -> None:
    """A channel that is always the same has no scale."""
    y, log_det = ActNorm((4, 1, 1)).train()(torch.ones(5, *SHAPE))
    assert bool(y.isfinite().all() & log_det.isfinite().all())
    assert float(y.detach().abs().max()) < 1e-3


@pytest.mark.parametrize("channels", [1, 2, 12, 48])
def test_convolution_starts_as_a_random_rotation(channels: int) -> None:
    """W·Wᵀ = I and det W = 1, another one for another seed and the same one for the same."""
    rotations = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        layer = InvertibleConvolution(channels)
        columns, log_det = layer(torch.eye(channels)[:, :, None, None])
        rotations.append(columns[:, :, 0, 0].T.detach())
        torch.testing.assert_close(log_det, torch.zeros(channels), atol=1e-4, rtol=0)
    first, same, other = rotations
    torch.testing.assert_close(first @ first.T, torch.eye(channels), atol=1e-5, rtol=0)
    assert float(torch.linalg.det(first.double())) == pytest.approx(1, abs=1e-4)
    assert torch.equal(first, same)
    assert channels == 1 or not torch.allclose(first, other, atol=0.01)


def test_random_rotations_have_no_preferred_direction() -> None:
    """Uniform: the mean of many is zero, which the bare Q of a QR decomposition is not."""
    torch.manual_seed(0)
    mean = torch.stack([random_rotation(3) for _ in range(1000)]).mean(0)
    assert float(mean.abs().max()) < 4 * 3**-0.5 / 1000**0.5


def test_triangles_stay_triangles_whatever_the_weights() -> None:
    """ln|det W| is the sum of s only if nothing above L's or below U's diagonal counts."""
    layer = _layer("convolution")
    assert isinstance(layer, InvertibleConvolution)
    for outside in (layer.lower_CC.detach().triu(), layer.upper_CC.detach().tril()):
        assert float(outside.abs().max()) > 0.1
    weight = layer(torch.eye(4, dtype=torch.float64)[:, :, None, None])[0][:, :, 0, 0].T.detach()
    torch.testing.assert_close(torch.linalg.slogdet(weight)[1], layer.s_C.sum().detach(), atol=1e-10, rtol=0)


def test_half_that_is_factored_out_is_conditionally_gaussian() -> None:
    """The density of x₂ given x₁ is N(μ(x₁), e^2s(x₁)), and x₁ goes through `rest` as if alone."""
    layer = _layer("factor out")
    assert isinstance(layer, FactorOut)
    x = _images()
    y, log_det = layer(x)
    rest, rest_log_det = layer.rest(x[:, :2])
    assert torch.equal(y[:, :2], rest)
    mean, raw = layer.prior(x[:, :2]).chunk(2, 1)
    deviation = (2 * torch.tanh(raw / 2)).exp()
    expected = torch.distributions.Normal(mean, deviation).log_prob(x[:, 2:]).flatten(1).sum(1)
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(y[:, 2:]).flatten(1).sum(1)
    torch.testing.assert_close(normal + log_det - rest_log_det, expected)
