"""The variational bound of a variance-preserving diffusion in continuous time, with a discrete decoder.

    −ln P(k) ≤ KL(q(z_1 | x) ‖ N(0, I))                              prior
             + ½ ∫ γ'(t) E‖ε − ε̂(z_t, t)‖² dt                        diffusion
             + E[−ln p(k | z_0)],  p(k | z_0) ∝ q(z_0 | x_k)         reconstruction

γ = −log SNR runs from γ_0 to γ_1, z = αx + σε with α² = 1/(1 + e^γ), σ² = 1 − α². The decoder needs no
network: a softmax over the K levels of a pixel. Given the network as a function of γ, the integral depends
on the ends of γ only, not on its course between them. Source: Kingma et al. 2021 (2107.00630, eq. 11–18).

Shapes: B batch, C channels, H height, W width, K levels.
"""

from __future__ import annotations

import torch
from torch import Tensor


def mixed(x: Tensor, gamma: Tensor, epsilon: Tensor) -> Tensor:
    """z = αx + σε at γ, a scalar or one an image (B,)."""
    wide = gamma.view(-1, *(1,) * (x.dim() - 1))
    return (-wide).sigmoid().sqrt() * x + wide.sigmoid().sqrt() * epsilon


def prior_nats(x: Tensor, gamma_1: Tensor) -> Tensor:
    """KL(N(αx, σ²) ‖ N(0, 1)) = ½ Σ (σ² − 1 − ln σ² + α²x²), (B,) float64."""
    gamma = gamma_1.double()
    kept, log_spread = (-gamma).sigmoid(), -torch.nn.functional.softplus(-gamma)
    each = 0.5 * (kept * (x.double().square() - 1.0) - log_spread)
    return each.flatten(1).sum(1)


def reconstruction_nats(
    pixels: Tensor, z: Tensor, gamma_0: Tensor, levels: int, reach: float = 1.0
) -> Tensor:
    """−ln softmax_k(−½(z/α − x_k)² e^{−γ_0}) at the pixels, x_k = reach·(2k/(K−1) − 1): (B,) float64."""
    gamma = gamma_0.double()
    places_K = 2.0 * torch.arange(levels, device=z.device, dtype=torch.float64) / (levels - 1) - 1.0
    places_K = reach * places_K
    clean = z.double() / (-gamma).sigmoid().sqrt()
    logits = -0.5 * (clean[..., None] - places_K).square() * (-gamma).exp()
    chosen = logits.log_softmax(-1).gather(-1, pixels.long()[..., None])[..., 0]
    return -chosen.flatten(1).sum(1)


def diffusion_nats(error: Tensor, gamma_dot_B: Tensor) -> Tensor:
    """½ γ'(t) ‖error‖² of one time an image, (B,) float64; unbiased where times are uniform."""
    return 0.5 * gamma_dot_B.double() * error.double().square().flatten(1).sum(1)
