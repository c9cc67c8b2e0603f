"""Protects q(x_s | x_t, x_0): every stochastic sampler and the bound are built from it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.paths import PATHS, path
from models.posterior import posterior

NAMES = st.sampled_from(sorted(PATHS))
TIMES = st.tuples(st.floats(0.01, 0.99), st.floats(0.01, 0.99)).filter(
    lambda pair: abs(pair[0] - pair[1]) > 1e-3
)


@given(NAMES, TIMES)
def test_it_is_bayes_rule(name: str, times: tuple[float, float]) -> None:
    """Precisions add: q(x_s|x_0) times the likelihood of x_t = a x_s + noise."""
    s, t = sorted(times)
    p = path(name)
    a = p.alpha(t) / p.alpha(s)
    forward = p.sigma(t) ** 2 - a**2 * p.sigma(s) ** 2
    precision = 1 / p.sigma(s) ** 2 + a**2 / forward
    c = posterior(p, t, s)
    assert c.small == pytest.approx(1 / precision, rel=1e-6)
    assert c.of_x == pytest.approx(a / forward / precision, rel=1e-6)
    assert c.of_x0 == pytest.approx(p.alpha(s) / p.sigma(s) ** 2 / precision, rel=1e-6)


@given(NAMES, TIMES)
def test_large_is_the_reverse_variance_of_unit_gaussian_data(name: str, times: tuple[float, float]) -> None:
    """Var(x_s | x_t) = Var x_s − Cov²/Var x_t for x_0 ~ N(0, 1)."""
    s, t = sorted(times)
    p = path(name)
    var_s, var_t = (p.alpha(u) ** 2 + p.sigma(u) ** 2 for u in (s, t))
    covariance = p.alpha(t) / p.alpha(s) * var_s
    assert posterior(p, t, s).large == pytest.approx(var_s - covariance**2 / var_t, rel=1e-6)


@pytest.mark.parametrize("name", sorted(PATHS))
def test_the_last_step_returns_the_prediction(name: str) -> None:
    c = posterior(path(name), 0.1, 0.0)
    assert (c.of_x, c.of_x0, c.small) == (0.0, 1.0, 0.0)


def test_steps_upwards_are_refused() -> None:
    with pytest.raises(ValueError, match="goes down"):
        posterior(path("cosine"), 0.1, 0.2)
