"""Protects text to image: it learns what a caption says, the caption is embedded once, the null is guided.

Shapes: B batch, C channels, H height, W width, L words.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from models.samplers import sampler
from models.seeds import Seeds
from models.text_to_image import FINEST, TextToImage, VelocityOfImage

SHAPE, LEVELS, WORDS, LENGTH = (1, 4, 4), 17, 5, 3
SMALL = {"vocabulary": WORDS, "length": LENGTH, "width": 24, "depth": 2, "heads": 2, "text_width": 16}


def _model(**options: object) -> TextToImage:
    torch.manual_seed(0)
    return TextToImage(SHAPE, LEVELS, **{**SMALL, **options})  # type: ignore[arg-type]


def _captioned(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Word 1 or 2 says which half is bright, word 3 or 4 how bright; noise of one level on top."""
    side, light = (torch.randint(0, 2, (n,), generator=generator) for _ in range(2))
    level = 8 + 6 * light
    half = torch.zeros(n, *SHAPE, dtype=torch.int64)
    half[side == 0, :, :2] = level[side == 0].view(-1, 1, 1, 1)
    half[side == 1, :, 2:] = level[side == 1].view(-1, 1, 1, 1)
    noisy = half + torch.randint(0, 2, half.shape, generator=generator)
    return noisy.to(torch.uint8), torch.stack([1 + side, 3 + light, torch.zeros_like(side)], 1)


def _train(model: TextToImage, steps: int) -> list[float]:
    """The losses of a few seconds of training on captions of two words."""
    torch.set_num_threads(1)
    generator, losses = torch.Generator().manual_seed(0), []
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=steps)
    for _ in range(steps):
        pixels, captions = _captioned(32, generator)
        optimizer.zero_grad()
        loss = model.loss(pixels, captions, generator)
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    model.eval()
    return losses


@pytest.fixture(scope="module")
def trained() -> TextToImage:
    model = _model()
    _train(model, 150)
    return model


def test_a_prediction_of_the_image_learns_too() -> None:
    """Its loss is that of a velocity, capped at small t; it falls below that of velocity 0."""
    losses = _train(_model(prediction="x0"), 60)
    assert losses[0] > 5
    assert sum(losses[-10:]) / 10 < 1


@torch.no_grad()
def test_samples_show_what_the_caption_says(trained: TextToImage) -> None:
    """All four captions, and both words of each, of which neither alone would do."""
    _, captions = _captioned(48, torch.Generator().manual_seed(1))
    pixels = trained.sample(48, sampler("heun", 8), Seeds(0, range(48)), captions).float()
    top, bottom = pixels[:, 0, :2].mean((1, 2)), pixels[:, 0, 2:].mean((1, 2))
    found_side = 1 + (bottom > top).long()
    found_light = 3 + (torch.maximum(top, bottom) > 11.5).long()
    assert float((found_side == captions[:, 0]).float().mean()) > 0.95
    assert float((found_light == captions[:, 1]).float().mean()) > 0.9


@torch.no_grad()
def test_the_right_caption_makes_an_image_likelier(trained: TextToImage) -> None:
    """Against the other side's, and against none: of four captions a right one is worth up to ln 4 nats."""
    pixels, captions = _captioned(24, torch.Generator().manual_seed(2))
    wrong = captions.clone()
    wrong[:, 0] = 3 - wrong[:, 0]
    right, other, none = (
        trained.nll(pixels, c, torch.Generator().manual_seed(0), solver="rk4", steps=10).nats.mean()
        for c in (captions, wrong, None)
    )
    assert float(other - right) > 20
    assert float(none - right) > 0.5
    assert bool(torch.isfinite(right))


@torch.no_grad()
def test_guidance_is_one_doubled_batch_between_caption_and_null(trained: TextToImage) -> None:
    """w = 0 is the empty caption, w = 1 the caption alone; w = 2 costs two evaluations an image and step."""
    _, captions = _captioned(4, torch.Generator().manual_seed(3))
    rows: list[int] = []
    handle = trained.network.register_forward_pre_hook(lambda _m, inputs: rows.append(len(inputs[0])))

    def draw(condition: Tensor | None, w: float) -> Tensor:
        rows.clear()
        return trained.sample(4, sampler("euler", 4), Seeds(0, range(4)), condition, guidance=w)

    plain, empty = draw(captions, 1.0), draw(None, 1.0)
    assert rows == [4] * 4
    assert torch.equal(draw(captions, 0.0), empty)
    assert torch.equal(draw(torch.zeros_like(captions), 3.0), empty)
    assert not torch.equal(draw(captions, 2.0), plain)
    assert rows == [8] * 4
    handle.remove()


