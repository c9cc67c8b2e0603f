"""Flow matching: regress the velocity of a Gaussian path (Lipman et al. 2022, 2210.02747).

    loss  E ‖v(x_t, t) − (α'(t) x_0 + σ'(t) ε)‖²/D,  x_t = α(t) x_0 + σ(t) ε

Trained on uniformly dequantised levels, so that its probability flow has an honest density: with
y = 2(k + u)/K − 1 and scale s = 2/K a dimension, −ln P(k) ≤ E_u[−ln p(y)] − D ln s.

Shapes: B batch, C channels, H height, W width, K levels, D = C·H·W.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from models import paths
from models.base import ImageModel
from models.conditioning import labels
from models.denoiser import target
from models.gaussian import GaussianPathModel
from models.likelihood.later import Later, log_density
from models.names import unknown
from models.networks.backbone import backbone
from models.optimal_transport import coupled
from models.times import Times, draw_times

__all__ = ["STARTS", "FlowMatching", "Later", "RectifiedFlow", "check_straight", "log_density"]

COUPLINGS = ("independent", "optimal-transport")

STARTS = {"rectified-flow": 0.0, "cosine": 0.0, "linear-vp": 1e-3}
"""Paths, and the time that training and the density begin at.

σ' of linear-vp grows as t^(−1/2), so that the squared velocity has no finite mean up to t = 0; at 0.001 σ is
0.011. The density is then that of x at this time, which is as honest, and the protocol says so."""


class FlowMatching(GaussianPathModel):
    """A network that predicts the velocity of a path from data to noise.

    path      `rectified-flow` (straight lines, the conditional optimal transport of the source), or the
              variance-preserving `cosine` and `linear-vp`, see `models.paths`
    coupling  of noise and images: `independent`, or `optimal-transport` within each batch, see
              `models.optimal_transport`; a conditional model transports within each label. The velocity is
              right either way, but with transport ε̂ is no score: stochastic samplers are refused
    times, time_location, time_scale, time_shift  law of the training times, see `models.times.Times`
    network, …                                    `unet` or `dit` and its options, see `models.networks`
    classes                                       labels it is conditioned on, 0 for none
    condition_dropout                             share of labels left out in training
    """

    family: ClassVar[str] = "flow matching"
    coupling: str = "independent"
    start: float = 0.0
    estimator: ClassVar[str] = "ode"
    dequantisation: ClassVar[str] = "uniform"
    finest = fine = 1.0
    """Bounds end where the noise is as wide as a level: below, the network knows no places within one."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        levels: int,
        *,
        path: str = "rectified-flow",
        coupling: str = "independent",
        times: str = "uniform",
        time_location: float = 0.0,
        time_scale: float = 1.0,
        time_shift: float = 1.0,
        classes: int = 0,
        condition_dropout: float = 0.1,
        network: str = "unet",
        dropout: float = 0.1,
        **options: Any,
    ) -> None:
        if path not in STARTS:
            raise ValueError(unknown("path of flow matching", path, STARTS))
        if coupling not in COUPLINGS:
            raise ValueError(unknown("coupling", coupling, COUPLINGS))
        super().__init__(
            shape,
            levels,
            backbone(network, shape, {"dropout": dropout, **options}, classes=classes),
            paths.path(path),
            "velocity",
            Times(times, time_location, time_scale, time_shift),
            conditioning=labels(classes),
            condition_dropout=condition_dropout,
        )
        self.coupling, self.start = coupling, STARTS[path]
        self.independent_noise = coupling == "independent"

    def encode(self, pixels: Tensor, generator: torch.Generator | None) -> Tensor:
        """Levels with uniform noise of their own width."""
        u = torch.rand(pixels.shape, generator=generator, device=pixels.device)
        return self.dequantise(pixels, u)

    def decode(self, x_0: Tensor) -> Tensor:
        """The level whose interval x_0 is in."""
        return self.quantise(x_0)

    @property
    def reach(self) -> float:
        """The middles of the outermost intervals, ±(1 − 1/K)."""
        return (self.levels - 1) / self.levels

    def flow_start(self, dequantisation: str) -> float:
        """The start of the path for uniform noise, which training has seen; else as for every model."""
        return self.start if dequantisation == "uniform" else super().flow_start(dequantisation)

    def loss(
        self, pixels: Tensor, condition: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Mean squared error of the velocity a dimension, no unit."""
        self.check_pixels(pixels)
        x_0 = self.encode(pixels, generator)
        t_B = self.draw_times(len(x_0), generator)
        epsilon = self.draw_noise(x_0, generator)
        if self.coupling == "optimal-transport":
            epsilon = coupled(x_0, epsilon, condition)
        told = self.training_condition(condition, len(x_0), generator)
        return self.regression(x_0, epsilon, t_B, told)

    def draw_times(self, n: int, generator: torch.Generator | None) -> Tensor:
        """Training times between the path's start and 1, (n,)."""
        return self.start + (1.0 - self.start) * draw_times(n, self.times, generator, self.device)

    def regression(self, x_0: Tensor, epsilon: Tensor, t_B: Tensor, told: tuple[Tensor, ...] = ()) -> Tensor:
        """The loss of given images, noise, times and embedded conditions."""
        t = t_B.view(-1, 1, 1, 1)
        x_t = self.path.alpha(t) * x_0 + self.path.sigma(t) * epsilon
        wanted = target(self.prediction, self.path, t, x_0, epsilon)
        return self._weighted((self.network(x_t, t_B, *told) - wanted).square(), t_B)

    def check_native(self, images: int, seeds: int, sampler: object) -> None:
        """ValueError where a family with a way of its own is given a sampler, or seeds are missing."""
        if sampler is not None:
            raise ValueError(
                f"{type(self).__name__} samples by {self.native_sampler} only: leave sampler out."
            )
        if images != seeds:
            raise ValueError(f"{images} images need {images} seeds, and there are {seeds}.")


class RectifiedFlow(FlowMatching):
    """Flow matching on straight lines with independent noise (Liu et al. 2022, 2209.03003), velocity ε − x_0.

    Its options are those of `FlowMatching` without path and coupling.
    """

    def __init__(self, shape: tuple[int, int, int], levels: int, **options: Any) -> None:
        for name in ("path", "coupling"):
            if name in options:
                raise ValueError(
                    f"{type(self).__name__} has straight lines and independent noise: "
                    f"leave {name} out, or take FlowMatching."
                )
        super().__init__(shape, levels, **options)


def check_straight(student: ImageModel, teacher: ImageModel) -> None:
    """ValueError unless the teacher is a flow on straight lines with the student's data and network."""
    who = type(student).__name__
    straight = isinstance(teacher, FlowMatching) and isinstance(teacher.path, paths.RectifiedFlowPath)
    if not straight or teacher.native_sampler is not None:
        raise ValueError(f"{who} builds on a rectified flow, and {type(teacher).__name__} is none.")
    sizes = [
        (m.shape, m.levels, m.conditioning, {name: v.shape for name, v in m.network.state_dict().items()})
        for m in (student, teacher)
    ]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"{who} starts from its teacher's weights: give it the network options of its teacher."
        )
