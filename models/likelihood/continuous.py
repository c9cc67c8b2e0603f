"""The continuous-time bound of any model on a Gaussian path, whatever it was trained as.

    −ln P(k) ≤ prior + ½ E_u γ'(u) ‖ε − ε̂‖² + reconstruction,  u uniform in [0, 1]

See `models.likelihood.continuous_bound` for the terms. ‖ε − ε̂‖ = (α/σ)‖x_0 − x̂_0‖ does not change when a
state is scaled, so it may be measured in the coordinates of the model's own path, and only the ends of
γ = −log SNR matter; its course between them decides how far estimates scatter (Kingma et al. 2021,
2107.00630). Here γ = −2 ln((1 − v)/v) with v evenly between its ends: v is the time of the straight path.

Shapes: B batch, C channels, H height, W width, K levels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from models.base import Likelihood
from models.grids import START_LOG_SNR
from models.likelihood.continuous_bound import diffusion_nats, mixed, prior_nats, reconstruction_nats
from models.paths import GaussianPath

if TYPE_CHECKING:
    from models.gaussian import GaussianPathModel

FINEST = 0.33
"""σ/α where the integral ends, in half distances of two levels; γ_0 = −13.3 for 256 levels."""


@dataclass(frozen=True)
class Course:
    """γ from γ_0 to γ_1, and the path's times on the way.

    at    u (B,) in [0, 1] → t (B,), γ (B,), γ' (B,)
    name  for the protocol
    """

    gamma_0: Tensor
    gamma_1: Tensor
    at: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
    name: str = "log-SNR"


def straight_course(path: GaussianPath, finest: float) -> Course:
    """From noise `finest` = σ/α to log-SNR −10, evenly in v = σ/(α + σ)."""
    first, last = finest / (1.0 + finest), 1.0 / (1.0 + math.exp(0.5 * START_LOG_SNR))

    def at(u_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        v_B = first + (last - first) * u_B.double()
        gamma_B = 2.0 * (v_B.log() - (-v_B).log1p())
        return path.t_of_log_snr(-gamma_B), gamma_B, 2.0 * (last - first) / (v_B * (1.0 - v_B))

    ends = torch.tensor([2.0 * math.log(finest), -START_LOG_SNR], dtype=torch.float64)
    return Course(ends[0], ends[1], at)


@dataclass(frozen=True)
class ContinuousBound:
    """The estimator `continuous`.

    draws  times an image, spread evenly, each with its own noise
    """

    draws: int = 128

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise ValueError("The bound needs one or more draws.")

    @torch.no_grad()
    def __call__(
        self,
        model: GaussianPathModel,
        pixels: Tensor,
        condition: Tensor | None,
        generator: torch.Generator | None,
    ) -> Likelihood:
        """The bound of each image; x̂_0 is clamped to the range of the levels, which can only lower it."""
        reach, course = model.reach_of_bounds(), model.course()
        denoiser = model.denoiser(condition, clip=True, n=len(pixels))
        path = denoiser.path
        x, shape = reach * model.to_signed(pixels), (-1, 1, 1, 1)
        gamma_0, gamma_1 = (gamma.to(x.device) for gamma in (course.gamma_0, course.gamma_1))
        first_B = torch.rand(len(pixels), generator=generator, device=pixels.device)
        sums: dict[str, Tensor] = {"prior": prior_nats(x, gamma_1)}
        for draw in range(self.draws):
            t_B, gamma_B, slope_B = course.at(torch.frac(first_B + draw / self.draws))
            t = t_B.view(shape)
            noise = torch.randn(x.shape, generator=generator, device=x.device)
            x_t = (path.alpha(t) * x + path.sigma(t) * noise).to(x.dtype)
            x_hat = denoiser(x_t, t_B.to(x.dtype)).x0.clamp(-reach, reach)
            error = (x_hat - x).double() * (-0.5 * gamma_B.double()).exp().view(shape)
            noise = torch.randn(x.shape, generator=generator, device=x.device)
            z_0 = mixed(x, gamma_0, noise)
            parts = {
                "diffusion": diffusion_nats(error, slope_B),
                "reconstruction": reconstruction_nats(pixels, z_0, gamma_0, model.levels, reach),
            }
            for name, nats_B in parts.items():
                sums[name] = sums.get(name, 0.0) + nats_B / self.draws
        return Likelihood(torch.stack(list(sums.values())).sum(0), "bound", self._protocol(course), sums, 0.0)

    def _protocol(self, course: Course) -> str:
        start, end = float(course.gamma_0), float(course.gamma_1)
        return (
            f"variational bound in continuous time, {course.name} from {-end:.2f} to {-start:.2f}, "
            f"{self.draws} times an image, softmax decoder"
        )
