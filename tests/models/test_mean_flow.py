"""Protects MeanFlow: its target is the average velocity's identity, exactly, and one step uses it rightly."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.base import LikelihoodUnavailable
from models.mean_flow import STEADY, MeanFlow
from models.samplers import sampler
from models.seeds import Seeds
from tests.models.oracles import MEAN, VARIANCE, isotropic, latents
from tests.models.test_reflow import corners, fit

SHAPE, LEVELS = (1, 1, 2), 17


class AverageOracle(nn.Module):
    """u of Gaussian data N(m, s²): the flow is x_r = (1 − r)m + S(r)/S(t)·(x − (1 − t)m)."""

    def __init__(self, scale: float = 1.0, shift: float = 0.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale, dtype=torch.float64))
        self.shift = nn.Parameter(torch.tensor(shift, dtype=torch.float64))

    def forward(self, x: Tensor, t: Tensor, r: Tensor) -> Tensor:
        t, r = (v.view(-1, 1, 1, 1) for v in (t, r))
        S_t, S_r = (((1 - v) ** 2 * VARIANCE + v**2).sqrt() for v in (t, r))
        # (1 − S_r/S_t)/(t − r) without the division by 0 at r = t
        slope = ((t + r) * (1 + VARIANCE) - 2 * VARIANCE) / (S_t * (S_t + S_r))
        return self.scale * (slope * (x - (1 - t) * MEAN) - MEAN) + self.shift


class Two(nn.Module):
    """`Plane` of two times."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(4, 96), nn.SiLU(), nn.Linear(96, 96), nn.SiLU(), nn.Linear(96, 2)
        )

    def forward(self, x: Tensor, t: Tensor, r: Tensor) -> Tensor:
        return self.layers(torch.cat([x.flatten(1), torch.stack([t, t - r], 1)], 1)).view(x.shape)


def flow(inner: nn.Module | None = None, shape: tuple[int, int, int] = SHAPE, **options: Any) -> Any:
    """A MeanFlow of two pixels, its network replaced where one is given."""
    if "width" not in options:
        options = {"channels": 8, "multipliers": (1,), **options}
    model = MeanFlow(shape, LEVELS, **options)
    if inner is not None:
        model.network = inner
    return model


