"""Gaussian paths x_t = α(t)·x_0 + σ(t)·ε from data (t = 0) to noise (t = 1), by name.

Diffusion and flow matching differ only in α and σ: here are the straight line, the exploding variance and
the registry; `models.variance_preserving` holds the schedules of diffusion.

Sources: Liu et al. 2022 (2209.03003) for the straight line, Karras et al. 2022 (2206.00364) for `edm`.
"""

from __future__ import annotations

from dataclasses import dataclass

from models.gaussian_path import GaussianPath, Time, apply, log, softplus
from models.names import unknown
from models.variance_preserving import CosinePath, LinearVPPath, SigmoidPath, ZeroTerminalLinearVPPath

__all__ = [
    "PATHS",
    "CosinePath",
    "ExplodingPath",
    "GaussianPath",
    "LinearVPPath",
    "RectifiedFlowPath",
    "SigmoidPath",
    "ZeroTerminalLinearVPPath",
    "path",
]


@dataclass(frozen=True)
class RectifiedFlowPath(GaussianPath):
    """The straight line α = 1 − t, σ = t; its velocity ε − x_0 does not depend on t."""

    def alpha(self, t: Time) -> Time:
        """1 − t."""
        return 1.0 - t

    def sigma(self, t: Time) -> Time:
        """t."""
        return 1.0 * t

    def alpha_dot(self, t: Time) -> Time:
        """−1."""
        return 0.0 * t - 1.0

    def sigma_dot(self, t: Time) -> Time:
        """1."""
        return 0.0 * t + 1.0

    def log_snr(self, t: Time) -> Time:
        """2 ln((1 − t)/t)."""
        return 2.0 * (log(1.0 - t) - log(t))

    def t_of_log_snr(self, log_snr: Time) -> Time:
        """1/(1 + e^{λ/2}), for large λ without overflow."""
        return apply("exp", -softplus(0.5 * log_snr))


@dataclass(frozen=True)
class ExplodingPath(GaussianPath):
    """The data stay, the noise grows: α = 1, σ = σ_max·t.

    sigma_max  above e⁵ = 148.4, so that the shared grids, which start at log-SNR −10, start within it; at
               150 the prior N(0, σ_max²) leaves out 4·10⁻⁵ of the data's variance, as linear-vp does
    """

    sigma_max: float = 150.0

    def alpha(self, t: Time) -> Time:
        """1."""
        return 0.0 * t + 1.0

    def sigma(self, t: Time) -> Time:
        """σ_max·t."""
        return self.sigma_max * t

    def alpha_dot(self, t: Time) -> Time:
        """0."""
        return 0.0 * t

    def sigma_dot(self, t: Time) -> Time:
        """σ_max."""
        return 0.0 * t + self.sigma_max

    def log_snr(self, t: Time) -> Time:
        """−2 ln(σ_max·t)."""
        return -2.0 * log(self.sigma_max * t)

    def t_of_log_snr(self, log_snr: Time) -> Time:
        """e^{−λ/2}/σ_max."""
        return apply("exp", -0.5 * log_snr) / self.sigma_max


PATHS: dict[str, type[GaussianPath]] = {
    "rectified-flow": RectifiedFlowPath,
    "cosine": CosinePath,
    "linear-vp": LinearVPPath,
    "linear-vp-zero": ZeroTerminalLinearVPPath,
    "sigmoid": SigmoidPath,
    "edm": ExplodingPath,
}


def path(name: str) -> GaussianPath:
    """The path of a name; an unknown one is answered with the nearest."""
    if name not in PATHS:
        raise ValueError(unknown("path", name, PATHS))
    return PATHS[name]()