@torch.no_grad()
def test_captions_are_embedded_once_a_trajectory(trained: TextToImage) -> None:
    """The encoder is no part of the counted network and does not run at every step."""
    _, captions = _captioned(4, torch.Generator().manual_seed(3))
    calls: list[int] = []
    handle = trained.encoder.register_forward_pre_hook(lambda _m, inputs: calls.append(len(inputs[0])))
    trained.sample(4, sampler("heun", 6), Seeds(0, range(4)), captions)
    assert calls == [4]
    trained.sample(4, sampler("heun", 6), Seeds(0, range(4)), captions, guidance=2.0)
    assert calls == [4, 4, 4]
    handle.remove()
    assert not any(module is trained.encoder for module in trained.network.modules())


@pytest.mark.parametrize("prediction", ["velocity", "x0"])
def test_loss_trains_encoder_and_network_from_the_generator_alone(prediction: str) -> None:
    """The same generator gives the same loss; conditions dropped in all rows leave the words untouched."""
    model = _model(prediction=prediction)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    pixels, captions = _captioned(8, torch.Generator().manual_seed(0))
    losses = [model.loss(pixels, captions, torch.Generator().manual_seed(5)) for _ in range(2)]
    assert torch.equal(losses[0], losses[1])
    losses[0].backward()
    assert bool(model.encoder.words.weight.grad.any())  # type: ignore[union-attr]
    model.zero_grad()
    model.loss(pixels, None, torch.Generator().manual_seed(5)).backward()
    used = model.encoder.words.weight.grad
    assert used is None or not bool(used.any())


def test_an_untrained_model_is_the_prior() -> None:
    """Velocity 0: −ln P(k) = −ln N(y) − D ln(2/K), whatever the caption."""
    model, pixels = _model().eval(), torch.zeros(500, *SHAPE, dtype=torch.uint8)
    captions = torch.ones(500, LENGTH, dtype=torch.int64)
    nats = model.nll(pixels, captions, torch.Generator().manual_seed(0), solver="euler", steps=1).nats
    s = 2.0 / LEVELS
    second = (0.5 * s - 1.0) ** 2 + s**2 / 12
    assert float(nats.mean()) == pytest.approx(
        16 * (0.5 * second + 0.5 * math.log(2 * math.pi) - math.log(s)), abs=0.05
    )


def test_velocity_of_an_image_is_exact_above_the_finest_time_and_finite_at_zero() -> None:
    """A network that knows x_0 gives ε − x_0 at every t from 0.05 on."""
    x_0, epsilon = torch.randn(3, 1, 2, 2), torch.randn(3, 1, 2, 2)
    network = VelocityOfImage(_Says(x_0))
    for t in (FINEST, 0.3, 1.0):
        x_t = (1 - t) * x_0 + t * epsilon
        torch.testing.assert_close(network(x_t, torch.full((3,), t)), epsilon - x_0, atol=1e-5, rtol=1e-5)
    assert bool(network(x_0 + 0.1, torch.zeros(3)).isfinite().all())


class _Says(torch.nn.Module):
    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.answer


def test_state_dict_rebuilds_the_model_and_the_meta_device_suffices() -> None:
    model, again = _model(), _model(dropout=0.1)
    again.load_state_dict(model.state_dict())
    with torch.device("meta"):
        assert _model(qk_norm=None, prediction="x0", time_shift=2.0).device.type == "meta"


def test_bad_requests_get_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"Unknown prediction of text to image 'x_0'\. Did you mean 'x0'"):
        _model(prediction="x_0")
    with pytest.raises(ValueError, match="captions need two words and one token or more: got 1 and 3"):
        _model(vocabulary=1)
    with pytest.raises(ValueError, match="a text encoder of width 15 is not divisible by 2 heads"):
        _model(text_width=15)
    model, pixels = _model(), torch.zeros(2, *SHAPE, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"captions as token numbers as integers of shape \(2, 3\)"):
        model.loss(pixels, torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="knows conditions 0…4, and got 0…5"):
        model.loss(pixels, torch.tensor([[5, 0, 0], [1, 2, 3]]))
