"""The estimators of the likelihood of models on a Gaussian path, by name.

variational  the sum of a chain in discrete time       `models.likelihood.chain`       a bound
continuous   the integral in continuous time           `models.likelihood.continuous`  a bound
ode          the density of the probability flow       `models.likelihood.flow`        an estimate
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from models.likelihood.chain import VariationalSum
from models.likelihood.continuous import ContinuousBound
from models.likelihood.flow import FlowEstimate
from models.names import unknown

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from models.base import Likelihood
    from models.gaussian import GaussianPathModel


class Estimator(Protocol):
    """Options, checked when built, and then a function of model and pixels."""

    def __call__(
        self,
        model: GaussianPathModel,
        pixels: Tensor,
        condition: Tensor | None,
        generator: torch.Generator | None,
    ) -> Likelihood:
        """−ln P(pixels) of each image."""
        ...


ESTIMATORS: dict[str, type[Any]] = {
    "variational": VariationalSum,
    "continuous": ContinuousBound,
    "ode": FlowEstimate,
}


def options_of(name: str) -> dict[str, Any]:
    """The options of an estimator with their defaults."""
    if name not in ESTIMATORS:
        raise ValueError(unknown("estimator of the likelihood", name, ESTIMATORS))
    return {field.name: field.default for field in dataclasses.fields(ESTIMATORS[name])}


def estimator(name: str, options: Mapping[str, Any]) -> Estimator:
    """An estimator with options; an unknown name or option is answered with the nearest."""
    known = options_of(name)
    for option in options:
        if option not in known:
            raise ValueError(unknown(f"option of the estimator {name}", option, known))
    found: Estimator = ESTIMATORS[name](**options)
    return found
