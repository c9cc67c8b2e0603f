"""Records pivoted to cells: one row a (model, sampler, steps …) with its quality, speed and likelihood.

Reference rows (family `reference`: real test images) and anchors (family `anchor`: distributions without
a model) are never ranked: they are what the ranked rows are read against.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

QUALITY_PREFIXES = ("FD-", "FID", "KD", "KID")
BITS, SPEED, MEMORY, TRAINING = "bits/dim", "throughput", "peak memory", "training time"
SHARES = ("class accuracy", "correct scenes")
"""How the metrics begin that say whether samples show what was asked for."""
REFERENCE, ANCHOR = "reference", "anchor"
KEY = ["dataset", "model", "sampler", "grid", "steps", "guidance", "dtype"]
_PARTS = ("", "_low", "_high", "_protocol", "_n")
_COLUMNS = ("value", "low", "high", "protocol", "n")


_WORDS = [
    *("run", "cell_key", "suite", "dataset", "split", "model", "family", "weights_sha256", "sampler", "grid"),
    *("dtype", "metric", "unit", "kind", "protocol", "device", "status", "error"),
]


def tidy(records: pd.DataFrame) -> pd.DataFrame:
    """Records as the report needs them: text never missing, measured numbers as float64, rows numbered."""
    tidied = records.reset_index(drop=True).copy()
    for name in _WORDS:
        tidied[name] = tidied[name].astype(object).where(tidied[name].notna(), "").astype(str)
    for name in ("value", "low", "high", "nfe", "guidance", "seconds", "steps", "params", "n"):
        tidied[name] = tidied[name].astype("Float64").astype("float64")
    return tidied


def quality_metrics(records: pd.DataFrame) -> list[str]:
    """Names of the sample-quality metrics, in the order of the records."""
    names = records["metric"].dropna().astype(str).unique()
    return [name for name in names if name.startswith(QUALITY_PREFIXES)]


def headline_metric(records: pd.DataFrame) -> str | None:
    """The first quality metric that is not a debiased variant; None where quality was not measured."""
    names = quality_metrics(records)
    plain = [name for name in names if "debiased" not in name]
    return next(iter(plain or names), None)


def way(sampler: str, steps: Any = None, guidance: Any = None) -> str:
    """How a cell was sampled, e.g. `heun 20 w=2`; no guidance and w = 1 are not said."""
    from bench.report.text import is_number

    count = f" {int(steps)}" if is_number(steps) else ""
    guided = f" w={float(guidance):g}" if is_number(guidance) and float(guidance) != 1.0 else ""
    return f"{sampler}{count}{guided}"


def cell_label(model: str, sampler: str = "", steps: Any = None, guidance: Any = None) -> str:
    """How the report calls a cell, e.g. `ddpm · heun 20`; sheets are found by this name."""
    return f"{model} · {way(sampler, steps, guidance)}" if sampler else model


def reference(records: pd.DataFrame, metric: str | None) -> pd.Series | None:
    """The row of real images for a metric: the floor that no generator is expected to beat."""
    rows = records[(records["family"] == REFERENCE) & (records["metric"] == metric)]
    rows = rows[rows["value"].notna()]
    return None if rows.empty else rows.iloc[0]


def anchors(records: pd.DataFrame) -> pd.DataFrame:
    """Likelihood rows of the anchors, lowest first."""
    rows = records[(records["family"] == ANCHOR) & (records["metric"] == BITS) & records["value"].notna()]
    return rows.sort_values(["value", "model"], kind="stable")


def generators(records: pd.DataFrame) -> pd.DataFrame:
    """Rows of what is compared: neither reference nor anchor."""
    return records[~records["family"].isin([REFERENCE, ANCHOR])]


def likelihoods(records: pd.DataFrame) -> pd.DataFrame:
    """Measured bits per dimension of the models, lowest first, one row a model."""
    rows = generators(records)
    rows = rows[(rows["metric"] == BITS) & (rows["status"] == "ok") & rows["value"].notna()]
    rows = rows.sort_values(["value", "model"], kind="stable")
    return rows.drop_duplicates(["dataset", "model"])


def not_measured(records: pd.DataFrame) -> pd.DataFrame:
    """Rows that ended without a number: failed, skipped or not applicable; failed first."""
    return not_measured_first(records[records["status"] != "ok"])


def not_measured_first(records: pd.DataFrame) -> pd.DataFrame:
    """All rows: failed ones, then skipped ones, then the others in their order."""
    order = records["status"].map({"failed": 0, "skipped": 1}).fillna(2)
    return records.loc[order.sort_values(kind="stable").index]


def _metric_columns(rows: pd.DataFrame, metric: str | None, name: str, on: Sequence[str]) -> pd.DataFrame:
    """One metric as columns name, name_low, name_high, name_protocol, name_n, keyed by `on`."""
    chosen = rows[(rows["metric"] == metric) & (rows["status"] == "ok")].drop_duplicates(list(on))
    names = {column: name + part for column, part in zip(_COLUMNS, _PARTS, strict=True)}
    return chosen[[*on, *_COLUMNS]].rename(columns=names)


def _cell_rows(rows: pd.DataFrame, headline: str | None) -> pd.DataFrame:
    """The cells themselves: rows that name a sampler, or models of which only a likelihood is known.

    A cell with a failure among its numbers has failed, and carries the first reason.
    """
    import pandas as pd

    rows = not_measured_first(rows)
    sampled = rows[(rows["sampler"] != "") | rows["metric"].isin([headline, SPEED])]
    alone = rows[~rows["model"].isin(sampled["model"])].drop_duplicates(["dataset", "model"])
    columns = ["family", "params", "status", "error", "nfe"]
    grouped = [part.groupby(KEY, dropna=False, sort=False)[columns].first() for part in (sampled, alone)]
    table = pd.concat([part.reset_index() for part in grouped if len(part)] or [rows[[*KEY, *columns]]])
    return table.reset_index(drop=True)


def cells(records: pd.DataFrame) -> pd.DataFrame:
    """All cells, best quality first, those without quality by their likelihood, failures last.

    Columns: the key (dataset, model, sampler, grid, steps, guidance, dtype), label, family, params, nfe,
    status, error, then quality, speed, memory, bits, training each with _low, _high, _protocol, _n, then
    bits_kind and front (on the Pareto front of quality and speed). The likelihood and the training time
    belong to the model and stand in each of its cells.
    """
    rows = generators(tidy(records))
    headline = headline_metric(rows)
    table = _cell_rows(rows, headline)
    for metric, name in ((headline, "quality"), (SPEED, "speed"), (MEMORY, "memory")):
        table = table.merge(_metric_columns(rows, metric, name, KEY), on=KEY, how="left")
    by_model = ["dataset", "model"]
    for metric, name in ((BITS, "bits"), (TRAINING, "training")):
        table = table.merge(_metric_columns(rows, metric, name, by_model), on=by_model, how="left")
    kinds = likelihoods(rows)[[*by_model, "kind"]].rename(columns={"kind": "bits_kind"})
    table = table.merge(kinds, on=by_model, how="left")
    table["label"] = [
        cell_label(*keys)
        for keys in zip(table["model"], table["sampler"], table["steps"], table["guidance"], strict=True)
    ]
    table["front"] = pareto_front(table["quality"], table["speed"])
    return table.sort_values(["quality", "bits", "label"], kind="stable").reset_index(drop=True)


def pareto_front(cost: pd.Series, gain: pd.Series) -> pd.Series:
    """True where no other row costs at most as much and gains at least as much, one of them strictly.

    Equal rows are on the front together; a row with a missing number is never on it. O(n log n): rows by
    falling gain, a row is on the front if it is cheapest of its gain and cheaper than all with more gain.
    """
    import pandas as pd

    front = pd.Series(False, index=cost.index)
    known = pd.DataFrame({"cost": cost.astype(float), "gain": gain.astype(float)}).dropna()
    cheapest = known.groupby("gain")["cost"].transform("min")
    best_so_far = float("inf")
    for value in sorted(known["gain"].unique(), reverse=True):
        group = known[known["gain"] == value]
        lowest = float(cheapest[group.index[0]])
        if lowest < best_so_far:
            front[group.index[group["cost"] == lowest]] = True
            best_so_far = lowest
    return front


def best_per_model(table: pd.DataFrame) -> pd.DataFrame:
    """The best cell of every model, in the order of `cells`: models of which all failed stand last."""
    ordered = table.assign(_failed=table["quality"].isna() & (table["status"] != "ok"))
    ordered = ordered.sort_values("_failed", kind="stable").drop_duplicates(["dataset", "model"])
    return ordered.drop(columns="_failed").reset_index(drop=True)


def fastest_within(table: pd.DataFrame, factor: float) -> pd.Series | None:
    """The fastest cell whose quality is at most `factor` times the best; None if none has both."""
    known = table.dropna(subset=["quality", "speed"])
    if known.empty:
        return None
    good = known[known["quality"] <= factor * table["quality"].min()]
    return None if good.empty else good.loc[good["speed"].idxmax()]


def budget_winners(table: pd.DataFrame) -> pd.DataFrame:
    """The best quality for every budget of network evaluations: rows where a larger budget pays."""
    known = table.dropna(subset=["quality", "nfe"]).sort_values(["nfe", "quality"], kind="stable")
    better = known["quality"] < known["quality"].cummin().shift(fill_value=float("inf"))
    return known[better].reset_index(drop=True)


def overlapping(row: pd.Series, others: pd.DataFrame) -> pd.DataFrame:
    """Those of `others` (another model) whose quality interval meets that of `row`."""
    rivals = others[(others["model"] != row["model"]) & others["quality_low"].notna()]
    return rivals[rivals["quality_low"] <= row["quality_high"]]


def mixed_protocols(records: pd.DataFrame) -> bool:
    """True where ranked quality rows differ in protocol or data set and so cannot be ranked together."""
    rows = generators(records)
    rows = rows[(rows["metric"] == headline_metric(rows)) & (rows["status"] == "ok")]
    return len(rows[["dataset", "split", "protocol"]].drop_duplicates()) > 1
