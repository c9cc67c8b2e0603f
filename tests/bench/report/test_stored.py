"""Protects what the report reads of likelihood shards: numbers of the hand, or silence."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.present import (
    FIGURES,
    MARKDOWN,
    PAGE,
    _likelihoods,
    _made_from,
    measured_likelihoods,
    write_report,
)
from bench.records import Record, to_rows
from bench.report import LADDERS, NATS, TERMS
from bench.report.stored import grouped, ladder_frame, nats_frame, terms_frame
from bench.store import Part, Store

UNIT = 2 * math.log(2.0)
"""Nats of one bit per dimension of two dimensions."""
KEY = "ab" * 32
LADDER = [
    {"setting": "rk4 5 steps", "nfe": 20.0, "difference": -0.1, "low": -0.2, "high": 0.0, "own": False},
    {"setting": "rk4 10 steps", "nfe": 40.0, "difference": 0.0, "low": 0.0, "high": 0.0, "own": True},
]


def record(value: float = 2.0, n: int = 2, **columns: Any) -> Record:
    columns = {"model": "m", "family": "diffusion", "cell_key": KEY, **columns}
    return Record(metric="bits/dim", value=value, n=n, **columns)


def part(bits: list[float], terms: Any = None, edges: Any = None, **info: Any) -> Part:
    arrays = {"nats": UNIT * np.asarray(bits)}
    if terms is not None:
        arrays["terms"] = (UNIT * np.asarray(terms)).astype(np.float32)
        arrays["terms.log_snr"] = np.asarray(edges, np.float64)
    return Part(arrays, info)


def test_images_are_numbered_through_all_shards() -> None:
    frame = nats_frame(record(n=3), [part([1.0, 2.0]), part([3.0])])
    assert frame is not None
    assert list(frame) == list(NATS)
    assert list(frame["image"]) == [0, 1, 2]
    assert list(frame["nats"]) == pytest.approx([UNIT, 2 * UNIT, 3 * UNIT])


@pytest.mark.parametrize("parts", [[], [Part({}, {})], [part([1.0]), Part({}, {})]])
def test_shards_without_arrays_say_nothing(parts: list[Part]) -> None:
    assert nats_frame(record(), parts) is None
    assert terms_frame(record(), parts) is None
    assert ladder_frame(record(), parts) is None


def test_terms_are_means_over_images_in_bits_with_their_interval() -> None:
    """Two images: 0.2 and 0.4 bits in the first step, so 0.3 ± 1.96·0.1414/√2."""
    frame = terms_frame(record(), [part([1.0, 3.0], [[0.2, 1.0], [0.4, 1.0]], [4.0, 0.0, -8.0])])
    assert frame is not None
    assert list(frame) == list(TERMS)
    assert frame[["log_snr_from", "log_snr_to"]].values.tolist() == [[4.0, 0.0], [0.0, -8.0]]
    assert list(frame["bits"]) == pytest.approx([0.3, 1.0], rel=1e-6)
    assert list(frame["low"]) == pytest.approx([0.3 - 0.196, 1.0], rel=1e-5)
    assert list(frame["high"]) == pytest.approx([0.3 + 0.196, 1.0], rel=1e-5)


def test_shards_together_are_the_images_of_one() -> None:
    rng = np.random.default_rng(0)
    bits, terms, edges = rng.random(6) + 1, rng.random((6, 3)), [3.0, 2.0, 1.0, 0.0]
    whole = terms_frame(record(float(bits.mean()), 6), [part(list(bits), terms, edges)])
    halves = [part(list(bits[s]), terms[s], edges) for s in (slice(0, 4), slice(4, 6))]
    split = terms_frame(record(float(bits.mean()), 6), halves)
    assert whole is not None
    assert split is not None
    assert whole.equals(split)
    assert list(whole["bits"]) == pytest.approx(list(terms.mean(0)), rel=1e-6)


def test_neighbouring_steps_are_summed_image_by_image() -> None:
    """Opposite terms of a pair of close steps cancel in every image, so their sum has no spread."""
    edges = np.linspace(8.0, 0.0, 801)
    rng = np.random.default_rng(1)
    noise = rng.standard_normal((5, 400))
    terms = np.stack([0.001 + noise, 0.001 - noise], 2).reshape(5, 800)
    frame = terms_frame(record(3.0, 5), [part([3.0] * 5, terms, edges)])
    assert frame is not None
    assert len(frame) <= 100
    assert frame["bits"].sum() == pytest.approx(0.8, abs=1e-3)
    even = [g for g in range(len(frame)) if grouped(edges)[g][0] % 2 == grouped(edges)[g][1] % 2 == 0]
    assert even
    assert (frame["high"] - frame["low"]).iloc[even].max() < 1e-4


def test_a_single_image_has_terms_without_an_interval() -> None:
    frame = terms_frame(record(1.0, 1), [part([1.0], [[0.5]], [1.0, 0.0])])
    assert frame is not None
    assert frame["bits"].tolist() == pytest.approx([0.5])
    assert frame["low"].isna().all()


@given(st.lists(st.floats(0.001, 5.0), min_size=1, max_size=60), st.booleans(), st.booleans())
def test_groups_cover_every_step_once_and_leave_wide_ones_alone(
    widths: list[float], falls: bool, endless: bool
) -> None:
    edges = np.concatenate([[0.0], np.cumsum(widths)]) * (-1 if falls else 1)
    if endless:
        edges = np.append(edges, -np.inf if falls else np.inf)
    runs = grouped(edges, most=8)
    assert [start for start, _ in runs] == [0, *(stop for _, stop in runs[:-1])]
    assert runs[-1][1] == len(edges) - 1
    assert len(runs) <= 2 * 8 + 3
    for start, stop in runs:
        wide = [i for i in range(start, stop) if abs(edges[i + 1] - edges[i]) >= sum(widths) / 8]
        assert not wide or stop - start == 1


def test_a_ladder_is_read_from_the_first_shard() -> None:
    frame = ladder_frame(record(), [part([1.0], ladder=LADDER), part([1.0])])
    assert frame is not None
    assert list(frame) == list(LADDERS)
    assert list(frame["difference"]) == [-0.1, 0.0]
    assert list(frame["own"]) == [False, True]


def stored(store: Store, key: str, sizes: list[int], **info: Any) -> None:
    store.begin(key, "likelihood", {})
    for index, size in enumerate(sizes):
        store.save_part(key, index, part([2.0] * size, [[1.0]] * size, [1.0, 0.0], **info))
    store.finish(key, [])


def test_all_shards_of_a_cell_are_read_from_the_store(tmp_path: Path) -> None:
    store = Store(tmp_path)
    stored(store, KEY, [256, 4], ladder=LADDER)
    found = _likelihoods([record(n=260), record(n=260).replace(metric="bits/dim (prior)")], store)
    assert {name: len(frame) for name, frame in found.items()} == {"nats": 260, "terms": 1, "ladders": 2}


def test_a_cell_with_a_shard_missing_is_left_out_and_so_are_anchors_and_failures(tmp_path: Path) -> None:
    store = Store(tmp_path)
    stored(store, KEY, [256])
    anchor = Record(metric="bits/dim", family="anchor", model="uniform", value=1.0, n=256, cell_key=KEY)
    failed = Record(metric="bits/dim", family="f", model="x", status="failed", cell_key=KEY)
    assert measured_likelihoods([anchor, failed]) == []
    assert _likelihoods([record(n=260), anchor, failed], store) == {}


def test_what_a_report_is_made_from_holds_the_shards_of_likelihoods(tmp_path: Path) -> None:
    """The shards of a cell may come or go while its records stay: the report must then be made again."""
    folder, store = tmp_path / "run", Store(tmp_path / "store")
    folder.mkdir()
    rows = to_rows([record(n=256)])
    (folder / "results.json").write_text(json.dumps(rows))
    run = {"spec": {"resolved": {"name": "mine"}}, "provenance": [{"computed": 1}]}
    (folder / "run.json").write_text(json.dumps(run))
    before = _made_from(folder, store)
    assert _made_from(folder, store) == before
    stored(store, KEY, [256])
    after = _made_from(folder, store)
    assert after != before
    store.remove(KEY)
    assert _made_from(folder, store) == before
    assert not (folder / PAGE).exists()


def test_reading_shards_needs_no_torch(tmp_path: Path) -> None:
    stored(Store(tmp_path), KEY, [2], ladder=LADDER)
    code = (
        "import sys; from pathlib import Path; from bench.present import _likelihoods;"
        "from bench.store import Store; from bench.records import Record;"
        f"row = Record(metric='bits/dim', value=2.0, n=2, model='m', cell_key='{KEY}');"
        f"assert len(_likelihoods([row], Store(Path({str(tmp_path)!r}))) ) == 3;"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_report_written_from_results_and_store_shows_them_and_is_the_same_again(tmp_path: Path) -> None:
    folder, store = tmp_path / "run", Store(tmp_path / "store")
    folder.mkdir()
    rows = []
    for key, bits, protocol in ((KEY, 2.0, "variational bound, T=1"), ("cd" * 32, 1.5, "ode rk4 10 steps")):
        store.begin(key, "likelihood", {})
        images = part([bits - 0.1, bits + 0.1], [[1.0], [1.2]], [1.0, 0.0], ladder=LADDER)
        store.save_part(key, 0, images)
        store.finish(key, [])
        rows.append(record(bits, cell_key=key, protocol=protocol, dataset="digits"))
    (folder / "results.json").write_text(json.dumps(to_rows(rows)))
    run = {"spec": {"resolved": {"name": "mine", "dataset": "digits"}}, "provenance": [{"computed": 1}]}
    (folder / "run.json").write_text(json.dumps(run))
    page = write_report(folder, store.root)
    text = (folder / MARKDOWN).read_text()
    assert "| -0.5" in text
    assert {"bits-noise.png", "bits-evaluations.png"} <= {path.name for path in (folder / FIGURES).iterdir()}
    assert not (folder / FIGURES / "bits-paired.png").exists()
    before = page.read_bytes()
    assert write_report(folder, store.root, again=True).read_bytes() == before
