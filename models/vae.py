"""Variational auto-encoder with a discretised-logistic decoder: a bound, tightened by importance samples.

Shapes: B batch, C channels, H height, W width, D = C·H·W, Z latent dimensions, K levels.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from models.base import Likelihood
from models.discretised_logistic import DiscretisedLogistic
from models.unconditional import UnconditionalModel, at_least_one

if TYPE_CHECKING:
    from models.samplers import Sampler
    from models.seeds import Seeds

LOG_SCALE_RANGE = (-7.0, 2.0)
"""Limits of ln s of the decoder and of ln σ of the posterior, which keep early training finite."""


class VAE(UnconditionalModel):
    """z ~ N(0, I), k ~ Π_d DiscretisedLogistic(μ_d(z), s_d(z)); posterior q(z|k) = N(m(k), diag σ²(k)).

    Trained on the evidence lower bound with reparametrised z and the closed-form KL (Kingma and Welling
    2014, Rezende et al. 2014).

    shape    (C, H, W)                             levels   K
    latent   Z                                     width    hidden units of encoder and decoder
    depth    residual blocks of each               dropout  while training
    """

    family = "latent variable"
    native_sampler = "prior"

    def __init__(
        self,
        shape: tuple[int, int, int] = (1, 8, 8),
        levels: int = 17,
        *,
        latent: int = 16,
        width: int = 256,
        depth: int = 2,
        dropout: float = 0.2,
    ) -> None:
        super().__init__(shape, levels)
        at_least_one(latent=latent, width=width, depth=depth)
        self.latent = latent
        self.encoder = ResidualMLP(self.dims, 2 * latent, width, depth, dropout)
        self.network = ResidualMLP(latent, 2 * self.dims, width, depth, dropout)

    def loss(
        self, pixels: Tensor, condition: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """−ELBO/D in nats a dimension, mean over the batch; one z an image, KL in closed form."""
        self.check_pixels(pixels, condition)
        mean_BZ, log_std_BZ = self.posterior(pixels)
        z_BZ = mean_BZ + log_std_BZ.exp() * self._normal(mean_BZ, generator)
        kl_BZ = 0.5 * (mean_BZ**2 + (2 * log_std_BZ).exp() - 1) - log_std_BZ
        return (kl_BZ.sum(1) - self._log_likelihood(pixels, z_BZ)).mean().float() / self.dims

    @torch.no_grad()
    def nll(
        self,
        pixels: Tensor,
        condition: Tensor | None = None,
        generator: torch.Generator | None = None,
        *,
        importance_samples: int = 1,
    ) -> Likelihood:
        """−ln (1/K) Σ_k w_k, w_k = p(k|z_k)·p(z_k)/q(z_k|k), z_k ~ q: in expectation a bound from above.

        One sample is the evidence lower bound; the bound falls to −ln P(pixels) as K grows (Burda et al.
        2016). Breakdown: `reconstruction` and `kl`, means over the samples used, and their sum `elbo`.
        """
        self.check_pixels(pixels, condition)
        self.check_levels(pixels)
        at_least_one(importance_samples=importance_samples)
        posterior = self.posterior(pixels)
        draws = [self._draw(pixels, posterior, generator) for _ in range(importance_samples)]
        reconstruction_KB = torch.stack([reconstruction for reconstruction, _ in draws])
        kl_KB = torch.stack([kl for _, kl in draws])
        log_w_KB = -reconstruction_KB - kl_KB
        nats = math.log(importance_samples) - log_w_KB.logsumexp(0)
        parts = {"reconstruction": reconstruction_KB.mean(0), "kl": kl_KB.mean(0), "elbo": -log_w_KB.mean(0)}
        return Likelihood(nats, "bound", self._protocol(importance_samples), parts)

    @torch.no_grad()
    def sample(
        self, n: int, sampler: Sampler | None, seeds: Seeds, condition: Tensor | None = None
    ) -> Tensor:
        """z from the prior, then levels by inverse CDF of one uniform a pixel and image; one network call."""
        self.check_sampling(sampler, condition)
        decoder = self.decode(seeds.per_image((self.latent,), "normal", self.device))
        self.check_finite((decoder.mean + decoder.log_scale).isfinite().all(1))
        u_BD = seeds.per_image((self.dims,), "uniform", self.device)
        return decoder.sample(u_BD).view(n, *self.shape)

    def posterior(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation, (B, Z) each, of q(z|pixels)."""
        mean_BZ, raw_BZ = self.encoder(self.signed(pixels).flatten(1)).chunk(2, 1)
        return mean_BZ, soft_limit(raw_BZ)

    def decode(self, z_BZ: Tensor) -> DiscretisedLogistic:
        """p(pixels|z), flattened to (B, D)."""
        mean_BD, raw_BD = self.network(z_BZ).chunk(2, 1)
        return DiscretisedLogistic(mean_BD, soft_limit(raw_BD - 1), self.levels)

    def _draw(
        self, pixels: Tensor, posterior: tuple[Tensor, Tensor], generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """−ln p(pixels|z) and ln q(z|pixels) − ln p(z), (B,) float64 each, for one z ~ q an image."""
        mean_BZ, log_std_BZ = posterior
        noise_BZ = self._normal(mean_BZ, generator)
        z_BZ = mean_BZ + log_std_BZ.exp() * noise_BZ
        # The constants ln √(2π) of the two normal densities cancel.
        kl_BZ = 0.5 * (z_BZ.double() ** 2 - noise_BZ.double() ** 2) - log_std_BZ.double()
        return -self._log_likelihood(pixels, z_BZ), kl_BZ.sum(1)

    def _log_likelihood(self, pixels: Tensor, z_BZ: Tensor) -> Tensor:
        """ln p(pixels|z), (B,) float64."""
        return self.decode(z_BZ).log_prob(pixels.flatten(1)).double().sum(1)

    def _normal(self, like: Tensor, generator: torch.Generator | None) -> Tensor:
        return torch.randn(like.shape, generator=generator, device=like.device, dtype=like.dtype)

    def _protocol(self, importance_samples: int) -> str:
        bound = "ELBO" if importance_samples == 1 else "importance-weighted bound"
        return f"{bound}, K={importance_samples} posterior samples, discretised logistic"


class ResidualMLP(nn.Module):
    """Linear, `depth` blocks x + W₂·SiLU(W₁·norm(x)), norm, linear."""

    def __init__(self, inputs: int, outputs: int, width: int, depth: int, dropout: float) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width),
                nn.Linear(width, width),
                nn.SiLU(),
                nn.Dropout(dropout),
                nn.Linear(width, width),
            )
            for _ in range(depth)
        )
        self.last = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, outputs))
        nn.init.normal_(self.last[1].weight, std=0.02)  # type: ignore[arg-type]
        nn.init.zeros_(self.last[1].bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = x + block(x)
        return self.last(x)


def soft_limit(raw: Tensor) -> Tensor:
    """Identity near zero, bent smoothly towards the ends of `LOG_SCALE_RANGE`."""
    low, high = LOG_SCALE_RANGE
    return torch.where(raw < 0, low * torch.tanh(raw / low), high * torch.tanh(raw / high))
