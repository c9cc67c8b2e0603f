"""Variational diffusion (Kingma et al. 2021, 2107.00630): trained on the bound itself, schedule included.

    loss = prior + ½ E γ'(t) ‖ε − ε̂‖² + reconstruction,  nats a dimension, t uniform in [0, 1]

The ends of γ are learned by the bound. Its course between them does not change the bound, only how far
estimates of it scatter, so the course follows the gradient of the squared estimate (source, §I.2).

Shapes: B batch, C channels, H height, W width, K levels, D = C·H·W.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from models.conditioning import labels
from models.gaussian import GaussianPathModel
from models.learned_schedule import TAU, LearnedPath, LearnedSchedule, SigmoidSum
from models.likelihood.chain import bound_grid
from models.likelihood.continuous import FINEST, Course
from models.likelihood.continuous_bound import diffusion_nats, mixed, prior_nats, reconstruction_nats
from models.paths import GaussianPath
from models.reverse_chain import pixel_backbone
from models.times import Times, draw_times


class NoiseLevelNetwork(nn.Module):
    """A backbone that is told the noise level instead of t: (γ − γ_0)/(γ_1 − γ_0), which is m(t).

    Below τ, where samplers may go and training does not, it is told the level at τ. No gradient passes to
    the schedule here: a trained network expects the level it is told, so to first order there is none.
    """

    def __init__(self, backbone: nn.Module, schedule: LearnedSchedule) -> None:
        super().__init__()
        self.backbone, self.schedule = backbone, schedule

    def forward(self, x_BCHW: Tensor, t_B: Tensor, *condition: Tensor) -> Tensor:
        """As the backbone, with times of the path."""
        level_B, _ = self.schedule.monotone(((t_B - TAU) / (1.0 - TAU)).clamp(min=0.0))
        found: Tensor = self.backbone(x_BCHW, level_B.detach(), *condition)
        return found


class VDM(GaussianPathModel):
    """A network and the noise schedule it is trained on, by the continuous-time bound.

    prediction         `v` or `epsilon`: what the network says; the bound is that of ε̂ either way
    finest             σ/α where the chain ends before training, in half distances of two levels
    units              of the monotone function that γ follows
    classes            labels it is conditioned on, 0 for none
    condition_dropout  share of labels left out in training
    network, …         `unet` or `dit` and its options; a U-Net has the Fourier features of the source, with
                       the distance of two levels as period, and twice it
    """

    family: ClassVar[str] = "diffusion"
    estimator: ClassVar[str] = "continuous"

    def __init__(
        self,
        shape: tuple[int, int, int],
        levels: int,
        *,
        prediction: str = "v",
        finest: float = FINEST,
        units: int = 8,
        classes: int = 0,
        condition_dropout: float = 0.1,
        network: str = "unet",
        dropout: float = 0.1,
        **options: Any,
    ) -> None:
        if prediction not in ("v", "epsilon"):
            raise ValueError(f"VDM predicts v or epsilon, and not {prediction!r}.")
        if not 0 < finest < levels - 1:
            raise ValueError("finest lies above 0 and, in half distances of two levels, below K − 1.")
        start = 2.0 * math.log(finest / (levels - 1))
        backbone = pixel_backbone(network, shape, levels, {"dropout": dropout, **options}, classes)
        super().__init__(
            shape,
            levels,
            NoiseLevelNetwork(backbone, LearnedSchedule(start, units)),
            LearnedPath(start, 10.0, SigmoidSum(1.0)),
            prediction,
            clip=True,
            conditioning=labels(classes),
            condition_dropout=condition_dropout,
        )

    @property
    def schedule(self) -> LearnedSchedule:
        """The learned γ; it belongs to the network, which is told its level."""
        found: LearnedSchedule = self.network.schedule  # type: ignore[assignment]
        return found

    @property
    def path(self) -> GaussianPath:
        """The path of the present schedule: a snapshot, so that samplers need not read parameters."""
        return self.schedule.path()

    @path.setter
    def path(self, value: GaussianPath) -> None:
        """Nothing: a path kept from the start would not follow the training."""

    def encode(self, pixels: Tensor, generator: torch.Generator | None) -> Tensor:
        """Levels at their places in [−1, 1]."""
        return self.to_signed(pixels)

    def decode(self, x_0: Tensor) -> Tensor:
        """The nearest level."""
        return self.to_pixels(x_0)

    def loss(
        self, pixels: Tensor, condition: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """The bound in nats a dimension, one time and one draw of noise an image."""
        self.check_pixels(pixels)
        u_B = draw_times(len(pixels), Times(), generator, pixels.device)
        known = self.training_condition(condition, len(pixels), generator)
        parts = self._estimate(pixels, u_B, known, generator)
        return (sum(parts.values()).mean() / self.dims).float()  # type: ignore[union-attr]

    @property
    def reach(self) -> float:
        """The levels reach from −1 to 1."""
        return 1.0

    def chain_grid(self) -> tuple[float, ...]:
        """The variational sum ends where the learned schedule does."""
        start = float(self.schedule.limits()[0])
        return bound_grid(self.path, self.timesteps, math.exp(0.5 * start))

    def flow_start(self, dequantisation: str) -> float:
        """The flow's density is taken at τ, the finest noise that it was trained on."""
        return TAU if dequantisation == "truncated-normal" else super().flow_start(dequantisation)

    def course(self) -> Course:
        """The learned γ."""
        start, end = self.schedule.limits()

        def at(u_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            m_B, slope_B = self.schedule.monotone(u_B)
            return TAU + (1.0 - TAU) * u_B, start + (end - start) * m_B, (end - start) * slope_B

        return Course(start, end, at, "learned log-SNR")

    def _estimate(
        self,
        pixels: Tensor,
        u_B: Tensor,
        condition: tuple[Tensor, ...],
        generator: torch.Generator | None,
    ) -> dict[str, Tensor]:
        """The three parts of the bound, (B,) nats each, from the time τ + (1 − τ)u of each image."""
        x, (gamma_0, gamma_1) = self.encode(pixels, None), self.schedule.limits()
        m_B, m_dot_B = self.schedule.monotone(u_B)
        gamma_B, gamma_dot_B = gamma_0 + (gamma_1 - gamma_0) * m_B, (gamma_1 - gamma_0) * m_dot_B
        epsilon = self.draw_noise(x, generator)
        z = mixed(x, gamma_B, epsilon)
        output = self.network(z, TAU + (1.0 - TAU) * u_B, *condition)
        diffusion_B = diffusion_nats(self._error(output, x, epsilon, gamma_B), gamma_dot_B)
        _follow_squares(diffusion_B.detach() / self.dims, m_B, m_dot_B)
        z_0 = mixed(x, gamma_0, self.draw_noise(x, generator))
        return {
            "prior": prior_nats(x, gamma_1),
            "diffusion": diffusion_B,
            "reconstruction": reconstruction_nats(pixels, z_0, gamma_0, self.levels),
        }

    def _error(self, output: Tensor, x: Tensor, epsilon: Tensor, gamma_B: Tensor) -> Tensor:
        """ε − ε̂; with v = αε − σx that is α(v − v̂)."""
        if self.prediction == "epsilon":
            return epsilon - output
        gamma = gamma_B.view(-1, 1, 1, 1)
        alpha, sigma = (-gamma).sigmoid().sqrt(), gamma.sigmoid().sqrt()
        return alpha * (alpha * epsilon - sigma * x - output)


def _follow_squares(nats_B: Tensor, *courses: Tensor) -> None:
    """In the backward pass turn the gradient of each d_i with respect to the course into that of d_i²."""
    for course_B in courses:
        if course_B.requires_grad:
            course_B.register_hook(lambda gradient_B: gradient_B * (2.0 * nats_B).to(gradient_B.dtype))
