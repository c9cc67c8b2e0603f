"""Protects the certificates: a right sampler gets its order, a wrong one is found out, records say it all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.cells import CERTIFIED_STEPS, Cell, certificate
from bench.drivers.events import Event, Finished
from bench.errors import CellFailed
from bench.metrics import certificates, sampler_error
from bench.metrics.certificates import Certificates
from bench.metrics.sampler_error import DRAWS, NOISES, ORDER_STEPS, Certified
from bench.records import Record
from bench.run import Run, execute, make_planner, read_records
from bench.runtime import Runtime
from bench.suite import Suite
from models.denoiser import Denoiser
from models.samplers import sampler


class _Bench:
    """As much of a workbench as a certificate asks for."""

    def row(self, cell: Cell, **columns: Any) -> Record:
        return Record(**{"cell_key": cell.key, "dataset": "digits", "device": "cuda", **cell.row, **columns})


def _records(name: str, grid: str = "shared", **options: Any) -> list[Record]:
    cell, measured = certificate(name, options, grid), Certificates()
    return measured.records(cell, [measured.part(cell, 0, _Bench())], _Bench())


def _of(records: Sequence[Record], metric: str) -> list[Record]:
    return [record for record in records if record.metric == metric]


class _Changed:
    """A sampler of ours with something done to its network's prediction or its noise."""

    def __init__(self, of: Certified, prediction: Callable[[Tensor], Tensor], noise: float = 1.0) -> None:
        self.of, self.prediction, self.noise = of, prediction, noise

    def times(self, path: Any, shape: Any = None) -> tuple[float, ...]:
        return self.of.times(path, shape)

    def __call__(
        self, denoiser: Denoiser, x_T: Tensor, grid: Any, *, noise: Any = None, callback: Any = None
    ):
        network, change = denoiser.network, self.prediction

        class Wrong(torch.nn.Module):
            def forward(self, x: Tensor, t: Tensor) -> Tensor:
                return change(network(x, t))

        wrong = Denoiser(Wrong(), denoiser.path, denoiser.prediction)
        loud = None if noise is None else (lambda x: self.noise * noise(x))
        return self.of(wrong, x_T, grid, noise=loud, callback=callback)


def _made(name: str, prediction: Callable[[Tensor], Tensor], noise: float = 1.0) -> sampler_error.Make:
    return lambda steps, grid: _Changed(sampler(name, steps, grid=grid), prediction, noise)


@pytest.mark.parametrize(("name", "wanted"), [("euler", 1), ("ddim", 1), ("heun", 2)])
def test_order_of_convergence_is_the_methods_own(name: str, wanted: int) -> None:
    """Within 0.15, with an interval that is narrow: the jump to 0 does not hide it."""
    (found,) = _of(_records(name), "order")
    assert found.value == pytest.approx(wanted, abs=0.15)
    assert found.low <= found.value <= found.high
    assert found.high - found.low < 0.1
    assert found.steps is None
    assert found.nfe is None


def test_order_does_not_depend_on_the_suites_grid_and_the_error_does() -> None:
    shared, karras = _records("heun"), _records("heun", "karras")
    assert _of(shared, "order")[0].value == _of(karras, "order")[0].value
    assert _of(shared, "sampler error")[3].value != _of(karras, "sampler error")[3].value
    assert {record.grid for record in karras} == {"karras"}


def test_errors_fall_with_evaluations_counted_at_the_network() -> None:
    errors = _of(_records("heun"), "sampler error")
    assert [record.steps for record in errors] == list(CERTIFIED_STEPS)
    assert [record.nfe for record in errors] == [2 * steps - 1 for steps in CERTIFIED_STEPS]
    values = [record.value for record in errors]
    assert values == sorted(values, reverse=True)
    assert values[0] > 0.05
    assert values[-1] < 1e-3


def test_at_equal_evaluations_the_order_decides() -> None:
    """At about 128 evaluations the method of order 2 beats that of order 1 tenfold."""
    heun = next(r.value for r in _of(_records("heun"), "sampler error") if r.nfe == 127)
    euler = next(r.value for r in _of(_records("euler"), "sampler error") if r.nfe == 128)
    assert 5 * heun < euler


def test_the_error_is_the_distance_from_the_flow_of_the_same_noise() -> None:
    """By hand for one step, which is a single jump along the first velocity."""
    arrays = sampler_error.flow_errors(lambda n, g: sampler("euler", n, grid=g), [1], "shared", None)
    denoiser = sampler_error.exact_denoiser()
    (t, _) = sampler("euler", 1).times(denoiser.path)
    x = sampler_error.start(t, NOISES)
    end = x - t * denoiser(x, t).velocity
    exact = sampler_error.certified_mixture().flow(x, denoiser.path, t)
    assert np.allclose(arrays["squares"][0], (end - exact).flatten(1).square().mean(1).numpy())


