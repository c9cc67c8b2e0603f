"""Glow: invertible over its scales, with the density it says, initialised by data and resumed alike."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from models.glow import Glow
from models.networks.couplings import Squeeze
from models.networks.glow_steps import ActNorm, FactorOut
from models.seeds import Seeds
from tests.models.digits import PER_PIXEL_HISTOGRAM_BITS, bits, every_image, randomise, split, train
from tests.models.flows import (
    bin_probabilities,
    brute_force_log_density,
    check_float32_inverse,
    check_reported_likelihood,
    perturbed,
)

SMALL = {"features": 6, "steps": 2}
SHAPES = [(1, 4, 4), (1, 8, 4), (3, 2, 2), (1, 3, 2), (2, 1, 1), (1, 1, 2)]


def _flow(shape: tuple[int, int, int], levels: int = 4, std: float = 0.3) -> Glow:
    model = randomise(Glow(shape, levels, **SMALL), std)  # type: ignore[arg-type]
    assert isinstance(model, Glow)
    return model


@cache
def _trained() -> Glow:
    """A few seconds on the real digits."""
    torch.manual_seed(0)
    model = train(Glow(features=12, steps=3), steps=100, learning_rate=6e-3)
    assert isinstance(model, Glow)
    return model


@pytest.mark.parametrize("shape", SHAPES)
def test_log_density_is_that_of_the_jacobian(shape: tuple[int, int, int]) -> None:
    """Bits a dimension are wrong wherever one log-determinant is, priors of the scales included."""
    model, generator = _flow(shape, std=0.2), torch.Generator().manual_seed(1)
    y = 1.8 * torch.rand(1, *shape, dtype=torch.float64, generator=generator) - 0.9
    torch.testing.assert_close(
        model.log_density(y)[0].detach(), brute_force_log_density(model, y), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_inverse_undoes_the_flow(shape: tuple[int, int, int]) -> None:
    """Samples come from the density that is reported only if the inverse is one; with odd sizes too."""
    model = _flow(shape, std=0.2)
    x = torch.randn(5, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    z, log_det = model.network(x)
    back, log_det_back = model.network(z, inverse=True)
    torch.testing.assert_close(back, x, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(log_det_back, -log_det, atol=1e-9, rtol=1e-9)
    assert not torch.allclose(z, x)


def test_inverse_undoes_the_flow_in_float32() -> None:
    """With random weights round where the data put them, and with trained ones."""
    torch.manual_seed(0)
    model = Glow().train()
    model.loss(split()[0][:64])
    noise = torch.randn(100, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    check_float32_inverse(perturbed(model, 0.01), noise)
    check_float32_inverse(_trained())


@pytest.mark.parametrize("shape", [(1, 1, 2), (2, 1, 1)])
def test_probabilities_of_all_levels_sum_to_one(shape: tuple[int, int, int]) -> None:
    """The density integrated over each bin of a two-pixel image: nothing lost at or outside the cube."""
    model = _flow(shape, levels=3, std=0.2)
    p = bin_probabilities(model, panel=0.5, end=20)
    assert float(p.sum()) == pytest.approx(1, abs=1e-6)
    check_reported_likelihood(model, every_image(shape, 3), p)


def test_shapes_decide_the_scales() -> None:
    """A squeeze a scale while H and W are even, half factored out between two; one scale otherwise."""

    def count(kind: type, *shape: int, scales: int) -> int:
        C, H, W = shape
        return sum(isinstance(module, kind) for module in Glow((C, H, W), scales=scales, steps=1).modules())

    assert [count(Squeeze, 1, 8, 8, scales=n) for n in (1, 2, 3, 4)] == [1, 2, 3, 3]
    assert [count(FactorOut, 1, 8, 8, scales=n) for n in (1, 2, 3, 4)] == [0, 1, 2, 2]
    assert (count(Squeeze, 3, 6, 4, scales=3), count(FactorOut, 3, 6, 4, scales=3)) == (1, 0)
    assert (count(Squeeze, 1, 7, 8, scales=3), count(FactorOut, 1, 7, 8, scales=3)) == (0, 0)


def test_first_training_batch_standardises_every_actnorm() -> None:
    """All of them, in the one forward pass, each on what the ones before it give."""
    torch.manual_seed(0)
    model, seen = Glow(**SMALL).train(), []  # type: ignore[arg-type]

    def note(module: ActNorm, _: object, output: tuple[Tensor, Tensor]) -> None:
        shared = [0] if module.s_CHW.shape[1] > 1 else [0, 2, 3]
        seen.append(torch.var_mean(output[0].detach(), shared, correction=0))

    for module in model.modules():
        if isinstance(module, ActNorm):
            module.register_forward_hook(note)
    pixels = split()[0][:64]
    first = model.loss(pixels, None, torch.Generator().manual_seed(1))
    assert len(seen) == 1 + 2 * 2
    for variance, mean in seen:
        torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-4, rtol=0)
        torch.testing.assert_close(variance, torch.ones_like(mean), atol=1e-3, rtol=0)
    # The pass that initialises is that of the initialised flow: a repeated step gives the same number.
    assert torch.equal(model.loss(pixels, None, torch.Generator().manual_seed(1)), first)


@pytest.mark.parametrize("stopped", [0, 1, 3])
def test_resumes_to_the_same_bits(stopped: int) -> None:
    """From the state after any step, in a process that started from another seed: permutations, signs
    and what was initialised all travel in the state dictionary."""

    def advance(model: Glow, steps: range) -> None:
        for step in steps:
            model.zero_grad()
            pixels = split()[0][32 * step : 32 * (step + 1)]
            model.train().loss(pixels, None, torch.Generator().manual_seed(step)).backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter -= 0.01 * parameter.grad  # type: ignore[operator]

    torch.manual_seed(0)
    whole = Glow(**SMALL, dropout=0.0)  # type: ignore[arg-type]
    advance(whole, range(stopped))
    torch.manual_seed(1)
    resumed = Glow(**SMALL, dropout=0.0)  # type: ignore[arg-type]
    assert any(
        not torch.equal(a, b)
        for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    )
    resumed.load_state_dict(whole.state_dict())
    advance(whole, range(stopped, 5))
    advance(resumed, range(stopped, 5))
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_samples_are_the_inverse_of_per_image_noise() -> None:
    """A sample does not depend on its batch, costs one network call, and maps back to its own noise."""
    model, calls = perturbed(Glow((1, 4, 4), 256, **SMALL), 0.2), []  # type: ignore[arg-type]
    model.network.register_forward_hook(lambda *_: calls.append(1))
    pixels = model.sample(6, None, Seeds(0, range(6)))
    assert len(calls) == 1
    assert torch.equal(pixels[3:4], model.sample(1, None, Seeds(0, [3])))
    x, _ = model.network(Seeds(0, range(6)).per_image((1, 4, 4)), inverse=True)
    assert torch.equal(pixels, model.quantise(2 * torch.sigmoid(x.double()) - 1))


def test_learns_digits_better_than_histograms() -> None:
    """A few seconds of training beat 64 separate histograms, in spite of uniform dequantisation."""
    model = _trained()
    nats = model.nll(split()[1], generator=torch.Generator().manual_seed(0)).nats
    assert bits(nats, model) < PER_PIXEL_HISTOGRAM_BITS - 0.1


def test_bad_input_is_one_sentence() -> None:
    with pytest.raises(ValueError, match="two dimensions or more"):
        Glow((1, 1, 1))
    with pytest.raises(ValueError, match="scales must be a whole number, at least 1"):
        Glow(scales=0)
    with pytest.raises(ValueError, match="Glow is unconditional: leave the labels out"):
        Glow((1, 4, 4), 4, **SMALL).loss(torch.zeros(1, 1, 4, 4, dtype=torch.uint8), torch.zeros(1))  # type: ignore[arg-type]
