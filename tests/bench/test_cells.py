"""Protects the plan: which cells a suite has, and that a key changes with whatever changes the number."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench import data
from bench.cells import Cell, Planner, shard_sizes
from bench.run import make_planner
from bench.runtime import Runtime
from bench.suite import Suite, load_suite


@pytest.fixture
def planner() -> Planner:
    return make_planner(load_suite("digits"), Runtime("cpu", 1))


def _cells(planner: Planner, label: str = "rectified-flow", weights: str = "w") -> list[Cell]:
    family, native = planner.traits(label)
    return planner.dependents(label, family, native, weights)


def test_shards_hold_256_and_the_last_the_rest() -> None:
    assert shard_sizes(600) == (256, 256, 88)
    assert shard_sizes(256) == (256,)


def test_a_gaussian_path_model_meets_every_sampler_at_every_number_of_steps(planner: Planner) -> None:
    offered = {(s.name, n) for s in planner.suite.sampling.samplers for n in s.steps}
    for kind in ("quality", "throughput"):
        cells = [cell for cell in _cells(planner) if cell.kind == kind]
        assert {(c.row["sampler"], c.row["steps"]) for c in cells} == offered
        assert len({cell.key for cell in cells}) == len(offered)


def test_other_families_sample_in_their_own_way(planner: Planner) -> None:
    kinds = [(cell.kind, cell.row.get("sampler")) for cell in _cells(planner, "vae")]
    assert kinds == [("quality", "prior"), ("likelihood", None), ("throughput", "prior")]


def _changed(suite: Suite, **changes: object) -> Planner:
    return make_planner(load_suite("digits", changes), Runtime("cpu", 1))


def test_weights_seed_batch_threads_and_features_change_the_key(planner: Planner) -> None:
    base = _cells(planner)[0].key
    others = [
        _cells(planner, weights="other")[0],
        _cells(_changed(planner.suite, seed=1))[0],
        _cells(_changed(planner.suite, sampling={"batch": 32}))[0],
        _cells(_changed(planner.suite, sampling={"grid": "uniform"}))[0],
        _cells(replace(planner, runtime=Runtime("cpu", 2)))[0],
        _cells(replace(planner, features="digits-features other"))[0],
        _cells(replace(planner, data=replace(data.load("digits"), train=data.load("digits").train[::-1])))[0],
    ]
    keys = {cell.key for cell in others}
    assert len(keys) == len(others)
    assert base not in keys


def test_what_does_not_change_the_number_keeps_the_key(planner: Planner) -> None:
    base = [cell.key for cell in _cells(planner)]
    same = _changed(planner.suite, name="other", metrics=["quality", "likelihood", "throughput"])
    assert [cell.key for cell in _cells(same)] == base
    every = {"models": {"rectified-flow": {"training": {"checkpoint_every": 11}}}}
    assert (
        _changed(planner.suite, **every).training("rectified-flow").key
        == planner.training("rectified-flow").key
    )


def test_a_changed_model_leaves_the_others_alone(planner: Planner) -> None:
    other = _changed(planner.suite, models={"vae": {"training": {"steps": 9}}})
    assert other.training("vae").key != planner.training("vae").key
    assert other.training("ddpm").key == planner.training("ddpm").key


def test_a_sampling_key_does_not_depend_on_the_machine_but_a_timing_does(planner: Planner) -> None:
    specs = {cell.kind: cell.spec for cell in _cells(planner)}
    assert "hardware" not in specs["quality"]
    assert "machine" in specs["throughput"]["hardware"]


def test_shards_cover_every_image_once(planner: Planner) -> None:
    cell = _cells(planner)[0]
    images = [image for index in range(cell.parts) for image in cell.shard(index)]
    assert images == list(range(planner.suite.sampling.images))
