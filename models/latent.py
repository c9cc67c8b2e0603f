"""Latent diffusion: a Gaussian-path model of the latents of a trained autoencoder, with bits of the pixels.

    −ln P(k) ≤ E_{q(z|k)} [ −ln p(k|z) − ln p(z) + ln q(z|k) ],    ln p(z) = ln p(x_0) + D_z ln scale

where x_0 = scale·z is what the path starts from (Rombach et al. 2022, 2112.10752). That work's decoder is no
distribution over levels; this one is, so that the bound of Vahdat et al. 2021 (2106.05931) holds, and with
p(x_0) from the probability flow becomes an estimate.

Shapes: B batch, n images, C channels, H height, W width, c h w those of the latents, D_z = c·h·w.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from models import paths
from models.autoencoder import Autoencoder
from models.base import ImageModel, Likelihood
from models.conditioning import labels
from models.gaussian import GaussianPathModel
from models.likelihood.probability_flow import Flow, flow_log_density
from models.names import unknown
from models.networks.backbone import backbone
from models.times import Times
from models.unconditional import at_least_one
from models.vae import normal_like


class LatentDiffusion(GaussianPathModel):
    """A path from the scaled latents of a frozen autoencoder to noise.

    autoencoder           options of the `Autoencoder` that it builds on, as that was built
    path, prediction      by name, see `models.paths` and `models.denoiser`
    times, time_location, time_scale, time_shift
                          law of the training times, see `models.times.Times`
    network, …            `dit` or `unet` and its options, see `models.networks`; its images are the latents
    classes               labels it is conditioned on, 0 for none
    condition_dropout     share of labels left out in training

    The autoencoder is a part of the model, saved with it, and neither trained nor averaged: `learn_from`
    copies it once, with the scale that gives latents of variance 1. Samples are the decoder's mean at the end
    of the path: its own noise, which belongs to the likelihood, is left out as in the last step of diffusion.
    """

    family: ClassVar[str] = "latent diffusion"
    builds_on: ClassVar[str] = "autoencoder"
    estimator: ClassVar[str] = "ode"

    def __init__(
        self,
        shape: tuple[int, int, int] = (1, 8, 8),
        levels: int = 17,
        *,
        autoencoder: Mapping[str, Any] | None = None,
        path: str = "rectified-flow",
        prediction: str = "velocity",
        times: str = "uniform",
        time_location: float = 0.0,
        time_scale: float = 1.0,
        time_shift: float = 1.0,
        classes: int = 0,
        condition_dropout: float = 0.1,
        network: str = "dit",
        **options: Any,
    ) -> None:
        below = _build(shape, levels, autoencoder or {})
        super().__init__(
            shape,
            levels,
            backbone(network, below.latent_shape, options, classes=classes),
            paths.path(path),
            prediction,
            Times(times, time_location, time_scale, time_shift),
            conditioning=labels(classes),
            condition_dropout=condition_dropout,
            state_shape=below.latent_shape,
        )
        self.autoencoder = below.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> LatentDiffusion:
        """As of any module, but for the autoencoder, which stays as it is used: without dropout."""
        super().train(mode)
        self.autoencoder.eval()
        return self

    def learn_from(
        self, teacher: ImageModel, pixels: Tensor, generator: torch.Generator | None = None
    ) -> None:
        """Copy a trained autoencoder of the same architecture, with its scale."""
        own = self.autoencoder
        if not isinstance(teacher, Autoencoder) or _architecture(teacher) != _architecture(own):
            raise ValueError(
                f"{type(self).__name__} was built for another autoencoder than the {type(teacher).__name__} "
                "it is given: set its option autoencoder to the options of that one"
            )
        own.load_state_dict(teacher.state_dict())

    @torch.no_grad()
    def prepare(self, pixels: Tensor) -> Tensor:
        """Mean and log standard deviation of q(z|pixels), (B, 2c, h, w): the encoder runs once an image."""
        return torch.cat(self.autoencoder.encode(pixels), 1)

    def check_pixels(self, pixels: Tensor) -> None:
        """Refuse images of another shape than the model's, and what `prepare` made of such."""
        channels, *size = self.autoencoder.latent_shape
        if not (pixels.is_floating_point() and tuple(pixels.shape[1:]) == (2 * channels, *size)):
            super().check_pixels(pixels)

    @torch.no_grad()
    def encode(self, pixels: Tensor, generator: torch.Generator | None) -> Tensor:
        """x_0 = scale·z, (B, c, h, w), for one z ~ q(z|pixels) an image; pixels may be prepared."""
        prepared = pixels.is_floating_point()
        mean, log_std = pixels.chunk(2, 1) if prepared else self.autoencoder.encode(pixels)
        return self.autoencoder.scale * (mean + log_std.exp() * normal_like(mean, generator))

    @torch.no_grad()
    def decode(self, x_0: Tensor) -> Tensor:
        """The level nearest to the decoder's mean at z = x_0/scale."""
        return self.to_pixels(self.autoencoder.decode(x_0 / self.autoencoder.scale).mean)

    @torch.no_grad()
    def nll(
        self,
        pixels: Tensor,
        condition: Tensor | None = None,
        generator: torch.Generator | None = None,
        estimator: str = "",
        **options: Any,
    ) -> Likelihood:
        """−ln p(k|z) − ln p(z) + ln q(z|k), the mean over samples of z ~ q(z|k): a bound but for the solver.

        options  posterior_samples, and those of `models.likelihood.probability_flow.Flow`

        Breakdown, parts that add up: `reconstruction` −ln p(k|z); `prior` −ln p(z), with the D_z ln scale
        of the scaling; `entropy` ln q(z|k), in expectation minus the entropy of q.
        """
        self.autoencoder.check_pixels(pixels, None)
        self.autoencoder.check_levels(pixels)
        flow, posterior_samples = self._checked(estimator, options)
        draws = [self._draw(pixels, condition, flow, generator) for _ in range(posterior_samples)]
        parts = {name: torch.stack([draw[name] for draw in draws]).mean(0) for name in draws[0]}
        protocol = f"{flow.protocol} of the latents, posterior×{posterior_samples}, discretised logistic"
        return Likelihood(torch.stack(list(parts.values())).sum(0), "estimate", protocol, parts)

    @classmethod
    def likelihood_options(cls, estimator: str = "") -> dict[str, Any]:
        """Those of the flow of the latents, the only estimator there is."""
        if estimator not in ("", "ode"):
            raise ValueError(
                f"{cls.__name__} has the bound of its autoencoder with the flow of its latents: "
                "use estimator ode, or leave it out."
            )
        return {**{field.name: field.default for field in fields(Flow)}, "posterior_samples": 1}

    def check_likelihood(self, estimator: str = "", **options: Any) -> None:
        """ValueError for what `nll` would refuse whatever the images."""
        self._checked(estimator, options)

    def _checked(self, estimator: str, options: Mapping[str, Any]) -> tuple[Flow, int]:
        known = self.likelihood_options(estimator)
        for option in options:
            if option not in known:
                raise ValueError(unknown("option of the likelihood of latents", option, known))
        posterior_samples = options.get("posterior_samples", 1)
        at_least_one(posterior_samples=posterior_samples)
        return Flow(**{k: v for k, v in options.items() if k != "posterior_samples"}), posterior_samples

    def _draw(
        self, pixels: Tensor, condition: Tensor | None, flow: Flow, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """The parts of the bound, (B,) float64 each, for one z ~ q an image."""
        below = self.autoencoder
        mean, log_std = below.encode(pixels)
        noise = normal_like(mean, generator)
        z = mean + log_std.exp() * noise
        denoiser = self.denoiser(condition, n=len(pixels))
        log_p_scaled_B = flow_log_density(denoiser, below.scale * z, flow, generator)
        log_q = -0.5 * (noise.double().square() + math.log(2.0 * math.pi)) - log_std.double()
        return {
            "reconstruction": -below.log_likelihood(pixels, z),
            "prior": -log_p_scaled_B - below.latent_dims * below.scale.double().log(),
            "entropy": log_q.flatten(1).sum(1),
        }


def _build(shape: tuple[int, int, int], levels: int, options: Mapping[str, Any]) -> Autoencoder:
    valid = set(inspect.signature(Autoencoder.__init__).parameters) - {"self", "shape", "levels"}
    for option in options:
        if option not in valid:
            raise ValueError(unknown("option of the autoencoder", option, valid))
    return Autoencoder(shape, levels, **options)


def _architecture(model: Autoencoder) -> tuple[object, ...]:
    """What two autoencoders share when the weights of one mean the same in the other."""
    weights = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    return model.shape, model.levels, model.latent_shape, weights