def spans(model: Any, n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    r, t = model.draw_spans(n, torch.Generator().manual_seed(seed))
    return r.double(), t.double()


def test_the_analytic_average_velocity_is_a_fixed_point() -> None:
    """With the flow's own velocity along the way, the target at the true u is u itself, for every r ≤ t."""
    model = flow(AverageOracle(), apart=0.75)
    r, t = spans(model, 400)
    x = latents(400, 4, 1.0)
    v = isotropic(model.path, "velocity")(x, t)
    found = model.target(x, r, t, v)
    assert torch.allclose(found, model.network(x, t, r), atol=1e-9)
    wrong = flow(AverageOracle(scale=1.1), apart=0.75)
    assert not torch.allclose(wrong.target(x, r, t, v), wrong.network(x, t, r), atol=0.05)


def test_lines_of_single_images_average_to_the_flow() -> None:
    """The gradient of the plain loss vanishes at the true u and not beside it, though v is noisy."""
    gradients = []
    for scale, shift in ((1.0, 0.0), (1.2, 0.1)):
        network = AverageOracle(scale, shift)
        model = flow(network, apart=1.0, power=0.0)
        r, t = spans(model, 200_000)
        x_0, epsilon = MEAN + VARIANCE**0.5 * latents(len(t), 4, 1.0), latents(len(t), 4, 1.0, seed=1)
        x_t = (1 - t.view(-1, 1, 1, 1)) * x_0 + t.view(-1, 1, 1, 1) * epsilon
        error = network(x_t, t, r) - model.target(x_t, r, t, epsilon - x_0)
        found = torch.autograd.grad(error.square().mean(), [network.scale, network.shift])
        gradients.append(torch.stack(found).abs())
    assert float(gradients[0].max()) < 0.01
    assert float(gradients[1].min()) > 0.05


def test_a_single_image_is_learned_without_error() -> None:
    """All lines end at c: u = (x − c)/t is constant along each, and the loss is 0 line by line."""
    model = flow(apart=1.0)
    c = model.dequantise(torch.tensor([[[[3, 12]]]]), torch.tensor(0.5))
    model.encode = lambda pixels, generator: c.expand(len(pixels), *SHAPE)
    model.network.forward = lambda x, t, r: (x - c) / t.view(-1, 1, 1, 1)
    assert float(model.loss(corners(64), None, torch.Generator().manual_seed(0))) < 1e-6
    assert bool((model.sample(9, None, Seeds(0, range(9))) == torch.tensor([3, 12])).all())


def test_equal_times_are_flow_matching() -> None:
    """apart = 0, power 0: the mean squared error of ε − x_0, summed over dimensions, at (t, t)."""
    torch.manual_seed(0)
    model = flow(Two(), apart=0.0, power=0.0)
    generator = torch.Generator().manual_seed(0)
    found = model.loss(corners(64), None, generator)
    generator.manual_seed(0)
    x_0 = model.encode(corners(64), generator)
    r, t = model.draw_spans(64, generator)
    assert torch.equal(r, t)
    epsilon = model.draw_noise(x_0, generator)
    at = t.view(-1, 1, 1, 1)
    error = model.network((1 - at) * x_0 + at * epsilon, t, t) - (epsilon - x_0)
    assert torch.allclose(found, error.square().sum((1, 2, 3)).mean())


@pytest.mark.parametrize(
    "options",
    [{"attention": True}, {"network": "dit", "width": 16, "depth": 1, "heads": 2}],
    ids=["unet", "dit"],
)
def test_derivatives_through_the_networks_are_those_of_finite_differences(options: dict[str, Any]) -> None:
    """v·∂u/∂x + ∂u/∂t by central differences of the real networks, attention included, float64."""
    model = flow(shape=(1, 4, 4), apart=0.5, **options).double()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2, generator=generator)
    r, t = spans(model, 6)
    x, v = (torch.randn(6, 1, 4, 4, generator=generator).double() for _ in range(2))
    h = 1e-5
    with torch.no_grad():
        ahead, behind = (model.network(x + s * v, t + s, r) for s in (h, -h))
    wanted = v - (t - r).view(-1, 1, 1, 1) * (ahead - behind) / (2 * h)
    found = model.target(x, r, t, v)
    assert torch.allclose(found, wanted, atol=1e-6)
    assert torch.equal(found[3:], v[3:])
    assert float((found[:3] - v[:3]).abs().max()) > 0.01
    assert not found.requires_grad


def test_the_networks_are_told_both_times() -> None:
    model = flow(shape=(1, 4, 4), attention=False)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    x, t, r = torch.randn(1, 1, 4, 4), torch.tensor([0.8]), torch.tensor([0.3])
    with torch.no_grad():
        outputs = [model.network(x, a, b) for a, b in ((t, r), (t, t), (t - 0.2, r - 0.2))]
    assert all(not torch.allclose(outputs[0], other, atol=1e-3) for other in outputs[1:])


def test_spans_are_drawn_as_told() -> None:
    """A quarter of rows has r < t; with uniform times r and t are the ends of two independent draws."""
    model = flow(times="uniform")
    r, t = spans(model, 8000)
    assert int((r < t).sum()) == 2000
    assert bool((r <= t).all())
    assert bool((r[2000:] == t[2000:]).all())
    assert float(t[:2000].mean()) == pytest.approx(2 / 3, abs=0.02)
    assert float(r[:2000].mean()) == pytest.approx(1 / 3, abs=0.02)
    logits = torch.cat(spans(flow(apart=1.0), 8000)).logit()
    assert float(logits.mean()) == pytest.approx(-0.4, abs=0.03)


