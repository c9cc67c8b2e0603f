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
    """(model, cell key) -> a short name of the estimate, from what its protocol says and others do not."""
    names = {}
    for model, part in rows.groupby("model", sort=False):
        told = told_apart(list(part["protocol"]))
        names.update({(str(model), str(key)): name for key, name in zip(part["cell_key"], told, strict=True)})
    return names


def told_apart(protocols: Sequence[str]) -> list[str]:
    """Of every protocol its first phrase, and what those that begin with the same one do not share.

    >>> told_apart(["bound, T=9, small, n=2", "bound, T=9, large, n=2", "ode rk4, n=2"])
    ['bound, small', 'bound, large', 'ode rk4']
    """
    split = [protocol.split(", ") for protocol in protocols]
    names = []
    for first, *phrases in split:
        alike = [other for other in split if other[0] == first]
        own = [phrase for phrase in phrases if not all(phrase in other for other in alike)]
        names.append(", ".join([first, *own]))
    unique = len(set(names)) == len(names)
    return names if unique else list(protocols)


def line_names(records: pd.DataFrame, frame: pd.DataFrame) -> dict[tuple[str, str], str]:
    """(model, cell key) of `frame` -> how its line is called: the model, and its estimate if it has several.

    What all estimates of a model begin with goes without saying, since the figure says what is drawn. Rows of
    cells without a measured likelihood have no name: they are not drawn.
    """
    rows = tables.all_likelihoods(records)
    present = set(zip(frame["model"], frame["cell_key"], strict=True))
    kept = [key in present for key in zip(rows["model"], rows["cell_key"], strict=True)]
    rows = rows.loc[kept].drop_duplicates(["model", "cell_key"])
    names = {}
    for key, name in estimate_names(rows).items():
        alike = rows.loc[rows["model"] == key[0], "protocol"]
        begins = {protocol.partition(", ")[0] for protocol in alike}
        told = name.partition(", ")[2] if len(begins) == 1 else name
        names[key] = key[0] if len(alike) == 1 else f"{key[0]} · {told}"
    return names
