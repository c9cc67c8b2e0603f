"""Protects diffusers pipelines as sources: made on the spot with random weights, saved, sampled from disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.images import open_images
from bench.images.adapters import adapted
from bench.images.pipeline import PipelineImages, opened

diffusers = pytest.importorskip("diffusers")

STEPS = 6


def _seeded(build: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build().eval()


@pytest.fixture(scope="module")
def unconditional(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A U-Net of 8×8 grey images with DDPM's schedule."""
    unet = _seeded(
        lambda: diffusers.UNet2DModel(
            sample_size=8,
            in_channels=1,
            out_channels=1,
            layers_per_block=1,
            block_out_channels=(16, 16),
            norm_num_groups=4,
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
        )
    )
    path = tmp_path_factory.mktemp("pipelines") / "ddpm"
    diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler(clip_sample=False)).save_pretrained(path)
    return path


def _vae(shift_factor: float | None = None) -> Any:
    return _seeded(
        lambda: diffusers.AutoencoderKL(
            in_channels=3,
            out_channels=3,
            latent_channels=4,
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            norm_num_groups=4,
            shift_factor=shift_factor,
        )
    )


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transformer of 4×4 latents with a learned variance, classes and an autoencoder."""
    transformer = _seeded(
        lambda: diffusers.DiTTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=4,
            out_channels=8,
            num_layers=2,
            sample_size=4,
            patch_size=2,
            num_embeds_ada_norm=1000,  # its pipeline knows no other null class
        )
    )
    path = tmp_path_factory.mktemp("pipelines") / "dit"
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    diffusers.DiTPipeline(transformer, _vae(), scheduler).save_pretrained(path)
    return path


def _pixels(source: PipelineImages) -> np.ndarray:
    return np.concatenate([batch.pixels for batch in source.batches(64)])


def test_our_ddim_on_its_network_is_its_ddim(unconditional: Path) -> None:
    """The same noise, the same timesteps: the end points agree to single precision."""
    pipeline = opened(str(unconditional))
    pipeline.scheduler = diffusers.DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    adapter = adapted(pipeline, 1.0, ())
    from models.samplers import sampler

    times, x = adapter.times(STEPS), torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        # Its first state is x itself; on our path the same state is at sigma(t) of pure noise.
        ours = sampler("ddim", STEPS)(adapter.denoiser(range(3)), x, times, noise=torch.randn_like)
        theirs = x
        for timestep in pipeline.scheduler.timesteps:
            said = pipeline.unet(theirs, timestep).sample
            theirs = pipeline.scheduler.step(said, timestep, theirs, eta=0.0).prev_sample
    assert float((ours - theirs).abs().max()) < 1e-4 * float(theirs.abs().max())


def test_a_network_is_told_the_timestep_of_its_noise(unconditional: Path) -> None:
    """There and back for every tenth timestep, and within the table beyond its ends."""
    network = adapted(opened(str(unconditional)), 1.0, ()).network  # type: ignore[attr-defined]
    wanted = torch.arange(0, 1000, 10).double()
    times = torch.tensor([network.time_of(float(tau)) for tau in wanted], dtype=torch.float64)
    assert torch.allclose(network.timesteps(times), wanted, atol=1e-6)
    assert network.timesteps(torch.tensor([1e-9, 1.0])).tolist() == [0.0, 999.0]


@pytest.mark.parametrize("sampler", ["own", "heun", "dpmpp-2m"])
def test_an_image_depends_on_its_own_seed_alone(unconditional: Path, sampler: str) -> None:
    """Image i of 20 is image i of 3; batches differ in rounding only."""
    where = f"diffusers:{unconditional}"
    many, few = (_pixels(open_images(where, n=n, sampler=sampler, steps=STEPS)) for n in (20, 3))
    assert many.shape == (20, 1, 8, 8)
    assert np.abs(many[:3].astype(int) - few.astype(int)).max() <= 1
    other = _pixels(open_images(where, n=3, seed=1, sampler=sampler, steps=STEPS))
    assert np.abs(other.astype(int) - few.astype(int)).max() > 1


@pytest.mark.parametrize("sampler", ["own", "ddim"])
def test_classes_are_drawn_in_turn_and_guided(labelled: Path, sampler: str) -> None:
    where = f"diffusers:{labelled}"
    source = open_images(where, n=4, sampler=sampler, steps=STEPS, told=[3, 7], guidance=2.0)
    found = _pixels(source)  # type: ignore[arg-type]
    assert found.shape == (4, 3, 8, 8)
    assert "w=2" in source.name
    unguided = _pixels(open_images(where, n=4, sampler=sampler, steps=STEPS, told=[3, 7]))  # type: ignore[arg-type]
    assert not np.array_equal(found, unguided)


def test_our_guided_ddim_of_latents_is_its_own(labelled: Path) -> None:
    """One label, one noise, guidance by both: the same latents to single precision."""
    pipeline = opened(str(labelled))
    adapter, x = (
        adapted(pipeline, 2.0, [3]),
        torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(1)),
    )
    from models.samplers import sampler

    times = adapter.times(STEPS)
    with torch.inference_mode():
        ours = sampler("ddim", STEPS)(adapter.denoiser(range(2)), x, times, noise=torch.randn_like)
        theirs, labels = x, torch.tensor([3, 3])
        for timestep in pipeline.scheduler.timesteps:
            steps = timestep.expand(2)
            c, u = (
                pipeline.transformer(theirs, timestep=steps, class_labels=told).sample[:, :4]
                for told in (labels, torch.full_like(labels, 1000))
            )
            theirs = pipeline.scheduler.step(u + 2.0 * (c - u), timestep, theirs).prev_sample
    assert float((ours - theirs).abs().max()) < 1e-4 * float(theirs.abs().max())


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Stable Diffusion 3: MM-DiT, two CLIP text encoders, T5, tokenisers of a few words."""
    pytest.importorskip("transformers")
    from tests.bench.images.made_stable_diffusion_3 import made

    path = tmp_path_factory.mktemp("pipelines") / "sd3"
    made(_vae(0.1)).save_pretrained(path)
    return path


