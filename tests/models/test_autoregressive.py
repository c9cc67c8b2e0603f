"""The autoregressive transformer: exact, causal, the same model when sampled as when evaluated."""

from __future__ import annotations

import pytest
import torch

from models.autoregressive import AutoregressiveTransformer, causal_neighbours, inverse_cdf
from models.base import NonFiniteSamples
from models.seeds import Seeds
from tests.models.digits import PER_PIXEL_HISTOGRAM_BITS, bits, every_image, randomise, split, train

SMALL = {"width": 16, "depth": 2, "heads": 2, "radius": 1}
RGB = (2, 3, 2)


@pytest.mark.parametrize(("shape", "levels"), [((1, 2, 2), 4), ((2, 1, 2), 3), ((1, 1, 1), 5)])
def test_probabilities_sum_to_one_over_all_images(shape: tuple[int, int, int], levels: int) -> None:
    """An exact likelihood is a distribution: any leak from the future or wrong unit breaks the sum."""
    model = randomise(AutoregressiveTransformer(shape, levels, **SMALL))
    likelihood = model.nll(every_image(shape, levels))
    assert likelihood.kind == "exact"
    assert float((-likelihood.nats).exp().sum()) == pytest.approx(1, abs=1e-6)
    assert likelihood.nats.std() > 0.1


def test_logits_depend_on_earlier_pixels_alone_and_on_all_of_them() -> None:
    """Changing raster pixel j moves the logits of i > j, every one, and of no i ≤ j."""
    model = randomise(AutoregressiveTransformer(RGB, 8, **SMALL))
    assert isinstance(model, AutoregressiveTransformer)
    pixels = torch.randint(8, (1, *RGB), generator=torch.Generator().manual_seed(1))
    before, raster = model.logits(pixels), pixels.permute(0, 2, 3, 1).flatten()
    for j in range(model.dims):
        other = raster.clone()
        other[j] = (other[j] + 3) % 8
        changed = model.logits(other.view(1, 3, 2, 2).permute(0, 3, 1, 2))
        moved = (changed != before).any(-1)[0]
        assert torch.equal(moved, torch.arange(model.dims) > j), j


def test_sampling_follows_the_probabilities_of_the_full_pass() -> None:
    """Each sampled level is the inverse CDF, at that image's uniform, of what `logits` says of the image."""
    model = randomise(AutoregressiveTransformer(RGB, 8, **SMALL))
    assert isinstance(model, AutoregressiveTransformer)
    pixels = model.sample(20, None, Seeds(5, range(20)))
    u_BD = Seeds(5, range(20)).per_image((model.dims,), "uniform").double()
    logits_BDK = model.logits(pixels)
    again = torch.stack([inverse_cdf(logits_BDK[:, i], u_BD[:, i]) for i in range(model.dims)], 1)
    assert torch.equal(again, pixels.permute(0, 2, 3, 1).flatten(1))
    assert len(pixels.unique()) > 4


def test_sample_does_not_depend_on_its_batch() -> None:
    model = randomise(AutoregressiveTransformer(RGB, 8, **SMALL))
    together, alone = model.sample(6, None, Seeds(0, range(6))), model.sample(1, None, Seeds(0, [4]))
    assert torch.equal(together[4:5], alone)


def test_sampling_calls_the_network_once_a_pixel() -> None:
    """The harness counts evaluations at `network`: ancestral sampling costs D of them."""
    model, calls = AutoregressiveTransformer(RGB, 8, **SMALL), []
    model.network.register_forward_hook(lambda *_: calls.append(1))
    model.sample(2, None, Seeds(0, range(2)))
    assert len(calls) == model.dims


def test_inverse_cdf_gives_every_level_its_share() -> None:
    """Levels over a fine grid of u come in the proportions of the softmax, in order."""
    logits = torch.tensor([0.0, 2.0, -1.0, 1.0])
    u = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    levels = inverse_cdf(logits.expand(10_000, 4), u).long()
    shares = torch.bincount(levels, minlength=4) / 10_000
    torch.testing.assert_close(shares, logits.softmax(0), atol=2e-4, rtol=0)
    assert bool((levels.diff() >= 0).all())


def test_neighbours_come_before_and_lie_within_the_radius() -> None:
    """Every index of the table against its definition, on an image with channels."""
    C, H, W = RGB
    D, table = C * H * W, causal_neighbours(RGB, 1)
    for i, row in enumerate(table.tolist()):
        known = {j for j in row if j < D}
        h, w = divmod(i // C, W)
        near = {j for j in range(i) if abs(j // C // W - h) <= 1 and abs(j // C % W - w) <= 1}
        assert known == near, i


def test_learns_digits_better_than_histograms() -> None:
    """A few seconds of training beat 64 separate histograms on test digits by a wide margin."""
    torch.manual_seed(0)
    model = train(AutoregressiveTransformer(width=32, depth=1, radius=2), steps=120, learning_rate=6e-3)
    assert bits(model.nll(split()[1]).nats, model) < PER_PIXEL_HISTOGRAM_BITS - 0.2


def test_starts_at_uniform_bits() -> None:
    """Before training every level is as likely: log₂ 17 bits, the unit check."""
    model = AutoregressiveTransformer().eval()
    assert bits(model.nll(split()[1][:8]).nats, model) == pytest.approx(4.0874628, abs=1e-5)
    assert model.loss(split()[1][:8]).item() == pytest.approx(2.8332133, abs=1e-5)


def test_non_finite_logits_are_caught_with_their_image() -> None:
    """Broken weights must not come out as pixels."""
    model = AutoregressiveTransformer(RGB, 8, **SMALL)
    torch.nn.init.constant_(model.network.head.bias, float("nan"))
    with pytest.raises(NonFiniteSamples, match="image 0"):
        model.sample(2, None, Seeds(0, range(2)))


def test_bad_input_is_one_sentence() -> None:
    model = AutoregressiveTransformer(RGB, 8, **SMALL)
    with pytest.raises(ValueError, match="is unconditional: leave the labels out"):
        model.loss(torch.zeros(1, *RGB, dtype=torch.uint8), torch.zeros(1))
    with pytest.raises(ValueError, match=r"built for pixels \('B', 2, 3, 2\): got \(1, 1, 8, 8\)"):
        model.nll(torch.zeros(1, 1, 8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"level 9, but this model has 8 levels, 0…7"):
        model.nll(torch.full((1, *RGB), 9, dtype=torch.uint8))
    with pytest.raises(ValueError, match="depth must be a whole number, at least 1: got 0"):
        AutoregressiveTransformer(depth=0)
    with pytest.raises(ValueError, match="levels must be 2 to 256"):
        AutoregressiveTransformer(levels=1000)
