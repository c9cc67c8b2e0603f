"""Protects `noisebench verify`: verdicts, what is printed, exit codes, and the solver settings of a suite."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from bench import registry
from bench import verify as library
from bench.cli import app as verbs
from bench.cli import verify as printed
from bench.errors import UsageError
from bench.suite import Model, load_suite
from bench.verify import Check, Finding, run, solver
from bench.verify.closed_form import (
    ENTROPY,
    LEVELS,
    Chain,
    certain_pixel_nats,
    classic_levels,
    coarse_flow_nats,
    flow_nats,
)

CLASSIC = classic_levels()[::-1]


@pytest.mark.parametrize(
    ("relation", "got", "ok"),
    [
        ("=", 1.05, True),
        ("=", 0.85, False),
        ("≤", 0.2, True),
        ("≤", 1.2, False),
        ("≥", 7.0, True),
        ("≥", 0.85, False),
        ("=", math.nan, False),
        ("≤", -math.inf, False),
    ],
)
def test_verdicts(relation: library.Relation, got: float, ok: bool) -> None:
    assert Finding(1.0, got, 0.1, relation).ok is ok


def test_a_check_that_breaks_off_fails_and_the_others_go_on() -> None:
    def broken() -> Finding:
        raise ArithmeticError("no number")

    rows = list(run([Check("a", "breaks", broken), Check("a", "holds", lambda: Finding(1.0, 1.0, 0.0))]))
    assert [row.ok for row in rows] == [False, True]
    assert rows[0].note == "ArithmeticError: no number"
    assert rows[0].got is None


@pytest.mark.parametrize(("kind", "nats"), [("small", 1.295719), ("optimal", 0.725793)])
def test_closed_forms_are_the_known_numbers_of_the_classic_schedule(kind: str, nats: float) -> None:
    """N(0.3, 0.25), T = 1000: sums worked out elsewhere, with a prior that is off by 10⁻⁵ at most."""
    assert Chain(CLASSIC, kind).bound() == pytest.approx(nats, abs=2e-6)
    assert Chain(CLASSIC, "optimal").nats() == pytest.approx(ENTROPY, abs=2e-6)


@pytest.mark.parametrize(("inner", "bits"), [(False, 0.510), (True, 1.305)])
def test_closed_form_of_the_certain_pixel(inner: bool, bits: float) -> None:
    assert certain_pixel_nats(CLASSIC, "small", 1 / 255, inner) / math.log(2) == pytest.approx(bits, abs=5e-4)


@pytest.mark.parametrize(
    ("solver_name", "steps", "error"),
    [("euler", 64, -6.93e-3), ("midpoint", 32, -1.60e-4), ("heun", 32, -1.90e-4)],
)
def test_closed_form_of_coarse_solvers(solver_name: str, steps: int, error: float) -> None:
    """The published bias of 64 evaluations, and none in the limit."""
    assert coarse_flow_nats(solver_name, steps) - ENTROPY == pytest.approx(error, rel=5e-3)
    exact = sum(flow_nats(LEVELS["rectified-flow"], x) for x in (-0.2, 0.8)) / 2
    assert coarse_flow_nats("rk4", 2000) == pytest.approx(exact, abs=1e-9)


def _checks(*measures: Callable[[], Finding]) -> Callable[[str], object]:
    return lambda suite: run(Check("group", f"check {i}", measure) for i, measure in enumerate(measures))


def test_the_table_and_the_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything a reader needs in a line; 1 where anything is red."""
    good, bad = (lambda: Finding(1.0, 1.0, 1e-6)), (lambda: Finding(2.5, 3.5, 0.01, "≤"))
    monkeypatch.setattr(printed, "verify", _checks(good))
    done = CliRunner().invoke(verbs.app, ["verify"], standalone_mode=False)
    assert done.return_value == 0
    assert "All 1 checks hold" in done.output
    monkeypatch.setattr(printed, "verify", _checks(good, bad))
    done = CliRunner().invoke(verbs.app, ["verify"], standalone_mode=False)
    assert done.return_value == 1
    assert "1 of 2 checks FAILED" in done.output
    (line,) = [line for line in done.output.splitlines() if "check 1" in line]
    assert line.split()[2:] == ["≤", "2.500000", "3.500000", "±0.010000", "FAILED", "0.0"]


def test_json_has_the_same_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(printed, "verify", _checks(lambda: Finding(1.0, 3.0, 0.1)))
    done = CliRunner().invoke(verbs.app, ["verify", "--json"], standalone_mode=False)
    (row,) = json.loads(done.output)
    assert (row["expected"], row["got"], row["ok"]) == (1.0, 3.0, False)
    assert done.return_value == 1


def test_an_unknown_suite_is_told_before_anything_runs() -> None:
    with pytest.raises(UsageError, match="digits"):
        next(library.verify("digitz"))


def test_settings_are_those_of_the_estimator_and_the_suite() -> None:
    model = Model(model="rectified-flow")
    known = registry.nll_options(
        registry.import_path(model.model), {"solver": "rk4", "steps": 25, "dequantisation_samples": 3}
    )
    flow = solver.flow_of(known)
    assert (flow.solver, flow.steps, flow.probes) == ("rk4", 25, 1)
    assert solver.refined(flow) == (replace(flow, steps=50), "twice the steps")
    adaptive = solver.flow_of(registry.nll_options(registry.import_path(model.model), {}))
    assert solver.refined(adaptive)[0].rtol == adaptive.rtol / 2


def test_every_estimate_by_an_ode_of_a_suite_has_its_checks() -> None:
    """And no other: models without a likelihood, and bounds, have no solver."""
    labels = [check.name.split(":")[0] for check in solver.checks_of("catalogue")]
    assert {"ffjord", "rectified-flow", "flow-matching", "mm-dit", "latent-diffusion"} <= set(labels)
    assert not {"vae", "mean-flow", "distilled-flow", "realnvp"} & set(labels)
    assert all(labels.count(label) == 2 for label in set(labels))
    assert set(labels) <= set(load_suite("catalogue").models)


@pytest.mark.campaign
@pytest.mark.parametrize("suite", ["digits", "catalogue"])
def test_the_whole_verification_holds(suite: str) -> None:
    """All checks as a user runs them, within three minutes."""
    rows = list(library.verify(suite))
    assert [row for row in rows if not row.ok] == []
    assert sum(row.seconds for row in rows) < 180
