"""What a run has beside its records, read from its store: nats of images, blocks of moments, timed rounds."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.records import Record
from bench.run import read_records
from bench.store import CELL, PACE, Part, Store

if TYPE_CHECKING:
    import numpy as np

    from bench.metrics.moments import BlockMoments, Moments


@dataclass(frozen=True)
class RunEvidence:
    """A run's folder, its records, and the store that it was computed in, if that is there.

    name  as it is called in the comparison
    """

    name: str
    folder: Path
    store: Store
    _specs: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path, name: str = "") -> RunEvidence:
        """A run in `<results>/runs/<name>` has its store in `<results>/store`."""
        return cls(name or folder.name, folder, Store(folder.resolve().parent.parent / "store"))

    @functools.cached_property
    def records(self) -> list[Record]:
        """All numbers of the run."""
        return read_records(self.folder)

    @functools.cached_property
    def loads(self) -> Mapping[str, float]:
        """Per cent of the processor that other programs used while a cell was timed, by its key."""
        found = [record for record in self.records if record.metric == "other load"]
        return {record.cell_key: record.value for record in found if record.value is not None}

    def spec(self, key: str) -> Mapping[str, Any]:
        """What a cell's key is the hash of; empty where the store does not have the cell."""
        if key not in self._specs:
            known = key and (self.store.folder(key) / CELL).is_file()
            self._specs[key] = self.store.spec(key) if known else {}
        return self._specs[key]

    def parts(self, key: str) -> list[Part]:
        """All shards of a finished cell in order; none where one is missing."""
        if not key or not self.store.is_finished(key):
            return []
        count = len(list(self.store.folder(key).glob("part-*.safetensors")))
        parts = [self.store.load_part(key, index) for index in range(count)]
        return [part for part in parts if part is not None] if None not in parts else []

    def bits(self, record: Record) -> np.ndarray | None:
        """Bits per dimension of each image, in order; None where they are not known.

        A record's value is mean(nats) / (D ln 2), so the ratio of the two is the unit, whatever D is.
        """
        import numpy as np

        parts = self.parts(record.cell_key)
        if not parts or any("nats" not in part.arrays for part in parts) or record.value is None:
            return None
        nats = np.concatenate([np.asarray(part.arrays["nats"], np.float64) for part in parts])
        mean = float(nats.mean())
        return None if mean == 0.0 else nats * (record.value / mean)

    def seconds(self, record: Record) -> np.ndarray | None:
        """Seconds of each timed round."""
        import numpy as np

        parts = self.parts(record.cell_key)
        if not parts or any("seconds" not in part.arrays for part in parts):
            return None
        return np.asarray([float(part.arrays["seconds"]) for part in parts])

    def pace(self, record: Record) -> float | None:
        """Median seconds of fixed work beside the rounds of a timing; None where it was not taken."""
        taken = [part.info[PACE] for part in self.parts(record.cell_key) if PACE in part.info]
        return statistics.median(taken) if taken else None

    def blocks(self, record: Record) -> BlockMoments | None:
        """Moments of the features of a quality cell, by block."""
        from bench.metrics.moments import BlockMoments

        parts = self.parts(record.cell_key)
        if not parts or any("moments.block" not in part.arrays for part in parts):
            return None
        return BlockMoments.merged([BlockMoments.from_arrays(part.arrays) for part in parts])

    def reference(self, record: Record) -> Moments | None:
        """Moments of the training images' features that a quality cell was compared with."""
        spec = self.spec(record.cell_key)
        return self.store.load_reference(spec["data"], spec["features"]) if "features" in spec else None
