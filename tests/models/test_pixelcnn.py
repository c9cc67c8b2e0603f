"""PixelCNN: exact, causal, the same model when sampled as when evaluated; labels and guidance.

Shapes: B images, C channels, H height, W width, K levels.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from models.autoregressive import inverse_cdf
from models.base import NonFiniteSamples
from models.networks.pixelcnn import PixelCache
from models.pixelcnn import PixelCNN
from models.seeds import Seeds
from tests.models.digits import PER_PIXEL_HISTOGRAM_BITS, bits, every_image, randomise, split, train

RGB = (3, 3, 2)
KINDS = ("softmax", "mixture")


def _small(
    shape: tuple[int, int, int], levels: int, likelihood: str, seed: int = 0, **options: Any
) -> PixelCNN:
    torch.manual_seed(0)
    small = {"features": 8, "depth": 2, "radius": 1, "components": 3, "dropout": 0.0} | options
    model = randomise(PixelCNN(shape, levels, likelihood=likelihood, **small), seed=seed)
    assert isinstance(model, PixelCNN)
    return model


def _pixels(n: int, shape: tuple[int, int, int], levels: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(levels, (n, *shape), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("likelihood", KINDS)
@pytest.mark.parametrize(
    ("shape", "levels"), [((1, 2, 2), 4), ((2, 1, 2), 3), ((1, 1, 1), 5), ((3, 1, 1), 4)]
)
@pytest.mark.parametrize("label", [None, 1])
def test_probabilities_sum_to_one_over_all_images(
    shape: tuple[int, int, int], levels: int, likelihood: str, label: int | None
) -> None:
    """An exact likelihood is a distribution, for each label: a leak or a wrong unit breaks the sum."""
    model, images = _small(shape, levels, likelihood, classes=2), every_image(shape, levels)
    nll = model.nll(images, None if label is None else torch.full((len(images),), label))
    assert nll.kind == "exact"
    assert ("given the label" in nll.protocol) == (label is not None)
    assert float((-nll.nats).exp().sum()) == pytest.approx(1, abs=1e-6)
    assert nll.nats.std() > 0.1


@pytest.mark.parametrize("likelihood", KINDS)
def test_laws_depend_on_earlier_pixels_and_channels_alone_and_on_all_of_them(likelihood: str) -> None:
    """Changing raster pixel j moves the law of every i > j and of no i ≤ j."""
    model, pixels = _small(RGB, 8, likelihood, depth=3), _pixels(1, RGB, 8)
    before_DK = model.log_probs(pixels)[0].flatten(0, 2)
    raster = pixels.permute(0, 2, 3, 1).flatten()
    for j in range(model.dims):
        other = raster.clone()
        other[j] = (other[j] + 3) % 8
        after_DK = model.log_probs(other.view(1, 3, 2, 3).permute(0, 3, 1, 2))[0].flatten(0, 2)
        assert torch.equal((after_DK != before_DK).any(1), torch.arange(model.dims) > j), j


@pytest.mark.parametrize("likelihood", KINDS)
def test_table_of_laws_is_what_the_likelihood_reads(likelihood: str) -> None:
    """−Σ ln P at the levels of the image is `nll`, and `loss` is its mean a dimension."""
    model, pixels = _small(RGB, 8, likelihood), _pixels(4, RGB, 8)
    log_p = model.log_probs(pixels).gather(-1, pixels.permute(0, 2, 3, 1).long()[..., None])
    torch.testing.assert_close(-log_p.flatten(1).sum(1), model.nll(pixels).nats)
    assert model.loss(pixels).item() * model.dims == pytest.approx(float(model.nll(pixels).nats.mean()))


@pytest.mark.parametrize("likelihood", KINDS)
def test_cached_steps_give_the_laws_of_the_full_pass_at_every_pixel(likelihood: str) -> None:
    """In single precision, as in use: within 1e-5 for every level of every channel of every pixel."""
    model, pixels = _small(RGB, 8, likelihood, classes=2).float(), _pixels(3, RGB, 8)
    label_B, cache, K = torch.tensor([0, 1, 2]), PixelCache(), 8
    full_BHWCK, levels_BHWC = model.log_probs(pixels, label_B), pixels.permute(0, 2, 3, 1).long()
    for h, w in itertools.product(range(RGB[1]), range(RGB[2])):
        features_BF = model.network(model.signed(pixels), label_B, cache)[:, 0, 0]
        for c in range(RGB[0]):
            step_BK = model.head.log_probs(features_BF, levels_BHWC[:, h, w, :c])
            assert step_BK.shape == (3, K)
            torch.testing.assert_close(step_BK, full_BHWCK[:, h, w, c], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("likelihood", KINDS)
@pytest.mark.parametrize("guidance", [0.0, 1.0, 2.5])
def test_samples_follow_the_guided_laws_of_the_full_pass(likelihood: str, guidance: float) -> None:
    """Each level is the inverse CDF, at its uniform, of u + w·(c − u) on log-probabilities, normalised."""
    model, n = _small(RGB, 6, likelihood, classes=2), 12
    label_B = torch.arange(n) % 2
    pixels = model.sample(n, None, Seeds(5, range(n)), label_B, guidance)
    u_BD = Seeds(5, range(n)).per_image((model.dims,), "uniform").double()
    conditional, unconditional = model.log_probs(pixels, label_B), model.log_probs(pixels)
    mixed_BDK = (unconditional + guidance * (conditional - unconditional)).flatten(1, 3)
    again = torch.stack([inverse_cdf(mixed_BDK[:, i], u_BD[:, i]) for i in range(model.dims)], 1)
    assert torch.equal(again, pixels.permute(0, 2, 3, 1).flatten(1))
    assert len(pixels.unique()) > 3


@pytest.mark.parametrize("likelihood", KINDS)
def test_samples_have_the_probabilities_of_the_model(likelihood: str) -> None:
    """Frequencies of all 9 images of two pixels over 20 000 samples: sampling and likelihood are one law."""
    model, n = _small((1, 1, 2), 3, likelihood), 20_000
    samples = model.float().sample(n, None, Seeds(0, range(n))).flatten(1).long()
    p = (-model.double().nll(every_image((1, 1, 2), 3)).nats).exp()
    shares = torch.bincount(samples[:, 0] * 3 + samples[:, 1], minlength=9).double() / n
    assert bool(((shares - p).abs() < 5 * (p * (1 - p) / n).sqrt() + 1e-4).all())


def test_no_guidance_is_the_conditional_model_and_none_of_it_the_unconditional() -> None:
    """w = 1 leaves the unconditional prediction out; w = 0 draws what the null label draws."""
    model, label_B = _small(RGB, 6, "softmax", classes=3), torch.tensor([0, 1, 2, 0])

    def draw(condition: Tensor | None, guidance: float) -> Tensor:
        return model.sample(4, None, Seeds(2, range(4)), condition, guidance)

    assert torch.equal(draw(label_B, 0.0), draw(None, 1.0))
    assert torch.equal(draw(torch.full((4,), 3), 1.0), draw(None, 1.0))
    assert torch.equal(draw(None, 3.0), draw(None, 1.0))
    assert not torch.equal(draw(label_B, 1.0), draw(None, 1.0))
    assert not torch.equal(draw(label_B, 4.0), draw(label_B, 1.0))


@pytest.mark.parametrize(("guidance", "evaluations"), [(0.0, 1), (1.0, 1), (2.0, 2)])
def test_sampling_calls_the_network_once_a_place(guidance: float, evaluations: int) -> None:
    """The harness counts rows at `network`: H·W an image whatever C is, twice that with guidance."""
    model, rows = _small(RGB, 8, "softmax", classes=2), []
    model.network.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    model.sample(5, None, Seeds(0, range(5)), torch.zeros(5, dtype=torch.int64), guidance)
    assert rows == [5 * evaluations] * 6


@pytest.mark.parametrize("likelihood", KINDS)
def test_sample_does_not_depend_on_its_batch(likelihood: str) -> None:
    model, label_B = _small(RGB, 8, likelihood, classes=2).float(), torch.tensor([0, 0, 1, 1, 0, 1])
    together = model.sample(6, None, Seeds(0, range(6)), label_B, 1.5)
    alone = model.sample(1, None, Seeds(0, [4]), label_B[4:5], 1.5)
    assert torch.equal(together[4:5], alone)
    assert not torch.equal(together[0], together[4])


@pytest.mark.parametrize("likelihood", KINDS)
def test_learns_what_the_label_decides_and_what_is_true_without_it(likelihood: str) -> None:
    """Images of one grey, which the label names: ln 1 nats given the label, ln 4 without it."""
    torch.manual_seed(0)
    options = {"features": 16, "depth": 1, "dropout": 0.0, "classes": 4, "condition_dropout": 0.3}
    model = PixelCNN((1, 2, 2), 4, likelihood=likelihood, **options)
    optimizer, generator = torch.optim.Adam(model.parameters(), 0.02), torch.Generator().manual_seed(0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=100)
    for _ in range(100):
        label_B = torch.randint(4, (64,), generator=generator)
        optimizer.zero_grad()
        model.loss(_greys(label_B), label_B, generator).backward()
        optimizer.step()
        schedule.step()
    model.eval()
    label_B = torch.arange(4)
    assert float(model.nll(_greys(label_B), label_B).nats.mean()) < 0.3
    assert float(model.nll(_greys(label_B)).nats.mean()) == pytest.approx(math.log(4), abs=0.4)
    assert float(model.nll(_greys(label_B), label_B.roll(1)).nats.mean()) > 3
    drawn = model.sample(40, None, Seeds(0, range(40)), label_B.repeat(10), 2.0)
    assert float((drawn == _greys(label_B.repeat(10))).float().mean()) > 0.95


def _greys(label_B: Tensor) -> Tensor:
    return label_B.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)


def test_labels_are_dropped_by_the_generator_alone() -> None:
    """The loss repeats bit for bit from its generator, and no drop is the loss of the labels given."""
    model, pixels = (
        _small((1, 3, 3), 4, "softmax", classes=2, condition_dropout=0.5),
        _pixels(32, (1, 3, 3), 4),
    )
    label_B = torch.arange(32) % 2
    losses = [model.loss(pixels, label_B, torch.Generator().manual_seed(s)).item() for s in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]
    model.condition_dropout = 0.0
    assert model.loss(pixels, label_B).item() * 9 == pytest.approx(
        float(model.nll(pixels, label_B).nats.mean())
    )


@pytest.mark.parametrize(("likelihood", "learning_rate"), [("softmax", 6e-3), ("mixture", 6e-3)])
def test_learns_digits_better_than_histograms(likelihood: str, learning_rate: float) -> None:
    """A few seconds of training beat 64 separate histograms on test digits by a wide margin."""
    torch.manual_seed(0)
    model = train(PixelCNN(likelihood=likelihood, features=16, depth=2), 80, learning_rate)
    assert bits(model.nll(split()[1]).nats, model) < PER_PIXEL_HISTOGRAM_BITS - 0.2


def test_softmax_starts_at_uniform_bits() -> None:
    """Before training every level is as likely: log₂ 17 bits, the unit check; so for colours."""
    model = PixelCNN().eval()
    assert bits(model.nll(split()[1][:8]).nats, model) == pytest.approx(4.0874628, abs=1e-5)
    colour = PixelCNN(RGB, 256, features=8, depth=1).eval()
    assert bits(colour.nll(_pixels(4, RGB, 256)).nats, colour) == pytest.approx(8, abs=1e-5)


def test_mixture_of_256_levels_starts_finite_and_samples() -> None:
    """Large K needs no table of K logits a pixel in training, and draws every level it may."""
    model = PixelCNN(RGB, 256, likelihood="mixture", features=8, depth=1).eval()
    assert 6 < bits(model.nll(_pixels(4, RGB, 256)).nats, model) < 10
    drawn = model.sample(8, None, Seeds(0, range(8)))
    assert drawn.dtype == torch.uint8
    assert drawn.shape == (8, *RGB)
    assert int(drawn.max()) - int(drawn.min()) > 100


def test_rebuilds_from_its_weights() -> None:
    """Everything needed later is in the state dict."""
    model, pixels = _small(RGB, 8, "mixture", classes=2), _pixels(2, RGB, 8)
    again = _small(RGB, 8, "mixture", classes=2, seed=7)
    assert not torch.equal(again.nll(pixels).nats, model.nll(pixels).nats)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.nll(pixels).nats, model.nll(pixels).nats)


def test_non_finite_laws_are_caught_with_their_image() -> None:
    """Broken weights must not come out as pixels; the label of image 1 is what is broken here."""
    model = _small(RGB, 8, "softmax", classes=2)
    label = model.network.horizontal[0].label
    with torch.no_grad():
        label.weight[1] = float("nan")
    with pytest.raises(NonFiniteSamples, match="image 1"):
        model.sample(2, None, Seeds(0, range(2)), torch.tensor([0, 1]))


def test_bad_input_is_one_sentence() -> None:
    model, conditional = _small(RGB, 8, "softmax"), _small(RGB, 8, "softmax", classes=2)
    pixels = torch.zeros(1, *RGB, dtype=torch.uint8)
    with pytest.raises(ValueError, match="PixelCNN is unconditional: leave the labels out"):
        model.loss(pixels, torch.zeros(1))
    with pytest.raises(ValueError, match="PixelCNN is unconditional: leave guidance out"):
        model.sample(1, None, Seeds(0, [0]), guidance=2.0)
    with pytest.raises(ValueError, match=r"knows conditions 0…2, and got 3…3"):
        conditional.nll(pixels, torch.tensor([3]))
    with pytest.raises(ValueError, match=r"class labels as integers of shape \(1,\)"):
        conditional.nll(pixels, torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="3 images need 3 seeds: got 2"):
        model.sample(3, None, Seeds(0, [0, 1]))
    with pytest.raises(ValueError, match=r"built for pixels \('B', 3, 3, 2\): got \(1, 1, 8, 8\)"):
        model.nll(torch.zeros(1, 1, 8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"level 9, but this model has 8 levels, 0…7"):
        model.nll(torch.full((1, *RGB), 9, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"Unknown likelihood 'mixtur'\. Did you mean 'mixture'\?"):
        PixelCNN(likelihood="mixtur")
    with pytest.raises(ValueError, match="radius must be a whole number, at least 1: got 0"):
        PixelCNN(radius=0)
    with pytest.raises(ValueError, match="condition_dropout is a share"):
        PixelCNN(classes=2, condition_dropout=1.0)
