"""What all flows share, on a flow whose density is known: units, and the way of a condition."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from models.base import NonFiniteSamples
from models.conditioning import labels
from models.dequantised_flow import DequantisedFlow
from models.seeds import Seeds

CLASSES = 3


class Shift(nn.Module):
    """z = x − m of the class; notes what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.m = nn.Parameter(torch.arange(CLASSES + 1.0))
        self.told: list[Tensor] = []

    def forward(
        self, x: Tensor, condition: Tensor | None = None, inverse: bool = False
    ) -> tuple[Tensor, Tensor]:
        if condition is not None:
            self.told.append(condition)
        shift = self.m[0] if condition is None else self.m[condition].view(-1, 1, 1, 1)
        return (x + shift if inverse else x - shift), x.new_zeros(len(x))


class Shifted(DequantisedFlow):
    """Logistic bins under a shifted normal."""

    def __init__(self, classes: int = 0) -> None:
        super().__init__((1, 2, 2), 4)
        self.conditioning, self.condition_dropout = labels(classes), 0.5
        self.network = Shift()


def _pixels(n: int) -> Tensor:
    return torch.randint(4, (n, 1, 2, 2), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_loss_and_likelihood_are_the_same_number_in_their_units() -> None:
    """Nats a dimension, and nats an image, of the same noise."""
    model, pixels = Shifted(), _pixels(50)
    loss = model.loss(pixels, None, torch.Generator().manual_seed(1))
    nats = model.nll(pixels, None, torch.Generator().manual_seed(1)).nats
    assert nats.dtype == torch.float64
    assert float(loss.detach()) == pytest.approx(float(nats.mean()) / 4, rel=1e-6)


def test_density_of_one_point_is_that_on_paper() -> None:
    """y = ½: x = ln 3, dx/dy = 2/(1 − y²) = 8/3; no condition is the shift by 0."""
    y = torch.full((1, 1, 2, 2), 0.5, dtype=torch.float64)
    expected = 4 * (-0.5 * math.log(3) ** 2 - 0.5 * math.log(2 * math.pi) + math.log(8 / 3))
    assert float(Shifted().log_density(y).detach()) == pytest.approx(expected, abs=1e-6)


def test_condition_reaches_the_network() -> None:
    """Training drops half of the labels; likelihood and samples drop none, and no label is the null."""
    model, pixels = Shifted(CLASSES), _pixels(400)
    label = torch.arange(400) % CLASSES
    model.loss(pixels, label, torch.Generator().manual_seed(1))
    told = model.network.told.pop()
    dropped = told == CLASSES
    assert 150 < int(dropped.sum()) < 250
    assert torch.equal(told[~dropped], label[~dropped])
    likelihood = model.nll(pixels, label, torch.Generator().manual_seed(1), dequantisation_samples=2)
    assert len(model.network.told) == 2
    assert all(torch.equal(told, label) for told in model.network.told)
    nothing = model.nll(pixels, None, torch.Generator().manual_seed(1)).nats
    assert bool((model.network.told.pop() == CLASSES).all())
    assert not torch.allclose(nothing, likelihood.nats)
    samples = model.sample(400, None, Seeds(0, range(400)), label).float().flatten(1).mean(1)
    means = [float(samples[label == c].mean()) for c in range(CLASSES)]
    assert means == sorted(means)
    assert means[-1] > means[0] + 0.5


def test_unconditional_network_is_told_nothing() -> None:
    model = Shifted()
    model.loss(_pixels(3))
    model.sample(3, None, Seeds(0, range(3)))
    assert model.network.told == []


def test_bad_input_is_one_sentence() -> None:
    with pytest.raises(ValueError, match="Shifted is unconditional: leave the labels out"):
        Shifted().nll(_pixels(2), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="Shifted"):
        Shifted(CLASSES).nll(_pixels(2), torch.tensor([0, CLASSES + 1]))
    with pytest.raises(ValueError, match="cannot be guided: leave guidance at 1"):
        Shifted().sample(1, None, Seeds(0, [0]), guidance=2.0)
    model = Shifted()
    nn.init.constant_(model.network.m, math.nan)
    with pytest.raises(NonFiniteSamples, match="image 0"):
        model.sample(2, None, Seeds(0, range(2)))
