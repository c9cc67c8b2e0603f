"""EDM (Karras et al. 2022, 2206.00364): exploding variance, a preconditioned network, noise where it matters.

    D(x; σ) = c_skip x + c_out F(c_in x; c_noise),   ln σ ~ N(P_mean, P_std²) in training
    loss    = E λ(σ) ‖D(x_0 + σε; σ) − x_0‖²/D,      λ = (σ² + σ_d²)/(σσ_d)²

with c_skip = σ_d²/(σ² + σ_d²), c_out = σσ_d/√(σ² + σ_d²), c_in = 1/√(σ² + σ_d²), c_noise = ¼ ln σ, so that
F sees and says unit variance at every noise level. Likelihood by the variational bound of the chain, as for
every Gaussian path.

Shapes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from models.networks.backbone import backbone
from models.networks.unet import fourier_features
from models.paths import ExplodingPath
from models.reverse_chain import ReverseChainModel, level_octaves


@dataclass(frozen=True)
class LogNormalNoise:
    """Training times of an exploding path with ln σ ~ N(mean, std²), see `models.times.TimeLaw`."""

    path: ExplodingPath
    mean: float = -1.2
    std: float = 1.2

    def __post_init__(self) -> None:
        if self.std <= 0:
            raise ValueError("The spread of the training noise lies above 0.")

    def quantile(self, u: Tensor) -> Tensor:
        """σ/σ_max of the noise below which a share u lies, 1 at most."""
        sigma = (self.mean + self.std * torch.special.ndtri(u)).exp()
        return (sigma / self.path.sigma_max).clamp(max=1.0)


class Preconditioned(nn.Module):
    """F with its inputs and outputs scaled; says ε̂ = (x − D)/σ = c_in² σ x − c_in σ_d F.

    This is D in the form that is regular at σ = 0, where the flow of `models.likelihood` starts.

    F's input has, after the image, Fourier features of x/√(1 + σ²), see `models.networks.unet`.
    F's time is ½ + 0.4·c_noise, which is 0 at ln σ = −5 and 1 at ln σ = 5.
    """

    def __init__(
        self, network: nn.Module, path: ExplodingPath, sigma_data: float, octaves: tuple[int, ...] = ()
    ) -> None:
        super().__init__()
        self.backbone, self.path, self.sigma_data, self.octaves = network, path, sigma_data, octaves

    def forward(self, x_BCHW: Tensor, t_B: Tensor, *condition: Tensor) -> Tensor:
        """(B, C, H, W) and times of the path to ε̂, (B, C, H, W)."""
        sigma_B = self.path.sigma(t_B)
        sigma = sigma_B.view(-1, 1, 1, 1)
        c_in = (sigma.square() + self.sigma_data**2).rsqrt()
        time_B = 0.5 + 0.1 * sigma_B.clamp(min=1e-6).log()
        seen = c_in * x_BCHW
        if self.octaves:
            waves = fourier_features(x_BCHW * (1.0 + sigma.square()).rsqrt(), self.octaves)
            seen = torch.cat([seen, waves[:, x_BCHW.shape[1] :]], 1)
        said: Tensor = self.backbone(seen, time_B, *condition)
        return c_in.square() * sigma * x_BCHW - c_in * self.sigma_data * said


class EDM(ReverseChainModel):
    """A preconditioned denoiser on the exploding path.

    sigma_data  σ_d, spread of the data in [−1, 1]; 0.75 on the digits
    p_mean      mean of ln σ in training
    p_std       its standard deviation
    sigma_max   σ at t = 1; grids start at log-SNR −10, so e⁵ = 148.4 is the least
    octaves     Fourier features that F sees; by default the distance of two levels and twice it are periods
    timesteps   T of the bound
    finest      σ where the decoder takes over, in units of half the distance of two levels
    classes     labels it is conditioned on, 0 for none; condition_dropout: share left out in training
    network, …  `unet` or `dit` and its options
    """

    family: ClassVar[str] = "diffusion"

    def __init__(
        self,
        shape: tuple[int, int, int],
        levels: int,
        *,
        sigma_data: float = 0.75,
        p_mean: float = -1.2,
        p_std: float = 1.2,
        sigma_max: float = 150.0,
        octaves: tuple[int, ...] | list[int] | None = None,
        timesteps: int = 192,
        finest: float = 0.8,
        classes: int = 0,
        condition_dropout: float = 0.1,
        network: str = "unet",
        dropout: float = 0.1,
        **options: Any,
    ) -> None:
        if sigma_data <= 0 or sigma_max < 148.5:
            raise ValueError("sigma_data lies above 0, and sigma_max at 148.5 or more: grids start there.")
        path = ExplodingPath(sigma_max)
        waves = level_octaves(levels) if octaves is None else tuple(octaves)
        seen = (shape[0] * (1 + 2 * len(waves)), *shape[1:])
        options = {"dropout": dropout, **options}
        inner = backbone(network, seen, options, channels_out=shape[0], classes=classes)
        super().__init__(
            shape,
            levels,
            Preconditioned(inner, path, sigma_data, waves),
            path,
            "epsilon",
            LogNormalNoise(path, p_mean, p_std),
            timesteps=timesteps,
            finest=finest,
            classes=classes,
            condition_dropout=condition_dropout,
        )
        self.sigma_data = sigma_data

    def weight(self, t_B: Tensor) -> Tensor:
        """λσ², as an error of ε is one of x_0 divided by σ: (σ² + σ_d²)/σ_d²."""
        return (self.path.sigma(t_B) / self.sigma_data).square() + 1.0
