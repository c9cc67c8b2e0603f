"""How a diffusers pipeline is asked: its network on one of our paths, its times, and from x_0 to images.

A chain with ᾱ_τ at T timesteps is, up to its clock, the variance-preserving path: the network is told the
timestep whose ᾱ has the log-SNR of the state, between two of them the one in between. A flow-matching
transformer is on the straight path and is told 1000·t. Steps are at the scheduler's own timesteps, so that
ours and its own sampler answer for the same places.

Shapes: B batch, C channels, H height, W width, T timesteps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.denoiser import Denoiser
from models.paths import CosinePath, GaussianPath, RectifiedFlowPath

PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v", "sample": "x0"}
"""What a scheduler says its network predicts, and what we call it."""


class OnTimesteps(nn.Module):
    """A network of discrete timesteps as one of our time: told τ(λ) by the table of a chain."""

    def __init__(self, call: Any, path: GaussianPath, kept_T: Tensor, channels: int) -> None:
        super().__init__()
        self.call, self.path, self.channels = call, path, channels
        # Rising log-SNR, as interpolation wants it.
        self.log_snr = (kept_T.double().log() - (-kept_T.double()).log1p()).flip(0).numpy()

    def timesteps(self, t_B: Tensor) -> Tensor:
        """τ of each time, (B,), within 0…T − 1."""
        wanted = self.path.log_snr(t_B.double()).cpu().numpy()
        places = np.interp(wanted, self.log_snr, np.arange(len(self.log_snr), dtype=np.float64)[::-1])
        return torch.from_numpy(places).to(t_B.device)

    def time_of(self, timestep: float) -> float:
        """Our time of a timestep."""
        index = np.arange(len(self.log_snr), dtype=np.float64)
        return float(self.path.t_of_log_snr(float(np.interp(timestep, index, self.log_snr[::-1]))))

    def forward(self, x_BCHW: Tensor, t_B: Tensor, *condition: Tensor) -> Tensor:
        """What the network predicts, a learned variance left out."""
        said: Tensor = self.call(x_BCHW, self.timesteps(t_B).to(x_BCHW.dtype), *condition)
        return said[:, : self.channels]


class Adapter(ABC):
    """How one kind of pipeline is asked: its denoiser, its times, and from x_0 to pixels."""

    path: GaussianPath
    shape: tuple[int, int, int]

    def __init__(self, pipeline: Any, guidance: float, told: Sequence[Any]) -> None:
        self.pipeline, self.guidance, self.told = pipeline, guidance, list(told)

    @abstractmethod
    def denoiser(self, indices: range) -> Denoiser:
        """The network, told what images with these numbers show."""

    @abstractmethod
    def times(self, steps: int) -> tuple[float, ...]:
        """Our times of the scheduler's timesteps, then 0."""

    @abstractmethod
    def own(self, indices: range, steps: int, generators: list[torch.Generator]) -> np.ndarray:
        """Images (n, H, W, C) in [0, 1] by the pipeline's own scheduler."""

    def decode(self, x_0: Tensor) -> Tensor:
        """x_0 to images in [−1, 1]; by the autoencoder where there is one."""
        vae = getattr(self.pipeline, "vae", None)
        if vae is None:
            return x_0
        shift = getattr(vae.config, "shift_factor", None) or 0.0
        decoded: Tensor = vae.decode(x_0 / vae.config.scaling_factor + shift).sample
        return decoded

    def of(self, indices: range) -> list[Any]:
        """What each of these images is told: the list over and over."""
        return [self.told[index % len(self.told)] for index in indices]


class Chain(Adapter):
    """A pipeline whose scheduler has a table of ᾱ."""

    def __init__(self, pipeline: Any, network: Any, guidance: float, told: Sequence[Any]) -> None:
        super().__init__(pipeline, guidance, told)
        self.path, scheduler = CosinePath(), pipeline.scheduler
        kind = getattr(scheduler.config, "prediction_type", "epsilon")
        if kind not in PREDICTIONS or not hasattr(scheduler, "alphas_cumprod"):
            raise ValueError(
                f"{type(scheduler).__name__} with prediction {kind} is no Gaussian path that is known here: "
                f"take --sampler own."
            )
        self.prediction, size = PREDICTIONS[kind], network.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        self.shape = (network.config.in_channels, height, width)
        self.network = OnTimesteps(self.say, self.path, scheduler.alphas_cumprod, self.shape[0])

    @abstractmethod
    def say(self, x: Tensor, timestep: Tensor, *condition: Tensor) -> Tensor:
        """One call of the network."""

    def times(self, steps: int) -> tuple[float, ...]:
        """The scheduler's timesteps in our time, then 0."""
        self.pipeline.scheduler.set_timesteps(steps)
        found = [self.network.time_of(float(tau)) for tau in self.pipeline.scheduler.timesteps]
        return (*found, 0.0)


