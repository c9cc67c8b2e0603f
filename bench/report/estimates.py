"""Likelihood of one network by several estimators: what they say, and by how much they differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.report import tables
from bench.report.paired import bits_of_images, difference

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("model", "estimate", "value", "low", "high", "kind", "nfe", "protocol")
DIFFERENCE = ("difference", "difference_low", "difference_high")


def estimates(records: pd.DataFrame, nats: pd.DataFrame) -> pd.DataFrame:
    """Every estimate of the models that have more than one, in the order of the records.

    Columns: `COLUMNS`, `first` (the estimate that stands for the model elsewhere) and `DIFFERENCE`: what
    it says beyond the first one, image by image, with its 95 % interval; NaN where that is not known.
    """
    rows = tables.all_likelihoods(records)
    own = ["dataset", "model"]
    rows = rows[rows.groupby(own)["value"].transform("size") > 1]
    first = ~rows.duplicated(own)
    bits = bits_of_images(rows, nats)
    keys = list(zip(rows["model"], rows["cell_key"], strict=True))
    headline = rows[first].set_index(own)["cell_key"].to_dict()
    found: list[Sequence[float | None]] = []
    for key, dataset, is_first in zip(keys, rows["dataset"], first, strict=True):
        other = (key[0], headline[dataset, key[0]])
        paired = None if is_first else difference(bits.get(key), bits.get(other))
        found.append((None, None, None) if paired is None else (paired.value, paired.low, paired.high))
    names = estimate_names(rows)
    table = rows.assign(first=first, estimate=[names[key] for key in keys])
    for place, name in enumerate(DIFFERENCE):
        table[name] = [values[place] for values in found]
        table[name] = table[name].astype("float64")
    # A model's estimates stand together, whatever stands between them in the records.
    order = {model: place for place, model in enumerate(dict.fromkeys(table["model"]))}
    table = table.sort_values("model", key=lambda models: models.map(order), kind="stable")
    return table[[*COLUMNS, "first", *DIFFERENCE]].reset_index(drop=True)


def estimate_names(rows: pd.DataFrame) -> dict[tuple[str, str], str]:
    """(model, cell key) -> the start of its protocol: as many phrases as tell a model's estimates apart."""
    names = {}
    for model, part in rows.groupby("model", sort=False):
        protocols = [protocol.split(", ") for protocol in part["protocol"]]
        for cell_key, phrases in zip(part["cell_key"], protocols, strict=True):
            others = [other for other in protocols if other != phrases]
            told = next(
                (n for n in range(1, len(phrases)) if all(o[:n] != phrases[:n] for o in others)), len(phrases)
            )
            names[str(model), str(cell_key)] = ", ".join(phrases[:told])
    return names


def line_names(records: pd.DataFrame, frame: pd.DataFrame) -> dict[tuple[str, str], str]:
    """(model, cell key) of `frame` -> how its line is called: the model, and its estimate if it has several.

    Rows of cells without a measured likelihood have no name: they are not drawn.
    """
    rows = tables.all_likelihoods(records)
    present = set(zip(frame["model"], frame["cell_key"], strict=True))
    kept = [key in present for key in zip(rows["model"], rows["cell_key"], strict=True)]
    rows = rows.loc[kept].drop_duplicates(["model", "cell_key"])
    names, count = estimate_names(rows), rows["model"].value_counts()
    return {
        key: key[0] if count[key[0]] == 1 else f"{key[0]} · {names[key]}"
        for key in zip(rows["model"], rows["cell_key"], strict=True)
    }
