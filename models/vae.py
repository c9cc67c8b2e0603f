"""Variational auto-encoder with a discretised-logistic decoder: a bound, tightened by importance samples.

Shapes: B batch, C channels, H height, W width, D = C·H·W, Z latent dimensions, K levels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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
        z_BZ = mean_BZ + log_std_BZ.exp() * normal_like(mean_BZ, generator)
        kl_BZ = divergence(mean_BZ, log_std_BZ)
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
        return importance_weighted(
            [self._draw(pixels, posterior, generator) for _ in range(importance_samples)]
        )

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
    ) -> dict[str, Tensor]:
        """−ln p(pixels|z) and ln q(z|pixels) − ln p(z), (B,) float64 each, for one z ~ q an image."""
        mean_BZ, log_std_BZ = posterior
        noise_BZ = normal_like(mean_BZ, generator)
        z_BZ = mean_BZ + log_std_BZ.exp() * noise_BZ
        kl_B = log_ratio(z_BZ, noise_BZ, log_std_BZ)
        return {"reconstruction": -self._log_likelihood(pixels, z_BZ), "kl": kl_B}

    def _log_likelihood(self, pixels: Tensor, z_BZ: Tensor) -> Tensor:
        """ln p(pixels|z), (B,) float64."""
        return self.decode(z_BZ).log_prob(pixels.flatten(1)).double().sum(1)


def importance_weighted(draws: Sequence[dict[str, Tensor]]) -> Likelihood:
    """−ln (1/K) Σ_k w_k from K draws of z ~ q(z|pixels), each as the parts, (B,) float64, of its −ln w_k.

    Breakdown: the mean of each part over the draws, and their sum `elbo`, what K = 1 gives in expectation.
    """
    K = len(draws)
    parts_KB = {name: torch.stack([draw[name] for draw in draws]) for name in draws[0]}
    log_w_KB = -torch.stack(list(parts_KB.values())).sum(0)
    nats = math.log(K) - log_w_KB.logsumexp(0)
    parts = {name: part_KB.mean(0) for name, part_KB in parts_KB.items()} | {"elbo": -log_w_KB.mean(0)}
    bound = "ELBO" if K == 1 else "importance-weighted bound"
    return Likelihood(nats, "bound", f"{bound}, K={K} posterior samples, discretised logistic", parts)


def normal_like(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal noise in the shape of x."""
    return torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)


def divergence(mean: Tensor, log_std: Tensor) -> Tensor:
    """KL(N(m, σ²) ‖ N(0, 1)) of each dimension, in nats."""
    return 0.5 * (mean**2 + (2 * log_std).exp() - 1) - log_std


def log_ratio(z: Tensor, noise: Tensor, log_std: Tensor) -> Tensor:
    """ln q(z) − ln N(z; 0, I), (B,) float64, of z = m + σ·noise; the constants ln √(2π) cancel."""
    each = 0.5 * (z.double() ** 2 - noise.double() ** 2) - log_std.double()
    return each.flatten(1).sum(1)


class ResidualMLP(nn.Module):
    """Linear, `depth` blocks x + W₂·SiLU(W₁·norm(x)), norm, linear."""

    def __init__(self, inputs: int, outputs: int, width: int, depth: int, dropout: float) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, width)
        self.blocks = nn.ModuleList(residual_branch(width, dropout) for _ in range(depth))
        self.last = head(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = x + block(x)
        return self.last(x)


class Residual(nn.Module):
    """`depth` blocks x + W₂·SiLU(W₁·norm(x))."""

    def __init__(self, width: int, depth: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(residual_branch(width, dropout) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        return x


def residual_branch(width: int, dropout: float) -> nn.Sequential:
    """W₂·SiLU(W₁·norm(x)), to be added to x."""
    first, second = nn.Linear(width, width), nn.Linear(width, width)
    return nn.Sequential(nn.LayerNorm(width), first, nn.SiLU(), nn.Dropout(dropout), second)


def head(width: int, outputs: int) -> nn.Sequential:
    """norm, linear, whose outputs start near zero."""
    last = nn.Linear(width, outputs)
    nn.init.normal_(last.weight, std=0.02)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.LayerNorm(width), last)


def soft_limit(raw: Tensor) -> Tensor:
    """Identity near zero, bent smoothly towards the ends of `LOG_SCALE_RANGE`."""
    low, high = LOG_SCALE_RANGE
    return torch.where(raw < 0, low * torch.tanh(raw / low), high * torch.tanh(raw / high))
