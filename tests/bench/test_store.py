"""Protects the store: a cell is finished only if sealed and whole, damage is found and made again."""

from __future__ import annotations

from pathlib import Path

import filelock
import numpy as np
import pytest

from bench.records import Record
from bench.store import DONE, RECORDS, Part, Store

KEY = "ab" * 32


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store with one finished cell of two shards."""
    found = Store(tmp_path)
    found.begin(KEY, "quality", {"seed": 0})
    for index in range(2):
        found.save_part(KEY, index, Part({"x": np.full(3, index)}, {"index": index}))
    found.finish(KEY, [Record(cell_key=KEY, metric="m", value=1.0)])
    return found


def test_a_finished_cell_gives_back_parts_and_numbers(store: Store) -> None:
    assert store.is_finished(KEY)
    assert list(store) == [KEY]
    assert store.records(KEY)[0].value == 1.0
    part = store.load_part(KEY, 1)
    assert part is not None
    assert part.info == {"index": 1}
    np.testing.assert_array_equal(part.arrays["x"], [1, 1, 1])


def test_without_its_seal_a_cell_is_unfinished_and_keeps_its_shards(store: Store) -> None:
    (store.folder(KEY) / DONE).unlink()
    assert not store.is_finished(KEY)
    assert store.load_part(KEY, 0) is not None


@pytest.mark.parametrize("name", ["part-000.safetensors", RECORDS, "cell.json"])
def test_a_truncated_file_is_found_and_the_cell_is_reopened(store: Store, name: str) -> None:
    path = store.folder(KEY) / name
    path.write_bytes(path.read_bytes()[:-2])
    assert store.damage(KEY) == [name]
    assert not store.is_finished(KEY)
    assert store.discard_damage(KEY) == [name]
    assert not path.exists()
    assert store.load_part(KEY, 1) is not None


def test_a_flipped_bit_of_the_same_size_is_found_by_the_thorough_check(store: Store) -> None:
    path = store.part_path(KEY, 0)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    assert store.damage(KEY, thorough=True) == [path.name]


def test_altered_numbers_are_never_served(store: Store) -> None:
    path = store.folder(KEY) / RECORDS
    path.write_text(path.read_text().replace("1.0", "2.0"))
    assert not store.is_finished(KEY)


def test_a_damaged_shard_counts_as_missing(store: Store) -> None:
    store.part_path(KEY, 0).write_bytes(b"rubbish")
    assert store.load_part(KEY, 0) is None
    assert not store.part_path(KEY, 0).exists()


def test_a_cell_has_one_writer_at_a_time(store: Store) -> None:
    with store.lock(KEY), pytest.raises(filelock.Timeout):
        filelock.FileLock(store.root / "locks" / f"{KEY}.lock", is_singleton=False).acquire(timeout=0)
