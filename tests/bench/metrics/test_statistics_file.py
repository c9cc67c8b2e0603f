"""Protects the statistics file: it comes back, merges to the same bits, and refuses what does not belong."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.files import read_arrays, write_arrays
from bench.metrics.indexed_moments import IndexedMoments
from bench.metrics.moments import Moments
from bench.metrics.provenance_of_features import COMPARED, MERGED, FeatureProvenance
from bench.metrics.statistics_file import Statistics, merged_files

D, N = 6, 100
ROWS = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)
MADE = FeatureProvenance(
    extractor="inception-v3-tf",
    layer="pool-2048",
    weights_sha256="6726825d",
    resize="tf-bilinear",
    quantiser="round",
    dtype="float32",
    data_set="cifar10",
    split="train",
)


def _statistics(start: int = 0, stop: int = N, **changes: Any) -> Statistics:
    part = IndexedMoments(D, 16)
    part.add(range(start, stop), ROWS[start:stop])
    return Statistics.of(part, dataclasses.replace(MADE, **changes))


def _plain(**changes: Any) -> Statistics:
    return Statistics.of(Moments.of(ROWS), dataclasses.replace(MADE, **changes))


@pytest.mark.parametrize("made", [_statistics(), _plain()], ids=["indexed", "plain"])
def test_a_file_comes_back_as_it_was(made: Statistics, tmp_path: Path) -> None:
    made.save(tmp_path / "s.safetensors")
    found = Statistics.load(tmp_path / "s.safetensors")
    assert (found.provenance, found.index_hash, found.count) == (made.provenance, made.index_hash, N)
    np.testing.assert_array_equal(found.moments.mean, made.moments.mean)
    np.testing.assert_array_equal(found.moments.scatter, made.moments.scatter)
    assert found.provenance.versions["numpy"] == np.__version__
    assert [path.name for path in tmp_path.iterdir()] == ["s.safetensors"]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_files_of_shards_merge_to_the_bits_of_the_whole(order: tuple[int, ...], tmp_path: Path) -> None:
    cuts = [(0, 37), (37, 50), (50, N)]
    for i, (start, stop) in enumerate(cuts):
        _statistics(start, stop).save(tmp_path / f"{i}.safetensors")
    found = merged_files([tmp_path / f"{i}.safetensors" for i in order])
    whole = _statistics()
    assert found.index_hash == whole.index_hash
    assert found.moments.scatter.tobytes() == whole.moments.scatter.tobytes()
    assert found.moments.mean.tobytes() == whole.moments.mean.tobytes()


@pytest.mark.parametrize("name", COMPARED)
def test_statistics_of_other_features_are_refused_by_name(name: str) -> None:
    """Of the same width and under the same name, another package mixes them in silence."""
    mine = getattr(MADE, name)
    for action in (Statistics.distance, Statistics.merge):
        with pytest.raises(ValueError, match=f"differ in {name}, .*'{mine}' and 'another'; "):
            action(_statistics(), _statistics(**{name: "another"}))


@pytest.mark.parametrize("name", sorted(set(MERGED) - set(COMPARED)))
def test_another_data_set_is_compared_and_not_merged(name: str) -> None:
    other = _statistics(**{name: "another"})
    assert abs(_statistics().distance(other).value) < 1e-10
    with pytest.raises(ValueError, match=f"differ in {name}, .*merge only parts of one data set"):
        _statistics().merge(other)


def test_names_of_data_sets_keep_their_case(tmp_path: Path) -> None:
    made = _statistics().named(data_set="MyData", split="Test")
    made.save(tmp_path / "MyData.safetensors")
    found = Statistics.load(tmp_path / "MyData.safetensors")
    assert (found.provenance.data_set, found.provenance.split) == ("MyData", "Test")


def test_versions_are_recorded_and_no_cause_of_refusal() -> None:
    other = _statistics(versions={"numpy": "1.0"})
    assert abs(_statistics().distance(other).value) < 1e-10


def test_other_dimensions_are_refused() -> None:
    narrow = Statistics.of(Moments.of(ROWS[:, :4]), MADE)
    for action in (Statistics.distance, Statistics.merge):
        with pytest.raises(ValueError, match=r"differ in dims, .*: 6 and 4"):
            action(_statistics(), narrow)


def test_samples_that_both_parts_have_are_refused() -> None:
    with pytest.raises(ValueError, match="sample 40 is in both"):
        _statistics(0, 50).merge(_statistics(40, N))


def test_a_part_with_gaps_has_no_distance() -> None:
    with pytest.raises(ValueError, match="40 are missing, the first is 0"):
        _statistics(40, N).distance(_statistics())


def test_plain_statistics_merge_by_their_moments() -> None:
    halves = [Statistics.of(Moments.of(half), MADE) for half in np.split(ROWS, 2)]
    np.testing.assert_allclose(
        halves[0].merge(halves[1]).moments.scatter, Moments.of(ROWS).scatter, rtol=1e-9
    )


@pytest.mark.parametrize("kept", [0, 7, 100, 600, -1])
def test_a_truncated_file_is_one_sentence(kept: int, tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    _statistics().save(path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(
        ValueError, match=r"statistics file s\.safetensors is damaged .*compute it again"
    ) as caught:
        Statistics.load(path)
    assert "\n" not in str(caught.value)


def test_files_that_are_something_else_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no statistics file gone\.safetensors"):
        Statistics.load(tmp_path / "gone.safetensors")
    write_arrays(tmp_path / "weights.safetensors", {"w": np.zeros(3)})
    with pytest.raises(ValueError, match=r"weights\.safetensors is no statistics file of format"):
        Statistics.load(tmp_path / "weights.safetensors")
    (tmp_path / "text.safetensors").write_text("not a file of arrays at all")
    with pytest.raises(ValueError, match="damaged"):
        Statistics.load(tmp_path / "text.safetensors")
    with pytest.raises(ValueError, match="give at least one"):
        merged_files([])


@pytest.mark.parametrize("change", ["missing array", "nan", "wrong count", "missing field"])
def test_contents_that_do_not_fit_are_damage(change: str, tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    _statistics().save(path)
    arrays, header = read_arrays(path)
    if change == "missing array":
        del arrays["nodes"]
    elif change == "nan":
        arrays["mean"][0, 0] = np.nan
    elif change == "wrong count":
        header["count"] = N - 1
    else:
        del header["provenance"]["weights_sha256"]
    write_arrays(path, arrays, header)
    with pytest.raises(ValueError, match=r"s\.safetensors is damaged"):
        Statistics.load(path)


def test_unknown_provenance_is_asked_for() -> None:
    with pytest.raises(ValueError, match="SHA-256 of the weights: give weights_sha256"):
        dataclasses.replace(MADE, weights_sha256="")
