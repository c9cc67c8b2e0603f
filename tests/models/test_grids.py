"""Protects the grids: N steps are N intervals, strictly falling, the noise levels those of the sources."""

from __future__ import annotations

import itertools
import math
import pickle
import re
import subprocess
import sys
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.gaussian_path import GaussianPath
from models.grids import GRIDS, START_LOG_SNR, Grid, check, grid
from models.learned_schedule import LearnedPath, SigmoidSum
from models.options import Choice
from models.paths import PATHS, path
from tests.conftest import ROOT, environment

SHAPE = (3, 64, 64)
LEARNED = LearnedPath(-7.0, 10.5, SigmoidSum(0.7, (0.5, 0.2), (9.0, 20.0), (0.3, 0.8)))
EVERY_PATH: dict[str, GaussianPath] = {**{name: path(name) for name in PATHS}, "learned": LEARNED}
NAMES = sorted(set(GRIDS) - {"native"})
TIMESTEP_GRIDS = [name for name in NAMES if GRIDS[name].most]


def _assert_is_a_grid(times: tuple[float, ...], p: GaussianPath, steps: int) -> None:
    start = p.t_of_log_snr(START_LOG_SNR)
    assert len(times) == steps + 1
    assert times[-1] == 0.0
    assert times[0] <= start * (1.0 + 1e-12)
    assert times[0] < 1.0
    assert all(s < t for t, s in itertools.pairwise(times))


def _log_snr(name: str, steps: int, p: GaussianPath | None = None) -> list[float]:
    p = p or path("cosine")
    return [p.log_snr(t) for t in grid(name, p, steps, SHAPE)[:-1]]


def _indices(name: str, steps: int) -> list[int]:
    p = path("rectified-flow")
    start = p.t_of_log_snr(START_LOG_SNR)
    return [round(1000 * t / start) - 1 for t in grid(name, p, steps)[:-1]]


@pytest.mark.parametrize("name", TIMESTEP_GRIDS)
def test_timesteps_are_as_many_as_steps_for_every_number_of_steps(name: str) -> None:
    """Spacings in floating point fail here: diffusers' trailing has N + 1 for N = 61, 103, 121 and others."""
    p = path("rectified-flow")
    for steps in range(1, 1001):
        _assert_is_a_grid(grid(name, p, steps), p, steps)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("path_name", sorted(EVERY_PATH))
def test_every_grid_falls_strictly_on_every_path(name: str, path_name: str) -> None:
    p = EVERY_PATH[path_name]
    learned = path_name == "learned"  # inverted by bisection, so slowly
    for steps in (1, 2, 3, 35, 100) if learned else (*range(1, 41), 61, 103, 121, 250, 999, 1000):
        _assert_is_a_grid(grid(name, p, steps, SHAPE), p, steps)


@pytest.mark.campaign
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("path_name", sorted(PATHS))
def test_every_grid_falls_strictly_on_every_path_for_every_number_of_steps(name: str, path_name: str) -> None:
    for steps in range(1, 1001):
        _assert_is_a_grid(grid(name, path(path_name), steps, SHAPE), path(path_name), steps)


@st.composite
def _grids(draw: st.DrawFn) -> Grid:
    """Any grid with any of its options."""
    name = draw(st.sampled_from(NAMES))
    values: dict[str, Any] = {}
    for option, known in GRIDS[name].options.items():
        assert not isinstance(known, Choice)
        if draw(st.booleans()):
            values[option] = draw(st.floats(known.low, known.high))
    return Grid(name, values)


@given(_grids(), st.sampled_from(sorted(PATHS)), st.integers(1, 1000))
@settings(max_examples=100, deadline=None)
def test_no_option_makes_a_grid_that_does_not_fall(chosen: Grid, path_name: str, steps: int) -> None:
    _assert_is_a_grid(chosen(path(path_name), steps, (1, 8, 8)), path(path_name), steps)


@given(_grids())
def test_a_grid_is_told_whole_by_its_text(chosen: Grid) -> None:
    """The text stands in records and content keys."""
    assert Grid.parse(str(chosen)) == chosen
    assert hash(Grid.parse(str(chosen))) == hash(chosen)
    assert Grid.parse({"name": chosen.name, **dict(chosen.options)}) == chosen
    assert eval(repr(chosen), {"Grid": Grid}) == chosen
    assert pickle.loads(pickle.dumps(chosen)) == chosen


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("path_name", sorted(EVERY_PATH))
def test_one_step_goes_from_the_start_to_the_data(name: str, path_name: str) -> None:
    p = EVERY_PATH[path_name]
    start = -2.0 * math.log(80.0) if name == "edm" else START_LOG_SNR
    assert grid(name, p, 1, SHAPE) == pytest.approx((p.t_of_log_snr(start), 0.0), rel=1e-12)


@pytest.mark.parametrize("steps", [1, 7, 100])
@pytest.mark.parametrize("name", sorted({*NAMES} - {*TIMESTEP_GRIDS, "uniform"}))
def test_a_grid_of_noise_visits_the_same_noise_on_every_path(name: str, steps: int) -> None:
    """The comparison of samplers across families rests on this."""
    wanted = _log_snr(name, steps, path("rectified-flow"))
    for p in EVERY_PATH.values():
        assert _log_snr(name, steps, p) == pytest.approx(wanted, rel=1e-9, abs=1e-9)


