"""Protects conditions: their null, their checks, their share left out, and the guidance formula."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models.conditioning import UNCONDITIONAL, labels, text
from models.denoiser import Denoiser
from models.flow_matching import RectifiedFlow
from models.guidance import guide
from models.paths import path
from models.samplers import sampler
from models.seeds import Seeds


def test_nulls_are_a_class_of_their_own_and_an_empty_caption() -> None:
    assert labels(10).null(3).tolist() == [10, 10, 10]
    assert text(30, 4).null(2).tolist() == [[0] * 4] * 2
    assert labels(0) is UNCONDITIONAL


def test_the_share_left_out_is_replaced_by_the_null_and_nothing_else() -> None:
    given = torch.randint(0, 10, (20_000,), generator=torch.Generator().manual_seed(0))
    kept = labels(10).dropped(given, 0.2, torch.Generator().manual_seed(1))
    assert float((kept == 10).float().mean()) == pytest.approx(0.2, abs=0.01)
    assert torch.equal(kept[kept != 10], given[kept != 10])
    assert labels(10).dropped(given, 0.0) is given
    captions = torch.ones(1000, 5, dtype=torch.int64)
    rows = text(30, 5).dropped(captions, 0.5, torch.Generator().manual_seed(1)).sum(1)
    assert set(rows.tolist()) == {0, 5}


@pytest.mark.parametrize(
    ("condition", "sentence"),
    [
        (torch.tensor([1.0, 2.0]), "class labels as integers of shape"),
        (torch.tensor([1]), "class labels as integers of shape"),
        (torch.tensor([0, 11]), "conditions 0…10, and got 0…11"),
    ],
)
def test_wrong_labels_are_one_sentence(condition: Tensor, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        labels(10).given(condition, 2)


def test_labels_for_an_unconditional_model_are_refused() -> None:
    with pytest.raises(ValueError, match="Flow is unconditional: leave the labels out"):
        UNCONDITIONAL.given(torch.tensor([1]), 1, "cpu", "Flow")


def test_guidance_is_the_stated_formula() -> None:
    u, c = torch.tensor([1.0, 2.0]), torch.tensor([3.0, -2.0])
    assert torch.equal(guide(u, c, 0.0), u)
    assert torch.equal(guide(u, c, 1.0), c)
    assert torch.equal(guide(u, c, 3.0), torch.tensor([7.0, -10.0]))


class Labelled(nn.Module):
    """Says its label everywhere; counts rows."""

    rows = 0

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        self.rows += len(x)
        spread = label.view(-1, 1, 1, 1).to(x.dtype).expand(-1, 2, 2, 2)
        return spread.clone()


@pytest.mark.parametrize(("w", "said", "rows"), [(1.0, 2.0, 3), (0.0, 10.0, 3), (2.5, -10.0, 6)])
def test_a_guided_denoiser_extrapolates_and_pays_for_two(w: float, said: float, rows: int) -> None:
    """w = 1 and 0 cost one evaluation; the second channel, a learned variance, is never extrapolated."""
    network, kind = Labelled(), labels(10)
    condition = torch.full((3,), 2)
    denoiser = Denoiser(network, path("cosine"), "epsilon", (condition,), null=(kind.null(3),), guidance=w)
    found = denoiser(torch.zeros(3, 1, 2, 2), 0.5)
    assert float(found.epsilon.mean()) == pytest.approx(said)
    assert found.extra is not None
    assert float(found.extra.mean()) == pytest.approx(10.0 if w == 0 else 2.0)
    assert network.rows == rows


def test_guidance_without_a_condition_is_refused() -> None:
    with pytest.raises(ValueError, match="Guidance needs a condition"):
        Denoiser(Labelled(), path("cosine"), "v", guidance=2.0)
    model = RectifiedFlow((1, 8, 8), 17, channels=8)
    with pytest.raises(ValueError, match="unconditional: leave guidance out"):
        model.sample(1, sampler("euler", 1), Seeds(0, [0]), guidance=2.0)


def test_labels_reach_the_network_and_decide_what_is_learnt() -> None:
    """Two classes, one black and one white: a conditional flow follows its label, a null label may not."""
    torch.manual_seed(0)
    model = RectifiedFlow((1, 4, 4), 17, channels=8, multipliers=(1,), classes=2, dropout=0.0)
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(150):
        label = torch.randint(0, 2, (64,), generator=generator)
        pixels = (16 * label).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4)
        optimizer.zero_grad()
        model.loss(pixels, label, generator).backward()
        optimizer.step()
    model.eval()
    label = torch.arange(16) % 2
    for w in (1.0, 2.0):
        found = model.sample(16, sampler("heun", 8), Seeds(0, range(16)), label, w).float().mean((1, 2, 3))
        assert float(found[label == 1].min()) > 12
        assert float(found[label == 0].max()) < 4
    pixels = (16 * label).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    nats = [
        model.nll(pixels, given, torch.Generator().manual_seed(0), solver="rk4", steps=10).nats.mean()
        for given in (label, None, 1 - label)
    ]
    assert nats[0] < nats[1] < nats[2]
