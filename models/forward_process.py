"""The forward process of diffusion in T discrete steps: as a Markov chain, and in closed form.

    chain        q(x_t | x_{t−1}) = N(k_t x_{t−1}, a_t)          t = 1 … T
    closed form  q(x_t | x_0)     = N(α_t x_0, σ_t²),  α_t = Π k_s,  σ_t² = Σ_s a_s Π_{r>s} k_r²

A schedule of β has k² = 1 − β and a = β, so that unit variance is kept and α_t² = ᾱ_t; the transitions of
any Gaussian path are k = α_t/α_s, a = σ_t² − k²σ_s². All coefficients are float64.

Sources: Ho et al. 2020 (2006.11239) for the chain and the linear β, Nichol & Dhariwal 2021 (2102.09672)
for the cosine, Jabri et al. 2022 (2212.11972) for the sigmoid, Lin et al. 2023 (2305.08891) for zero
terminal signal.

Shapes: T steps, B batch; states of any shape (B, …).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from models.names import unknown
from models.paths import GaussianPath

LARGEST_BETA = 0.999
"""Cosine and sigmoid would end with β = 1, which leaves nothing to reverse (Nichol & Dhariwal 2021)."""


@dataclass(frozen=True)
class ForwardProcess:
    """T steps by what a step keeps and adds.

    kept, added  k_t and a_t, (T,) float64; entry t − 1 belongs to step t
    """

    kept: Tensor
    added: Tensor

    def __post_init__(self) -> None:
        if self.kept.shape != self.added.shape or self.kept.dim() != 1 or len(self.kept) < 1:
            raise ValueError("A forward process needs one kept share and one added variance for each step.")
        if bool((self.added <= 0).any()) or bool((self.kept < 0).any()):
            raise ValueError("Each step of a forward process keeps a share of 0 or more and adds some noise.")

    @property
    def steps(self) -> int:
        """T."""
        return len(self.kept)

    @functools.cached_property
    def alpha(self) -> Tensor:
        """α_t of the closed form, (T,)."""
        return self.kept.cumprod(0)

    @functools.cached_property
    def variance(self) -> Tensor:
        """σ_t² of the closed form, (T,): σ_t² = k_t² σ_{t−1}² + a_t."""
        found: list[float] = []
        for kept, added in zip(self.kept.tolist(), self.added.tolist(), strict=True):
            found.append(kept**2 * (found[-1] if found else 0.0) + added)
        return torch.tensor(found, dtype=torch.float64)

    @functools.cached_property
    def log_snr(self) -> Tensor:
        """ln(α_t²/σ_t²), (T,); −∞ where nothing of the data is left."""
        return 2.0 * self.alpha.log() - self.variance.log()

    def step(self, x: Tensor, t: int, noise: Tensor) -> Tensor:
        """x_t ~ q(x_t | x_{t−1} = x) from standard normal noise."""
        self._check(t)
        return float(self.kept[t - 1]) * x + math.sqrt(self.added[t - 1]) * noise

    def jump(self, x_0: Tensor, t: Tensor | int, noise: Tensor) -> Tensor:
        """x_t ~ q(x_t | x_0), one t for all or one an image (B,)."""
        index = torch.as_tensor(t, device=x_0.device)
        if not bool(((index >= 1) & (index <= self.steps)).all()):
            self._check(int(index.min() if int(index.min()) < 1 else index.max()))
        shape = (-1, *(1,) * (x_0.dim() - 1))
        alpha, sigma = (
            table.to(x_0.device)[index - 1].to(x_0.dtype).view(shape)
            for table in (self.alpha, self.variance.sqrt())
        )
        return alpha * x_0 + sigma * noise

    def chain(self, x_0: Tensor, noise: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """One run x_1 … x_T of the Markov chain."""
        states = [x_0]
        for t in range(1, self.steps + 1):
            states.append(self.step(states[-1], t, noise(x_0)))
        return states[1:]

    def _check(self, t: int) -> None:
        if not 1 <= t <= self.steps:
            raise ValueError(f"This forward process has steps 1 … {self.steps}, and not {t}.")


def from_betas(betas: Sequence[float] | Tensor) -> ForwardProcess:
    """k = √(1 − β), a = β."""
    beta = torch.as_tensor(betas, dtype=torch.float64)
    if bool((beta <= 0).any()) or bool((beta > 1).any()):
        raise ValueError("β of a forward process lies above 0 and is 1 at most.")
    return ForwardProcess((1.0 - beta).sqrt(), beta)


def from_path(path: GaussianPath, times: Sequence[float]) -> ForwardProcess:
    """The transitions of a Gaussian path between rising times, the first being 0: T = len(times) − 1."""
    if len(times) < 2 or times[0] != 0.0 or any(s >= t for s, t in pairwise(times)):
        raise ValueError("A forward process visits two or more rising times, the first being 0.")
    kept, added = [], []
    for s, t in pairwise(times):
        kept.append(path.alpha(t) / path.alpha(s))
        fresh = -math.expm1(path.log_snr(t) - path.log_snr(s)) if s > 0 else 1.0
        added.append(path.sigma(t) ** 2 * fresh)
    return ForwardProcess(*(torch.tensor(values, dtype=torch.float64) for values in (kept, added)))


def linear(steps: int, first: float = 1e-4, last: float = 0.02) -> ForwardProcess:
    """β in equal steps (Ho et al. 2020, T = 1000)."""
    return from_betas(torch.linspace(first, last, steps, dtype=torch.float64))


def cosine(steps: int, offset: float = 0.008) -> ForwardProcess:
    """ᾱ_t = f(t)/f(0), f(t) = cos²((t/T + s)/(1 + s)·π/2), s the offset, β clipped."""
    return _from_cumulative(lambda u: math.cos((u + offset) / (1.0 + offset) * 0.5 * math.pi) ** 2, steps)


def sigmoid(steps: int, start: float = -3.0, end: float = 3.0, temperature: float = 1.0) -> ForwardProcess:
    """ᾱ_t = (s(e/τ) − s((b + (e − b)t/T)/τ))/(s(e/τ) − s(b/τ)), s the logistic function, β clipped."""

    def s(z: float) -> float:
        return 1.0 / (1.0 + math.exp(-z / temperature))

    return _from_cumulative(lambda u: s(end) - s(start + (end - start) * u), steps)


SCHEDULES: dict[str, Callable[[int], ForwardProcess]] = {
    "linear": linear,
    "cosine": cosine,
    "sigmoid": sigmoid,
}


def forward_process(schedule: str, steps: int, zero_terminal_snr: bool = False) -> ForwardProcess:
    """A named schedule in T steps; optionally rescaled to end without signal."""
    if schedule not in SCHEDULES:
        raise ValueError(unknown("noise schedule", schedule, SCHEDULES))
    if steps < 2:
        raise ValueError(f"A forward process needs two or more steps, and not {steps}.")
    found = SCHEDULES[schedule](steps)
    return without_terminal_signal(found) if zero_terminal_snr else found


def without_terminal_signal(process: ForwardProcess) -> ForwardProcess:
    """√ᾱ shifted so that the last is 0 and scaled so that the first stays (Lin et al. 2023, algorithm 1).

    The last step then has β = 1. A network that predicts ε learns nothing there: predict v or x_0.
    """
    root = process.alpha
    moved = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
    kept = torch.cat([moved[:1], moved[1:] / moved[:-1]])
    return ForwardProcess(kept, 1.0 - kept.square())


def _from_cumulative(level: Callable[[float], float], steps: int) -> ForwardProcess:
    """From ᾱ up to its scale, at t/T = 0, 1/T … 1."""
    levels = [level(i / steps) for i in range(steps + 1)]
    return from_betas([min(1.0 - after / before, LARGEST_BETA) for before, after in pairwise(levels)])
