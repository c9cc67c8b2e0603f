"""Checks of bounds through latents: probabilistic principal components, and a latent flow in other units.

z ~ N(0, I), x = Wz + σε with orthogonal columns in W (Tipping and Bishop 1999): the marginal is the Gaussian
N(0, WWᵀ + σ²I), and the posterior is N(m, diag s²), so that a VAE can have it exactly. With q = N(m, κ²s²):

    ELBO gap       Z (½(κ² − 1) − ln κ)                                              KL(q ‖ posterior)
    weights        Var w/P = (κ²/√(2κ² − 1))^Z − 1
    gap of K       ≈ Var w/(2K)                        (Burda et al. 2016; Domke and Sheldon 2018)

Shapes: B batch, D dimensions, Z latent dimensions.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from bench.verify import Check, Finding
from bench.verify.networks import gaussian, randomised
from models import vae
from models.autoencoder import Autoencoder
from models.latent import LatentDiffusion

COMPONENTS, LATENT_FLOW = "probabilistic principal components", "latent diffusion"
SHAPE, LEVELS, WIDER = (1, 1, 5), 17, 1.3
LOADINGS, NOISE = (0.5, 0.3), 0.2
IMAGES, DRAWS, SAMPLES = 16, 2500, 16


def checks() -> Iterator[Check]:
    """The exact posterior, one too wide, the divergence in closed form; latents of another scale."""
    for K in (1, SAMPLES):
        case = f"K={K}, q the posterior, worst distance from −ln p"
        yield Check(COMPONENTS, case, functools.partial(_exact_posterior, K))
    yield Check(COMPONENTS, "−ELBO where q is too wide, nats", _elbo)
    yield Check(COMPONENTS, f"K={SAMPLES} where q is too wide, nats above −ln p", _many)
    yield Check(COMPONENTS, "loss where q is too wide, nats", _loss)
    yield Check(COMPONENTS, "KL of two normals, worst error", _divergence)
    for scale in (1.0, 0.18215, 3.0):
        yield Check(LATENT_FLOW, f"nats with latents scaled by {scale:g}", functools.partial(_scaled, scale))


class PrincipalComponents(vae.VAE):
    """A VAE whose decoder is linear and Gaussian, with a density in place of levels.

    wider  κ, deviations of q in those of the posterior
    """

    def __init__(self, wider: float = 1.0) -> None:
        super().__init__(SHAPE, LEVELS, latent=len(LOADINGS), width=2, depth=1)
        self.wider = wider
        generator = torch.Generator().manual_seed(0)
        random = torch.randn(self.dims, self.dims, generator=generator, dtype=torch.float64)
        self.axes_DZ = torch.linalg.qr(random)[0][:, : self.latent]
        self.loadings_Z = torch.tensor(LOADINGS, dtype=torch.float64)

    def marginal(self) -> torch.distributions.MultivariateNormal:
        """N(0, WWᵀ + σ²I)."""
        W = self.axes_DZ * self.loadings_Z
        covariance = W @ W.T + NOISE**2 * torch.eye(self.dims, dtype=torch.float64)
        return torch.distributions.MultivariateNormal(torch.zeros(self.dims, dtype=torch.float64), covariance)

    def exact_nats(self, pixels: Tensor) -> Tensor:
        """−ln p(x), (B,)."""
        return -self.marginal().log_prob(self.seen(pixels))

    def seen(self, pixels: Tensor) -> Tensor:
        """x, (B, D) float64."""
        return 2.0 * pixels.double().flatten(1) / (LEVELS - 1) - 1.0

    def posterior(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """m = λ/(λ² + σ²)·(axes)ᵀx and ln κs, s² = σ²/(λ² + σ²)."""
        total_Z = self.loadings_Z.square() + NOISE**2
        mean_BZ = (self.seen(pixels) @ self.axes_DZ) * self.loadings_Z / total_Z
        return mean_BZ, (0.5 * (NOISE**2 / total_Z).log() + math.log(self.wider)).expand_as(mean_BZ)

    def _log_likelihood(self, pixels: Tensor, z_BZ: Tensor) -> Tensor:
        mean_BD = (z_BZ * self.loadings_Z) @ self.axes_DZ.T
        return torch.distributions.Normal(mean_BD, NOISE).log_prob(self.seen(pixels)).sum(1)


def _pixels(repeats: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(LEVELS, (IMAGES, *SHAPE), generator=generator, dtype=torch.uint8)
    return pixels.repeat(repeats, 1, 1, 1)


def _exact_posterior(K: int) -> Finding:
    """Every weight is p(x) itself, whatever z was drawn."""
    model, pixels = PrincipalComponents(), _pixels()
    found = model.nll(pixels, None, torch.Generator().manual_seed(0), importance_samples=K).nats
    return Finding(0.0, float((found - model.exact_nats(pixels)).abs().max()), 1e-9)


def _elbo_gap() -> float:
    return len(LOADINGS) * (0.5 * (WIDER**2 - 1.0) - math.log(WIDER))


def _elbo() -> Finding:
    model, pixels = PrincipalComponents(WIDER), _pixels(DRAWS)
    found = model.nll(pixels, None, torch.Generator().manual_seed(0)).nats
    gap = found - model.exact_nats(pixels)
    return Finding(_elbo_gap(), float(gap.mean()), 4.5 * float(gap.std()) / math.sqrt(len(gap)))


def _many() -> Finding:
    """The gap to first order in 1/K; what is beyond is a tenth of it here."""
    model, pixels = PrincipalComponents(WIDER), _pixels(DRAWS)
    found = model.nll(pixels, None, torch.Generator().manual_seed(0), importance_samples=SAMPLES).nats
    gap = found - model.exact_nats(pixels)
    wanted = ((WIDER**2 / math.sqrt(2.0 * WIDER**2 - 1.0)) ** len(LOADINGS) - 1.0) / (2 * SAMPLES)
    error = float(gap.std()) / math.sqrt(len(gap))
    return Finding(wanted, float(gap.mean()), 4.5 * error + 0.1 * wanted)


@torch.no_grad()
def _loss() -> Finding:
    """The training objective is −ELBO/D, its divergence in closed form."""
    model, pixels = PrincipalComponents(WIDER), _pixels(DRAWS)
    parts = model.nll(pixels, None, torch.Generator().manual_seed(1)).breakdown["reconstruction"]
    spread = float((parts.view(DRAWS, IMAGES) - parts.view(DRAWS, IMAGES).mean(0)).std())
    got = float(model.loss(pixels, None, torch.Generator().manual_seed(0))) * model.dims
    wanted = float(model.exact_nats(_pixels()).mean()) + _elbo_gap()
    return Finding(wanted, got, 4.5 * spread / math.sqrt(len(pixels)) + 1e-4)


def _divergence() -> Finding:
    """KL(N(m, σ²) ‖ N(0, 1)) on a grid of m and σ, against torch.distributions."""
    pairs = list(itertools.product((-2.0, 0.0, 0.7), (0.05, 0.6, 1.0, 2.5)))
    mean, deviation = torch.tensor(pairs, dtype=torch.float64).T
    one, standard = torch.distributions.Normal(mean, deviation), torch.distributions.Normal(0.0 * mean, 1.0)
    wanted = torch.distributions.kl_divergence(one, standard)
    return Finding(0.0, float((vae.divergence(mean, deviation.log()) - wanted).abs().max()), 1e-12)


def _scaled(scale: float) -> Finding:
    """With z ~ N(0, I) as the prior and as what the flow's exact network knows, both bounds are one number.

    The flow sees scale·z ~ N(0, scale²I); from one z the latent model must say what the autoencoder says.
    """
    shape, options = (1, 2, 4), {"latent": 1, "channels": 4}
    below = randomised(lambda: Autoencoder(shape, LEVELS, **options), 0.3).double()
    below.scale.fill_(scale)
    model: Any = LatentDiffusion(
        shape, LEVELS, autoencoder=options, patch=1, width=8, depth=1, heads=1
    ).double()
    pixels = torch.randint(
        LEVELS, (32, *shape), generator=torch.Generator().manual_seed(3), dtype=torch.uint8
    )
    model.learn_from(below, pixels)
    eye = torch.eye(below.latent_dims, dtype=torch.float64)
    model.network = gaussian(0.0 * eye[0], scale**2 * eye).network(model.path, "velocity")
    model.network.register_parameter("nothing", torch.nn.Parameter(0.0 * eye[0]))
    got = model.nll(pixels, None, torch.Generator().manual_seed(4), rtol=1e-7, atol=1e-7).nats
    wanted = below.nll(pixels, None, torch.Generator().manual_seed(4)).nats
    return Finding(float(wanted.mean()), float(got.mean()), 1e-4)
