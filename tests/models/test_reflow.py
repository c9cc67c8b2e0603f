"""Protects reflow: couples are the teacher's map, the new flow is straighter, resuming finds them again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.base import ImageModel
from models.distillation import DistilledFlow
from models.flow_matching import FlowMatching, RectifiedFlow
from models.reflow import ReflowedFlow
from models.samplers import sampler
from models.seeds import Seeds
from tests.models.oracles import isotropic

SHAPE, LEVELS = (1, 1, 2), 17


class Plane(nn.Module):
    """A small network of two pixels, so that a flow is learned in a second."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(4, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 2)
        )

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        code = torch.stack([t, (3.0 * t).cos()], 1)
        return self.layers(torch.cat([x.flatten(1), code], 1)).view(x.shape)


class OfLabel(nn.Module):
    """The flow that ends at 0.1·label of everything."""

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        return (x - 0.1 * label.view(-1, 1, 1, 1)) / t.view(-1, 1, 1, 1)


def flow(kind: type[RectifiedFlow] = RectifiedFlow, network: nn.Module | None = None, **options: Any) -> Any:
    """A flow of two pixels."""
    model = kind(SHAPE, LEVELS, channels=8, multipliers=(1,), attention=False, **options)
    if network is not None:
        model.network = network
    return model


def corners(n: int = 512) -> Tensor:
    """Four equally likely images, at ±0.73: straight lines from the middle to them cross."""
    bits = torch.randint(2, (n, *SHAPE), generator=torch.Generator().manual_seed(0))
    return (2 + 12 * bits).to(torch.uint8)


def fit(model: ImageModel, steps: int, pixels: Tensor, learning_rate: float = 1e-2) -> ImageModel:
    """Adam with a linear decay, all randomness from one generator."""
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    for _ in range(steps):
        optimizer.zero_grad()
        model.loss(pixels, None, generator).backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def ends(model: Any, z: Tensor, steps: int) -> Tensor:
    """Where Euler's method with so many equal steps ends."""
    return sampler("euler", steps)(model.denoiser(), z, [1.0 - i / steps for i in range(steps)] + [0.0])


@pytest.fixture(scope="module")
def trained() -> tuple[Any, Any]:
    """A rectified flow of the corners, and its reflow."""
    torch.manual_seed(0)
    teacher = fit(flow(network=Plane()), 500, corners())
    student = flow(ReflowedFlow, Plane(), couples=2048, solver_steps=20)
    student.learn_from(teacher, corners(), torch.Generator().manual_seed(0))
    return teacher, fit(student, 400, corners())


def test_one_step_of_the_reflowed_flow_is_nearer_to_its_ode(trained: tuple[Any, Any]) -> None:
    """Straightness: the error of one Euler step against 100 falls fourfold (mean squared, a dimension)."""
    z = torch.randn(1000, *SHAPE, generator=torch.Generator().manual_seed(5))
    errors = [float((ends(m, z, 1) - ends(m, z, 100)).square().mean()) for m in trained]
    assert errors[1] < 0.25 * errors[0]


def test_the_reflowed_flow_keeps_the_distribution_and_does_not_move_further(
    trained: tuple[Any, Any],
) -> None:
    """Its samples lie at the corners, a quarter at each; the squared distance from z does not rise."""
    z = torch.randn(2000, *SHAPE, generator=torch.Generator().manual_seed(6))
    teacher, student = (ends(m, z, 100) for m in trained)
    assert float((student.abs() - 0.735).abs().mean()) < 0.12
    share = ((student[:, 0, 0, 0] > 0) & (student[:, 0, 0, 1] > 0)).float().mean()
    assert float(share) == pytest.approx(0.25, abs=0.05)
    assert float((student - z).square().mean()) < 1.02 * float((teacher - z).square().mean())


def test_samplers_of_the_flow_and_the_likelihood_are_those_of_a_rectified_flow(
    trained: tuple[Any, Any],
) -> None:
    """It is a proper flow: its samples lie within two levels of the corners, and its density is there."""
    _, student = trained
    for name in ("euler", "heun", "ddim"):
        pixels = student.sample(200, sampler(name, 8), Seeds(0, range(200)))
        near = (pixels.int() - 2).abs().le(2) | (pixels.int() - 14).abs().le(2)
        assert float(near.float().mean()) > 0.85
    found = student.nll(corners()[:64], solver="rk4", steps=20)
    assert found.kind == "estimate"
    assert "s=2/17" in found.protocol
    assert float(found.nats.mean()) < 5.67  # 2 ln 17: of a uniform guess


