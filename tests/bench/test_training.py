"""Protects training: interrupted and resumed is bit for bit the same as uninterrupted."""

from __future__ import annotations

import math
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bench import data
from bench.errors import CellFailed
from bench.suite import Training
from bench.training import Trainer, batch_indices, ema_decay, learning_rate
from models.vae import VAE
from tests.bench.toys import Diverging, Histogram

CONFIG = Training(steps=30, batch_size=16, warmup_steps=5, checkpoint_every=7, learning_rate=0.01)


def _trainer(folder: Path, model: type = Histogram, config: Training = CONFIG, seed: int = 0) -> Trainer:
    torch.manual_seed(seed)
    pixels = torch.from_numpy(data.load("digits").train)[:100]
    return Trainer(model((1, 8, 8), 17), pixels, config, seed, "cpu", folder / "checkpoint.safetensors")


def _weights(trainer: Trainer) -> dict[str, Tensor]:
    for _ in trainer.run():
        pass
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def _same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("model", [Histogram, VAE])
@pytest.mark.parametrize("interrupted_at", [1, 7, 8, 15, 29])
def test_an_interrupted_training_ends_with_the_same_bits(
    tmp_path: Path, model: type, interrupted_at: int
) -> None:
    whole = _trainer(tmp_path / "a", model)
    expected = _weights(whole)
    for _ in islice(_trainer(tmp_path / "b", model).run(), interrupted_at):
        pass
    resumed = _trainer(tmp_path / "b", model)
    assert resumed.step == interrupted_at // 7 * 7
    assert _same(_weights(resumed), expected)
    assert resumed.curve.loss == whole.curve.loss
    assert resumed.curve.step == list(range(1, 31))


def test_another_seed_is_another_model(tmp_path: Path) -> None:
    assert not _same(_weights(_trainer(tmp_path / "a")), _weights(_trainer(tmp_path / "b", seed=1)))


def test_a_damaged_checkpoint_starts_again(tmp_path: Path) -> None:
    expected = _weights(_trainer(tmp_path / "a"))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "checkpoint.safetensors").write_bytes(b"torn")
    assert _same(_weights(_trainer(tmp_path / "b")), expected)


def test_training_on_real_digits_learns(tmp_path: Path) -> None:
    config = Training(steps=300, batch_size=64, learning_rate=0.05)
    trainer = _trainer(tmp_path, config=config)
    _weights(trainer)
    loss = trainer.curve.loss
    assert loss[-1] < 0.75 * loss[0]
    assert loss[-1] < math.log(17) * 0.75


def test_divergence_names_the_step_and_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(CellFailed, match=r"loss of step 6 of 30 is not finite; lower training.learning_rate"):
        _weights(_trainer(tmp_path, Diverging))


def test_the_learning_rate_warms_up_and_falls_to_nothing() -> None:
    rates = [learning_rate(CONFIG, step) for step in range(31)]
    assert rates[4] == max(rates) == CONFIG.learning_rate
    assert rates[:5] == sorted(rates[:5])
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[30] == pytest.approx(0.0, abs=1e-12)


def test_the_average_is_what_it_says(tmp_path: Path) -> None:
    trainer = _trainer(tmp_path)
    expected = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    for step in range(4):
        trainer._advance()
        trainer.step += 1
        decay = ema_decay(CONFIG, step)
        for name, value in trainer.model.named_parameters():
            expected[name] = decay * expected[name] + (1 - decay) * value.detach()
    for name, value in trainer.average.items():
        torch.testing.assert_close(value, expected[name])


def test_an_epoch_shows_every_image_once() -> None:
    seen = torch.cat([batch_indices(100, 20, 3, step) for step in range(5)])
    assert sorted(seen.tolist()) == list(range(100))
    assert not torch.equal(batch_indices(100, 20, 3, 5), batch_indices(100, 20, 3, 0))
    assert len(batch_indices(10, 64, 0, 0)) == 10
