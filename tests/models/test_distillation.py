"""Protects distillation: one evaluation lands where the teacher's whole trajectory ends."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from models.base import LikelihoodUnavailable
from models.distillation import DistilledFlow
from models.reflow import ReflowedFlow
from models.samplers import sampler
from models.seeds import Seeds
from tests.models.test_reflow import SHAPE, OfLabel, Plane, corners, ends, fit, flow


@pytest.fixture(scope="module")
def trained() -> tuple[Any, Any]:
    """A reflowed flow of the corners, and what is distilled from it."""
    torch.manual_seed(0)
    first = fit(flow(network=Plane()), 400, corners())
    teacher = flow(ReflowedFlow, Plane(), couples=2048)
    teacher.learn_from(first, corners(), torch.Generator().manual_seed(0))
    fit(teacher, 300, corners())
    student = flow(DistilledFlow, Plane(), couples=2048)
    student.learn_from(teacher, corners(), torch.Generator().manual_seed(0))
    return teacher, fit(student, 400, corners())


def test_one_step_lands_nearer_to_the_end_of_the_trajectory(trained: tuple[Any, Any]) -> None:
    """On fresh noise: a third of the teacher's own one-step error is left, at most."""
    teacher, student = trained
    z = torch.randn(1000, *SHAPE, generator=torch.Generator().manual_seed(5))
    wanted = ends(teacher, z, 100)
    errors = [float((ends(m, z, 1) - wanted).square().mean()) for m in trained]
    assert errors[1] < 0.33 * errors[0]
    assert errors[1] < 0.01
    assert torch.allclose(student.x_0, ends(teacher, student.z, 100), atol=0.1)


def test_a_sample_is_one_evaluation_at_time_one(trained: tuple[Any, Any]) -> None:
    _, student = trained
    calls = []
    handle = student.network.register_forward_hook(lambda _m, given, _out: calls.append(given))
    pixels = student.sample(300, None, Seeds(0, range(300)))
    handle.remove()
    ((z, t),) = calls
    assert torch.equal(z, Seeds(0, range(300)).per_image(SHAPE))
    assert bool((t == 1.0).all())
    assert torch.equal(pixels, student.decode(ends(student, z, 1)))
    assert float(((pixels.int() - 8).abs() - 6).abs().float().mean()) < 1.0


def test_loss_is_the_squared_distance_of_the_ends(trained: tuple[Any, Any]) -> None:
    """‖z − v(z, 1) − x_0‖²/D over the couples that the generator draws."""
    _, student = trained
    z, x_0, _ = student.draw_couples(64, torch.Generator().manual_seed(3))
    with torch.no_grad():
        wanted = (ends(student, z, 1) - x_0).square().mean()
        found = student.loss(corners(64), None, torch.Generator().manual_seed(3))
    assert torch.allclose(found, wanted, rtol=1e-5)


def test_it_has_no_likelihood_and_takes_no_sampler(trained: tuple[Any, Any]) -> None:
    _, student = trained
    with pytest.raises(LikelihoodUnavailable, match="no flow whose density"):
        student.nll(corners(2))
    with pytest.raises(ValueError, match="samples by one-step only"):
        student.sample(2, sampler("euler", 1), Seeds(0, range(2)))
    with pytest.raises(ValueError, match="2 images need 2 seeds, and there are 3"):
        student.sample(2, None, Seeds(0, range(3)))
    with pytest.raises(ValueError, match="unconditional"):
        student.sample(2, None, Seeds(0, range(2)), guidance=2.0)


def test_labels_and_guidance() -> None:
    """z − v = 0.1·label: guided by w from the null label 4, 0.1·(4 + w(label − 4)), in one batch of 2n."""
    student = flow(DistilledFlow, OfLabel(), classes=4)
    student.parameters = lambda: iter([torch.zeros(1)])
    rows = []
    student.network.register_forward_hook(lambda _m, given, _out: rows.append(len(given[0])))
    label = torch.tensor([0, 3, 2])
    for w in (1.0, 1.5):
        pixels = student.sample(3, None, Seeds(0, range(3)), label, guidance=w)
        wanted = student.decode(0.1 * (4 + w * (label - 4.0)).view(-1, 1, 1, 1).expand(-1, *SHAPE) + 1e-4)
        assert torch.equal(pixels, wanted)
    assert rows == [3, 6]
