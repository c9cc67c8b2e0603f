"""Runge–Kutta methods on the probability flow dx/dt = α'x̂_0 + σ'ε̂, in the path's own time.

    euler      order 1, 1 evaluation a step
    heun       order 2, 2
    midpoint   order 2, 2
    rk4        order 4, 4                               (Kutta 1901)

A method that ends with an evaluation at s cannot take the step to s = 0, where ε̂ and often σ' are not
defined. There Heun's step is Euler's, as Karras et al. 2022 (2206.00364) have it, and rk4's is the
third-order one of Ralston (1962): a single step of one order less leaves the order as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from models.samplers.tape import Tape, Vector


def euler(x: Vector, denoise: Tape, grid: Sequence[float]) -> Iterator[Vector]:
    """x_s = x + (s − t) f(x, t)."""
    for t, s in pairwise(grid):
        x = x + (s - t) * denoise(x, t).velocity
        yield x


def heun(x: Vector, denoise: Tape, grid: Sequence[float]) -> Iterator[Vector]:
    """x_s = x + ½(s − t)(f(x, t) + f(x', s)) with x' Euler's step; 2N − 1 evaluations."""
    for t, s in pairwise(grid):
        slope = denoise(x, t).velocity
        after = x + (s - t) * slope
        x = x + 0.5 * (s - t) * (slope + denoise(after, s).velocity) if s > 0 else after
        yield x


def midpoint(x: Vector, denoise: Tape, grid: Sequence[float]) -> Iterator[Vector]:
    """x_s = x + (s − t) f(x', ½(t + s)) with x' half of Euler's step; 2N evaluations."""
    for t, s in pairwise(grid):
        middle = x + 0.5 * (s - t) * denoise(x, t).velocity
        x = x + (s - t) * denoise(middle, 0.5 * (t + s)).velocity
        yield x


def rk4(x: Vector, denoise: Tape, grid: Sequence[float]) -> Iterator[Vector]:
    """x_s = x + (s − t)(k₁ + 2k₂ + 2k₃ + k₄)/6; 4N − 1 evaluations."""
    for t, s in pairwise(grid):
        h, middle = s - t, 0.5 * (t + s)
        k1 = denoise(x, t).velocity
        if s > 0:
            k2 = denoise(x + 0.5 * h * k1, middle).velocity
            k3 = denoise(x + 0.5 * h * k2, middle).velocity
            k4 = denoise(x + h * k3, s).velocity
            x = x + h / 6.0 * (k1 + 2.0 * k2 + 2.0 * k3 + k4)
        else:
            k2 = denoise(x + 0.5 * h * k1, middle).velocity
            k3 = denoise(x + 0.75 * h * k2, t + 0.75 * h).velocity
            x = x + h / 9.0 * (2.0 * k1 + 3.0 * k2 + 4.0 * k3)
        yield x
