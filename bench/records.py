"""A record is one number: tidy, one row a number, with its interval, protocol and provenance.

Two numbers are comparable only where metric, protocol and data set agree.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pandas as pd

Status = Literal["ok", "failed", "skipped", "n/a"]


@dataclass(frozen=True, kw_only=True)
class Record:
    """One number. `low`/`high` is its 95 % interval; where there is none, `protocol` says why.

    nfe       measured evaluations of the network for one image (a guided step is two)
    options   how the cell was sampled beyond sampler, grid, steps and the weight w, such as
              `eta=1, compiled`; rows stored before this column existed have none
    kind      of a likelihood: `exact`, `bound` or `estimate`
    protocol  how the number was obtained, in full
    seconds   what it cost to obtain
    """

    run: str = ""
    cell_key: str = ""
    suite: str = ""
    dataset: str = ""
    split: str = ""
    model: str = ""
    family: str = ""
    params: int | None = None
    weights_sha256: str = ""
    sampler: str = ""
    grid: str = ""
    steps: int | None = None
    nfe: float | None = None
    guidance: float | None = None
    options: str = ""
    dtype: str = ""
    metric: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    unit: str = ""
    kind: str = ""
    n: int | None = None
    protocol: str = ""
    seconds: float | None = None
    device: str = ""
    status: Status = "ok"
    error: str = ""

    def __post_init__(self) -> None:
        for name in ("value", "low", "high", "nfe", "seconds"):
            number = getattr(self, name)
            if number is not None and not math.isfinite(number):
                raise ValueError(f"a record's {name} must be finite, and that of {self.metric} is {number}")

    def replace(self, **changes: Any) -> Record:
        """A copy with some columns changed."""
        return dataclasses.replace(self, **changes)


COLUMNS = tuple(field.name for field in dataclasses.fields(Record))
_INTEGERS = ("params", "steps", "n")


def to_rows(records: Iterable[Record]) -> list[dict[str, Any]]:
    """Plain dictionaries, None where there is no value: fit for JSON."""
    return [dataclasses.asdict(record) for record in records]


def from_rows(rows: Iterable[Mapping[str, Any]]) -> list[Record]:
    """The records of `to_rows`."""
    return [Record(**row) for row in rows]


def to_frame(records: Sequence[Record]) -> pd.DataFrame:
    """A table with one row a record and one column a field, in fixed order and types."""
    import pandas as pd

    frame = pd.DataFrame(to_rows(records), columns=list(COLUMNS))
    for name in _INTEGERS:
        frame[name] = frame[name].astype("Int64")
    for name in ("value", "low", "high", "nfe", "guidance", "seconds"):
        frame[name] = frame[name].astype("float64")
    return frame