class Unconditional(Chain):
    """DDPMPipeline and its kin: a U-Net in pixels."""

    def __init__(self, pipeline: Any, guidance: float, told: Sequence[Any]) -> None:
        if guidance != 1.0 or told:
            raise ValueError(f"{type(pipeline).__name__} is unconditional: leave guidance and labels out.")
        super().__init__(pipeline, pipeline.unet, guidance, told)

    def say(self, x: Tensor, timestep: Tensor, *condition: Tensor) -> Tensor:
        """ε̂ or what the scheduler says it is."""
        said: Tensor = self.pipeline.unet(x, timestep).sample
        return said

    def denoiser(self, indices: range) -> Denoiser:
        """Told nothing."""
        return Denoiser(self.network, self.path, self.prediction)

    def own(self, indices: range, steps: int, generators: list[torch.Generator]) -> np.ndarray:
        """By the pipeline's call."""
        found = self.pipeline(
            batch_size=len(indices), generator=generators, num_inference_steps=steps, output_type="np"
        )
        return np.asarray(found.images)


class Labelled(Chain):
    """DiTPipeline: a transformer on latents, told a class; class 1000 (the last) is nothing."""

    def __init__(self, pipeline: Any, guidance: float, told: Sequence[Any]) -> None:
        if not told:
            raise ValueError("DiTPipeline draws classes: name them with --labels, such as 207,360.")
        super().__init__(pipeline, pipeline.transformer, guidance, [int(label) for label in told])
        self.nothing = pipeline.transformer.config.num_embeds_ada_norm
        if not all(0 <= label < self.nothing for label in self.told):
            raise ValueError(f"Labels of this pipeline are 0 to {self.nothing - 1}.")

    def say(self, x: Tensor, timestep: Tensor, *condition: Tensor) -> Tensor:
        """ε̂ and the learned variance."""
        said: Tensor = self.pipeline.transformer(x, timestep=timestep, class_labels=condition[0]).sample
        return said

    def denoiser(self, indices: range) -> Denoiser:
        """Told the labels in turn, guided away from no label."""
        told = torch.tensor(self.of(indices))
        null = () if self.guidance == 1.0 else (torch.full_like(told, self.nothing),)
        network = Denoiser(self.network, self.path, self.prediction, (told,), null=null)
        return (
            network
            if not null
            else Denoiser(
                self.network, self.path, self.prediction, (told,), null=null, guidance=self.guidance
            )
        )

    def own(self, indices: range, steps: int, generators: list[torch.Generator]) -> np.ndarray:
        """By the pipeline's call."""
        found = self.pipeline(
            class_labels=self.of(indices),
            guidance_scale=self.guidance,
            generator=generators,
            num_inference_steps=steps,
            output_type="np",
        )
        return np.asarray(found.images)


class Captioned(Adapter):
    """StableDiffusion3Pipeline: a multi-modal transformer on latents of the straight path, told captions."""

    path = RectifiedFlowPath()

    def __init__(self, pipeline: Any, guidance: float, told: Sequence[Any]) -> None:
        if not told:
            raise ValueError("This pipeline draws captions: give a file with one a line by --prompts.")
        super().__init__(pipeline, guidance, told)
        config = pipeline.transformer.config
        self.shape = (config.in_channels, config.sample_size, config.sample_size)
        self.network = _Velocity(pipeline.transformer)

    def denoiser(self, indices: range) -> Denoiser:
        """Told the captions in turn, guided away from the empty one."""
        guided = self.guidance != 1.0
        prompts = [str(prompt) for prompt in self.of(indices)]
        embedded, empty, pooled, empty_pooled = self.pipeline.encode_prompt(
            prompts, prompt_2=None, prompt_3=None, do_classifier_free_guidance=guided
        )
        null = (empty, empty_pooled) if guided else ()
        weight = self.guidance if guided else 1.0
        return Denoiser(self.network, self.path, "velocity", (embedded, pooled), null=null, guidance=weight)

    def times(self, steps: int) -> tuple[float, ...]:
        """The scheduler's σ, which is our time; its last is 0."""
        self.pipeline.scheduler.set_timesteps(steps)
        return tuple(float(sigma) for sigma in self.pipeline.scheduler.sigmas)

    def own(self, indices: range, steps: int, generators: list[torch.Generator]) -> np.ndarray:
        """By the pipeline's call."""
        found = self.pipeline(
            prompt=[str(prompt) for prompt in self.of(indices)],
            guidance_scale=self.guidance,
            generator=generators,
            num_inference_steps=steps,
            height=self.shape[1] * self.pipeline.vae_scale_factor,
            width=self.shape[2] * self.pipeline.vae_scale_factor,
            output_type="np",
        )
        return np.asarray(found.images)


class _Velocity(nn.Module):
    """The transformer of a flow: told 1000·t, it predicts ε − x_0."""

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, x: Tensor, t_B: Tensor, embedded: Tensor, pooled: Tensor) -> Tensor:
        """The velocity in the shape of x."""
        said: Tensor = self.transformer(
            hidden_states=x,
            timestep=1000.0 * t_B,
            encoder_hidden_states=embedded,
            pooled_projections=pooled,
        ).sample
        return said


ADAPTERS: dict[str, type[Adapter]] = {
    "DDPMPipeline": Unconditional,
    "DDIMPipeline": Unconditional,
    "DiTPipeline": Labelled,
    "StableDiffusion3Pipeline": Captioned,
}
"""Pipelines by class name."""


def adapted(pipeline: Any, guidance: float, told: Sequence[Any]) -> Adapter:
    """The adapter of a pipeline; ValueError for a kind that is not known."""
    name = type(pipeline).__name__
    if name not in ADAPTERS:
        raise ValueError(f"{name} is not known here: those are {', '.join(ADAPTERS)}.")
    return ADAPTERS[name](pipeline, guidance, told)