@pytest.mark.parametrize(("solver", "steps", "error"), [("heun", 40, 5e-3), ("euler", 40, 0.1)])
def test_couples_are_the_ends_of_the_teachers_trajectories(solver: str, steps: int, error: float) -> None:
    """Gaussian data, whose flow is known: x_0 = m + s·z from noise at t = 1; x_0 is not rounded to levels."""
    teacher = flow()
    teacher.network = isotropic(teacher.path, "velocity", dims=2).float()
    teacher.network.mean = teacher.network.mean.float()
    for name in ("eigenvalues", "axes"):
        setattr(teacher.network, name, getattr(teacher.network, name).float())
    student = flow(ReflowedFlow, nn.Identity(), couples=300, solver=solver, solver_steps=steps)
    student.parameters = teacher.parameters = lambda: iter([torch.zeros(1)])
    student.learn_from(teacher, corners(), torch.Generator().manual_seed(0))
    wanted = teacher.network.flow(student.z, 1.0, 0.0)
    assert float((student.x_0 - wanted).abs().max()) < error
    assert abs(float(student.z.mean())) < 0.2
    assert float(student.z.std()) == pytest.approx(1.0, abs=0.1)


def test_learning_again_makes_the_same_couples_and_none_are_saved() -> None:
    """A killed training calls learn_from again with the same seed, then loads its checkpoint."""
    torch.manual_seed(0)
    teacher = flow(network=Plane())
    students = []
    for seed in (0, 0, 1):
        students.append(flow(ReflowedFlow, Plane(), couples=600, solver_steps=3))
        students[-1].learn_from(teacher, corners(), torch.Generator().manual_seed(seed))
    first, again, other = students
    assert torch.equal(first.z, again.z)
    assert torch.equal(first.x_0, again.x_0)
    assert not torch.equal(first.z, other.z)
    assert set(first.state_dict()) == set(teacher.state_dict())
    assert all(torch.equal(v, teacher.state_dict()[k]) for k, v in first.state_dict().items())
    fit(first, 3, corners())
    again.load_state_dict(first.state_dict())
    losses = [m.loss(corners(32), None, torch.Generator().manual_seed(2)) for m in (first, again)]
    assert losses[0] == losses[1]


def test_images_of_a_batch_give_its_size_alone() -> None:
    torch.manual_seed(0)
    student = flow(ReflowedFlow, Plane(), couples=64, solver_steps=2)
    with pytest.raises(ValueError, match="has no couples: call learn_from"):
        student.loss(corners(8), None, torch.Generator().manual_seed(0))
    student.learn_from(flow(network=Plane()), corners(), torch.Generator().manual_seed(0))
    pixels = corners(8)
    losses = [student.loss(p, None, torch.Generator().manual_seed(0)) for p in (pixels, 16 - pixels)]
    assert losses[0] == losses[1]


def test_couples_of_a_conditional_teacher_keep_their_labels() -> None:
    """Each x_0 is where the flow of its own label ends; a share of the couples is of no label (the last)."""
    teacher = flow(network=OfLabel(), classes=4)
    student = flow(ReflowedFlow, OfLabel(), classes=4, couples=1000, solver_steps=4, condition_dropout=0.2)
    student.parameters = teacher.parameters = lambda: iter([torch.zeros(1)])
    student.learn_from(teacher, corners(), torch.Generator().manual_seed(0))
    shares = torch.bincount(student.told, minlength=5) / 1000
    assert torch.allclose(shares, torch.full((5,), 0.2), atol=0.05)
    assert torch.allclose(student.x_0, 0.1 * student.told.view(-1, 1, 1, 1).expand(-1, *SHAPE), atol=1e-5)
    _, x_0, (told,) = student.draw_couples(50, torch.Generator().manual_seed(0))
    assert torch.allclose(x_0[:, 0, 0, 0], 0.1 * told, atol=1e-5)
    assert float(student.loss(corners(50), None, torch.Generator().manual_seed(0))) < 1e-8


def test_other_teachers_and_bad_options_get_one_sentence() -> None:
    student = flow(ReflowedFlow)
    generator = torch.Generator().manual_seed(0)
    wider = RectifiedFlow(SHAPE, LEVELS, channels=16, multipliers=(1,), attention=False)
    for teacher in (wider, flow(classes=3)):
        with pytest.raises(ValueError, match="give it the network options of its teacher"):
            student.learn_from(teacher, corners(), generator)
    curved = FlowMatching(SHAPE, LEVELS, path="cosine", channels=8, multipliers=(1,), attention=False)
    for teacher in (curved, flow(DistilledFlow)):
        with pytest.raises(ValueError, match="builds on a rectified flow"):
            student.learn_from(teacher, corners(), generator)
    with pytest.raises(ValueError, match="Valid: euler, heun"):
        flow(ReflowedFlow, solver="ddpm")
    with pytest.raises(ValueError, match="couples must be a whole number"):
        flow(ReflowedFlow, couples=0)
