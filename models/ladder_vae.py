"""Ladder VAE: latent variables in layers, inferred from the top down; a bound, tightened by samples.

    p(k, z) = p(z_L) p(z_{L−1}|z_L) … p(z_1|z_{>1}) p(k|z),    q(z|k) = q(z_L|k) … q(z_1|z_{>1}, k)

Sønderby et al. 2016 (1602.02282): the posterior of a layer sees the image from below and the layers above
through the same pass as the prior. Here, as Child 2021 (2011.10650), it is a network of both, and, as
Vahdat and Kautz 2020 (2007.03898), relative to the prior: with w = (z − μ_p)/σ_p the prior of every layer is
w ~ N(0, I) and its posterior w ~ N(m, diag ρ²), so the divergence is that of a plain VAE.

Shapes: B batch, D = C·H·W, E width, Z latent dimensions of a layer, L layers, layer 1 next to the pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from models.base import Likelihood
from models.discretised_logistic import DiscretisedLogistic
from models.unconditional import UnconditionalModel, at_least_one
from models.vae import (
    Residual,
    ResidualMLP,
    divergence,
    head,
    importance_weighted,
    log_ratio,
    normal_like,
    soft_limit,
)

if TYPE_CHECKING:
    from models.samplers import Sampler
    from models.seeds import Seeds


class LadderVAE(UnconditionalModel):
    """Two or more layers of latents between noise and pixels, discretised logistics at the end.

    shape      (C, H, W)                               levels   K
    latents    dimensions of layers 1…L, from the pixels up
    width      of all hidden states                    depth    residual blocks of each network of a layer
    dropout    while training
    free_bits  nats a latent dimension that the loss does not charge (Kingma et al. 2016, 1606.04934)
    """

    family = "latent variable"
    native_sampler = "prior"

    def __init__(
        self,
        shape: tuple[int, int, int] = (1, 8, 8),
        levels: int = 17,
        *,
        latents: Sequence[int] = (16, 16),
        width: int = 192,
        depth: int = 1,
        dropout: float = 0.1,
        free_bits: float = 0.05,
    ) -> None:
        super().__init__(shape, levels)
        if len(latents) < 2:
            raise ValueError(f"a ladder has two layers of latents or more: got {list(latents)}; or use vae")
        at_least_one(width=width, depth=depth, **{f"latents[{i}]": Z for i, Z in enumerate(latents)})
        if not free_bits >= 0:
            raise ValueError(f"free_bits are nats a latent dimension, 0 or more: got {free_bits}")
        self.latents, self.free_bits = tuple(latents), free_bits
        self.encoder = BottomUp(self.dims, len(latents), width, depth, dropout)
        self.network = TopDown(self.latents, 2 * self.dims, width, depth, dropout)

    def loss(
        self, pixels: Tensor, condition: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """(Σ_j max(λ, KL_j) − ln p(k|z))/D in nats a dimension, one z an image; KL_j a mean over the batch.

        A latent dimension j of any layer pays for its divergence only beyond the free λ, so that it is not
        switched off before the layers below can read it. With λ = 0 this is −ELBO/D, and never less than it.
        """
        self.check_pixels(pixels, condition)
        raw_BD, steps = self.network(self._noise(pixels, generator), self.features(pixels))
        kl_Z = torch.cat([divergence(step.mean_BZ, step.log_std_BZ).mean(0) for step in steps])
        log_p_B = self._log_likelihood(pixels, raw_BD)
        return (kl_Z.clamp(min=self.free_bits).sum() - log_p_B.mean()).float() / self.dims

    @torch.no_grad()
    def nll(
        self,
        pixels: Tensor,
        condition: Tensor | None = None,
        generator: torch.Generator | None = None,
        *,
        importance_samples: int = 1,
    ) -> Likelihood:
        """−ln (1/K) Σ_k w_k, w_k = p(k, z_k)/q(z_k|k), z_k ~ q, all layers at once: a bound from above.

        One sample is the evidence lower bound, without free bits; the bound falls to −ln P(pixels) as K
        grows (Burda et al. 2016). Breakdown, means over the samples: `reconstruction`, `kl 1` … `kl L` from
        the pixels up, and their sum `elbo`.
        """
        self.check_pixels(pixels, condition)
        self.check_levels(pixels)
        at_least_one(importance_samples=importance_samples)
        features = self.features(pixels)
        return importance_weighted(
            [self._draw(pixels, features, generator) for _ in range(importance_samples)]
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
        """Layer after layer from its prior, then levels by inverse CDF of one uniform a pixel; one call."""
        self.check_sampling(sampler, condition)
        if guidance != 1.0:
            raise ValueError(f"{type(self).__name__} cannot be guided: leave guidance at 1")
        raw_BD, _ = self.network(seeds.per_image((sum(self.latents),), "normal", self.device))
        self.check_finite(raw_BD.isfinite().all(1))
        u_BD = seeds.per_image((self.dims,), "uniform", self.device)
        return self.decode(raw_BD).sample(u_BD).view(n, *self.shape)

    def decode(self, raw_BD: Tensor) -> DiscretisedLogistic:
        """p(pixels|z), flattened to (B, D), of what the network says, (B, 2D)."""
        mean_BD, log_scale_BD = raw_BD.chunk(2, 1)
        return DiscretisedLogistic(mean_BD, soft_limit(log_scale_BD - 1), self.levels)

    def _draw(
        self, pixels: Tensor, features: list[Tensor], generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """−ln p(pixels|z) and, a layer, ln q − ln p of its latents, (B,) float64 each, for one z ~ q."""
        raw_BD, steps = self.network(self._noise(pixels, generator), features)
        kl = {
            f"kl {layer}": log_ratio(step.w_BZ, step.noise_BZ, step.log_std_BZ)
            for layer, step in enumerate(reversed(steps), 1)
        }
        return {"reconstruction": -self._log_likelihood(pixels, raw_BD), **kl}

    def _log_likelihood(self, pixels: Tensor, raw_BD: Tensor) -> Tensor:
        """ln p(pixels|z), (B,) float64."""
        return self.decode(raw_BD).log_prob(pixels.flatten(1)).double().sum(1)

    def features(self, pixels: Tensor) -> list[Tensor]:
        """What the layers are told of the image, (B, E) each, from the pixels up."""
        return self.encoder(self.signed(pixels).flatten(1))

    def _noise(self, pixels: Tensor, generator: torch.Generator | None) -> Tensor:
        """Noise of all layers, (B, Z_1 + … + Z_L), the top layer first."""
        dtype = next(self.parameters()).dtype
        like = torch.empty(len(pixels), sum(self.latents), dtype=dtype, device=pixels.device)
        return normal_like(like, generator)


class Step(NamedTuple):
    """One layer of a pass: w = m + ρ·noise, in units of the prior; m = 0 and ρ = 1 without an image."""

    w_BZ: Tensor
    noise_BZ: Tensor
    mean_BZ: Tensor
    log_std_BZ: Tensor


class BottomUp(nn.Module):
    """L features of the image, (B, E), each computed from the one below."""

    def __init__(self, inputs: int, layers: int, width: int, depth: int, dropout: float) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, width)
        self.layers = nn.ModuleList(Residual(width, depth, dropout) for _ in range(layers))

    def forward(self, x_BD: Tensor) -> list[Tensor]:
        """From the pixels up."""
        h_BE, features = self.first(x_BD), []
        for layer in self.layers:
            h_BE = layer(h_BE)
            features.append(h_BE)
        return features


class TopDown(nn.Module):
    """From noise to pixels through all layers; with the features of an image, through its posterior."""

    def __init__(
        self, latents: tuple[int, ...], outputs: int, width: int, depth: int, dropout: float
    ) -> None:
        super().__init__()
        self.latents, self.width = latents, width
        top = len(latents) - 1
        self.layers = nn.ModuleList(
            Layer(latents[i], width, depth, dropout, top=i == top) for i in range(top, -1, -1)
        )
        self.last = head(width, outputs)

    def forward(self, noise_BZ: Tensor, features: list[Tensor] | None = None) -> tuple[Tensor, list[Step]]:
        """What the decoder is built from, (B, outputs), and the steps from the top down.

        noise_BZ   standard normal, (B, Z_L + … + Z_1), the top layer first
        features   from `BottomUp`; None draws every layer from its prior
        """
        h_BE, steps = noise_BZ.new_zeros(len(noise_BZ), self.width), []
        noises = noise_BZ.split(self.latents[::-1], 1)
        seen = [None] * len(noises) if features is None else features[::-1]
        for layer, noise, feature_BE in zip(self.layers, noises, seen, strict=True):
            h_BE, step = layer(h_BE, noise, feature_BE)
            steps.append(step)
        return self.last(h_BE), steps


class Layer(nn.Module):
    """z = μ_p(h) + σ_p(h)·w from the state h of the layers above; h ← g(h + V z).

    The top layer starts from h = 0 and has z = w. A learned start, as strong as the latents, would drown them
    in what is the same for all images: they are then ignored before they say anything.
    """

    def __init__(self, latent: int, width: int, depth: int, dropout: float, top: bool) -> None:
        super().__init__()
        self.prior = None if top else head(width, 2 * latent)
        self.posterior = ResidualMLP(2 * width, 2 * latent, width, depth, dropout)
        self.inject = nn.Linear(latent, width)
        self.merge = Residual(width, depth, dropout)

    def forward(self, h_BE: Tensor, noise_BZ: Tensor, feature_BE: Tensor | None) -> tuple[Tensor, Step]:
        """The next h and the step taken."""
        step = self._step(h_BE, noise_BZ, feature_BE)
        z_BZ = step.w_BZ
        if self.prior is not None:
            mean_BZ, raw_BZ = self.prior(h_BE).chunk(2, 1)
            z_BZ = mean_BZ + soft_limit(raw_BZ).exp() * z_BZ
        return self.merge(h_BE + self.inject(z_BZ)), step

    def _step(self, h_BE: Tensor, noise_BZ: Tensor, feature_BE: Tensor | None) -> Step:
        if feature_BE is None:
            zero_BZ = torch.zeros_like(noise_BZ)
            return Step(noise_BZ, noise_BZ, zero_BZ, zero_BZ)
        mean_BZ, raw_BZ = self.posterior(torch.cat([h_BE, feature_BE], 1)).chunk(2, 1)
        log_std_BZ = soft_limit(raw_BZ)
        return Step(mean_BZ + log_std_BZ.exp() * noise_BZ, noise_BZ, mean_BZ, log_std_BZ)
