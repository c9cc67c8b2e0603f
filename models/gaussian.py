"""Models on a Gaussian path: diffusion and flow matching with one loss and one way to sample.

    loss    E ‖network(x_t, t) − target‖²/D,  x_t = α(t) x_0 + σ(t) ε
    sample  x_T = σ(t_0) z at the start of the grid, then any sampler of `models.samplers`

Shapes: B batch, C channels, H height, W width, D = C·H·W.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from models.base import ImageModel, NonFiniteSamples
from models.denoiser import Denoiser, check_prediction, target
from models.grids import grid
from models.names import unknown
from models.paths import GaussianPath

if TYPE_CHECKING:
    from models.samplers import Sampler
    from models.seeds import Seeds

Times = Literal["uniform", "logit-normal"]
TIMES = ("uniform", "logit-normal")


def draw_times(n: int, law: Times, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """n times in (0, 1), spread evenly over their law: u_i = (u + i)/n mod 1, one u for all.

    This keeps the variance of the loss low (Kingma et al. 2021, 2107.00630, §I.1). The logit-normal law
    is that of Esser et al. 2024 (2403.03206) with location 0 and scale 1.
    """
    offset = torch.rand(1, generator=generator, device=device)
    u = torch.frac(offset + torch.arange(n, device=device) / n).clamp(1e-6, 1.0 - 1e-6)
    return torch.special.ndtri(u).sigmoid() if law == "logit-normal" else u


class GaussianPathModel(ImageModel):
    """A network on a Gaussian path.

    path        x_t = α(t) x_0 + σ(t) ε
    prediction  what the network says, see `models.denoiser`
    times       law of the training times
    clip        clamp x̂_0 to [−1, 1] while sampling
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        levels: int,
        network: nn.Module,
        path: GaussianPath,
        prediction: str,
        times: Times = "uniform",
        clip: bool = False,
    ) -> None:
        super().__init__(shape, levels)
        check_prediction(prediction)
        if times not in TIMES:
            raise ValueError(unknown("law of training times", times, TIMES))
        self.network = network
        self.path, self.prediction, self.times, self.clip = path, prediction, times, clip

    @abstractmethod
    def encode(self, pixels: Tensor, generator: torch.Generator | None) -> Tensor:
        """uint8 pixels to the x_0 that the path starts from."""

    @abstractmethod
    def decode(self, x_0: Tensor) -> Tensor:
        """x_0 to uint8 pixels; raises `NonFiniteSamples` for what is not finite."""

    def denoiser(self, condition: Tensor | None = None, clip: bool = False) -> Denoiser:
        """The network as a denoiser, for samplers and for estimators of the likelihood."""
        self._check_condition(condition)
        return Denoiser(self.network, self.path, self.prediction, condition, clip)

    def loss(
        self, pixels: Tensor, condition: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Mean squared error of the prediction a dimension: L_simple of Ho et al. 2020, no unit."""
        self.check_pixels(pixels)
        self._check_condition(condition)
        x_0 = self.encode(pixels, generator)
        t_B = draw_times(len(x_0), self.times, generator, x_0.device)
        t = t_B.view(-1, 1, 1, 1)
        epsilon = torch.randn(x_0.shape, generator=generator, device=x_0.device, dtype=x_0.dtype)
        x_t = self.path.alpha(t) * x_0 + self.path.sigma(t) * epsilon
        wanted = target(self.prediction, self.path, t, x_0, epsilon)
        return (self.network(x_t, t_B) - wanted).square().mean()

    def sample(
        self, n: int, sampler: Sampler | None, seeds: Seeds, condition: Tensor | None = None
    ) -> Tensor:
        """n images as uint8 pixels; a value that is not finite raises with its image and step, from 1."""
        if sampler is None:
            raise ValueError(f"A model of {self.family} needs a sampler: see models.samplers.names().")
        if n != len(seeds.images):
            raise ValueError(f"{n} images need {n} seeds, and there are {len(seeds.images)}.")
        denoiser = self.denoiser(condition, self.clip)
        times = grid(sampler.grid, self.path, sampler.steps)
        x_T = self.path.sigma(times[0]) * seeds.per_image(self.shape, device=self.device)
        state = seeds.stream.get_state()

        def run(callback: Callable[[int, float, Tensor], None] | None = None) -> Tensor:
            return sampler(denoiser, x_T, times, noise=seeds.noise_like, callback=callback)

        try:
            return self.decode(run())
        except NonFiniteSamples:
            seeds.stream.set_state(state)
            run(_stop_at_first)
            raise

    def check_pixels(self, pixels: Tensor) -> None:
        """Refuse images of another shape than the model's."""
        if tuple(pixels.shape[1:]) != tuple(self.shape):
            raise ValueError(
                f"This model was built for images of {self.shape}, and these are {tuple(pixels.shape[1:])}."
            )

    def _check_condition(self, condition: Tensor | None) -> None:
        if condition is not None:
            raise ValueError(f"{type(self).__name__} is unconditional: leave the labels out.")


def _stop_at_first(step: int, _t: float, x: Tensor) -> None:
    """A callback that reads every state, for the second pass over a batch that went wrong."""
    finite = torch.isfinite(x).flatten(1).all(1)
    if not bool(finite.all()):
        raise NonFiniteSamples(int((~finite).nonzero()[0]), step + 1)
