"""Guidance: pushing samples towards their condition, or away from what a worse model would draw.

    guided = u + w·(c − u)

c is what the network says with the condition, u what it says without (classifier-free guidance, Ho &
Salimans 2022, 2207.12598) or what a weaker network says (autoguidance, Karras et al. 2024, 2406.02507).
w = 1 is no guidance and one evaluation, w = 0 is u alone and one evaluation, any other w takes two.
Suites say how to guide with this class too, so importing it does not import torch.

Shapes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from models.names import unknown

if TYPE_CHECKING:
    from torch import Tensor

    from models.gaussian import GaussianPathModel
    from models.gaussian_path import GaussianPath
    from models.predictions import Pair

METHODS = ("cfg", "cfg++", "apg", "autoguidance")


@dataclass(frozen=True)
class Guidance:
    """How strongly, when and in which way.

    weight     w; of cfg++ the λ of its source, 0 to 1
    method     cfg           u from the null condition
               cfg++         the same with w(t→s) = λ/(1 − √(SNR_t/SNR_s)), so that a DDIM step adds the noise
                             of u to the guided x̂_0 (Chung et al. 2024, 2406.08070)
               apg           the part of the update along the conditional x̂_0, which saturates, weighed by
                             `parallel`; its size bounded, with momentum (Sadat et al. 2024, 2410.02416)
               autoguidance  u from a weaker network
    low, high  only where low ≤ σ/α ≤ high (Kynkäänniemi et al. 2024, 2404.07724)
    rescale    φ: share by which the guided prediction gets the standard deviation of c, image by image
               (Lin et al. 2023, 2305.08891)
    batched    c and u in one batch of twice the size, or in two calls
    parallel, bound, momentum  η, r (0: none) and β of apg
    weaker     the model of u for autoguidance, trained

    >>> str(Guidance(2.0, low=0.2, high=5.0))
    'σ/α 0.2–5'
    """

    weight: float = 1.0
    method: str = "cfg"
    low: float = 0.0
    high: float = math.inf
    rescale: float = 0.0
    batched: bool = True
    parallel: float = 0.0
    bound: float = 0.0
    momentum: float = 0.0
    weaker: GaussianPathModel | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("weight", "low", "high", "rescale", "parallel", "bound", "momentum"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise ValueError(f"{name} of guidance is a number, and not {value!r}.")
        if not isinstance(self.batched, bool):
            raise ValueError(f"batched of guidance is true or false, and not {self.batched!r}.")
        if any(math.isnan(getattr(self, name)) for name in ("rescale", "parallel", "bound", "momentum")):
            raise ValueError("rescale, parallel, bound and momentum of guidance are numbers, and not NaN.")
        if self.method not in METHODS:
            raise ValueError(unknown("guidance method", self.method, METHODS))
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise ValueError(f"The weight of guidance is 0 or more, and not {self.weight!r}.")
        if self.method == "cfg++" and self.weight > 1:
            raise ValueError(f"The weight of cfg++ is its λ, from 0 to 1, and not {self.weight:g}.")
        if not 0 <= self.low < self.high:
            raise ValueError(f"Guidance needs 0 ≤ low < high, and not {self.low:g} and {self.high:g}.")
        if not 0 <= self.rescale <= 1:
            raise ValueError(f"The rescaling of guidance is a share from 0 to 1, and not {self.rescale:g}.")
        if self.method != "apg" and (self.parallel or self.bound or self.momentum):
            raise ValueError("parallel, bound and momentum belong to the guidance method apg.")
        if self.bound < 0 or not -1 < self.momentum < 1:
            raise ValueError("apg needs a bound of 0 or more and a momentum between −1 and 1.")
        object.__setattr__(self, "weight", float(self.weight))

    @property
    def active(self) -> bool:
        """Whether u is ever needed."""
        return self.weight != 1.0 or self.method == "cfg++"

    def weight_at(self, path: GaussianPath, t: float, step: tuple[float, float] | None = None) -> float:
        """w of an evaluation at time t, in a step from and to two times."""
        noise = math.exp(-0.5 * path.log_snr(t)) if t > 0 else 0.0
        if not self.low <= noise <= self.high:
            return 1.0
        if self.method != "cfg++":
            return self.weight
        if step is None:
            raise ValueError("cfg++ needs the step of an evaluation: use a sampler of fixed steps.")
        start, end = step
        gained = 0.5 * (path.log_snr(end) - path.log_snr(start)) if end > 0 else math.inf
        return self.weight / -math.expm1(-gained)

    def combine(
        self, u: Tensor, c: Tensor, weight: float | Tensor, x: Tensor, x0: Pair, past: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The guided prediction, and the update that the next evaluation's momentum starts from.

        u, c  predictions (B, C, H, W)
        x0    coefficients of x̂_0 = x0[0]·x + x0[1]·prediction
        past  what the last evaluation returned
        """
        if self.method == "apg":
            guided, past = self._projected(u, c, weight, x, x0, past)
        else:
            guided = guide(u, c, weight)
        if self.rescale:
            axes = tuple(range(1, c.dim()))
            spread = c.std(axes, keepdim=True) / guided.std(axes, keepdim=True)
            guided = guided * (self.rescale * spread + (1.0 - self.rescale))
        return guided, past

    def _projected(
        self, u: Tensor, c: Tensor, weight: float | Tensor, x: Tensor, x0: Pair, past: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """c + (w − 1)·(Δ⊥ + ηΔ∥) with Δ the bounded, running x̂_0 of c minus that of u."""
        axes = tuple(range(1, c.dim()))
        towards = x0[0] * x + x0[1] * c
        delta = x0[1] * (c - u)
        if self.momentum:
            delta = delta if past is None else delta + self.momentum * past
            past = delta
        if self.bound:
            size = delta.square().sum(axes, keepdim=True).sqrt()
            delta = delta * (self.bound / size).clamp(max=1.0)
        length = towards.square().sum(axes, keepdim=True).clamp(min=1e-30)
        along = (delta * towards).sum(axes, keepdim=True) / length * towards
        update = delta - (1.0 - self.parallel) * along
        return c + (weight - 1.0) / x0[1] * update, past

    def __str__(self) -> str:
        """How it differs from classifier-free guidance in one batch; the weight is not said."""
        words = [] if self.method == "cfg" else [self.method]
        if self.low > 0 or self.high < math.inf:
            words.append(f"σ/α {self.low:g}–{'∞' if self.high == math.inf else f'{self.high:g}'}")
        if self.rescale:
            words.append(f"rescale {self.rescale:g}")
        symbols = {"parallel": "η", "bound": "r", "momentum": "β"}
        words += [f"{symbols[name]}={getattr(self, name):g}" for name in symbols if getattr(self, name)]
        return " ".join(words if self.batched else [*words, "two calls"])

    @classmethod
    def of(cls, value: float | Mapping[str, Any] | Guidance | None) -> Guidance:
        """From a weight, or a mapping of the fields above; None is no guidance."""
        if isinstance(value, Guidance):
            return value
        if isinstance(value, Mapping):
            known = [each.name for each in fields(cls)]
            for name in value:
                if name not in known:
                    raise ValueError(unknown("key of guidance", name, known))
            return cls(**value)
        return cls() if value is None else cls(float(value))

    def plain(self, who: str) -> float:
        """The weight, for a model that has no noise levels to guide at in other ways than this."""
        if str(self):
            raise ValueError(f"{who} takes a weight of guidance alone, and not {self}.")
        return self.weight

    def alone(self) -> Guidance:
        """The same without the other model."""
        return self if self.weaker is None else replace(self, weaker=None)


NONE = Guidance()


def guide(unconditional: Tensor, conditional: Tensor, weight: float | Tensor) -> Tensor:
    """u + w·(c − u): w = 0 ignores the condition, w = 1 is no guidance, more pushes towards it."""
    return unconditional + weight * (conditional - unconditional)
