"""Protects the figure of the certificates: which lines in which panel, their names, that it can be read."""

from __future__ import annotations

from typing import Any

import pytest

from bench.records import Record, to_frame
from bench.report import pictures
from bench.report.certificates import NOISY, certificate_curves
from bench.report.figures import all_figures
from bench.report.theme import vega_config
from tests.bench.report.conftest import certificate_records, make_report, synthetic_records
from tests.bench.report.test_figures import styles

STEPS = (4, 8, 16, 32, 64, 128)
FLOW = {
    "euler": 1,
    "heun": 2,
    "rk4": 4,
    "edm": 2,
    "ddim": 1,
    "dpmpp-2m": 2,
    "dpmpp-3m": 3,
    "deis": 2,
    "unipc": 3,
}


def _base(sampler: str, options: str = "", grid: str = "shared") -> Record:
    named = Record(model="mixture", family="certificate", dataset="mixture", sampler=sampler, options=options)
    return named.replace(grid=grid, protocol="[p]", n=256, cell_key=f"{sampler}{options}{grid}")


def _flow(sampler: str, order: int, options: str = "", grid: str = "shared") -> list[Record]:
    base = _base(sampler, options, grid)
    rows = [base.replace(metric="order", value=order - 0.02, low=order - 0.03, high=order + 0.01)]
    for steps in STEPS:
        e = (2.0 / steps) ** order
        row = base.replace(metric="sampler error", steps=steps, nfe=float(order * steps), value=e)
        rows.append(row.replace(low=0.9 * e, high=1.2 * e))
    return rows


def _law(sampler: str, options: str = "") -> list[Record]:
    base = _base(sampler, options)
    rows = [base.replace(metric="sampler law floor", value=0.01, low=0.006, high=0.014)]
    for steps in STEPS:
        e = 0.01 + 1.0 / steps
        low = 0.0 if steps == STEPS[-1] else 0.9 * e
        row = base.replace(metric="sampler law error", steps=steps, nfe=float(steps))
        rows.append(row.replace(value=e, low=low, high=1.1 * e))
    return rows


def _all() -> list[Record]:
    rows = [row for name, order in FLOW.items() for row in _flow(name, order)]
    rows += [*_flow("unipc", 2, "order=1"), *_flow("deis", 3, "order=3"), *_flow("mine", 1)]
    return rows + _law("ddpm") + _law("ddim", "eta=1") + _law("edm", "churn=10")


def _points(panel: Any) -> list[dict[str, Any]]:
    """The rows that are drawn as points of named lines."""
    spec = panel.to_dict()
    for layer in spec["layer"]:
        if isinstance(layer["mark"], dict) and layer["mark"].get("style") == "cell-point":
            return spec["datasets"][layer["data"]["name"]]
    raise AssertionError("no points")


def test_each_sampler_stands_in_the_panel_of_its_kind() -> None:
    found = {
        title: {row["series"] for row in _points(p)}
        for title, p in certificate_curves(to_frame(_all())).items()
    }
    assert found == {
        "Runge–Kutta methods": {"euler p=1.0", "heun p=2.0", "rk4 p=4.0", "edm p=2.0"},
        "DDIM and DPM-Solver++": {"ddim p=1.0", "dpmpp-2m p=2.0", "dpmpp-3m p=3.0"},
        "Other multistep methods": {
            *("deis p=2.0", "deis order=3 p=3.0", "unipc p=3.0", "unipc order=1 p=2.0"),
        },
        "Other samplers": {"mine p=1.0"},
        NOISY: {"ddpm", "ddim eta=1", "edm churn=10"},
    }


def test_every_number_is_drawn_once() -> None:
    rows = [row for row in _all() if row.nfe is not None]
    drawn = [row for panel in certificate_curves(to_frame(rows)).values() for row in _points(panel)]
    assert sorted((r["nfe"], r["value"]) for r in drawn) == sorted((r.nfe, r.value) for r in rows)


