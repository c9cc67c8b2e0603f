"""Formulas of samplers, recorded once and folded into the few operations that they need.

A sampler of fixed steps is a generator over symbolic states,

    def euler(x, denoise, grid):
        for t, s in pairwise(grid):
            x = x + (s - t) * denoise(x, t).velocity
            yield x

where `denoise(x, t)` is one evaluation of the network. Everything between two evaluations is linear, so a
state is kept as coefficients of what exists already (`Vector`), in float64, until it is needed: at the next
evaluation, at the end of a step, or where the sampler says `denoise.keep(vector)`. So Euler's step costs one
operation on images where the network predicts the velocity, and DDIM's two with any prediction.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from models.gaussian_path import GaussianPath
from models.guidance import Guidance
from models.predictions import Conversion, Pair, conversion
from models.samplers.program import (
    Clip,
    Combine,
    Draw,
    Evaluate,
    Interpolate,
    Operation,
    Program,
    StepEnd,
    program,
)

ROUNDING = 1e-14


class Vector:
    """A linear combination of registers, Σ c_i r_i: a state of a sampler, not computed yet."""

    __slots__ = ("terms",)

    def __init__(self, terms: Mapping[int, float]) -> None:
        self.terms = {register: c for register, c in terms.items() if c != 0.0}

    def __add__(self, other: Vector) -> Vector:
        terms = dict(self.terms)
        for register, c in other.terms.items():
            known = terms.get(register, 0.0)
            # What cancels up to rounding is nothing, and must not cost an operation.
            terms[register] = 0.0 if abs(known + c) <= ROUNDING * (abs(known) + abs(c)) else known + c
        return Vector(terms)

    def __mul__(self, factor: float) -> Vector:
        return Vector({register: c * factor for register, c in self.terms.items()})

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> Vector:
        return self * (1.0 / divisor)

    def __neg__(self) -> Vector:
        return self * -1.0

    def __sub__(self, other: Vector) -> Vector:
        return self + -other


@dataclass(frozen=True)
class Prediction:
    """What one evaluation says, as vectors.

    x0, epsilon  the expected data and noise; with a clipped denoiser, of the clamped x_0
    velocity     dx/dt of the probability flow
    score        ∇ ln p_t(x_t)
    """

    t: float
    x0: Vector
    epsilon: Vector
    path: GaussianPath
    said: Vector | None
    extra: int

    @property
    def velocity(self) -> Vector:
        """α'x_0 + σ'ε, the network's own words where it predicts that."""
        if self.said is not None:
            return self.said
        return self.path.alpha_dot(self.t) * self.x0 + self.path.sigma_dot(self.t) * self.epsilon

    @property
    def score(self) -> Vector:
        """−ε/σ."""
        return self.epsilon / -self.path.sigma(self.t)


class Tape:
    """Records a sampler on one grid, path and prediction type; called as its `denoise`.

    path, grid  for the coefficients of the sampler
    """

    def __init__(
        self, path: GaussianPath, prediction: str, clip: bool, guidance: Guidance, grid: Sequence[float]
    ) -> None:
        self.path, self.grid = path, tuple(grid)
        self._prediction, self._clip, self._guidance = prediction, clip, guidance
        self._operations: list[Operation] = []
        self._size, self._step, self._past = 1, 0, -1

    def __call__(self, x: Vector, t: float) -> Prediction:
        """Evaluate the network at x and t."""
        views = conversion(self._prediction, self.path, t)
        step = self.grid[self._step], self.grid[self._step + 1]
        weight = self._guidance.weight_at(self.path, t, step) if self._guidance.active else 1.0
        place, past = self._register(x), self._past
        said, extra = self._new(), self._new()
        self._past = self._new() if self._guidance.momentum else -1
        self._operations.append(Evaluate(said, extra, place, past, self._past, t, weight, views.x0))
        state, output = Vector({place: 1.0}), Vector({said: 1.0})
        x0 = _mixed(views.x0, state, output)
        if self._clip:
            x0 = self._clamped(x0)
            return Prediction(t, x0, _rest(views, state, x0), self.path, None, extra)
        velocity = output if self._prediction == "velocity" else None
        return Prediction(t, x0, _mixed(views.epsilon, state, output), self.path, velocity, extra)

    def noise(self) -> Vector:
        """Fresh standard normal noise."""
        register = self._new()
        self._operations.append(Draw(register))
        return Vector({register: 1.0})

    def learned_noise(self, found: Prediction, small: float, large: float) -> Vector:
        """Fresh noise with the variance between `small` and `large` that the network said with `found`."""
        noise, register = self._register(self.noise()), self._new()
        logarithms = math.log(small), math.log(large)
        self._operations.append(Interpolate(register, found.extra, noise, *logarithms))
        return Vector({register: 1.0})

    def keep(self, vector: Vector) -> Vector:
        """Compute a vector now: for what several later steps use."""
        return Vector({self._register(vector): 1.0})

    def record(self, sampler: Callable[..., Iterator[Vector]], **options: object) -> Program:
        """The program of a sampler with its options."""
        for state in sampler(Vector({0: 1.0}), self, self.grid, **options):
            register = self._register(state)
            state.terms = {register: 1.0}  # the sampler goes on from what was computed
            self._operations.append(StepEnd(self._step, self.grid[self._step + 1], register))
            self._step += 1
        return program(self._operations)

    def _register(self, vector: Vector) -> int:
        """Where a vector stands once it is computed."""
        terms = sorted(vector.terms.items())
        if len(terms) == 1 and terms[0][1] == 1.0:
            return terms[0][0]
        if not all(math.isfinite(c) for _, c in terms) or not terms:
            raise ValueError(
                f"A coefficient of this sampler is not finite at step {self._step + 1} of its grid."
            )
        register = self._new()
        # Starting from a term of weight 1 saves an operation.
        terms.sort(key=lambda term: term[1] != 1.0)
        self._operations.append(Combine(register, tuple(terms)))
        return register

    def _clamped(self, x0: Vector) -> Vector:
        source, register = self._register(x0), self._new()
        self._operations.append(Clip(register, source))
        return Vector({register: 1.0})

    def _new(self) -> int:
        self._size += 1
        return self._size - 1


def _mixed(pair: Pair, state: Vector, output: Vector) -> Vector:
    return pair[0] * state + pair[1] * output


def _rest(views: Conversion, state: Vector, x0: Vector) -> Vector:
    """The noise that is left of x_t once x_0 is taken out."""
    return (state - views.alpha * x0) / views.sigma
