"""The project's own autoencoder for latents: convolutional, with a posterior of finite width.

    q(z|k) = N(m(k), diag s²(k)) on a grid of latents, p(k|z) = Π_d DiscretisedLogistic(μ_d(z), s_d(z))

Kingma and Welling 2014 (1312.6114) with the grid and the weak prior term of Rombach et al. 2022
(2112.10752). Because the decoder is a distribution over levels, and not a picture, what is built on the
latents keeps a bound of the bits of the pixels (Vahdat et al. 2021, 2106.05931).

Shapes: B batch, C channels, H height, W width, D = C·H·W, c latent channels, h = H/f, w = W/f.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from models.base import Likelihood
from models.discretised_logistic import DiscretisedLogistic
from models.networks.autoencoder import Decoder, Encoder
from models.unconditional import UnconditionalModel, at_least_one
from models.vae import divergence, importance_weighted, log_ratio, normal_like, soft_limit

if TYPE_CHECKING:
    from models.samplers import Sampler
    from models.seeds import Seeds

CHUNK = 512
"""Images encoded at once when the scale is fitted."""


class Autoencoder(UnconditionalModel):
    """Pixels (C, H, W) to latents (c, H/f, W/f) and back.

    shape     (C, H, W)                             levels    K
    latent    channels c of the latents             factor    f, a power of two that divides H and W
    channels  of the features at full size          blocks    residual blocks at each size
    dropout   while training
    beta      weight of the divergence in the training objective, above 0

    With beta = 1 the objective is −ELBO/D. Less leaves more in the latents, at the price of latents that
    N(0, I) does not describe: the objective is then no bound, while `nll` evaluates the true one. Above 0,
    s(k) stays finite, and so does the entropy of q that likelihoods through the latents need.
    """

    family = "latent variable"
    native_sampler = "prior"

    def __init__(
        self,
        shape: tuple[int, int, int] = (1, 8, 8),
        levels: int = 17,
        *,
        latent: int = 2,
        factor: int = 2,
        channels: int = 32,
        blocks: int = 1,
        dropout: float = 0.0,
        beta: float = 0.3,
    ) -> None:
        super().__init__(shape, levels)
        at_least_one(latent=latent, channels=channels, blocks=blocks)
        if not beta > 0:
            raise ValueError(f"beta must be above 0, or the posterior shrinks to a point: got {beta}")
        C, H, W = shape
        self.encoder = Encoder(C, 2 * latent, channels, factor, blocks, dropout)
        self.network = Decoder(latent, 2 * C, channels, factor, blocks, dropout)
        if H % factor or W % factor:
            raise ValueError(f"factor {factor} must divide the height and width of {H}×{W} images")
        self.latent_shape, self.beta = (latent, H // factor, W // factor), beta
        self.scale: Tensor
        self.register_buffer("scale", torch.ones(()))

    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation, (B, c, h, w) each, of q(z|pixels); not scaled."""
        mean_Bchw, raw_Bchw = self.encoder(self.signed(pixels)).chunk(2, 1)
        return mean_Bchw, soft_limit(raw_Bchw)

    def decode(self, z_Bchw: Tensor) -> DiscretisedLogistic:
        """p(pixels|z), (B, C, H, W), of latents that are not scaled."""
        mean_BCHW, raw_BCHW = self.network(z_Bchw).chunk(2, 1)
        return DiscretisedLogistic(mean_BCHW, soft_limit(raw_BCHW - 1), self.levels)

    def loss(
        self, pixels: Tensor, condition: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """(β·KL(q ‖ N(0, I)) − ln p(k|z))/D in nats a dimension, mean over the batch; one z an image."""
        self.check_pixels(pixels, condition)
        mean, log_std = self.encode(pixels)
        kl_B = divergence(mean, log_std).flatten(1).sum(1)
        log_p_B = self.log_likelihood(pixels, mean + log_std.exp() * normal_like(mean, generator))
        return (self.beta * kl_B - log_p_B).mean().float() / self.dims

    @torch.no_grad()
    def nll(
        self,
        pixels: Tensor,
        condition: Tensor | None = None,
        generator: torch.Generator | None = None,
        *,
        importance_samples: int = 1,
    ) -> Likelihood:
        """−ln (1/K) Σ_k w_k, w_k = p(k|z_k)·N(z_k; 0, I)/q(z_k|k), z_k ~ q: a bound from above, whatever β.

        Breakdown: `reconstruction` and `kl`, means over the samples used, and their sum `elbo`.
        """
        self.check_pixels(pixels, condition)
        self.check_levels(pixels)
        at_least_one(importance_samples=importance_samples)
        posterior = self.encode(pixels)
        return importance_weighted(
            [self._draw(pixels, posterior, generator) for _ in range(importance_samples)]
        )

    @torch.no_grad()
    def sample(
        self,
        n: int,
        sampler: Sampler | None,
        seeds: Seeds,
        condition: Tensor | None = None,
        guidance: float = 1.0,
    ) -> Tensor:
        """z from the prior, then levels by inverse CDF of one uniform a pixel and image; one network call."""
        self.check_sampling(sampler, condition)
        if guidance != 1.0:
            raise ValueError(f"{type(self).__name__} cannot be guided: leave guidance at 1")
        decoder = self.decode(seeds.per_image(self.latent_shape, "normal", self.device))
        self.check_finite((decoder.mean + decoder.log_scale).isfinite().flatten(1).all(1))
        return decoder.sample(seeds.per_image(self.shape, "uniform", self.device))

    @torch.no_grad()
    def calibrate(self, pixels: Tensor, generator: torch.Generator | None = None) -> None:
        """Fit `scale` = 1/√Var[z] over all latent dimensions of the training set, z ~ q(z|pixels).

        Var[z] = E[m² + s²] − (E m)², without drawing; a scaled latent z·scale has variance 1.
        """
        first = second = torch.zeros((), dtype=torch.float64, device=self.device)
        for chunk in pixels.split(CHUNK):
            mean, log_std = (part.double() for part in self.encode(chunk.to(self.device)))
            first = first + mean.sum()
            second = second + (mean.square() + (2 * log_std).exp()).sum()
        count = len(pixels) * self.latent_dims
        self.scale.copy_((second / count - (first / count).square()).rsqrt())

    @property
    def latent_dims(self) -> int:
        """c·h·w."""
        c, h, w = self.latent_shape
        return c * h * w

    def log_likelihood(self, pixels: Tensor, z_Bchw: Tensor) -> Tensor:
        """ln p(pixels|z), (B,) float64."""
        return self.decode(z_Bchw).log_prob(pixels).double().flatten(1).sum(1)

    def _draw(
        self, pixels: Tensor, posterior: tuple[Tensor, Tensor], generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """−ln p(pixels|z) and ln q(z|pixels) − ln p(z), (B,) float64 each, for one z ~ q an image."""
        mean, log_std = posterior
        noise = normal_like(mean, generator)
        z = mean + log_std.exp() * noise
        return {"reconstruction": -self.log_likelihood(pixels, z), "kl": log_ratio(z, noise, log_std)}
