"""Denoising diffusion (Ho et al. 2020, 2006.11239), with the choices that followed it.

    simple   E w(t) ‖network(x_t, t) − target‖²/D                                 L_simple where w = 1
    vlb      the bound on −ln P itself, at random steps of its chain               L_vlb, nats a dimension
    hybrid   simple + λ·vlb, the vlb seeing x̂_0 as a constant: it trains variances only   L_hybrid

L_hybrid and the learned variances are Nichol & Dhariwal 2021 (2102.09672, eq. 15–16); w(t) may be the
min-SNR-γ of Hang et al. 2023 (2303.09556).

Shapes: B batch, C channels, H height, W width, K levels, D = C·H·W, T steps of the bound.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from models import paths
from models.denoiser import Denoised, combination, target
from models.likelihood.discretised_gaussian import discretised_gaussian_nats
from models.likelihood.sampled_bound import ChainSteps
from models.likelihood.variational_bound import Variance, prior_nats
from models.names import unknown
from models.paths import GaussianPath
from models.reverse_chain import ReverseChainModel, bound_grid, pixel_backbone
from models.times import Times

__all__ = ["DDPM", "bound_grid", "min_snr_weight"]

OBJECTIVES = ("simple", "vlb", "hybrid")
WEIGHTINGS = ("none", "min-snr")
BOUND_VARIANCES: dict[str, Variance] = {
    "fitted": "optimal",
    "learned": "learned",
    "small": "small",
    "large": "large",
}


def min_snr_weight(prediction: str, path: GaussianPath, t: Tensor, cap: float) -> Tensor:
    """min(SNR, γ) on the error of x_0, seen from what the network predicts: min(α², γσ²)/Δ².

    That is min(SNR, γ)/SNR for ε, min(SNR, γ) for x_0 and min(SNR, γ)/(SNR + 1) for v where α² + σ² = 1; Δ
    is the determinant of `models.denoiser`.
    """
    p, q = combination(prediction, path, t)
    alpha, sigma = path.alpha(t), path.sigma(t)
    return torch.minimum(alpha**2, cap * sigma**2) / (alpha * q - sigma * p) ** 2


class DDPM(ReverseChainModel):
    """A network that denoises pixel levels.

    path        name of a Gaussian path
    prediction  what the network says, see `models.denoiser`
    times       law of the training times, see `models.times`; the other objectives have the bound's times
    objective   `simple`, `vlb` or `hybrid`, as above
    variance    of the reverse steps in the bound: `fitted` after training, `learned` (the network has 2C
                channels), or fixed at `small` or `large`, see `models.likelihood.variational_bound`
    vlb_weight  λ of the hybrid objective
    weighting   `none` or `min-snr`, whose γ is `snr_cap`
    timesteps   T of the bound
    finest      σ/α where the decoder takes over, in units of half the distance of two levels
    classes     labels it is conditioned on, 0 for none; condition_dropout: share left out in training
    network, …  `unet` or `dit` and its options; a U-Net's Fourier features (`octaves`) have by default the
                distance of two levels as period, and twice it
    """

    family: ClassVar[str] = "diffusion"

    def __init__(
        self,
        shape: tuple[int, int, int],
        levels: int,
        *,
        path: str = "cosine",
        prediction: str = "v",
        times: str = "uniform",
        objective: str = "simple",
        variance: str = "fitted",
        vlb_weight: float = 0.001,
        weighting: str = "none",
        snr_cap: float = 5.0,
        timesteps: int = 192,
        finest: float = 0.8,
        classes: int = 0,
        condition_dropout: float = 0.1,
        network: str = "unet",
        dropout: float = 0.1,
        **options: Any,
    ) -> None:
        _check(objective, variance, weighting, times)
        if vlb_weight <= 0 or snr_cap <= 0:
            raise ValueError("The weight of the bound and the cap of the SNR must lie above 0.")
        channels_out = shape[0] * (2 if variance == "learned" else 1)
        super().__init__(
            shape,
            levels,
            pixel_backbone(network, shape, levels, {"dropout": dropout, **options}, classes, channels_out),
            paths.path(path),
            prediction,
            Times(times),
            timesteps=timesteps,
            finest=finest,
            variance=BOUND_VARIANCES[variance],
            classes=classes,
            condition_dropout=condition_dropout,
        )
        self.objective, self.vlb_weight = objective, vlb_weight
        self.weighting, self.snr_cap = weighting, snr_cap
        self.chain = ChainSteps(self.path, self.grid) if objective != "simple" else None

    def weight(self, t_B: Tensor) -> Tensor | None:
        """Min-SNR-γ where it is asked for."""
        if self.weighting == "none":
            return None
        return min_snr_weight(self.prediction, self.path, t_B, self.snr_cap)

    def loss(
        self, pixels: Tensor, condition: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """The objective: no unit for `simple` and `hybrid`, nats a dimension for `vlb`.

        One network evaluation an image. Here x̂_0 is not clamped, which `nll` does and can only gain from.
        """
        if self.chain is None:
            return super().loss(pixels, condition, generator)
        self.check_pixels(pixels)
        x_0 = self.encode(pixels, generator)
        step_B = self.chain.draw(len(x_0), generator)
        t_B = self.chain.time[step_B].to(x_0.dtype)
        t = t_B.view(-1, 1, 1, 1)
        epsilon = self.draw_noise(x_0, generator)
        x_t = self.path.alpha(t) * x_0 + self.path.sigma(t) * epsilon
        output = self.network(x_t, t_B, *self.training_condition(condition, len(x_0), generator))
        found = Denoised(x_t, t, output, self.path, self.prediction)
        if self.objective == "vlb":
            return self._vlb(step_B, pixels, x_0, found.x0, found.extra)
        wanted = target(self.prediction, self.path, t, x_0, epsilon)
        simple = self._weighted((found.output - wanted).square(), t_B)
        return simple + self.vlb_weight * self._vlb(step_B, pixels, x_0, found.x0.detach(), found.extra)

    def _vlb(
        self, step_B: Tensor, pixels: Tensor, x_0: Tensor, predicted: Tensor, extra: Tensor | None
    ) -> Tensor:
        """The bound from one step an image, nats a dimension; without bias for its mean over steps."""
        assert self.chain is not None
        variance = self.chain.variance(self.bound_variance, step_B, extra)
        terms_B = self.chain.nats(step_B, pixels, x_0, predicted, variance, self._decoder)
        nats_B = prior_nats(self.path, self.grid[0], x_0) + len(self.chain) * terms_B
        return (nats_B.mean() / self.dims).to(x_0.dtype)

    def _decoder(self, pixels: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        return discretised_gaussian_nats(pixels, mean, variance, self.levels)


def _check(objective: str, variance: str, weighting: str, times: str) -> None:
    """Refuse names that are unknown and choices that contradict each other."""
    for what, name, valid in (
        ("objective", objective, OBJECTIVES),
        ("variance", variance, tuple(BOUND_VARIANCES)),
        ("weighting", weighting, WEIGHTINGS),
    ):
        if name not in valid:
            raise ValueError(unknown(what, name, valid))
    if objective == "simple" and variance == "learned":
        raise ValueError("Objective simple never trains a variance: use hybrid or vlb with variance learned.")
    if objective == "hybrid" and variance != "learned":
        raise ValueError("Objective hybrid is there to learn the variance: set variance to learned.")
    if objective == "vlb" and variance == "fitted":
        raise ValueError("Objective vlb needs its variance in training: set it to learned, small or large.")
    if objective == "vlb" and weighting != "none":
        raise ValueError("Objective vlb has the weights of the bound: leave weighting out, or use hybrid.")
    if objective != "simple" and times != "uniform":
        raise ValueError(f"Objective {objective} is drawn at the steps of the bound: leave times uniform.")
