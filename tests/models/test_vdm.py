"""Protects VDM: its bound is tight under an exact network, whatever the schedule's course; γ is learned."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from models import vdm
from models.learned_schedule import LearnedSchedule
from models.samplers import sampler
from models.seeds import Seeds
from models.vdm import VDM
from tests.models.digits import PER_PIXEL_HISTOGRAM_BITS, bits, every_image, randomise, split, train

SHAPE, LEVELS = (1, 1, 2), 4
IMAGES = every_image(SHAPE, LEVELS)


class _Uniform(nn.Module):
    """The exact prediction v of independent, equally likely levels, from the noise level it is told."""

    def __init__(self, schedule: LearnedSchedule) -> None:
        super().__init__()
        self.schedule = schedule
        self.places = 2.0 * torch.arange(LEVELS) / (LEVELS - 1) - 1.0

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        start, end = self.schedule.limits()
        gamma = (start + (end - start) * level).view(-1, 1, 1, 1)
        alpha, sigma = (-gamma).sigmoid().sqrt(), gamma.sigmoid().sqrt()
        distance = (x[..., None] - alpha[..., None] * self.places) / sigma[..., None]
        x_0 = ((-0.5 * distance.square()).softmax(-1) * self.places).sum(-1)
        return (alpha * (x - alpha * x_0) / sigma) - sigma * x_0


def _tiny(**options: object) -> VDM:
    return VDM(SHAPE, LEVELS, channels=4, multipliers=(1,), attention=False, dropout=0.0, **options)  # type: ignore[arg-type]


def _oracle(course: float = 0.0, finest: float = vdm.FINEST) -> VDM:
    """A model with the exact network; its schedule bent by random parameters of the given size."""
    model = _tiny(finest=finest)
    generator = torch.Generator().manual_seed(3)
    nn.init.normal_(model.schedule.shape, std=course, generator=generator)
    model.network.backbone = _Uniform(model.schedule)
    return model.eval()


def _bound(model: VDM, images: Tensor, repeats: int, draws: int) -> Tensor:
    """The bound of each image, averaged over repeats, (N,)."""
    found = model.nll(images.repeat(repeats, 1, 1, 1), None, torch.Generator().manual_seed(0), draws=draws)
    assert torch.allclose(found.nats, sum(found.breakdown.values()))
    assert min(float(part.min()) for part in found.breakdown.values()) >= 0
    return found.nats.view(repeats, -1).mean(0)


@pytest.mark.parametrize("finest", [0.2, 1.0])
def test_bound_of_an_exact_network_is_the_entropy(finest: float) -> None:
    """For equally likely levels the decoder is Bayes' rule too, so nothing is lost: ln 4 a pixel, whether γ_0
    is fine (all in the diffusion) or coarse (much in the decoder). A part missing or twice would show."""
    found = _bound(_oracle(finest=finest), IMAGES, 256, 64)
    assert float(found.mean()) == pytest.approx(2 * math.log(LEVELS), abs=0.04)
    assert float((-found).exp().sum()) == pytest.approx(1.0, abs=0.05)


def test_bound_does_not_depend_on_the_course_of_the_schedule() -> None:
    """Two courses with the same ends and the same network of the noise level: one bound (source, eq. 18)."""
    straight, bent = _oracle(0.0), _oracle(1.0)
    m = torch.tensor([0.25, 0.5, 0.75])
    moved = (straight.schedule.monotone(m)[0] - bent.schedule.monotone(m)[0]).abs().detach()
    assert float(moved.max()) > 0.03
    a, b = (_bound(model, IMAGES, 256, 64).mean() for model in (straight, bent))
    assert float(a) == pytest.approx(float(b), abs=0.04)


@pytest.mark.parametrize("prediction", ["v", "epsilon"])
def test_a_wrong_network_never_gets_more_than_all_probability(prediction: str) -> None:
    """Σ exp(−bound) ≤ 1 over the whole image space, for a network that knows nothing."""
    model = randomise(_tiny(prediction=prediction), 0.3).float()
    assert isinstance(model, VDM)
    assert 0 < float((-_bound(model, IMAGES, 16, 64)).exp().sum()) <= 1.0


def test_loss_is_the_bound_in_nats_a_dimension() -> None:
    """In expectation, under the exact network, which never leaves [−1, 1]."""
    pixels = IMAGES.repeat(8000, 1, 1, 1)
    loss = _oracle().loss(pixels, None, torch.Generator().manual_seed(0)).detach()
    assert float(loss) == pytest.approx(math.log(LEVELS), abs=0.03)


def test_gradients_reach_the_network_and_both_parts_of_the_schedule() -> None:
    model = randomise(_tiny(), 0.3).float().train()
    model.loss(IMAGES, None, torch.Generator().manual_seed(0)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name
    schedule = model.schedule  # type: ignore[attr-defined]
    assert bool((schedule.ends.grad != 0).all())
    assert float(schedule.shape.grad.abs().max()) > 0


def test_ends_follow_the_bound_and_the_course_follows_its_square(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shape has the gradient of the mean squared diffusion term; the ends have the bound's own."""
    model = randomise(_tiny(), 0.3).float().train()
    assert isinstance(model, VDM)

    def gradients(scalar: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(scalar, [model.schedule.ends, model.schedule.shape]))

    hooked = gradients(model.loss(IMAGES, None, torch.Generator().manual_seed(0)))
    monkeypatch.setattr(vdm, "_follow_squares", lambda *_: None)
    plain = gradients(model.loss(IMAGES, None, torch.Generator().manual_seed(0)))
    generator = torch.Generator().manual_seed(0)
    u = vdm.draw_times(len(IMAGES), vdm.Times(), generator, torch.device("cpu"))
    diffusion = model._estimate(IMAGES, u, (), generator)["diffusion"] / model.dims
    squares = gradients(diffusion.square().mean())
    assert torch.allclose(hooked[0], plain[0])
    assert torch.allclose(hooked[1], squares[1], rtol=1e-4, atol=1e-6)
    assert not torch.allclose(hooked[1], plain[1])