def test_on_the_straight_path_shared_and_uniform_are_one() -> None:
    p = path("rectified-flow")
    assert grid("shared", p, 10) == pytest.approx(grid("uniform", p, 10), rel=1e-12)


@pytest.mark.parametrize("name", sorted(PATHS))
def test_uniform_steps_are_equal(name: str) -> None:
    times = grid("uniform", path(name), 8)
    assert [t - s for t, s in itertools.pairwise(times)] == pytest.approx([times[0] / 8] * 8)


@pytest.mark.parametrize(
    ("name", "steps", "indices"),
    [
        ("leading", 10, [900, 800, 700, 600, 500, 400, 300, 200, 100, 0]),
        ("trailing", 10, [999, 899, 799, 699, 599, 499, 399, 299, 199, 99]),
        ("linspace", 10, [999, 888, 777, 666, 555, 444, 333, 222, 111, 0]),
        ("leading", 3, [666, 333, 0]),
        ("trailing", 3, [999, 666, 332]),
        ("linspace", 3, [999, 500, 0]),
        ("linspace", 1, [999]),
        ("leading", 1, [999]),
    ],
)
def test_timesteps_are_the_published_ones(name: str, steps: int, indices: list[int]) -> None:
    assert _indices(name, steps) == indices


@pytest.mark.parametrize("steps", [10, 61, 103, 121])
def test_timesteps_are_those_of_diffusers_where_its_floats_do_not_fail(steps: int) -> None:
    """Its formulas as they stand; for 61, 103 and 121 its trailing has one more timestep, −1."""
    spaced = np.round(np.arange(1000, 0, -1000 / steps)).astype(np.int64) - 1
    assert len(spaced) == steps + (steps != 10)
    assert _indices("trailing", steps) == spaced[:steps].tolist()
    assert _indices("leading", steps) == (np.arange(steps) * (1000 // steps))[::-1].tolist()
    exact = [Fraction(999 * k, steps - 1) for k in reversed(range(steps))]
    floats = np.linspace(0, 999, steps).round().astype(int)[::-1].tolist()
    assert _indices("linspace", steps) == [round(e) for e in exact]
    halves = {e for e, i in zip(exact, floats, strict=True) if round(e) != i}
    assert all(e.denominator == 2 for e in halves), "only a half may fall to the other side in floats"


def test_all_timesteps_are_chosen_by_a_thousand_steps() -> None:
    for name in TIMESTEP_GRIDS:
        assert _indices(name, 1000) == list(range(999, -1, -1))


def test_log_snr_steps_are_equal_and_end_where_told() -> None:
    assert _log_snr("log-snr", 5) == pytest.approx([-10.0, -5.0, 0.0, 5.0, 10.0], abs=1e-9)
    assert _log_snr("log-snr end=6", 3) == pytest.approx([-10.0, -2.0, 6.0], abs=1e-9)


def test_edm_levels_are_those_of_the_paper() -> None:
    """Karras et al. 2022: 18 steps from 80 to 0.002 with rho 7, by the formula of their generate.py."""
    i = np.arange(18)
    wanted = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    found = np.exp(-0.5 * np.array(_log_snr("edm", 18)))
    np.testing.assert_allclose(found, wanted, rtol=1e-9)
    assert found[[0, 1, -1]] == pytest.approx([80.0, 57.5860, 0.002], rel=1e-5)


def test_karras_levels_span_the_common_start_and_the_finest_noise() -> None:
    found = np.exp(-0.5 * np.array(_log_snr("karras", 9)))
    assert found[[0, -1]] == pytest.approx([math.exp(5.0), 0.002], rel=1e-9)
    assert np.diff(found ** (1 / 7)) == pytest.approx([np.diff(found ** (1 / 7))[0]] * 8)
    coarse = np.exp(-0.5 * np.array(_log_snr("karras rho=1 sigma_min=0.1", 4)))
    assert np.diff(coarse) == pytest.approx([(0.1 - math.exp(5.0)) / 3] * 3)


def test_the_shift_is_applied_once() -> None:
    """At shift 3 the lowest of 1000 levels is 0.003; shifted twice it would be 0.009 (diffusers#13243)."""
    straight = path("rectified-flow")
    start = straight.t_of_log_snr(START_LOG_SNR)
    times = np.array(grid("shifted", straight, 1000)) / start
    assert times[-2] == pytest.approx(0.003 / 1.002, rel=1e-9)
    w = 1.0 - np.arange(1001) / 1000
    np.testing.assert_allclose(times, 3.0 * w / (1.0 + 2.0 * w), atol=1e-12)


def test_shifts_that_undo_themselves() -> None:
    p = path("cosine")
    assert grid("shifted shift=1", p, 9) == pytest.approx(grid("shared", p, 9), rel=1e-12)
    same = grid("resolution-shifted", p, 9, (4, 32, 32))
    assert same == pytest.approx(grid("shared", p, 9), rel=1e-12)


def test_the_shift_of_a_resolution_is_the_root_of_its_entries() -> None:
    """Esser et al. 2024: four times the side is four times the shift, whatever the channels."""
    p = path("rectified-flow")
    assert grid("resolution-shifted", p, 7, (16, 128, 128)) == grid("shifted shift=4", p, 7)
    assert grid("resolution-shifted base=64", p, 7, (8, 16)) == pytest.approx(
        grid(Grid("shifted", {"shift": math.sqrt(2.0)}), p, 7)
    )


def test_options_left_at_their_default_make_no_difference() -> None:
    assert Grid("karras", {"rho": 7, "sigma_min": 0.002}) == Grid("karras") == Grid.parse("karras")
    assert len({Grid("karras"), Grid("karras", {"rho": 7.0}), Grid("karras", {"rho": 5})}) == 2
    assert str(Grid("edm", {"sigma_max": 50.0, "rho": 5})) == "edm rho=5 sigma_max=50"
    assert str(Grid()) == "shared"
    assert repr(Grid("karras", {"rho": 5})) == "Grid('karras', {'rho': 5})"


def test_native_becomes_the_grid_of_the_sampler() -> None:
    assert Grid("native").resolved("karras rho=5") == Grid("karras", {"rho": 5})
    assert Grid("native").resolved(Grid("edm")) == Grid("edm")
    assert Grid("uniform").resolved("karras") == Grid("uniform")
    check("native", 10)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("sharde", "Unknown grid 'sharde'. Did you mean 'shared'?"),
        ("karas rho=5", "Unknown grid 'karas'. Did you mean 'karras'?"),
        ({"name": 3}, "Unknown grid '3'."),
        ({"name": ["karras"]}, "Unknown grid '['karras']'."),
        ("", "Unknown grid ''."),
        ("karras roh=5", "Unknown option of grid karras 'roh'. Did you mean 'rho'?"),
        ("shared rho=5", "Unknown option of grid shared 'rho'. There is none, so leave it out."),
        ("karras rho=0.5", "Option rho of karras is a number from 1 to 100, not 0.5."),
        ({"name": "karras", "rho": "five"}, "Option rho of karras is a number from 1 to 100, not 'five'."),
        ("edm sigma_max=200", "Option sigma_max of edm is a number from 1 to 148, not 200."),
        ("karras rho", "Options of grid karras are written as in karras rho=5, and not 'rho'."),
        ("karras rho=", "Options of grid karras are written as in karras rho=5, and not 'rho='."),
        ({"rho": 5}, "A grid given as a mapping needs its name, such as {name: karras, rho: 5}."),
        (3, "A grid is a name or a mapping with a name, and not 3."),
    ],
)
def test_what_is_no_grid_gets_one_sentence(value: object, sentence: str) -> None:
    for refused in (
        lambda: Grid.parse(value),
        lambda: check(value, 4),
        lambda: grid(value, path("cosine"), 4),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(sentence)}"):
            refused()


