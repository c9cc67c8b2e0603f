"""Protects the diffusion transformer: a DiT that says its variance, told labels, guided by them."""

from __future__ import annotations

import math

import pytest
import torch

from models.diffusion_transformer import DiffusionTransformer
from models.networks.dit import DiT
from models.samplers import sampler
from models.seeds import Seeds
from tests.models.digits import bits, split, train

SMALL = {"patch": 2, "width": 32, "depth": 2, "heads": 2, "timesteps": 24}


def _small(**options: object) -> DiffusionTransformer:
    return DiffusionTransformer((1, 8, 8), 17, **{**SMALL, **options})  # type: ignore[arg-type]


def _pixels(n: int) -> torch.Tensor:
    return torch.randint(0, 17, (n, 1, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def test_it_is_a_dit_with_a_channel_for_the_variance() -> None:
    model = _small(classes=10)
    assert isinstance(model.network, DiT)
    assert model.network.channels_out == 2
    assert model.conditioning.size == 10
    assert model.family == "diffusion transformer"
    assert (model.objective, model.bound_variance) == ("hybrid", "learned")


def test_a_preset_is_a_published_size_and_given_options_win() -> None:
    with torch.device("meta"):
        model = DiffusionTransformer((4, 32, 32), 256, preset="S/2", classes=1000, depth=3)
    network = model.network
    assert isinstance(network, DiT)
    assert (network.patch, len(network.blocks), network.blocks[0].attn.heads) == (2, 3, 6)
    assert network.x_embedder(torch.zeros(1, 4, 32, 32, device="meta")).shape == (1, 256, 384)


def test_untrained_its_variance_is_half_way_and_its_bound_finite() -> None:
    """A DiT starts at exactly 0: the same bound as any network that says 0, above the uniform code's."""
    found = _small().nll(_pixels(8), None, torch.Generator().manual_seed(0))
    assert "learned variances" in found.protocol
    assert float(found.nats.mean()) / (64 * math.log(2)) > 3.0


def test_a_short_training_learns_digits_and_travels() -> None:
    """Under 2.971 bits, the global histogram's, after seconds; another copy with its state says the same."""
    torch.manual_seed(0)
    model = train(_small(), 300, 4e-3)
    test = split()[1][:90]
    found = model.nll(test, None, torch.Generator().manual_seed(0))
    assert bits(found.nats, model) < 2.971
    other = _small().eval()
    other.load_state_dict(model.state_dict())
    assert torch.equal(found.nats, other.nll(test, None, torch.Generator().manual_seed(0)).nats)


def test_conditional_loss_drops_labels_and_guided_samples_follow_the_seed() -> None:
    """Both guided predictions and the conditional variance come from one batch of twice the size."""
    model = _small(classes=10, condition_dropout=0.5)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(parameter.numel()))
    label = torch.tensor([3, 7])
    rows: list[int] = []
    model.network.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    assert model.loss(_pixels(2), label, torch.Generator().manual_seed(0)).isfinite()
    learned = sampler("ddpm", 3, variance="learned")
    a, b = (model.eval().sample(2, learned, Seeds(0, [0, 1]), label, guidance=3.0) for _ in range(2))
    assert torch.equal(a, b)
    assert rows[1:] == [4] * 6
    plain = model.sample(2, learned, Seeds(0, [0, 1]), label)
    other = model.sample(2, learned, Seeds(0, [0, 1]), label.flip(0))
    assert not torch.equal(plain, other), "the label reaches the network"


def test_bad_requests_get_one_sentence() -> None:
    with pytest.raises(ValueError, match="Did you mean 'S/8'"):
        _small(preset="S/3")
    with pytest.raises(ValueError, match="network is dit"):
        _small(network="unet")
    with pytest.raises(ValueError, match="Did you mean 'depth'"):
        _small(dept=3)
    with pytest.raises(ValueError, match="unconditional"):
        _small().loss(_pixels(2), torch.tensor([3, 7]))