@pytest.mark.parametrize(("sampler", "guidance"), [("own", 2.0), ("euler", 2.0), ("heun", 1.0)])
def test_captions_are_drawn_in_turn(captioned: Path, sampler: str, guidance: float) -> None:
    told = ["a red square", "a blue circle"]
    source = open_images(
        f"diffusers:{captioned}", n=3, sampler=sampler, steps=3, told=told, guidance=guidance
    )
    found = _pixels(source)  # type: ignore[arg-type]
    assert found.shape[:2] == (3, 3)
    assert found.std() > 0


def test_what_cannot_be_sampled_gets_one_sentence(
    unconditional: Path, labelled: Path, tmp_path: Path
) -> None:
    for arguments, words in (
        ({"where": f"diffusers:{tmp_path}/nothing", "n": 2}, "cannot be opened as a diffusers pipeline"),
        ({"where": f"diffusers:{tmp_path}", "n": 2}, "cannot be opened as a diffusers pipeline"),
        ({"where": f"diffusers:{unconditional}"}, "say how many with --n"),
        ({"where": f"diffusers:{unconditional}", "n": 2, "told": [1]}, "is unconditional"),
        ({"where": f"diffusers:{unconditional}", "n": 2, "sampler": "hen"}, "Did you mean 'heun'"),
        ({"where": f"diffusers:{labelled}", "n": 2}, "name them with --labels"),
        ({"where": f"diffusers:{labelled}", "n": 2, "told": [1000]}, "0 to 999"),
    ):
        with pytest.raises(ValueError, match=words):
            open_images(**arguments)  # type: ignore[arg-type]


def test_weights_that_are_pickles_are_refused(unconditional: Path, tmp_path: Path) -> None:
    """A folder whose weights are a .bin instead of safetensors."""
    import shutil

    copy = shutil.copytree(unconditional, tmp_path / "pickled")
    (weights,) = (copy / "unet").glob("*.safetensors")
    torch.save({}, weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(ValueError, match="with safetensors"):
        open_images(f"diffusers:{copy}", n=2)
