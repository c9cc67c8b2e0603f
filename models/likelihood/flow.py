"""The probability-flow estimate of any model on a Gaussian path, whatever it was trained as.

    −ln P(k) ≲ E_q [ −ln p_t(x) + ln q(w) ] − D ln(α h),  x = α(t)(x_k + h w)

p_t is the density at time t of what the flow carries there from N(0, σ²) at its end, see
`models.likelihood.probability_flow`; w is the noise of `models.likelihood.dequantisation`. A network that was
trained on dequantised levels may start at the data. One that was trained on the levels themselves knows no
density there, only points: its flow starts where the path's own noise fills a level. Either way the number
is that of the density at time t, and the time stands in the protocol.

A network that predicts the velocity is integrated in its own time. Others are integrated as
dx̄/dv = ε̂ − x̂_0 of x̄ = x/(α + σ), v = σ/(α + σ), on every path the coordinates of the straight one, with
ln σ/α as time, dv/d ln(σ/α) = v(1 − v), so that steps are as fine as the noise;
ln p(x) = ln p̄(x̄) − D ln(α + σ).

Shapes: B batch, C channels, H height, W width, D = C·H·W, M repeats, P probes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from models.base import Likelihood
from models.denoiser import Denoiser
from models.grids import START_LOG_SNR
from models.likelihood.dequantisation import LAWS, importance_weighted
from models.likelihood.later import log_density
from models.likelihood.probability_flow import Flow, _prior_log_density, transport
from models.names import unknown

if TYPE_CHECKING:
    from models.gaussian import GaussianPathModel


@dataclass(frozen=True)
class FlowEstimate:
    """The estimator `ode`.

    solver, rtol, atol, steps, divergence, probes, law  see `models.likelihood.probability_flow.Flow`
    dequantisation          uniform or truncated-normal; None: the model's own
    start                   σ/α where the density is taken, in half distances of two levels; None: the model's
    dequantisation_samples  M, whose mean is taken
    importance_samples      K draws inside the logarithm of each of them; above 1 with exact divergence only
    """

    solver: str = "dopri5"
    rtol: float = 1e-5
    atol: float = 1e-5
    steps: int | None = None
    divergence: str = "hutchinson"
    probes: int = 1
    dequantisation_samples: int = 1
    law: str = "rademacher"
    dequantisation: str | None = None
    start: float | None = None
    importance_samples: int = 1

    def __post_init__(self) -> None:
        if min(self.dequantisation_samples, self.importance_samples) < 1:
            raise ValueError("Dequantisation needs one or more samples.")
        if self.dequantisation is not None and self.dequantisation not in LAWS:
            raise ValueError(unknown("dequantisation", self.dequantisation, LAWS))
        if self.start is not None and self.start < 0:
            raise ValueError("The density starts at a noise of 0 or more.")
        if self.importance_samples > 1 and self.divergence != "exact":
            # E e^(noise of a probe) > 1: inside the logarithm an unbiased trace flatters the model.
            raise ValueError(
                "importance_samples above 1 needs divergence exact: noise of probes inside the logarithm "
                "would flatter the model."
            )
        assert self.flow  # refuses what is wrong with the solver

    @property
    def flow(self) -> Flow:
        """The options of the solver."""
        return Flow(self.solver, self.rtol, self.atol, self.steps, self.divergence, self.probes, self.law)

    @torch.no_grad()
    def __call__(
        self,
        model: GaussianPathModel,
        pixels: Tensor,
        condition: Tensor | None,
        generator: torch.Generator | None,
    ) -> Likelihood:
        """−ln P of each image, with every draw of dequantisation and probe kept in `draws`."""
        reach, law = model.reach_of_levels(), self.dequantisation or model.dequantisation
        half = reach / (model.levels - 1)
        t = self.time(model, law, half)
        alpha, spread = model.path.alpha(t), model.path.sigma(t) / (model.path.alpha(t) * half)
        if law == "truncated-normal" and spread == 0:
            raise ValueError(
                "Truncated-normal dequantisation is the path's own noise: set start above 0, such as 0.33."
            )
        denoiser = model.denoiser(condition, n=len(pixels))
        places, offset = reach * model.to_signed(pixels), -model.dims * math.log(alpha * half)

        def draw() -> Tensor:
            w, log_q_B = LAWS[law](places, spread, generator)
            log_p_PB = self._log_density(denoiser, alpha * (places + half * w), t, generator)
            return offset + log_q_B - log_p_PB

        draws_MPB = torch.stack(
            [
                importance_weighted(torch.stack([draw() for _ in range(self.importance_samples)]))
                for _ in range(self.dequantisation_samples)
            ]
        )
        return SampledLikelihood(
            draws_MPB.mean((0, 1)), "estimate", self._protocol(model, law, t), {}, None, draws_MPB
        )

    def time(self, model: GaussianPathModel, law: str, half: float) -> float:
        """Time at which the density is taken."""
        if self.start is None:
            return model.flow_start(law)
        return model.path.t_of_log_snr(-2.0 * math.log(self.start * half)) if self.start > 0 else 0.0

    def _log_density(
        self, denoiser: Denoiser, x: Tensor, t: float, generator: torch.Generator | None
    ) -> Tensor:
        """ln p_t(x), (P, B) for each probe alone; (1, B) where the divergence is exact."""
        if denoiser.prediction == "velocity":
            return log_density(denoiser, x, self.flow, generator, t, each=True)
        return straight_log_density(denoiser, x, self.flow, generator, t)

    def _protocol(self, model: GaussianPathModel, law: str, t: float) -> str:
        begun = f" from t={t:.3g}" if t else ""
        begun += "" if model.prediction == "velocity" else f" to log-SNR {START_LOG_SNR:g}"
        weighted = f", importance-weighted K={self.importance_samples}" if self.importance_samples > 1 else ""
        scale = f"s=2/{(model.levels - 1) / model.reach_of_levels():.0f}"
        samples = f"{law} dequantisation×{self.dequantisation_samples}{weighted}"
        return f"{self.flow.protocol}{begun}, {samples}, {scale}"


@dataclass(frozen=True)
class SampledLikelihood(Likelihood):
    """A likelihood with its draws (M, P, B): M of the dequantisation, P probes of each."""

    draws: Tensor | None = None


def straight_log_density(
    denoiser: Denoiser,
    x_BCHW: Tensor,
    flow: Flow,
    generator: torch.Generator | None = None,
    start: float = 0.0,
) -> Tensor:
    """ln p_start(x), (P, B) float64 nats, of a network that predicts anything; up to log-SNR −10."""
    path, dims = denoiser.path, x_BCHW[0].numel()

    def scale(t: float) -> float:
        return path.alpha(t) + path.sigma(t)

    def slope(scaled: Tensor, log_noise_B: Tensor) -> Tensor:
        t_B = path.t_of_log_snr(-2.0 * log_noise_B.double())
        wide = t_B.view(-1, 1, 1, 1)
        sizes, v = path.alpha(wide) + path.sigma(wide), (log_noise_B.double()).sigmoid().view(-1, 1, 1, 1)
        found = denoiser(sizes.to(scaled.dtype) * scaled, t_B.to(scaled.dtype))
        return (v * (1.0 - v)).to(scaled.dtype) * (found.epsilon - found.x0)

    if start <= 0:
        raise ValueError(
            f"The flow of a network that predicts {denoiser.prediction} starts at a noise above 0: set start."
        )
    end = path.t_of_log_snr(START_LOG_SNR)
    clock = [-0.5 * path.log_snr(t) for t in (start, end)]
    scaled, integral = transport(slope, x_BCHW / scale(start), flow, generator, clock[0], clock[1], each=True)
    log_p = _prior_log_density(scaled, path.sigma(end) / scale(end)) + integral.double()
    return log_p - dims * math.log(scale(start))
