"""A network on a Gaussian path seen as a denoiser: from what it predicts to x_0, ε, velocity and score.

Shapes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.guidance import NONE, Guidance
from models.paths import GaussianPath
from models.predictions import PREDICTIONS, Pair, Scalar, check_prediction, combination, conversion, target

__all__ = ["PREDICTIONS", "Denoised", "Denoiser", "check_prediction", "combination", "target"]


class Denoised:
    """What is known at (x_t, t) once the network has spoken; each view is computed when first asked for.

    With `clip`, x_0 is clamped to [−1, 1] and the other views follow from the clamped value.

    extra  what the network said beyond the channels of x_t: the learned variance; None where it said no more
    """

    def __init__(
        self, x_t: Tensor, t: Scalar, output: Tensor, path: GaussianPath, kind: str, clip: bool = False
    ) -> None:
        self.x_t, self.t = x_t, t
        self.output, self.extra = split(output, x_t.shape[1])
        self._path, self._kind, self._clip = path, kind, clip
        self._views = conversion(kind, path, t)

    @functools.cached_property
    def x0(self) -> Tensor:
        """The expected data E[x_0 | x_t]."""
        x0 = self.output if self._kind == "x0" else self._mixed(self._views.x0)
        return x0.clamp(-1.0, 1.0) if self._clip else x0

    @functools.cached_property
    def epsilon(self) -> Tensor:
        """The expected noise E[ε | x_t]."""
        if self._clip:
            return (self.x_t - self._views.alpha * self.x0) / self._views.sigma
        return self.output if self._kind == "epsilon" else self._mixed(self._views.epsilon)

    @functools.cached_property
    def velocity(self) -> Tensor:
        """dx/dt of the probability flow."""
        if self._kind == "velocity" and not self._clip:
            return self.output
        return self._path.alpha_dot(self.t) * self.x0 + self._path.sigma_dot(self.t) * self.epsilon

    @functools.cached_property
    def score(self) -> Tensor:
        """∇ ln p_t(x_t)."""
        return self.epsilon / -self._views.sigma

    def _mixed(self, pair: Pair) -> Tensor:
        return pair[0] * self.x_t + pair[1] * self.output


class Said(NamedTuple):
    """One evaluation: the guided prediction, the learned variance if there is one, the state of guidance."""

    output: Tensor
    extra: Tensor | None
    past: Tensor | None


@dataclass(frozen=True)
class Denoiser:
    """`network(x_t, t, *condition)` on a path with its prediction type.

    network     called with x_BCHW and t_B in [0, 1], and with the condition where there is one
    condition   tensors of one row an image
    null        what u of the guidance is told: the same for "nothing is known", or the weaker network's own
    guidance    a weight w, or a `models.guidance.Guidance`
    weaker      the network of u for autoguidance, of the same path and prediction
    clip        clamp x_0 to [−1, 1]; wrong for likelihoods by the flow, where the field must be smooth
    """

    network: nn.Module
    path: GaussianPath
    prediction: str
    condition: tuple[Tensor, ...] = ()
    clip: bool = False
    null: tuple[Tensor, ...] = ()
    guidance: float | Guidance = NONE
    weaker: nn.Module | None = None

    def __post_init__(self) -> None:
        check_prediction(self.prediction)
        object.__setattr__(self, "guidance", Guidance.of(self.guidance))
        auto = self.rule.method == "autoguidance"
        if auto != (self.weaker is not None):
            raise ValueError("Autoguidance, and it alone, needs a weaker network: give it a trained one.")
        told = bool(self.condition) and len(self.null) == len(self.condition)
        if self.rule.active and not (told or auto):
            raise ValueError("Guidance needs a condition and its null: sample with labels, or with w = 1.")

    @property
    def rule(self) -> Guidance:
        """The guidance as an object."""
        return Guidance.of(self.guidance)

    def __call__(self, x_BCHW: Tensor, t: float | Tensor) -> Denoised:
        """Evaluate the network once at one time for the whole batch, or at a time for each image (B,)."""
        time: Scalar = t
        if isinstance(t, Tensor):
            t_B, time = t, t.view(-1, *(1,) * (x_BCHW.dim() - 1))
        else:
            t_B = torch.full((len(x_BCHW),), t, dtype=x_BCHW.dtype, device=x_BCHW.device)
        if not self.rule.active:
            output = self.network(x_BCHW, t_B, *self.condition)
            return Denoised(x_BCHW, time, output, self.path, self.prediction, self.clip)
        if isinstance(t, Tensor):
            raise ValueError("Guidance needs one time for the whole batch.")
        x0 = conversion(self.prediction, self.path, t).x0
        said = self.say(x_BCHW, t_B, self.rule.weight_at(self.path, t), x0)
        output = said.output if said.extra is None else torch.cat([said.output, said.extra], 1)
        return Denoised(x_BCHW, time, output, self.path, self.prediction, self.clip)

    def say(
        self,
        x_BCHW: Tensor,
        t_B: Tensor,
        weight: float | Tensor = 1.0,
        x0: Pair = (0.0, 1.0),
        past: Tensor | None = None,
    ) -> Said:
        """What the network says, guided with the weight w; a learned variance is the conditional one.

        x0    coefficients of x_t and the prediction in x̂_0, at this time
        past  state of the guidance after the evaluation before
        """
        C = x_BCHW.shape[1]
        if isinstance(weight, float) and weight == 1.0:
            return Said(*split(self.network(x_BCHW, t_B, *self.condition), C), past)
        if isinstance(weight, float) and weight == 0.0:
            return Said(*split((self.weaker or self.network)(x_BCHW, t_B, *self.null), C), past)
        (c, extra), (u, _) = (split(output, C) for output in self._both(x_BCHW, t_B))
        guided, past = self.rule.combine(u, c, weight, x_BCHW, x0, past)
        return Said(guided, extra, past)

    def _both(self, x_BCHW: Tensor, t_B: Tensor) -> tuple[Tensor, Tensor]:
        """c and u, in one batch of twice the size or in two calls."""
        if self.weaker is not None or not self.rule.batched:
            unconditional = (self.weaker or self.network)(x_BCHW, t_B, *self.null)
            return self.network(x_BCHW, t_B, *self.condition), unconditional
        doubled = [torch.cat(pair) for pair in zip(self.condition, self.null, strict=True)]
        both: Tensor = self.network(torch.cat([x_BCHW, x_BCHW]), torch.cat([t_B, t_B]), *doubled)
        conditional, unconditional = both.chunk(2)
        return conditional, unconditional


def split(output: Tensor, channels: int) -> tuple[Tensor, Tensor | None]:
    """The prediction and what was said beyond it, which is the learned variance."""
    return (output[:, :channels], output[:, channels:]) if output.shape[1] > channels else (output, None)
