"""Models on a Gaussian path: diffusion and flow matching with one loss and one way to sample.

    loss    E w(t) ‖network(x_t, t, c) − target‖²/D,  x_t = α(t) x_0 + σ(t) ε
    sample  x_T = σ(t_0) z at the start of the grid, then any sampler of `models.samplers`

    nll     by any estimator of `models.likelihood.estimators`

A subclass says what x_0 is (`encode`, `decode`), and where it differs from this: the weight w(t), how the
noise is coupled to the data, the shape of x_0, how a condition is embedded, which estimator is its own.

Shapes: B batch, C channels, H height, W width, D = C·H·W.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from models.base import NonFiniteSamples
from models.conditioning import UNCONDITIONAL, Conditioning, check_share
from models.denoiser import Denoiser, check_prediction, target
from models.guidance import NONE, Guidance
from models.likelihood.of_paths import PathLikelihoods
from models.paths import GaussianPath
from models.times import TimeLaw, Times, draw_times

if TYPE_CHECKING:
    from models.samplers import Sampler
    from models.seeds import Seeds


class GaussianPathModel(PathLikelihoods):
    """A network on a Gaussian path.

    path               x_t = α(t) x_0 + σ(t) ε
    prediction         what the network says, see `models.denoiser`
    times              law of the training times, see `models.times`
    clip               clamp x̂_0 to [−1, 1] while sampling
    conditioning       what the network is told beside x_t and t
    condition_dropout  share of conditions replaced by the null in training
    state_shape        shape of x_0, that of the images unless it is something else (latents)
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        levels: int,
        network: nn.Module,
        path: GaussianPath,
        prediction: str,
        times: TimeLaw | None = None,
        clip: bool = False,
        *,
        conditioning: Conditioning = UNCONDITIONAL,
        condition_dropout: float = 0.1,
        state_shape: tuple[int, int, int] | None = None,
    ) -> None:
        super().__init__(shape, levels)
        check_prediction(prediction)
        check_share(condition_dropout)
        self.network = network
        self.path, self.prediction, self.clip = path, prediction, clip
        self.times: TimeLaw = times or Times()
        self.conditioning, self.condition_dropout = conditioning, condition_dropout
        self.state_shape = tuple(state_shape or shape)
        self.prepare_bounds()

    @abstractmethod
    def encode(self, pixels: Tensor, generator: torch.Generator | None) -> Tensor:
        """uint8 pixels to the x_0 that the path starts from."""

    @abstractmethod
    def decode(self, x_0: Tensor) -> Tensor:
        """x_0 to uint8 pixels; raises `NonFiniteSamples` for what is not finite."""

    def embed(self, condition: Tensor) -> tuple[Tensor, ...]:
        """A condition as the network takes it, computed once for all evaluations of a trajectory."""
        return () if self.conditioning.kind == "none" else (condition,)

    def weight(self, t_B: Tensor) -> Tensor | None:
        """w(t) of the loss, (B,); None: 1."""
        return None

    def draw_noise(self, x_0: Tensor, generator: torch.Generator | None) -> Tensor:
        """ε for each x_0: independent unless a subclass couples them."""
        return torch.randn(x_0.shape, generator=generator, device=x_0.device, dtype=x_0.dtype)

    def denoiser(
        self,
        condition: Tensor | None = None,
        clip: bool = False,
        *,
        guidance: float | Guidance = NONE,
        n: int | None = None,
    ) -> Denoiser:
        """The network as a denoiser of n images, for samplers and for estimators of the likelihood.

        condition  None stands for the null; n is then needed where the model is conditional
        """
        rule, told = Guidance.of(guidance), self._told(condition, n)
        null: tuple[Tensor, ...] = ()
        if rule.weaker is not None:
            null = self._told_weaker(rule.weaker, condition, n)
        elif rule.method == "autoguidance":
            raise ValueError("Autoguidance needs a weaker model: train one and name it.")
        elif rule.active:
            if self.conditioning.kind == "none":
                raise ValueError(f"{type(self).__name__} is unconditional: leave guidance out.")
            null = self.embed(self.conditioning.null(len(told[0]), self.device))
        weaker = None if rule.weaker is None else rule.weaker.network
        return Denoiser(self.network, self.path, self.prediction, told, clip, null, rule.alone(), weaker)

    def _told(self, condition: Tensor | None, n: int | None) -> tuple[Tensor, ...]:
        """The embedded conditions of n images."""
        who = type(self).__name__
        if self.conditioning.kind == "none":
            self.conditioning.given(condition, 0, self.device, who)
            return ()
        n = n if condition is None else len(condition)
        if n is None:
            raise ValueError("A conditional model without a condition needs the number of images.")
        return self.embed(self.conditioning.given(condition, n, self.device, who))

    def _told_weaker(
        self, weaker: GaussianPathModel, condition: Tensor | None, n: int | None
    ) -> tuple[Tensor, ...]:
        """What the other model of autoguidance is told; it must speak of the same thing in the same words."""
        mine, its = ((m.path, m.prediction, m.state_shape, m.conditioning) for m in (self, weaker))
        if mine != its:
            raise ValueError(
                "The weaker model of autoguidance needs the path, prediction, shape and condition of the "
                f"other: {its} is not {mine}."
            )
        return weaker._told(condition, n)

    def loss(
        self, pixels: Tensor, condition: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Mean weighted squared error of the prediction a dimension, no unit; w = 1 is L_simple (Ho 2020)."""
        self.check_pixels(pixels)
        x_0 = self.encode(pixels, generator)
        t_B = draw_times(len(x_0), self.times, generator, x_0.device)
        t = t_B.view(-1, 1, 1, 1)
        epsilon = self.draw_noise(x_0, generator)
        x_t = self.path.alpha(t) * x_0 + self.path.sigma(t) * epsilon
        wanted = target(self.prediction, self.path, t, x_0, epsilon)
        output = self.network(x_t, t_B, *self.training_condition(condition, len(x_0), generator))
        return self._weighted((output - wanted).square(), t_B)

    def training_condition(
        self, condition: Tensor | None, n: int, generator: torch.Generator | None
    ) -> tuple[Tensor, ...]:
        """The embedded conditions of a batch, a share of them replaced by the null."""
        given = self.conditioning.given(condition, n, self.device, type(self).__name__)
        return self.embed(self.conditioning.dropped(given, self.condition_dropout, generator))

    def _weighted(self, error_BCHW: Tensor, t_B: Tensor) -> Tensor:
        weight_B = self.weight(t_B)
        if weight_B is None:
            return error_BCHW.mean()
        return (weight_B * error_BCHW.flatten(1).mean(1)).mean()

    def sample(
        self,
        n: int,
        sampler: Sampler | None,
        seeds: Seeds,
        condition: Tensor | None = None,
        guidance: float | Guidance = NONE,
    ) -> Tensor:
        """n images as uint8 pixels; a value that is not finite raises with its image and step, from 1."""
        if sampler is None:
            raise ValueError(f"A model of {self.family} needs a sampler: see models.samplers.names().")
        if n != len(seeds.images):
            raise ValueError(f"{n} images need {n} seeds, and there are {len(seeds.images)}.")
        if sampler.stochastic and not self.independent_noise:
            raise ValueError(
                f"{type(self).__name__} was trained on noise that depends on the images, so fresh noise of "
                f"{sampler.name} would sample something else: use one of the flow, such as euler or heun."
            )
        return self.decode(self.trajectory(n, sampler, seeds, condition, guidance))

    def trajectory(
        self,
        n: int,
        sampler: Sampler,
        seeds: Seeds,
        condition: Tensor | None = None,
        guidance: float | Guidance = NONE,
    ) -> Tensor:
        """x_0 at the end of the sampler's way from n draws of noise, finite."""
        denoiser = self.denoiser(condition, self.clip, guidance=guidance, n=n)
        times = sampler.times(self.path, self.state_shape)
        x_T = self.path.sigma(times[0]) * seeds.per_image(self.state_shape, device=self.device)
        state = seeds.stream.get_state()

        def run(callback: Callable[[int, float, Tensor], None] | None = None) -> Tensor:
            return sampler(denoiser, x_T, times, noise=seeds.noise_like, callback=callback)

        x_0 = run()
        if not bool(torch.isfinite(x_0).all()):
            # The second pass reads every state on the host, to name the step.
            seeds.stream.set_state(state)
            run(_stop_at_first)
        return x_0


def _stop_at_first(step: int, _t: float, x: Tensor) -> None:
    """A callback that reads every state, for the second pass over a batch that went wrong."""
    finite = torch.isfinite(x).flatten(1).all(1)
    if not bool(finite.all()):
        raise NonFiniteSamples(int((~finite).nonzero()[0]), step + 1)
