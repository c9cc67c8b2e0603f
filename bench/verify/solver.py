"""Checks of the solver settings of a suite, on data like its own whose exact network is known.

For each estimate of a suite that follows an ODE, −log₂ p of a Gaussian with independent entries, on the
model's path: by the setting of the suite against the closed form, and against a finer setting of half the
tolerance or twice the steps. What a setting gets wrong here it gets wrong on a trained model, in bits that
look like the model's; fixed steps that are too few usually flatter.

The Gaussian has the mean and the variance of each entry of the training images as the model sees them: with
their dequantisation where it is trained so, for FFJORD as logits. Latents, which are scaled to variance one
and not known before training, get variances from 0.05 to 2.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from bench import registry
from bench.data import load
from bench.suite import Model, load_suite
from bench.verify import Check, Finding
from bench.verify.networks import denoiser, gaussian
from models import paths
from models.continuous_flow import FFJORD
from models.gaussian import GaussianPathModel
from models.likelihood.flow import FlowEstimate, straight_log_density
from models.likelihood.later import log_density
from models.likelihood.probability_flow import Flow
from models.vdm import VDM

TOLERANCE = 0.01
"""Bits a dimension that a setting may be off; the standard error of the 360 test digits is 0.012."""

ENTRIES, IMAGES = 64, 32
"""Entries that stand for all, spread evenly over the variances, and draws of them."""

CERTAIN = 1e-6
"""Variance of an entry that never changes, for which there is no density."""

LOGIT_SCALE = math.exp(-1.0)
"""What FFJORD starts to divide logits by."""


def checks_of(source: str) -> list[Check]:
    """Two for each estimate of a suite that has a solver."""
    suite = load_suite(source)
    return [
        check
        for label, model in suite.models.items()
        for options in model.likelihoods
        if model.model not in registry.BUILTIN or registry.BUILTIN[model.model].likelihood != "n/a"
        if "solver" in (known := registry.nll_options(registry.import_path(model.model), options))
        for check in _checks(label, Law(model, options, suite.dataset), flow_of(known))
    ]


def flow_of(options: dict[str, Any]) -> Flow:
    """Those of the options that say how the flow is solved."""
    known = {field.name for field in dataclasses.fields(Flow)}
    return Flow(**{name: value for name, value in options.items() if name in known})


def refined(flow: Flow) -> tuple[Flow, str]:
    """Twice the steps, or half the tolerances, and how to call that."""
    if flow.steps is not None:
        return dataclasses.replace(flow, steps=2 * flow.steps), "twice the steps"
    return dataclasses.replace(flow, rtol=flow.rtol / 2, atol=flow.atol / 2), "half the tolerance"


def _checks(label: str, law: Law, flow: Flow) -> Iterator[Check]:
    finer, words = refined(flow)
    setting = f"{flow.solver} {flow.steps} steps" if flow.steps else f"{flow.solver} at {flow.rtol:g}"
    group = f"solver settings of the suite, on data like {law.dataset}"
    case = f"{label}: {setting}, and the closed form, bits/dim"
    yield Check(group, case, lambda: Finding(law.bits, law.solved(flow), TOLERANCE))
    case = f"{label}: {setting}, and {words}, bits/dim"
    yield Check(group, case, lambda: Finding(law.solved(finer), law.solved(flow), TOLERANCE))


class Law:
    """The Gaussian that stands for a model's data, where the model's density begins on its path."""

    def __init__(self, model: Model, options: dict[str, Any], dataset: str) -> None:
        self.model, self.dataset = model, dataset
        self.options = {name: value for name, value in options.items() if name != "estimator"}

    @functools.cached_property
    def built(self) -> Any:
        """The model, without memory for its weights unless they say what its path is."""
        data, where = load(self.dataset), registry.import_path(self.model.model)
        place = "cpu" if issubclass(registry.model_class(where), VDM) else "meta"
        with torch.device(place):
            return registry.build(where, dict(self.model.options), data.shape, data.levels)

    @property
    def path(self) -> paths.GaussianPath:
        """The model's; the straight one for a field that was not learned on a path."""
        return getattr(self.built, "path", None) or paths.path("rectified-flow")

    @property
    def prediction(self) -> str:
        """What the network says."""
        return str(getattr(self.built, "prediction", "velocity"))

    @functools.cached_property
    def start(self) -> float:
        """Time at which the density is taken."""
        if not isinstance(self.built, GaussianPathModel) or self.built.reach is None:
            return 0.0
        estimate, half = FlowEstimate(**self.options), self.built.reach / (self.built.levels - 1)
        return estimate.time(self.built, estimate.dequantisation or self.built.dequantisation, half)

    @functools.cached_property
    def moments(self) -> tuple[Tensor, Tensor]:
        """Means and variances of the entries that stand for all."""
        data = load(self.dataset)
        if tuple(getattr(self.built, "state_shape", data.shape)) != tuple(data.shape):
            variance = torch.linspace(math.log(0.05), math.log(2.0), ENTRIES, dtype=torch.float64).exp()
            return torch.zeros_like(variance), variance
        k = torch.from_numpy(data.train[:2000]).flatten(1).double()
        u = torch.rand(k.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        if isinstance(self.built, FFJORD):
            y = LOGIT_SCALE * torch.logit((k + u) / data.levels)
        elif self.prediction == "velocity":
            y = 2.0 * (k + u) / data.levels - 1.0
        else:
            y = 2.0 * k / (data.levels - 1) - 1.0
        order = y.var(0).argsort()
        chosen = order[torch.linspace(0, len(order) - 1, min(ENTRIES, len(order))).round().long()]
        return y.mean(0)[chosen], y.var(0)[chosen] + CERTAIN

    @functools.cached_property
    def at_start(self) -> torch.distributions.Normal:
        """N(αm, α²v + σ²) of each entry."""
        (mean, variance), alpha, sigma = (
            self.moments,
            self.path.alpha(self.start),
            self.path.sigma(self.start),
        )
        return torch.distributions.Normal(alpha * mean, (alpha**2 * variance + sigma**2).sqrt())

    @functools.cached_property
    def draws(self) -> Tensor:
        """Images of this law, float64."""
        mean, deviation = self.at_start.mean, self.at_start.stddev
        z = torch.randn(IMAGES, len(mean), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        return mean + deviation * z

    @property
    def bits(self) -> float:
        """−log₂ p of an entry of the draws, in closed form."""
        return -float(self.at_start.log_prob(self.draws).mean()) / math.log(2)

    def solved(self, flow: Flow) -> float:
        """The same by a solver, in single precision as a suite runs; probes of signs are exact here."""
        mean, variance = self.moments
        chain = denoiser(gaussian(mean, variance.diag()), self.path, self.prediction)
        x, generator = self.draws.float().view(IMAGES, 1, 1, -1), torch.Generator().manual_seed(1)
        density = log_density if self.prediction == "velocity" else straight_log_density
        found = density(chain, x, flow, generator, self.start)
        return -float(found.mean()) / (len(mean) * math.log(2))