def test_axes_are_shared_and_hold_every_value() -> None:
    """Errors in all panels but that of laws on one scale; evaluations in all panels on one."""
    domains: dict[str, set[tuple[float, ...]]] = {"x": set(), "y": set()}
    for title, panel in certificate_curves(to_frame(_all())).items():
        point = next(layer for layer in panel.to_dict()["layer"] if "shape" in layer["encoding"])["encoding"]
        for row in _points(panel):
            for channel, name in (("x", "nfe"), ("y", "value")):
                low, high = point[channel]["scale"]["domain"]
                assert low < row[name] < high
        assert point["y"]["scale"]["type"] == "log"
        domains["x"].add(tuple(point["x"]["scale"]["domain"]))
        if title != NOISY:
            domains["y"].add(tuple(point["y"]["scale"]["domain"]))
    assert [len(found) for found in domains.values()] == [1, 1]


def test_an_interval_down_to_zero_ends_at_the_axis() -> None:
    """A logarithmic axis would drop the whole whisker in silence."""
    panel = certificate_curves(to_frame(_all()))[NOISY]
    assert min(row["low"] for row in _points(panel)) > 0


def test_laws_are_read_against_exact_draws() -> None:
    panels = certificate_curves(to_frame(_all()))
    assert {"floor-line", "floor-band"} <= styles(panels[NOISY].to_dict())
    assert "floor-line" not in styles(panels["Runge–Kutta methods"].to_dict())
    assert "exact draws 0.01" in str(panels[NOISY].to_dict())


def test_a_grid_is_named_only_where_there_are_several() -> None:
    rows = [*_flow("heun", 2), *_flow("heun", 2, grid="karras rho=5")]
    (panel,) = certificate_curves(to_frame(rows)).values()
    assert {row["series"] for row in _points(panel)} == {"heun p=2.0", "heun karras rho=5 p=2.0"}
    (panel,) = certificate_curves(to_frame(_flow("heun", 2, grid="karras"))).values()
    assert {row["series"] for row in _points(panel)} == {"heun p=2.0"}


def test_an_adaptive_sampler_is_a_point_without_an_order() -> None:
    row = _base("dopri5").replace(metric="sampler error", nfe=147.0, value=1e-5, low=8e-6, high=2e-5)
    (panel,) = certificate_curves(to_frame([row])).values()
    assert [point["series"] for point in _points(panel)] == ["dopri5"]


def test_failed_and_unavailable_certificates_are_left_out() -> None:
    failed = _base("heun").replace(metric="certificate", status="failed", error="not finite")
    missing = _base("ddpm", "variance=learned").replace(metric="sampler error", status="n/a")
    assert certificate_curves(to_frame([failed, missing])) == {}
    (panel,) = certificate_curves(to_frame([failed, missing, *_flow("euler", 1)])).values()
    assert {row["series"] for row in _points(panel)} == {"euler p=1.0"}


def test_the_figure_is_there_only_with_certificates() -> None:
    names = [figure.name for figure in all_figures(make_report(synthetic_records()))]
    assert "certificates" not in names
    with_them = all_figures(make_report([*synthetic_records(), *certificate_records()]))
    figure = next(figure for figure in with_them if figure.name == "certificates")
    assert figure.title == "Sampler error apart from training error"
    assert len(figure.panels) == 2
    assert "order" in figure.caption


def test_only_roles_of_the_theme_are_named() -> None:
    panels = certificate_curves(to_frame(_all())).values()
    named = set().union(*(styles(panel.to_dict()) for panel in panels))
    assert named <= set(vega_config("light")["style"])


@pytest.mark.parametrize("width", [330, 760])
def test_it_can_be_drawn_on_a_phone_and_on_a_page(width: int) -> None:
    panels = certificate_curves(to_frame(_all()))
    image = pictures.drawn(panels[NOISY], width)
    assert abs(image.width / pictures.DENSITY - width) < 12
    assert len(image.resize((60, 60)).getcolors(3600) or []) > 20


def test_a_screen_reader_is_told_the_end_of_every_line() -> None:
    said = certificate_curves(to_frame(_all()))["Runge–Kutta methods"].to_dict()["description"]
    assert "rk4 p=4.0: 6.0e-08 at 512" in said
