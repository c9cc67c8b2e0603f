"""A mixture of anisotropic Gaussians: data of which everything is known, to tell a sampler's error apart.

On a Gaussian path x_t = α x_0 + σ ε with x_0 ~ Σ_k w_k N(m_k, Σ_k), Σ_k = U_k Λ_k U_kᵀ,

    ρ_k ∝ w_k N(x_t; α m_k, V_k)      V_k = α²Σ_k + σ²I      r_k = V_k⁻¹ (x_t − α m_k)
    E[x_0 | x_t] = Σ_k ρ_k (m_k + α Σ_k r_k)      E[ε | x_t] = σ Σ_k ρ_k r_k      ∇ ln p_t = −Σ_k ρ_k r_k

with the weights ρ by log-sum-exp and V⁻¹ in the axes U_k, so that no noise level divides by nothing. A state
is an image (1, 1, d): what samples images samples this.

Shapes: B batch, K components, d dimensions. Everything is kept in float64; a network answers in its input's
precision.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from models.denoiser import check_prediction, combination
from models.gaussian_path import GaussianPath

LEVEL = 0.1
"""σ/α below which the flow is solved in equal rather than in relative steps: the data's finest deviation."""


class Posterior(NamedTuple):
    """E[x_0 | x_t] and E[ε | x_t], (B, d), and ln p_t(x_t), (B,)."""

    x0: Tensor
    epsilon: Tensor
    log_density: Tensor


class _Tables(NamedTuple):
    """A mixture as its formulas use it: means as they are and in each component's axes, the axes U_k side by
    side (d, K·d)."""

    log_weights: Tensor
    means: Tensor
    turned: Tensor
    variances: Tensor
    axes: Tensor


class GaussianMixture:
    """Σ_k w_k N(m_k, Σ_k).

    weights      (K,), positive, with sum 1
    means        (K, d)
    covariances  (K, d, d), symmetric and positive definite
    """

    def __init__(self, weights: Tensor, means: Tensor, covariances: Tensor) -> None:
        self.weights, self.means, self.covariances = (
            torch.as_tensor(given, dtype=torch.float64) for given in (weights, means, covariances)
        )
        K, d = self.means.shape
        if self.weights.shape != (K,) or self.covariances.shape != (K, d, d):
            raise ValueError("A mixture needs weights (K,), means (K, d) and covariances (K, d, d).")
        if not (bool((self.weights > 0).all()) and abs(float(self.weights.sum()) - 1.0) < 1e-9):
            raise ValueError("The weights of a mixture are positive and add up to 1.")
        variances, axes = torch.linalg.eigh(self.covariances)
        if not bool((variances > 0).all()):
            raise ValueError("The covariances of a mixture are positive definite.")
        self.variances_Kd, self.axes_Kdd = variances, axes
        self.dims = int(d)

    def mean(self) -> Tensor:
        """E[x_0], (d,)."""
        return self.weights @ self.means

    def covariance(self) -> Tensor:
        """Covariance of x_0, (d, d): that within the components and that between their means."""
        centred = self.means - self.mean()
        between = torch.einsum("k,ki,kj->ij", self.weights, centred, centred)
        return torch.einsum("k,kij->ij", self.weights, self.covariances) + between

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n draws, (n, 1, 1, d)."""
        k = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        z_Bd = torch.randn(n, self.dims, generator=generator, dtype=torch.float64)
        scaled = (self.variances_Kd[k].sqrt() * z_Bd).unsqueeze(-1)
        return (self.means[k] + (self.axes_Kdd[k] @ scaled).squeeze(-1)).view(n, 1, 1, self.dims)

    def log_density(self, x: Tensor, path: GaussianPath | None = None, t: float = 0.0) -> Tensor:
        """ln p_t(x) of each row of x (B, …), (B,) in nats; without a path that of the data."""
        alpha, sigma = (1.0, 0.0) if path is None else (path.alpha(t), path.sigma(t))
        column = x.new_ones(len(x), 1)
        tables = _Tables(*(table.to(x) for table in self._tables))
        return _posterior(x.flatten(1), alpha * column, sigma * column, tables).log_density

    def network(self, path: GaussianPath, prediction: str) -> MixtureNetwork:
        """The network that training would end at: the exact prediction on a path."""
        return MixtureNetwork(self, path, prediction)

    def flow(
        self, x: Tensor, path: GaussianPath, t: float, s: float = 0.0, tolerance: float = 1e-11
    ) -> Tensor:
        """The probability flow's map of x (B, …) at time t to time s, in float64 whatever x is.

        It solves dx̃/dσ̃ = E[ε | x] for x̃ = x/α over u = asinh(σ̃/0.1), by the adaptive method of order 8 of
        Dormand and Prince (Hairer, Nørsett & Wanner 1993). No image's local error is above `tolerance` in
        units of 1 + |x̃|: the solver's norm is the mean over a batch, so it is given tolerance/√(B d).
        """
        from scipy.integrate import solve_ivp

        if not (path.alpha(t) > 0 and path.alpha(s) > 0):
            raise ValueError("The flow needs data at both of its ends: take times where α > 0.")
        tables, shape = self._tables, (len(x), self.dims)
        column = torch.ones(len(x), 1, dtype=torch.float64)

        def slope(u: float, flat: np.ndarray) -> np.ndarray:
            sigma = LEVEL * math.sinh(u)
            state = torch.as_tensor(flat).view(shape)
            epsilon = _posterior(state, column, sigma * column, tables).epsilon
            found: np.ndarray = (LEVEL * math.cosh(u) * epsilon).flatten().numpy()
            return found

        ends = [math.asinh(path.sigma(time) / path.alpha(time) / LEVEL) for time in (t, s)]
        start = (x.detach().double().cpu().flatten() / path.alpha(t)).numpy()
        allowed = tolerance / math.sqrt(x.numel())
        solved = solve_ivp(slope, ends, start, method="DOP853", rtol=max(allowed, 3e-14), atol=allowed)
        if not solved.success:
            raise ArithmeticError(f"the flow of the mixture was not solved: {solved.message}")
        end = torch.as_tensor(solved.y[:, -1]).view(x.shape) * path.alpha(s)
        return end.to(x.dtype).to(x.device)

    @functools.cached_property
    def _tables(self) -> _Tables:
        K, d = self.means.shape
        turned_Kd = torch.einsum("kd,kde->ke", self.means, self.axes_Kdd)
        axes = self.axes_Kdd.permute(1, 0, 2).reshape(d, K * d).contiguous()
        return _Tables(self.weights.log(), self.means, turned_Kd, self.variances_Kd, axes)


class MixtureNetwork(nn.Module):
    """The exact prediction of a mixture: network(x_BCHW, t_B) of x's shape and precision."""

    def __init__(self, mixture: GaussianMixture, path: GaussianPath, prediction: str) -> None:
        super().__init__()
        check_prediction(prediction)
        self.path, self.prediction = path, prediction
        for name, table in mixture._tables._asdict().items():
            self.register_buffer(name, table, persistent=False)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """E[p x_0 + q ε | x_t], with p and q of the prediction."""
        tables = _Tables(*(getattr(self, name).to(x) for name in _Tables._fields))
        t_B1 = t.to(x.dtype).view(-1, 1)
        found = _posterior(x.flatten(1), self.path.alpha(t_B1), self.path.sigma(t_B1), tables)
        if self.prediction in ("x0", "epsilon"):
            said = found.x0 if self.prediction == "x0" else found.epsilon
        else:
            p, q = combination(self.prediction, self.path, t_B1)
            said = p * found.x0 + q * found.epsilon
        return said.view(x.shape)


