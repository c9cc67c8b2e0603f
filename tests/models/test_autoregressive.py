"""The autoregressive transformer: exact, causal, the same model when sampled as when evaluated."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

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


def _conditional(classes: int = 2, condition_dropout: float = 0.1) -> AutoregressiveTransformer:
    torch.manual_seed(0)
    options = {"classes": classes, "condition_dropout": condition_dropout, "dropout": 0.0}
    model = randomise(AutoregressiveTransformer(RGB, 8, **SMALL, **options))
    assert isinstance(model, AutoregressiveTransformer)
    return model


@pytest.mark.parametrize("guidance", [0.0, 1.0, 2.5])
def test_sampling_follows_the_guided_probabilities_of_the_full_pass(guidance: float) -> None:
    """Each sampled level is the inverse CDF, at its uniform, of u + w·(c − u) of the full pass's logits."""
    model, label_B = _conditional(), torch.arange(20) % 2
    pixels = model.sample(20, None, Seeds(5, range(20)), label_B, guidance)
    u_BD = Seeds(5, range(20)).per_image((model.dims,), "uniform").double()
    conditional, unconditional = model.logits(pixels, label_B), model.logits(pixels)
    logits_BDK = unconditional + guidance * (conditional - unconditional)
    again = torch.stack([inverse_cdf(logits_BDK[:, i], u_BD[:, i]) for i in range(model.dims)], 1)
    assert torch.equal(again, pixels.permute(0, 2, 3, 1).flatten(1))
    assert len(pixels.unique()) > 4


@pytest.mark.parametrize("label", [None, 0, 1])
def test_probabilities_sum_to_one_for_each_label(label: int | None) -> None:
    """Conditional and unconditional likelihoods are distributions, and different ones."""
    images = every_image((2, 1, 2), 3)
    model = randomise(AutoregressiveTransformer((2, 1, 2), 3, **SMALL, classes=2))
    nll = model.nll(images, None if label is None else torch.full((len(images),), label))
    assert float((-nll.nats).exp().sum()) == pytest.approx(1, abs=1e-6)
    assert ("given the label" in nll.protocol) == (label is not None)
    assert float((nll.nats - model.nll(images, torch.full((81,), 2 if label else 1)).nats).abs().max()) > 0.1


def test_no_guidance_is_the_conditional_model_and_none_of_it_the_unconditional() -> None:
    """w = 1 leaves the unconditional prediction out; w = 0 draws what the null label draws."""
    model, label_B = _conditional(classes=3), torch.tensor([0, 1, 2, 0])

    def draw(condition: Tensor | None, guidance: float) -> Tensor:
        return model.sample(4, None, Seeds(2, range(4)), condition, guidance)

    assert torch.equal(draw(label_B, 0.0), draw(None, 1.0))
    assert torch.equal(draw(torch.full((4,), 3), 1.0), draw(None, 1.0))
    assert torch.equal(draw(None, 3.0), draw(None, 1.0))
    assert not torch.equal(draw(label_B, 1.0), draw(None, 1.0))
    assert not torch.equal(draw(label_B, 4.0), draw(label_B, 1.0))


def test_learns_what_the_label_decides_and_what_is_true_without_it() -> None:
    """Images of one grey, which the label names: ln 1 nats given the label, ln 4 without it."""
    torch.manual_seed(0)
    options = {"dropout": 0.0, "classes": 4, "condition_dropout": 0.3}
    model = AutoregressiveTransformer((1, 2, 2), 4, **SMALL, **options)
    optimizer, generator = torch.optim.Adam(model.parameters(), 0.01), torch.Generator().manual_seed(0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=120)
    for _ in range(120):
        label_B = torch.randint(4, (64,), generator=generator)
        optimizer.zero_grad()
        model.loss(_greys(label_B), label_B, generator).backward()
        optimizer.step()
        schedule.step()
    label_B = torch.arange(4)
    assert float(model.eval().nll(_greys(label_B), label_B).nats.mean()) < 0.3
    assert float(model.nll(_greys(label_B)).nats.mean()) == pytest.approx(math.log(4), abs=0.4)
    assert float(model.nll(_greys(label_B), label_B.roll(1)).nats.mean()) > 3


def _greys(label_B: Tensor) -> Tensor:
    return label_B.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)


def test_labels_are_dropped_by_the_generator_alone() -> None:
    """The loss repeats bit for bit from its generator, and no drop is the loss of the labels given."""
    model, label_B = _conditional(condition_dropout=0.5), torch.arange(32) % 2
    pixels = torch.randint(8, (32, *RGB), generator=torch.Generator().manual_seed(1))
    losses = [model.loss(pixels, label_B, torch.Generator().manual_seed(s)).item() for s in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]
    model.condition_dropout = 0.0
    given = float(model.nll(pixels, label_B).nats.mean()) / model.dims
    assert model.loss(pixels, label_B).item() == pytest.approx(given)


def test_labels_leave_the_unconditional_model_as_it_was() -> None:
    """The same names and, from one seed, the same starting weights, to which classes add one table."""
    torch.manual_seed(0)
    plain = AutoregressiveTransformer(**SMALL).state_dict()
    torch.manual_seed(0)
    labelled = AutoregressiveTransformer(**SMALL, classes=10).state_dict()
    assert set(labelled) - set(plain) == {"network.label.weight"}
    assert labelled["network.label.weight"].shape == (11, SMALL["width"])
    assert all(torch.equal(value, labelled[name]) for name, value in plain.items())
    assert set(plain) >= {"network.embed.weight", "network.position_DE", "network.head.bias"}


def test_sample_does_not_depend_on_its_batch() -> None:
    model = randomise(AutoregressiveTransformer(RGB, 8, **SMALL))
    together, alone = model.sample(6, None, Seeds(0, range(6))), model.sample(1, None, Seeds(0, [4]))
    assert torch.equal(together[4:5], alone)


@pytest.mark.parametrize(("guidance", "evaluations"), [(0.0, 1), (1.0, 1), (2.0, 2)])
def test_sampling_calls_the_network_once_a_pixel(guidance: float, evaluations: int) -> None:
    """The harness counts rows at `network`: ancestral sampling costs D an image, 2D with guidance."""
    model, rows = _conditional(), []
    model.network.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    model.sample(3, None, Seeds(0, range(3)), torch.zeros(3, dtype=torch.int64), guidance)
    assert rows == [3 * evaluations] * model.dims


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
    with pytest.raises(ValueError, match="AutoregressiveTransformer is unconditional: leave guidance out"):
        model.sample(1, None, Seeds(0, [0]), guidance=2.0)
    with pytest.raises(ValueError, match="3 images need 3 seeds: got 2"):
        model.sample(3, None, Seeds(0, [0, 1]))
    with pytest.raises(ValueError, match=r"knows conditions 0…2, and got 3…3"):
        _conditional().nll(torch.zeros(1, *RGB, dtype=torch.uint8), torch.tensor([3]))
    with pytest.raises(ValueError, match=r"built for pixels \('B', 2, 3, 2\): got \(1, 1, 8, 8\)"):
        model.nll(torch.zeros(1, 1, 8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"level 9, but this model has 8 levels, 0…7"):
        model.nll(torch.full((1, *RGB), 9, dtype=torch.uint8))
    with pytest.raises(ValueError, match="depth must be a whole number, at least 1: got 0"):
        AutoregressiveTransformer(depth=0)
    with pytest.raises(ValueError, match="levels must be 2 to 256"):
        AutoregressiveTransformer(levels=1000)
