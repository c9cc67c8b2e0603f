"""Protects the catalogue: every model trains, saves, loads, samples in every way, tells its likelihood.

One walk over all of them, on the real digits, through the code that a suite uses: registry, trainer,
calibration, safetensors, samplers, likelihood.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bench import data, registry
from bench.suite import Training
from bench.training import Trainer
from bench.workbench import counted
from models.base import ImageModel, Likelihood, LikelihoodUnavailable
from models.samplers import catalogue, sampler
from models.seeds import Seeds, shard_stream

SHAPE, LEVELS = (1, 8, 8), 17
SMALL: dict[str, dict[str, Any]] = {
    "ddpm": {"channels": 8, "timesteps": 4},
    "edm": {"channels": 8, "timesteps": 4},
    "vdm": {"channels": 8},
    "dit": {"width": 32, "depth": 1, "heads": 2, "timesteps": 4, "classes": 10},
    "rectified-flow": {"channels": 8, "classes": 10},
    "flow-matching": {"channels": 8, "coupling": "optimal-transport"},
    "reflow": {"channels": 8, "classes": 10, "couples": 64},
    "distilled-flow": {"channels": 8, "classes": 10, "couples": 64},
    "mean-flow": {"channels": 8},
    "mm-dit": {"vocabulary": 13, "length": 3, "width": 32, "depth": 1, "heads": 2, "text_width": 16},
    "transformer": {"classes": 10},
    "pixelcnn": {"classes": 10},
    "tarflow": {"classes": 10},
}
"""Options that keep the walk short, and conditions where a family takes them."""
BUILT_ON = {"reflow": "rectified-flow", "distilled-flow": "rectified-flow", "latent-diffusion": "autoencoder"}
PROTOCOL: dict[str, dict[str, Any]] = {
    name: {"solver": "euler", "steps": 2}
    for name in ("rectified-flow", "flow-matching", "reflow", "mm-dit", "latent-diffusion", "ffjord")
}


def _build(name: str) -> ImageModel:
    torch.manual_seed(0)
    return registry.build(registry.import_path(name), SMALL.get(name, {}), SHAPE, LEVELS)


def _condition(model: ImageModel, split: str) -> torch.Tensor | None:
    if model.conditioning.kind == "none":
        return None
    return torch.from_numpy(data.load("digits").condition(model.conditioning.kind, split))


@functools.cache
def _trained(name: str) -> ImageModel:
    """After two steps of the trainer, calibrated, as the harness does it."""
    import tempfile

    model, pixels = _build(name), torch.from_numpy(data.load("digits").train)
    if name in BUILT_ON:
        model.learn_from(_trained(BUILT_ON[name]), pixels, torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as folder:
        config = Training(steps=2, batch_size=8, warmup_steps=1)
        checkpoint = Path(folder) / "checkpoint.safetensors"
        trainer = Trainer(model, pixels, config, 0, "cpu", checkpoint, _condition(model, "train"))
        for _ in trainer.run():
            pass
    trained: ImageModel = trainer.accelerator.unwrap_model(trainer.model)
    with torch.no_grad():
        trained.calibrate(pixels, torch.Generator().manual_seed(0))
    return trained.eval()


@functools.cache
def _loaded(name: str, folder: Path) -> ImageModel:
    """Saved as safetensors and built again from nothing but options and file."""
    path = folder / f"{name}.safetensors"
    save_file({key: value.contiguous() for key, value in _trained(name).state_dict().items()}, path)
    model = _build(name)
    model.load_state_dict(load_file(path))
    return model.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


def _ways(model: ImageModel) -> list[Any]:
    """Every sampler of the library for models on a Gaussian path, else the family's own way."""
    if model.native_sampler is not None:
        return [None]
    loose = {"rtol": 0.1, "atol": 0.1}
    ways = [
        sampler(entry.name, **loose) if entry.adaptive else sampler(entry.name, 2)
        for entry in catalogue.ENTRIES.values()
    ]
    return ways if model.independent_noise else [way for way in ways if not way.stochastic]  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", registry.BUILTIN)
def test_it_trains_saves_loads_and_samples_in_every_way_it_can(name: str, folder: Path) -> None:
    model, told = _loaded(name, folder), _condition(_loaded(name, folder), "test")
    for way in _ways(model):
        images = []
        for one in (_trained(name), model):
            seeds = Seeds(0, range(4), shard_stream(0, 0))
            extra = {} if told is None else {"condition": told[:4], "guidance": 2.0}
            with torch.inference_mode(), counted(one.network) as evaluations:
                images.append(one.sample(4, way, seeds, **extra))
            assert evaluations.rows > 0, f"{name} evaluates its network where nobody counts"
            if told is not None:
                assert evaluations.rows % 8 == 0, "a guided evaluation is two"
        assert images[0].dtype == torch.uint8
        assert images[0].shape == (4, *SHAPE)
        assert int(images[0].max()) < LEVELS
        assert torch.equal(*images), "loaded weights sample other images"


@pytest.mark.parametrize("name", registry.BUILTIN)
def test_it_tells_its_likelihood_or_says_why_it_has_none(name: str, folder: Path) -> None:
    model, pixels = _loaded(name, folder), torch.from_numpy(data.load("digits").test[:4])
    told = _condition(model, "test")
    kind = registry.BUILTIN[name].likelihood
    for condition in (None,) if told is None else (None, told[:4]):
        generator = torch.Generator().manual_seed(0)
        if kind == "n/a":
            with pytest.raises(LikelihoodUnavailable, match=r"one map|not tractable"):
                model.nll(pixels, condition, generator)
            continue
        with torch.no_grad():
            found = model.nll(pixels, condition, generator, **PROTOCOL.get(name, {}))
        assert isinstance(found, Likelihood)
        assert found.kind == kind
        assert found.nats.shape == (4,)
        assert found.nats.dtype == torch.float64
        assert bool(torch.isfinite(found.nats).all())
        assert found.protocol


@pytest.mark.parametrize("name", registry.BUILTIN)
def test_it_is_built_without_memory_for_its_weights(name: str) -> None:
    """So a suite's options are checked before anything is computed."""
    with torch.device("meta"):
        model = _build(name)
    assert all(parameter.is_meta for parameter in model.parameters())
    assert bool(model.builds_on) == (name in BUILT_ON)


@pytest.mark.parametrize("name", registry.BUILTIN)
def test_images_of_another_shape_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="built for"):
        _build(name).loss(torch.zeros(2, 1, 4, 4, dtype=torch.uint8))


@pytest.mark.parametrize("name", ["reflow", "flow-matching"])
def test_fresh_noise_is_refused_where_training_tied_the_noise_to_the_images(name: str, folder: Path) -> None:
    """The predicted noise is no score there: ancestral sampling would draw from another law in silence."""
    for way in (sampler("ddpm", 2), sampler("ddim", 2, eta=0.5)):
        with pytest.raises(ValueError, match="trained on noise that depends on the images"):
            _loaded(name, folder).sample(2, way, Seeds(0, range(2)))
