"""Text, label and colour arithmetic: what keeps numbers honest and labels apart."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.report import labels, placement, text, theme


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((1.934, 1.712, 2.149), "1.93 [1.71, 2.15]"),
        ((2.0123, 1.9991, 2.0255), "2.012 [1.999, 2.026]"),
        ((48211.7, 46003.2, 51000.9), "48,212 [46,003, 51,001]"),
        ((4.087462841, None, None), "4.0875"),
        ((2.0, 2.0, 2.0), "2"),
        ((float("nan"), 1.0, 2.0), "–"),
        ((1234567.0, float("nan"), float("nan")), "1,234,567"),
    ],
)
def test_numbers_show_the_digits_their_interval_supports(values: tuple[float, ...], expected: str) -> None:
    assert text.interval(*values) == expected


def test_missing_values_of_every_kind_are_a_dash() -> None:
    import pandas as pd

    assert {text.number(value) for value in (None, pd.NA, math.nan, math.inf, "x")} == {text.MISSING}


@given(st.lists(st.floats(0, 200), max_size=12))
def test_spread_labels_stay_in_bounds_apart_and_in_order(wanted: list[float]) -> None:
    placed = labels.spread(wanted, 0.0, 200.0)
    gap = min(labels.LINE, 200.0 / max(1, len(wanted) - 1))
    assert all(-1e-6 <= place <= 200 + 1e-6 for place in placed)
    ordered = [placed[i] for i in sorted(range(len(wanted)), key=lambda i: wanted[i])]
    assert all(b - a >= gap - 1e-6 for a, b in itertools.pairwise(ordered))


@given(st.floats(0.01, 1e5), st.floats(1.01, 1e4), st.floats(0, 1), st.booleans())
def test_axis_arithmetic_inverts(low: float, ratio: float, share: float, log: bool) -> None:
    domain = (low, low * ratio)
    assert labels.fraction(labels.at(share, domain, log), domain, log) == pytest.approx(share, abs=1e-6)


@pytest.mark.parametrize("domain", [(0.02, 31.0), (1.3, 2.9), (90.0, 6e6), (1e-9, 1e9)])
def test_log_ticks_lie_inside_and_are_few(domain: tuple[float, float]) -> None:
    ticks = labels.ticks(domain, True)
    assert ticks is not None
    assert all(domain[0] <= tick <= domain[1] for tick in ticks)
    assert 1 <= len(ticks) <= 19


def test_room_for_labels_makes_the_last_name_fit() -> None:
    name, width = "rectified-flow · heun 20", 490.0
    domain = labels.room_for_labels([100.0], [name], (1.0, 100.0), True, width)
    end = labels.fraction(100.0, domain, True) * width + 12 + labels.CHARACTER * len(name)
    assert end <= width


def test_an_endless_name_does_not_squeeze_the_points_together() -> None:
    domain = labels.room_for_labels([100.0], ["x" * 500], (1.0, 100.0), False, 490.0)
    assert domain[1] <= 1 + 99 * labels.MOST_ROOM + 1e-9
    assert len(labels.clipped("x" * 500)) == labels.LONGEST


def test_names_do_not_cover_points_or_each_other() -> None:
    """Two crowded points get one name and one number; at no width do their boxes meet."""
    points = [placement.Point(0.5, 100.0), placement.Point(0.52, 104.0)]
    texts = [["a long name of a cell", "1"], ["another long name", "2"]]
    widths = (490.0, 700.0, 1000.0)
    placed = placement.place(points, texts, points, [], widths, 380.0)
    for width in widths:
        boxes = [label.box(point, width) for label, point in zip(placed, points, strict=True)]
        assert placement.overlap(boxes[0], np.array(boxes[1:])) == 0.0
        obstacles = np.array([point.box(width) for point in points])
        assert all(placement.overlap(box, obstacles) == 0.0 for box in boxes)


def test_without_any_room_a_point_keeps_its_number_inside_the_chart() -> None:
    wall = [placement.Point(x / 40, y) for x in range(41) for y in range(0, 60, 8)]
    placed = placement.place([wall[4]], [["name", "7"]], wall, [], (240.0,), 60.0)
    assert placed[0].text == "7"
    left, top, right, bottom = placed[0].box(wall[4], 240.0)
    assert left >= 0
    assert top >= 0
    assert right <= 240
    assert bottom <= 60


def luminance(colour: str) -> float:
    """Relative luminance, WCAG 2.2."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("name", list(theme.THEMES))
@pytest.mark.parametrize("role", ["ink", "muted", "accent", "warning"])
def test_text_has_contrast_of_4_5_on_every_ground_of_both_themes(name: str, role: str) -> None:
    palette = theme.THEMES[name]
    for ground in ("paper", "raised", "mark"):
        bright, dim = sorted((luminance(palette[role]), luminance(palette[ground])), reverse=True)
        assert (bright + 0.05) / (dim + 0.05) >= 4.5


def test_families_keep_their_colour_whatever_else_is_in_a_report() -> None:
    alone = theme.assign(["diffusion"], theme.FAMILIES, theme.FAMILY_COLOURS)
    among = theme.assign(["zebra", "diffusion", "autoregressive"], theme.FAMILIES, theme.FAMILY_COLOURS)
    assert alone["diffusion"] == among["diffusion"]
    assert len(set(among.values())) == 3