@pytest.mark.parametrize("change", [lambda v: -v, lambda v: 1.02 * v], ids=["wrong sign", "2 % too far"])
def test_a_broken_sampler_gets_a_bad_certificate(change: Callable[[Tensor], Tensor]) -> None:
    """Its error does not go away with steps, and it has no order."""
    broken = _made("heun", change)
    rms = np.sqrt(sampler_error.flow_errors(broken, [64, 128], "shared", None)["squares"].mean(1))
    right = _of(_records("heun"), "sampler error")[-1].value
    assert (rms > 10 * right).all()
    found = sampler_error.order(sampler_error.order_squares(broken))
    assert found is not None
    assert abs(found[0]) < 0.2


def test_no_order_is_read_from_rounding() -> None:
    """Errors of 1e-12 are noise; of a method that gets there the order is read where it can be seen."""
    rng = np.random.default_rng(0)
    nothing = 1e-24 * rng.random((len(ORDER_STEPS), NOISES))
    assert sampler_error.order(nothing) is None
    spread = 1.0 + 0.1 * rng.random(NOISES)
    fast = np.stack([(1e-3 * (32 / n) ** 8 * spread) ** 2 for n in ORDER_STEPS])
    found = sampler_error.order(fast)
    assert found is not None
    assert found[0] == pytest.approx(8.0)
    assert found[3] == 1, "from 64 to 128 steps: at 256 the error is below 1e-9"


def test_interval_of_the_error_is_that_of_fresh_noises() -> None:
    """Of a hundred sets of noises with a known error nearly all intervals of 95 % hold it."""
    rng = np.random.default_rng(1)
    truth = np.sqrt(1.0 + 0.25)
    hits = 0
    for _ in range(100):
        _, low, high = sampler_error.rms(rng.normal(1.0, 0.5, NOISES) ** 2)
        hits += low <= truth <= high
    assert hits >= 88


# ---- laws


def test_exact_draws_score_the_floor_and_a_shift_is_measured_in_units_of_the_data() -> None:
    draws = (
        sampler_error.certified_mixture().sample(DRAWS, torch.Generator().manual_seed(5)).flatten(1).numpy()
    )
    floor = np.sqrt(sampler_error.law_floor())
    exact = np.sqrt(sampler_error.sliced_square(draws))
    assert 0.5 * floor.min() < exact < 1.5 * floor.max()
    shifted = np.sqrt(sampler_error.sliced_square(draws + np.asarray([0.3, 0.0])))
    # The mean over directions of cos² is a half.
    assert shifted == pytest.approx(0.3 / np.sqrt(2.0), abs=0.02)


def test_interval_of_the_distance_of_laws_covers() -> None:
    """The jackknife's interval around samples of a wrong law holds the mean over such samples."""
    found = []
    for seed in range(12):
        draws = sampler_error.certified_mixture().sample(DRAWS, torch.Generator().manual_seed(seed))
        found.append(sampler_error.jackknifed(sampler_error.with_blocks(1.1 * draws)))
    truth = float(np.sqrt(np.mean([value**2 for value, _, _ in found])))
    assert sum(low <= truth <= high for _, low, high in found) >= 10
    assert all(low <= value <= high for value, low, high in found)


def test_a_stochastic_sampler_is_judged_by_its_law() -> None:
    records = _records("ddim", eta=1.0)
    assert {record.metric for record in records} == {"sampler law error", "sampler law floor"}
    errors, (floor,) = _of(records, "sampler law error"), _of(records, "sampler law floor")
    assert [record.nfe for record in errors] == list(CERTIFIED_STEPS)
    assert errors[0].value > 5 * floor.value
    assert errors[-1].low < 2 * floor.value
    assert {record.options for record in records} == {"eta=1"}


def test_noise_of_the_wrong_size_is_seen_in_the_law() -> None:
    loud = sampler_error.law_errors(_made("ddpm", lambda v: v, noise=1.3), [128], "shared", None)["law"][0, 0]
    right = sampler_error.law_errors(_made("ddpm", lambda v: v), [128], "shared", None)["law"][0, 0]
    assert loud > 4 * max(right, float(sampler_error.law_floor().mean()))


# ---- cells, records, runs