def test_the_adaptive_weight_is_a_constant_of_the_gradient() -> None:
    """∇ of (‖e‖² + c)^−1·‖e‖² with the weight held: Σ ∇‖e_i‖²/(‖e_i‖² + c)/B; the value itself is near 1."""
    torch.manual_seed(0)
    plain, weighted = flow(Two(), power=0.0, apart=0.0), flow(Two(), power=1.0, apart=0.0)
    weighted.load_state_dict(plain.state_dict())
    images = corners(1)
    found = []
    for model in (plain, weighted):
        loss = model.loss(images, None, torch.Generator().manual_seed(0))
        found.append(
            (loss.detach(), torch.cat([g.flatten() for g in torch.autograd.grad(loss, model.parameters())]))
        )
    (error, gradient), (value, scaled) = found
    assert torch.allclose(scaled, gradient / (error + STEADY), rtol=1e-4)
    assert float(value) == pytest.approx(float(error / (error + STEADY)), rel=1e-5)


@pytest.mark.parametrize("evaluations", [1, 2, 3])
def test_steps_follow_the_analytic_flow_exactly(evaluations: int) -> None:
    """x = z − Σ (t − r) u: with the true u, any number of steps ends at m + s·z; each is one evaluation."""
    model = flow(AverageOracle(), evaluations=evaluations)
    model.decode = lambda x: x
    calls = []
    model.network.register_forward_hook(lambda _m, given, _out: calls.append(len(given[0])))
    x = model.sample(5, None, Seeds(0, range(5)))
    z = Seeds(0, range(5)).per_image(SHAPE)
    assert torch.allclose(x, (MEAN + VARIANCE**0.5 * z).to(x.dtype), atol=1e-6)
    assert calls == [5] * evaluations


def test_one_step_beats_one_step_of_flow_matching() -> None:
    """Two pixels at four corners, where the instantaneous velocity of noise points at the middle."""
    distances = []
    for apart, steps in ((0.5, 500), (0.0, 200)):
        torch.manual_seed(0)
        model = fit(flow(Two(), apart=apart, power=0.5, times="uniform"), steps, corners(256))
        pixels = model.sample(1000, None, Seeds(0, range(1000)))
        distances.append(float(((pixels.int() - 8).abs() - 6).abs().float().mean()))
    assert distances[0] < 2.0
    assert distances[0] < 0.6 * distances[1]


class OfLabel(nn.Module):
    """Ends at 0.1·label."""

    def forward(self, x: Tensor, t: Tensor, r: Tensor, label: Tensor) -> Tensor:
        return (x - 0.1 * label.view(-1, 1, 1, 1)) / t.view(-1, 1, 1, 1)


def test_labels_and_guidance() -> None:
    """One step at w: 0.1·(4 + w(label − 4)), the null label being 4, in one batch of 2n."""
    model = flow(OfLabel(), classes=4)
    model.parameters = lambda: iter([torch.zeros(1)])
    label, rows = torch.tensor([0, 3, 2]), []
    model.network.register_forward_hook(lambda _m, given, _out: rows.append(len(given[0])))
    for w in (1.0, 1.5):
        wanted = model.decode(0.1 * (4 + w * (label - 4.0)).view(-1, 1, 1, 1).expand(-1, *SHAPE) + 1e-4)
        assert torch.equal(model.sample(3, None, Seeds(0, range(3)), label, guidance=w), wanted)
    assert rows == [3, 6]
    trained = flow(classes=4, condition_dropout=0.5)
    loss = trained.loss(corners(8), torch.arange(8) % 4, torch.Generator().manual_seed(0))
    loss.backward()
    assert bool(torch.isfinite(loss))


def test_bad_requests_get_one_sentence() -> None:
    model = flow()
    with pytest.raises(LikelihoodUnavailable, match="Jacobian is not tractable"):
        model.nll(corners(2))
    with pytest.raises(ValueError, match="samples by mean-flow only"):
        model.sample(2, sampler("euler", 1), Seeds(0, range(2)))
    with pytest.raises(ValueError, match="unconditional: leave guidance out"):
        model.sample(2, None, Seeds(0, range(2)), guidance=2.0)
    with pytest.raises(ValueError, match="unconditional"):
        model.loss(corners(2), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="share apart from 0 to 1"):
        flow(apart=1.5)
    with pytest.raises(ValueError, match="evaluations must be a whole number"):
        flow(evaluations=0)
