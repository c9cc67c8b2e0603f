"""The likelihood of models on a Gaussian path: every estimator on every model, by name.

Whatever a model was trained as, three things decide what may be asked of it: where the levels of a pixel
stand in its x_0 (`reach`), whether its noise is independent of the data, and which estimator is its own.

Shapes: B batch, C channels, H height, W width, K levels, T steps of the variational sum.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor

from models.base import ImageModel, Likelihood, LikelihoodUnavailable
from models.likelihood import chain, continuous
from models.likelihood.estimators import estimator as estimator_of
from models.likelihood.estimators import options_of
from models.likelihood.variational_bound import Variance
from models.paths import GaussianPath

if TYPE_CHECKING:
    from models.gaussian import GaussianPathModel


class PathLikelihoods(ImageModel):
    """What `models.gaussian.GaussianPathModel` offers of likelihoods."""

    path: GaussianPath
    state_shape: tuple[int, ...]

    independent_noise = True
    """Whether training draws ε independently of x_0. Else the predicted ε is no score, and only samplers that
    follow the probability flow are right."""

    estimator: ClassVar[str] = "variational"
    """The estimator of the likelihood where none is named, see `models.likelihood.estimators`."""

    dequantisation: ClassVar[str] = "truncated-normal"
    """Of the estimate by the flow where none is named, see `models.likelihood.dequantisation`."""

    bound_variance: Variance = "optimal"
    """Of the variational sum where none is named; `optimal` is fitted by `calibrate`."""

    timesteps: int = 192
    finest: float = 0.8
    """T of the variational sum, and σ/α where its decoder takes over, in half distances of two levels."""

    fine: float = continuous.FINEST
    """σ/α where the bound in continuous time ends, and where the flow of a model of levels begins."""

    moments: Tensor

    @property
    def reach(self) -> float | None:
        """The places of the outermost levels are ± this in x_0; None where x_0 is no image."""
        return None

    def prepare_bounds(self) -> None:
        """Room for what `calibrate` fits, where bounds may be asked for."""
        if self.reach is not None and self.native_sampler is None:
            self.register_buffer("moments", torch.full((self.timesteps, *self.shape), -1.0))

    def nll(
        self,
        pixels: Tensor,
        condition: Tensor | None = None,
        generator: torch.Generator | None = None,
        estimator: str = "",
        **options: Any,
    ) -> Likelihood:
        """−ln P of each image by an estimator, `variational`, `continuous` or `ode`; empty: the model's own.

        options  of the estimator, see `models.likelihood`: chain, continuous, flow
        """
        self.check_pixels(pixels)
        return estimator_of(estimator or self.estimator, options)(
            cast("GaussianPathModel", self), pixels, condition, generator
        )

    @classmethod
    def likelihood_options(cls, estimator: str = "") -> dict[str, Any]:
        """The options of `nll` with their defaults, for an estimator or the model's own."""
        return options_of(estimator or cls.estimator)

    def check_likelihood(self, estimator: str = "", **options: Any) -> None:
        """ValueError for what `nll` would refuse whatever the images."""
        name = estimator or self.estimator
        estimator_of(name, options)
        if name != "ode" and self.reach is not None:
            self.reach_of_bounds()

    def calibrate(self, pixels: Tensor, generator: torch.Generator | None = None) -> None:
        """Fit the variances of the variational sum on training images, where it is a bound."""
        if "moments" in self._buffers and self.independent_noise:
            chain.calibrate(cast("GaussianPathModel", self), pixels, generator)

    def reach_of_levels(self) -> float:
        """`reach`, refused where x_0 is no image."""
        if self.reach is None:
            raise LikelihoodUnavailable(
                f"the levels of a pixel have no places in what {type(self).__name__} starts from"
            )
        return self.reach

    def reach_of_bounds(self) -> float:
        """`reach`, refused where the noise is tied to the data: then no chain undoes independent noise."""
        if not self.independent_noise:
            raise ValueError(
                f"{type(self).__name__} was trained on noise that depends on the images, and a bound needs "
                "independent noise: use estimator ode."
            )
        return self.reach_of_levels()

    def chain_grid(self) -> tuple[float, ...]:
        """Times of the variational sum, falling to 0."""
        return chain.bound_grid(
            self.path, self.timesteps, self.finest * self.reach_of_levels() / (self.levels - 1)
        )

    def course(self) -> continuous.Course:
        """γ of the bound in continuous time."""
        finest = self.fine * self.reach_of_levels() / (self.levels - 1)
        return continuous.straight_course(self.path, finest)

    def flow_start(self, dequantisation: str) -> float:
        """Time of the density of the flow: where the path's own noise fills a level.

        For truncated-normal σ/α is `fine`; for uniform it is the standard deviation of the uniform noise.
        """
        share = self.fine if dequantisation == "truncated-normal" else 1.0 / math.sqrt(3.0)
        half = self.reach_of_levels() / (self.levels - 1)
        return self.path.t_of_log_snr(-2.0 * math.log(share * half))

    def check_pixels(self, pixels: Tensor) -> None:
        """Refuse images of another shape than the model's."""
        if tuple(pixels.shape[1:]) != tuple(self.shape):
            raise ValueError(
                f"This model was built for images of {self.shape}, and these are {tuple(pixels.shape[1:])}."
            )