def test_every_record_says_what_it_is() -> None:
    records = [*_records("heun", "karras"), *_records("ddim", eta=0.5)]
    for record in records:
        assert (record.model, record.family, record.dataset) == ("mixture", "certificate", "mixture")
        assert (record.dtype, record.device, record.unit) == ("float64", "cpu", "")
        assert record.low <= record.value <= record.high
        assert "exact" in record.protocol
        assert record.n in (NOISES, DRAWS)
        assert record.seconds > 0
    assert _of(records, "sampler error")[0].protocol != _of(records, "order")[0].protocol


def test_a_variance_that_is_learned_has_no_certificate() -> None:
    (record,) = _records("ddpm", variance="learned")
    assert (record.status, record.value) == ("n/a", None)
    assert "learned" in record.protocol


def test_what_is_not_finite_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        certificates, "sampler", lambda name, n, grid: _made(name, lambda v: v * float("nan"))(n, grid)
    )
    with pytest.raises(CellFailed, match="not finite"):
        _records("euler")


def test_parts_are_the_same_every_time() -> None:
    cell = certificate("ddim", {"eta": 1.0}, "shared")
    first, second = (Certificates().part(cell, 0, _Bench()).arrays for _ in range(2))
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_keys_change_with_what_changes_the_number_and_with_nothing_else() -> None:
    base = certificate("ddim", {}, "shared").key
    assert certificate("ddim", {"eta": 0.0}, "shared", (1, 8, 8)).key == base
    others = [certificate("ddim", {"eta": 0.5}, "shared"), certificate("ddim", {}, "karras")]
    others += [certificate("euler", {}, "shared"), certificate("ddim", {}, "karras rho=5")]
    assert len({base, *(cell.key for cell in others)}) == 5
    shapes = [certificate("ddim", {}, "resolution-shifted", (3, size, size)).key for size in (32, 64)]
    assert shapes[0] != shapes[1]
    assert certificate("heun", {}, "native").row["grid"] == "uniform"


def _suite(**changes: Any) -> Suite:
    sampling = {"images": 256, "samplers": [{"name": "euler", "steps": [3, 5]}, {"name": "ddim", "steps": 2}]}
    values = {
        "name": "certified",
        "dataset": "digits",
        "metrics": ["certificates"],
        "models": {"histogram": {"model": "tests.bench.toys:Histogram", "training": {"steps": 1}}},
        "sampling": sampling,
        "quality": {"features": "digits-features", "group": 256},
    }
    return Suite.model_validate({**values, **changes})


def _execute(run: Run) -> list[Event]:
    planner = make_planner(run.suite, Runtime("cpu", 1))
    return [event for event in execute(run, planner) if isinstance(event, Finished)]


def test_a_run_makes_them_once_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One a sampler whatever its numbers of steps; a second run reads them; a damaged one is made again."""
    run = Run(_suite(), "certified.yaml", tmp_path)
    done = {e.cell.label: e for e in _execute(run) if e.cell.kind == "certificate"}
    assert set(done) == {"certificate · euler · shared", "certificate · ddim · shared"}
    assert {event.outcome for event in done.values()} == {"ok"}
    records = [r for r in read_records(run.folder) if r.family == "certificate"]
    assert len(records) == 2 * (len(CERTIFIED_STEPS) + 1)
    assert {record.status for record in records} == {"ok"}

    def refuse(*_: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(Certificates, "part", refuse)
    assert {e.outcome for e in _execute(run)} == {"cached"}
    renamed = Run(_suite(name="other", seed=4), "other.yaml", tmp_path)
    assert {e.outcome for e in _execute(renamed) if e.cell.kind == "certificate"} == {"cached"}
    monkeypatch.undo()
    key = done["certificate · ddim · shared"].cell.key
    (run.store.folder(key) / "records.json").unlink()
    again = {e.cell.label: e.outcome for e in _execute(run) if e.cell.kind == "certificate"}
    assert again == {"certificate · ddim · shared": "ok", "certificate · euler · shared": "cached"}
    assert [r for r in read_records(run.folder) if r.family == "certificate"] == records


def test_a_models_own_samplers_are_certified_too() -> None:
    models = {"rectified-flow": {"samplers": [{"name": "heun", "steps": 2}, {"name": "euler", "steps": 9}]}}
    planner = make_planner(_suite(models=models), Runtime("cpu", 1))
    labels = [cell.row["sampler"] for cell in planner.references() if cell.kind == "certificate"]
    assert sorted(labels) == ["ddim", "euler", "heun"]


def test_without_the_metric_there_are_none() -> None:
    planner = make_planner(_suite(metrics=["likelihood"]), Runtime("cpu", 1))
    assert [cell.kind for cell in planner.references()] == ["anchors"]