def test_learning_the_course_lowers_the_scatter_and_not_the_bound() -> None:
    """What the squared estimate is for: with network and ends fixed, single draws scatter less afterwards."""
    model = _oracle()
    model.schedule.ends.requires_grad_(False)

    def moments() -> tuple[float, float]:
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            found = model._estimate(
                IMAGES.repeat(500, 1, 1, 1), torch.rand(8000, generator=generator), (), generator
            )
        return float(found["diffusion"].mean()), float(found["diffusion"].std())

    mean, scatter = moments()
    optimizer, generator = torch.optim.Adam([model.schedule.shape], lr=0.03), torch.Generator().manual_seed(1)
    for _ in range(60):
        optimizer.zero_grad()
        model.loss(IMAGES.repeat(16, 1, 1, 1), None, generator).backward()
        optimizer.step()
    mean_after, scatter_after = moments()
    assert scatter_after < 0.8 * scatter
    assert mean_after == pytest.approx(mean, abs=0.1)


def test_more_draws_scatter_less_and_stand_in_the_protocol() -> None:
    model, pixels = _oracle(), IMAGES[:1].repeat(400, 1, 1, 1)
    found = [model.nll(pixels, None, torch.Generator().manual_seed(0), draws=n) for n in (1, 64)]
    assert float(found[1].nats.std()) < 0.3 * float(found[0].nats.std())
    assert "64 times an image" in found[1].protocol
    assert "learned log-SNR" in found[1].protocol
    assert found[1].kind == "bound"


@pytest.fixture(scope="module")
def trained() -> VDM:
    """A small model after seconds of training on the real digits."""
    torch.manual_seed(0)
    model = train(VDM((1, 8, 8), 17, channels=16), 300, 4e-3)
    assert isinstance(model, VDM)
    return model


def test_a_short_training_beats_the_histogram(trained: VDM) -> None:
    """2.430 bits is what 64 histograms take."""
    found = trained.nll(split()[1][:120], None, torch.Generator().manual_seed(0), draws=32)
    assert bits(found.nats, trained) < PER_PIXEL_HISTOGRAM_BITS


def test_the_schedule_is_trained_and_travels_with_the_weights(trained: VDM) -> None:
    fresh = VDM((1, 8, 8), 17, channels=16).eval()
    before = fresh.path
    fresh.load_state_dict(trained.state_dict())
    assert before != fresh.path == trained.path
    a, b = (
        m.nll(split()[1][:4], None, torch.Generator().manual_seed(0), draws=4).nats for m in (trained, fresh)
    )
    assert torch.equal(a, b)


@pytest.mark.parametrize("name", ["ddpm", "ddim", "euler", "heun"])
def test_every_sampler_runs_and_a_sample_does_not_depend_on_its_batch(trained: VDM, name: str) -> None:
    """Also with steps finer than γ_0; all are levels."""
    together = trained.sample(3, sampler(name, 40), Seeds(0, [0, 1, 2]))
    assert together.dtype == torch.uint8
    assert int(together.max()) <= 16
    if name != "ddpm":
        alone = trained.sample(1, sampler(name, 40), Seeds(0, [2]))
        assert int((alone[0].int() - together[2].int()).abs().max()) <= 1


def test_samples_of_an_exact_network_have_the_law_of_the_data() -> None:
    """Equally likely levels: a quarter each; steps go below γ_0, where the network is told the last level."""
    found = _oracle().sample(1500, sampler("ddpm", 60), Seeds(0, range(1500)))
    share = torch.bincount(found.flatten().long(), minlength=LEVELS) / found.numel()
    assert share.tolist() == pytest.approx([0.25] * LEVELS, abs=0.03)


def test_it_can_be_built_without_memory_for_its_weights() -> None:
    """Planning checks options on the meta device."""
    with torch.device("meta"):
        VDM((1, 8, 8), 17, channels=8, classes=10)


def test_labels_and_guidance() -> None:
    model = VDM((1, 8, 8), 17, channels=8, classes=10).eval()
    pixels, label = torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.tensor([3, 7])
    assert model.loss(pixels, label, torch.Generator().manual_seed(0)).isfinite()
    assert model.nll(pixels, label, draws=2).nats.isfinite().all()
    assert model.sample(2, sampler("ddim", 3), Seeds(0, [0, 1]), label, guidance=2.0).shape == pixels.shape


def test_bad_requests_get_one_sentence() -> None:
    with pytest.raises(ValueError, match="v or epsilon"):
        _tiny(prediction="x0")
    with pytest.raises(ValueError, match="half distances"):
        _tiny(finest=0.0)
    with pytest.raises(ValueError, match="one or more draws"):
        _tiny().nll(IMAGES, draws=0)
    with pytest.raises(ValueError, match="built for images of"):
        _tiny().loss(IMAGES[..., :1])
