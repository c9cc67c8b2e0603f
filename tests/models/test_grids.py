"""Protects the grids: N steps are N intervals, strictly falling, the same noise on every path."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest

from models.grids import GRIDS, START_LOG_SNR, grid
from models.paths import PATHS, path
from tests.conftest import ROOT, environment


@pytest.mark.parametrize("name", sorted(GRIDS))
@pytest.mark.parametrize("path_name", sorted(PATHS))
def test_every_number_of_steps_gives_exactly_that_many_falling_times(name: str, path_name: str) -> None:
    p = path(path_name)
    for steps in range(1, 1001):
        times = grid(name, p, steps)
        assert len(times) == steps + 1
        assert times[-1] == 0.0
        assert times[0] < 1.0
        assert all(s < t for t, s in itertools.pairwise(times))


@pytest.mark.parametrize("steps", [1, 7, 100])
def test_shared_grid_visits_the_same_noise_on_every_path(steps: int) -> None:
    """The comparison of samplers across families rests on this."""
    reference = path("rectified-flow")
    wanted = [reference.log_snr(t) for t in grid("shared", reference, steps)[:-1]]
    assert wanted[0] == pytest.approx(START_LOG_SNR)
    for name in PATHS:
        p = path(name)
        assert [p.log_snr(t) for t in grid("shared", p, steps)[:-1]] == pytest.approx(wanted, rel=1e-9)


def test_on_the_straight_path_shared_and_uniform_are_one() -> None:
    p = path("rectified-flow")
    assert grid("shared", p, 10) == pytest.approx(grid("uniform", p, 10), rel=1e-12)


@pytest.mark.parametrize("name", sorted(PATHS))
def test_uniform_steps_are_equal(name: str) -> None:
    times = grid("uniform", path(name), 8)
    assert [t - s for t, s in itertools.pairwise(times)] == pytest.approx([times[0] / 8] * 8)


@pytest.mark.parametrize(
    ("name", "steps", "message"),
    [("sharde", 4, "Did you mean 'shared'"), ("shared", 0, "one or more"), ("shared", 2.5, "whole number")],
)
def test_bad_requests_get_one_sentence(name: str, steps: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        grid(name, path("cosine"), steps)


def test_names_of_grids_and_samplers_cost_no_torch() -> None:
    """`ls` and `--help` must not wait seconds for an import."""
    code = (
        "import sys; from models.samplers import catalogue, sampler; import models.grids; sampler('ddim', 5);"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment(), check=True)