@pytest.mark.parametrize(
    ("name", "steps", "shape", "sentence"),
    [
        ("shared", 0, None, "A grid needs a whole number of steps, one or more, and not 0."),
        ("shared", 2.5, None, "A grid needs a whole number of steps, one or more, and not 2.5."),
        ("shared", True, None, "A grid needs a whole number of steps, one or more, and not True."),
        *(
            (name, 1001, None, f"Grid {name} chooses from 1000 timesteps: 1001 steps are too many.")
            for name in TIMESTEP_GRIDS
        ),
        (
            "resolution-shifted",
            4,
            None,
            "Grid resolution-shifted needs the shape of a sample: pass shape=(C, H, W).",
        ),
        (
            "resolution-shifted",
            4,
            (3,),
            "Grid resolution-shifted needs the shape of a sample: pass shape=(C, H, W).",
        ),
        ("native", 4, None, "Grid native stands for that of a sampler: without one, name the grid itself."),
    ],
)
def test_what_a_grid_cannot_do_gets_one_sentence(name: str, steps: int, shape: Any, sentence: str) -> None:
    with pytest.raises(ValueError) as refusal:
        grid(name, path("cosine"), steps, shape)
    assert str(refusal.value) == sentence


def test_too_many_timesteps_are_refused_before_anything_is_computed() -> None:
    check("trailing", 1000)
    with pytest.raises(ValueError, match="too many"):
        check("trailing", 1001)


def test_every_grid_has_one_line_for_people() -> None:
    assert all(entry.name == name and entry.summary for name, entry in GRIDS.items())


@pytest.mark.parametrize(
    "code",
    [
        "import models.grids, models.options; str(models.grids.Grid.parse('karras rho=5'))",
        "from models.samplers import catalogue, sampler; sampler('ddim', 5)",
    ],
)
def test_names_of_grids_and_samplers_cost_no_torch(code: str) -> None:
    """`ls` and `--help` must not wait seconds for an import."""
    code = f"import sys; {code}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment(), check=True)
