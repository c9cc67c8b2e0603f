"""Runs whose differences are known: bits, samples and speed of a model, drawn and stored as a run does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench import files
from bench.compare.evidence import RunEvidence
from bench.identity import content_key
from bench.metrics.frechet import group_frechet
from bench.metrics.moments import BlockMoments, Moments
from bench.metrics.throughput import median_interval
from bench.records import Record
from bench.run import RUN, write_tables
from bench.store import PACE, Part, Store

IMAGES, DIMS, GROUP, D, ROUNDS, BATCH = 360, 64, 400, 6, 11, 32
OFFSET = 1.0
"""Of the mean of generated features from the real one, so that a shift changes their distance."""
JITTER = 0.05
"""Standard deviation of the logarithm of a round's seconds."""
FEATURES = "features 0123456789ab"


@dataclass(frozen=True)
class Truth:
    """What run B has more than run A: bits per dimension, squared distance, and its speed as a factor."""

    bits: float = 0.0
    distance: float = 0.0
    speed: float = 1.0
    pace: float = 0.0
    """Seconds of fixed work beside the timings; 0 where it was not taken."""

    @property
    def shift(self) -> float:
        """Of the features' mean: (OFFSET + shift)² − OFFSET² is the distance that is added."""
        return float(np.sqrt(OFFSET**2 + self.distance) - OFFSET)


def write_run(
    root: Path, name: str, pair: int, side: str, truth: Truth = Truth(), **changes: Any
) -> RunEvidence:
    """One run of a pair: both sides share images and seeds, each has noise of its own.

    changes  columns of all records, such as `device`
    """
    shared, own = np.random.default_rng([pair, 0]), np.random.default_rng([pair, 1 + "ab".index(side)])
    store, folder = Store(root / "store"), root / "runs" / name
    store.save_reference("data-1", FEATURES, _reference())
    records = [
        *_bits(store, shared, own, side, truth, pair),
        *_quality(store, shared, own, side, truth, pair),
        *_speed(store, own, side, truth, pair),
    ]
    records = [
        record.replace(run=name, suite="synthetic", dataset="synthetic", **changes) for record in records
    ]
    write_tables(folder, records)
    files.write_json(folder / RUN, {"schema": 1, "run": name})
    return RunEvidence.open(folder, name)


def _reference() -> Moments:
    many = 10**8
    return Moments(many, np.zeros(D), np.eye(D) * (many - 1))


def _cell(store: Store, kind: str, spec: dict[str, Any], part: Part, make: Any) -> list[Record]:
    key = content_key({"kind": kind, **spec})
    store.begin(key, kind, spec)
    store.save_part(key, 0, part)
    records = [record.replace(cell_key=key) for record in make()]
    store.finish(key, records)
    return records


def _bits(
    store: Store, shared: np.random.Generator, own: np.random.Generator, side: str, truth: Truth, pair: int
) -> list[Record]:
    bits = 2.0 + 0.3 * shared.normal(size=IMAGES) + 0.02 * own.normal(size=IMAGES) + truth.bits
    nats = bits * DIMS * np.log(2)
    spec = {"data": "data-1", "side": side, "pair": pair, "seed": 0}

    def make() -> list[Record]:
        error = 1.96 * bits.std(ddof=1) / np.sqrt(IMAGES)
        row = {"model": "flow", "family": "normalizing flow", "split": "test", "kind": "exact", "n": IMAGES}
        value = float(bits.mean())
        return [
            Record(
                metric="bits/dim", value=value, low=value - error, high=value + error, protocol="exact", **row
            )
        ]

    return _cell(store, "likelihood", spec, Part({"nats": nats}, {}), make)


def _quality(
    store: Store, shared: np.random.Generator, own: np.random.Generator, side: str, truth: Truth, pair: int
) -> list[Record]:
    rows = 0.95 * shared.normal(size=(GROUP, D)) + 0.3 * own.normal(size=(GROUP, D))
    rows[:, 0] += OFFSET + truth.shift
    blocks = BlockMoments(GROUP // 20, D)
    blocks.add(0, rows)
    spec = {"data": "data-1", "features": FEATURES, "side": side, "pair": pair, "seed": 0, "prompts": "test"}
    spec["group"] = GROUP

    def make() -> list[Record]:
        found = group_frechet(blocks, group_size=GROUP, blocks_per_group=20, reference=_reference())
        row = {
            "model": "flow",
            "family": "normalizing flow",
            "split": "train",
            "sampler": "inverse",
            "n": GROUP,
        }
        return [
            Record(
                metric=f"FD-x@{GROUP}",
                value=found.value,
                low=found.low,
                high=found.high,
                protocol="fd",
                **row,
            )
        ]

    return _cell(store, "quality", spec, Part(blocks.to_arrays(), {"nfe": 1}), make)


def _speed(store: Store, own: np.random.Generator, side: str, truth: Truth, pair: int) -> list[Record]:
    seconds = np.exp(JITTER * own.normal(size=ROUNDS)) / truth.speed
    spec = {"side": side, "pair": pair}
    key = content_key({"kind": "throughput", **spec})
    store.begin(key, "throughput", spec)
    for index, each in enumerate(seconds):
        info = {PACE: truth.pace} if truth.pace else {}
        store.save_part(key, index, Part({"seconds": np.asarray(each)}, info))
    rate = np.sort(BATCH / seconds)
    low, high, _ = median_interval(rate)
    row = {"model": "flow", "family": "normalizing flow", "sampler": "inverse", "device": "A (2 cores)"}
    record = Record(
        cell_key=key,
        metric="throughput",
        value=float(np.median(rate)),
        low=low,
        high=high,
        unit="images/s",
        protocol="median",
        n=ROUNDS,
        **row,
    )
    store.finish(key, [record])
    return [record]
