"""Results as tables, for notebooks: what `bench.load` does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import schema
from bench.errors import UsageError
from bench.records import COLUMNS, from_rows, to_frame

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = (".json", ".csv", ".parquet")


def load(path: str | Path) -> pd.DataFrame:
    """The records of a run's folder, or of one of its results files: a row a number, today's columns.

    Results of older releases are brought up to date. Raises UsageError for what holds none.
    """
    from bench.run import read_records

    place = Path(path)
    if place.is_dir():
        return to_frame(read_records(place))
    if not place.is_file() or place.suffix not in SUFFIXES:
        raise UsageError(
            f"There are no results at {place}: give a run's folder, or its results.csv, .json or .parquet."
        )
    rows = _rows(place)
    version = schema.VERSION if all("options" in row for row in rows) else 1
    rows = schema.migrated(rows, version, str(place))
    try:
        return to_frame(from_rows([{name: row[name] for name in COLUMNS} for row in rows]))
    except (KeyError, ValueError) as error:
        raise UsageError(f"{place} holds no records of noisebench ({error}).") from None


def _rows(place: Path) -> list[dict[str, Any]]:
    """Plain rows, None for what is missing, text where text belongs."""
    import pandas as pd

    try:
        if place.suffix == ".json":
            found = json.loads(place.read_text())
            if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
                raise UsageError(f"{place} holds no list of records.")
            return found
        frame = pd.read_csv(place) if place.suffix == ".csv" else pd.read_parquet(place)
    except (ValueError, OSError) as error:
        raise UsageError(f"{place} cannot be read ({error}).") from error
    rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return [{str(name): _cell(str(name), value) for name, value in row.items()} for row in rows]


NUMBERS = ("params", "steps", "nfe", "guidance", "value", "low", "high", "n", "seconds")


def _cell(name: str, value: Any) -> Any:
    if name not in NUMBERS:
        return "" if value is None else str(value)
    return int(value) if name in ("params", "steps", "n") and value is not None else value
