"""Files and names made to harm: headers that promise too much, code as data, names that are markup."""

from __future__ import annotations

import json
import pickle
import random
import struct
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from bench.errors import UsageError
from bench.metrics.inception import read_tensors
from bench.metrics.indexed_moments import IndexedMoments
from bench.metrics.provenance_of_features import FeatureProvenance
from bench.metrics.statistics_file import Statistics
from bench.store import Store
from bench.suite import load_suite
from models import published_weights
from tests.crash.runs import SMALL, ended, outcome, said, start


def _headed(header: object, body: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


BOMBS = {
    "nothing": b"",
    "seven bytes": b"1234567",
    "a header of 2^63 bytes": _headed({}, length=2**63),
    "a header longer than the file": _headed({}, length=10**6),
    "no JSON": _headed(b"{]"),
    "JSON that is no mapping": _headed([1]),
    "deep JSON": _headed(b"[" * 100_000 + b"]" * 100_000),
    "a tensor of 2^60 bytes": _headed({"a": {"dtype": "F32", "shape": [2**58], "data_offsets": [0, 2**60]}}),
    "a shape beyond its bytes": _headed(
        {"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 4]}}, bytes(4)
    ),
    "a negative shape": _headed({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, bytes(4)),
    "an overflowing shape": _headed(
        {"a": {"dtype": "U8", "shape": [2**32, 2**32], "data_offsets": [0, 0]}}, b""
    ),
    "an unknown kind": _headed({"a": {"dtype": "PY", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
    "overlapping tensors": _headed(
        {name: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for name in "ab"}, bytes(4)
    ),
    "a hole": _headed({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, bytes(8)),
    "bytes nobody names": _headed({}, bytes(100)),
    "a description that is no JSON": _headed({"__metadata__": {"info": "{]"}}),
}


class Evil:
    """What a pickle would run."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (Path.touch, (Path(self.mark),))


@pytest.mark.parametrize("what", BOMBS)
def test_a_safetensors_file_that_lies_is_one_sentence(tmp_path: Path, what: str) -> None:
    """As statistics, as weights of a feature network or of a model; as a shard it counts as not there."""
    path = tmp_path / "bomb.safetensors"
    path.write_bytes(BOMBS[what])
    with pytest.raises(ValueError, match=r"bomb\.safetensors") as statistics:
        Statistics.load(path)
    assert "\n" not in str(statistics.value)
    for read in (read_tensors, published_weights.load_file):
        if what != "bytes nobody names":
            try:
                read(path)
            except ValueError as error:
                assert "bomb.safetensors" in str(error)  # noqa: PT017
    store = Store(tmp_path / "store")
    store.begin("ab" * 32, "quality", {})
    place = store.part_path("ab" * 32, 0)
    place.write_bytes(BOMBS[what])
    part = store.load_part("ab" * 32, 0)
    assert part is None or not part.arrays
    assert part is not None or not place.exists()


def test_code_in_a_file_never_runs(tmp_path: Path) -> None:
    mark = tmp_path / "it ran"
    evil = pickle.dumps(Evil(str(mark)))
    (tmp_path / "a.pt").write_bytes(evil)
    (tmp_path / "a.safetensors").write_bytes(evil)
    np.save(tmp_path / "a.npy", np.array([Evil(str(mark))], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "a.npz", images=np.array([Evil(str(mark))], dtype=object))
    mark.unlink(missing_ok=True)
    from bench.images import open_images

    for refuse in (
        lambda: open_images(tmp_path / "a.npy"),
        lambda: open_images(tmp_path / "a.npz"),
        lambda: Statistics.load(tmp_path / "a.safetensors"),
        lambda: read_tensors(tmp_path / "a.pt"),
        lambda: read_tensors(tmp_path / "a.safetensors"),
        lambda: published_weights.load_file(tmp_path / "a.pt"),
    ):
        with pytest.raises(ValueError, match=r"a\.(pt|npy|npz|safetensors)"):
            refuse()
    tagged = tmp_path / "tagged.yaml"
    tagged.write_text(f"name: !!python/object/apply:pathlib.Path.touch [{mark}]\n")
    with pytest.raises(UsageError, match="not valid YAML"):
        load_suite(str(tagged))
    assert not mark.exists()


def _damaged_statistics(folder: Path, trials: int, seed: int) -> Counter[str]:
    """Statistics with some bytes altered: the same moments, other ones that are told, or a sentence."""
    whole = folder / "whole.safetensors"
    rows = np.random.default_rng(0).normal(size=(40, 5))
    told = FeatureProvenance("made", "features", "none", "none", "round", "float32", "rows", "train")
    Statistics.of(IndexedMoments.of([rows], block_size=16), told).save(whole)
    draw, seen = random.Random(seed), Counter[str]()
    data = whole.read_bytes()
    path = folder / "altered.safetensors"
    for trial in range(trials):
        at = draw.randrange(len(data) if trial % 2 else 300)
        path.write_bytes(data[:at] + bytes([draw.randrange(256)]) + data[at + draw.choice([0, 1, 1, 9]) :])
        try:
            Statistics.load(path)
            seen["read"] += 1
        except ValueError as error:
            assert "altered.safetensors" in str(error)  # noqa: PT017
            seen["refused"] += 1
    return seen


def test_altered_statistics_are_never_a_traceback(tmp_path: Path) -> None:
    """A bit of a value is not seen without the file's hash; anything of its form is."""
    seen = _damaged_statistics(tmp_path, 600, 0)
    assert seen["refused"] > 200
    assert seen["read"] > 20


def test_names_that_are_markup_paths_or_quotes_are_only_names(tmp_path: Path) -> None:
    """In the report, the tables, the file system and the terminal."""
    names = ["../../etc/x", "<script>alert(1)</script>", "a'b\"c", "$(touch owned)", "ünïcode 😀", "-rf"]
    entries = "".join(
        f"  {json.dumps(name, ensure_ascii=False)}: {{model: 'tests.bench.toys:Histogram'}}\n"
        for name in names
    )
    text = SMALL[: SMALL.index("  histogram:")] + entries + SMALL[SMALL.index("metrics:") :]
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "small.yaml").write_text(text)
    assert ended(start(folder)) == 0, said(folder)
    assert "Traceback" not in said(folder)
    whole = outcome(folder)
    assert set(names) <= {row["model"] for row in json.loads(whole.rows)}
    (run,) = (folder / "results" / "runs").iterdir()
    page = (run / "report.html").read_text()
    assert "<script>alert(1)</script>" not in page
    assert not (folder / "owned").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"run"}
    for arguments in (["compare", run.name, run.name], ["ls", "runs"], ["doctor"], ["report", run.name]):
        assert ended(start(folder, *arguments)) == 0, said(folder)


@pytest.mark.parametrize("name", ["", "a\nb", "a\x1b[31mb", "x" * 81, " a", "a,b"])
def test_names_that_would_break_a_line_or_a_list_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "named.yaml"
    path.write_text(SMALL.replace("histogram", json.dumps(name), 1))
    with pytest.raises(UsageError, match="name of a model") as refused:
        load_suite(str(path))
    assert "\n" not in str(refused.value)
