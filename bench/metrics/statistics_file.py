"""Statistics of features as a file: moments, what they are of, and how features were made.

One safetensors file: arrays, and a JSON header. It holds either the state of `IndexedMoments`, which merges
to the same bits whatever the shards were, or count, mean and scatter only, as they come from elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.files import read_arrays, write_arrays
from bench.metrics.frechet import FrechetResult, frechet_distance
from bench.metrics.indexed_moments import IndexedMoments
from bench.metrics.moments import Moments
from bench.metrics.provenance_of_features import FeatureProvenance, check_alike
from models.names import shown

FORMAT = "noisebench-statistics-1"


@dataclass(frozen=True)
class Statistics:
    """Moments with their provenance.

    source      `IndexedMoments` of samples by index, or `Moments` whose samples are not known one by one
    index_hash  SHA-256 of the sorted sample indices; "unknown" for `Moments`
    """

    source: IndexedMoments | Moments
    provenance: FeatureProvenance
    index_hash: str = "unknown"

    @classmethod
    def of(cls, source: IndexedMoments | Moments, provenance: FeatureProvenance) -> Statistics:
        """With the hash of the indices that are there."""
        known = isinstance(source, IndexedMoments)
        return cls(source, provenance, source.index_hash() if known else "unknown")  # type: ignore[union-attr]

    @property
    def moments(self) -> Moments:
        """Of all samples; one that is missing below the last one is an error that names it."""
        return self.source if isinstance(self.source, Moments) else self.source.moments()

    @property
    def count(self) -> int:
        """Samples that are there."""
        return self.source.n if isinstance(self.source, Moments) else len(self.source.indices)

    def merge(self, other: Statistics) -> Statistics:
        """Both together, refused by the name of what differs; samples that both have are refused too."""
        check_alike(self.provenance, other.provenance, "merge")
        _check_dims(self, other)
        if isinstance(self.source, IndexedMoments) and isinstance(other.source, IndexedMoments):
            return Statistics.of(self.source.merge(other.source), self.provenance)
        if self.index_hash == other.index_hash != "unknown":
            raise ValueError("Both statistics are of the same samples: merge disjoint parts.")
        return Statistics(self.moments.merge(other.moments), self.provenance)

    def distance(self, other: Statistics) -> FrechetResult:
        """Fréchet distance of two statistics of the same features."""
        check_alike(self.provenance, other.provenance, "compare")
        _check_dims(self, other)
        return frechet_distance(self.moments, other.moments)

    def named(self, *, data_set: str, split: str) -> Statistics:
        """The same moments under another data set and split."""
        return replace(self, provenance=replace(self.provenance, data_set=data_set, split=split))

    def save(self, path: Path | str) -> None:
        """Write the file, whole or not at all."""
        if isinstance(self.source, IndexedMoments):
            arrays = self.source.to_arrays()
        else:
            one = self.source
            arrays = {"count": np.asarray(one.n, np.int64), "mean": one.mean, "scatter": one.scatter}
        header: dict[str, Any] = {
            "format": FORMAT,
            "kind": "indexed" if isinstance(self.source, IndexedMoments) else "plain",
            "count": self.count,
            "dims": int(self.source.dims),
            "index_hash": self.index_hash,
            "provenance": self.provenance.as_json(),
        }
        write_arrays(Path(path), arrays, header)

    @classmethod
    def load(cls, path: Path | str) -> Statistics:
        """What `save` wrote; anything else is one sentence that names the file."""
        path = Path(path)
        if not path.is_file():
            raise ValueError(f"There is no statistics file {path.name}: compute it, or check the folder.")
        try:
            arrays, header = read_arrays(path)
        except Exception as error:  # whatever the reader says of bytes that are no safetensors file
            raise ValueError(_damaged(path, "it cannot be read")) from error
        if not isinstance(header, dict) or header.get("format") != FORMAT:
            raise ValueError(f"{path.name} is no statistics file of format {FORMAT}: compute it again.")
        try:
            found, told = _from(arrays, header), (header["count"], header["index_hash"])
        except Exception as error:  # whatever arrays of another form and size lead to
            raise ValueError(_damaged(path, shown(error).rstrip("."))) from error
        if (found.count, found.index_hash) != told:
            raise ValueError(_damaged(path, "its samples are not those that its header names"))
        return found


def merged_files(paths: Iterable[Path | str]) -> Statistics:
    """Statistics of several shards' files, in any order."""
    found = [Statistics.load(path) for path in paths]
    if not found:
        raise ValueError("There are no statistics files to merge: give at least one.")
    whole = found[0]
    for part in found[1:]:
        whole = whole.merge(part)
    return whole


def _from(arrays: dict[str, np.ndarray], header: dict[str, Any]) -> Statistics:
    provenance = FeatureProvenance.from_json(header["provenance"])
    if header["kind"] == "indexed":
        return Statistics.of(IndexedMoments.from_arrays(arrays), provenance)
    return Statistics.of(Moments(int(arrays["count"]), arrays["mean"], arrays["scatter"]), provenance)


def _damaged(path: Path, why: str) -> str:
    return f"The statistics file {path.name} is damaged ({why}): remove it and compute it again."


def _check_dims(a: Statistics, b: Statistics) -> None:
    if a.source.dims != b.source.dims:
        raise ValueError(
            f"Statistics differ in dims, the feature dimensions: {a.source.dims} and {b.source.dims}; "
            f"use one layer of one network."
        )