def _posterior(x_Bd: Tensor, alpha_B1: Tensor, sigma_B1: Tensor, tables: _Tables) -> Posterior:
    """The formulas of this file, each component in its own axes."""
    alpha, sigma = alpha_B1.unsqueeze(-1), sigma_B1.unsqueeze(-1)
    turned_BKd = (x_Bd @ tables.axes).view(len(x_Bd), *tables.means.shape) - alpha * tables.turned
    variance_BKd = alpha.square() * tables.variances + sigma.square()
    r_BKd = turned_BKd / variance_BKd
    log_normal_BKd = -0.5 * (r_BKd * turned_BKd + variance_BKd.log() + math.log(2.0 * math.pi))
    log_joint_BK = tables.log_weights + log_normal_BKd.sum(-1)
    rho_BK = log_joint_BK.softmax(1)
    weighted_BKd = rho_BK.unsqueeze(-1) * r_BKd
    epsilon = (sigma * weighted_BKd).flatten(1) @ tables.axes.T
    x0 = rho_BK @ tables.means + (alpha * tables.variances * weighted_BKd).flatten(1) @ tables.axes.T
    return Posterior(x0, epsilon, log_joint_BK.logsumexp(1))


def anisotropic() -> GaussianMixture:
    """The mixture of the sampler certificates: four tilted ellipses in the plane, r.m.s. 0.6 an entry.

    Fixed numbers without a seed; the components overlap, so that the flow has no near-discontinuities.
    """
    weights = torch.tensor([0.35, 0.3, 0.2, 0.15], dtype=torch.float64)
    means = torch.tensor([[0.6, 0.35], [-0.55, 0.5], [-0.35, -0.6], [0.5, -0.55]], dtype=torch.float64)
    deviations = torch.tensor([[0.32, 0.12], [0.28, 0.15], [0.35, 0.1], [0.22, 0.14]], dtype=torch.float64)
    angles = torch.tensor([0.5, 2.2, 1.2, -0.4], dtype=torch.float64)
    turn = torch.stack([angles.cos(), -angles.sin(), angles.sin(), angles.cos()], -1).view(-1, 2, 2)
    return GaussianMixture(weights, means, turn @ deviations.square().diag_embed() @ turn.mT)
