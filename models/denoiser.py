"""A network on a Gaussian path seen as a denoiser: from what it predicts to x_0, ε, velocity and score.

All conversions live here. A prediction k is one linear combination k = p·x_0 + q·ε of what was mixed in
x_t = α·x_0 + σ·ε, so the two equations give, with the determinant Δ = α q − σ p,

    x_0 = (q x_t − σ k)/Δ        ε = (α k − p x_t)/Δ

and from these velocity = α'x_0 + σ'ε (the probability flow, dx/dt) and score = −ε/σ = ∇ ln p_t(x_t).
Sources: Salimans & Ho 2022 (2202.00512) for v, Lipman et al. 2022 (2210.02747) for the velocity.

Shapes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.conditioning import guide
from models.names import unknown
from models.paths import GaussianPath

PREDICTIONS = ("epsilon", "x0", "v", "velocity")
"""ε; x_0; v = αε − σx_0; velocity = α'x_0 + σ'ε."""

Scalar = Any
"""A float, or a tensor that broadcasts against x_t."""


def check_prediction(kind: str) -> None:
    """Refuse an unknown prediction type, naming the nearest."""
    if kind not in PREDICTIONS:
        raise ValueError(unknown("prediction", kind, PREDICTIONS))


def combination(kind: str, path: GaussianPath, t: Scalar) -> tuple[Scalar, Scalar]:
    """(p, q) of the prediction k = p·x_0 + q·ε at time t."""
    check_prediction(kind)
    if kind == "epsilon":
        return 0.0 * t, 0.0 * t + 1.0
    if kind == "x0":
        return 0.0 * t + 1.0, 0.0 * t
    if kind == "v":
        return -path.sigma(t), path.alpha(t)
    return path.alpha_dot(t), path.sigma_dot(t)


def target(kind: str, path: GaussianPath, t: Scalar, x_0: Tensor, epsilon: Tensor) -> Tensor:
    """What a network that predicts `kind` should say."""
    p, q = combination(kind, path, t)
    return p * x_0 + q * epsilon


class Denoised:
    """What is known at (x_t, t) once the network has spoken; each view is computed when first asked for.

    With `clip`, x_0 is clamped to [−1, 1] and the other views follow from the clamped value.

    extra  what the network said beyond the channels of x_t: the learned variance; None where it said no more
    """

    def __init__(
        self, x_t: Tensor, t: Scalar, output: Tensor, path: GaussianPath, kind: str, clip: bool = False
    ) -> None:
        C = x_t.shape[1]
        more = output.shape[1] > C
        self.x_t, self.t, self.output = x_t, t, output[:, :C] if more else output
        self.extra = output[:, C:] if more else None
        self._path, self._kind, self._clip = path, kind, clip
        self._alpha, self._sigma = path.alpha(t), path.sigma(t)
        self._p, self._q = combination(kind, path, t)
        self._delta = self._alpha * self._q - self._sigma * self._p
        if not isinstance(t, Tensor) and self._delta == 0:
            raise ValueError(
                f"A prediction of {kind} says nothing about the rest of x_t at t = {t}: "
                "use a grid that avoids this time, or prediction v."
            )

    @functools.cached_property
    def x0(self) -> Tensor:
        """The expected data E[x_0 | x_t]."""
        if self._kind == "x0":
            x0 = self.output
        else:
            x0 = (self._q / self._delta) * self.x_t - (self._sigma / self._delta) * self.output
        return x0.clamp(-1.0, 1.0) if self._clip else x0

    @functools.cached_property
    def epsilon(self) -> Tensor:
        """The expected noise E[ε | x_t]."""
        if self._clip:
            return (self.x_t - self._alpha * self.x0) / self._sigma
        if self._kind == "epsilon":
            return self.output
        return (self._alpha / self._delta) * self.output - (self._p / self._delta) * self.x_t

    @functools.cached_property
    def velocity(self) -> Tensor:
        """dx/dt of the probability flow."""
        if self._kind == "velocity" and not self._clip:
            return self.output
        return self._path.alpha_dot(self.t) * self.x0 + self._path.sigma_dot(self.t) * self.epsilon

    @functools.cached_property
    def score(self) -> Tensor:
        """∇ ln p_t(x_t)."""
        return self.epsilon / -self._sigma


@dataclass(frozen=True)
class Denoiser:
    """`network(x_t, t, *condition)` on a path with its prediction type.

    network     called with x_BCHW and t_B in [0, 1], and with the condition where there is one
    condition   tensors of one row an image
    null        the same for "nothing is known", needed for guidance
    guidance    w of u + w·(c − u); at 1 the conditional prediction alone is evaluated, at 0 the
                unconditional one alone, else both in one batch of twice the size
    clip        clamp x_0 to [−1, 1]; wrong for likelihoods by the flow, where the field must be smooth
    """

    network: nn.Module
    path: GaussianPath
    prediction: str
    condition: tuple[Tensor, ...] = ()
    clip: bool = False
    null: tuple[Tensor, ...] = ()
    guidance: float = 1.0

    def __post_init__(self) -> None:
        check_prediction(self.prediction)
        if self.guidance != 1.0 and not (self.condition and len(self.null) == len(self.condition)):
            raise ValueError("Guidance needs a condition and its null: sample with labels, or with w = 1.")

    def __call__(self, x_BCHW: Tensor, t: float | Tensor) -> Denoised:
        """Evaluate the network once at one time for the whole batch, or at a time for each image (B,)."""
        time: Scalar = t
        if isinstance(t, Tensor):
            t_B, time = t, t.view(-1, *(1,) * (x_BCHW.dim() - 1))
        else:
            t_B = torch.full((len(x_BCHW),), t, dtype=x_BCHW.dtype, device=x_BCHW.device)
        return Denoised(x_BCHW, time, self._output(x_BCHW, t_B), self.path, self.prediction, self.clip)

    def _output(self, x_BCHW: Tensor, t_B: Tensor) -> Tensor:
        """What the network says, guided; a learned variance is the conditional one."""
        if self.guidance == 1.0 or self.guidance == 0.0:
            output: Tensor = self.network(x_BCHW, t_B, *(self.condition if self.guidance else self.null))
            return output
        doubled = [torch.cat(pair) for pair in zip(self.condition, self.null, strict=True)]
        both = self.network(torch.cat([x_BCHW, x_BCHW]), torch.cat([t_B, t_B]), *doubled)
        conditional, unconditional = both.chunk(2)
        C = x_BCHW.shape[1]
        guided = guide(unconditional[:, :C], conditional[:, :C], self.guidance)
        return torch.cat([guided, conditional[:, C:]], 1) if conditional.shape[1] > C else guided
