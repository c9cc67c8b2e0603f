"""Records pivoted to cells: one row a (model, sampler, steps …) with its quality, speed and likelihood.

Reference rows (family `reference`: real test images), anchors (family `anchor`: distributions without a
model) and certificates (family `certificate`: samplers on distributions whose answer is known) are never
ranked: they are what the ranked rows are read against.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bench.report.winners import pareto_front

if TYPE_CHECKING:
    import pandas as pd

QUALITY_PREFIXES = ("FD-", "FID", "KD", "KID")
BITS, SPEED, MEMORY, TRAINING = "bits/dim", "throughput", "peak memory", "training time"
COMPILING = "compile time"
SHARES = ("class accuracy", "correct scenes")
"""How the metrics begin that say whether samples show what was asked for."""
REFERENCE, ANCHOR, CERTIFICATE = "reference", "anchor", "certificate"
NEVER_RANKED = (REFERENCE, ANCHOR, CERTIFICATE)
KEY = ["dataset", "model", "sampler", "grid", "steps", "guidance", "options", "dtype"]
HOW = ["sampler", "steps", "guidance", "options", "grid"]
"""The columns that `way` takes, in its order."""
COMMON_GRIDS = ("", "shared")
"""Grids that go without saying: a family's own, and the noise levels that all samplers of a suite share."""
_PARTS = ("", "_low", "_high", "_protocol", "_n", "_cell")
_COLUMNS = ("value", "low", "high", "protocol", "n", "cell_key")


_WORDS = [
    *("run", "cell_key", "suite", "dataset", "split", "model", "family", "weights_sha256", "sampler", "grid"),
    *("options", "dtype", "metric", "unit", "kind", "protocol", "device", "status", "error"),
]


def tidy(records: pd.DataFrame) -> pd.DataFrame:
    """Records as the report needs them: text never missing, measured numbers as float64, rows numbered."""
    tidied = records.reset_index(drop=True).copy()
    if "options" not in tidied:
        tidied.insert(1 + list(tidied).index("guidance"), "options", "")
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


def way(sampler: str, steps: Any = None, guidance: Any = None, options: str = "", grid: str = "") -> str:
    """How a cell was sampled, e.g. `heun 20 karras w=2`; the shared grid, no guidance and w = 1 go unsaid.

    Without steps it names a series: the cells that differ in nothing but their number of steps.

    >>> way("ddim", 10, 2.0, "eta=1", "shared"), way("heun", 10, grid="karras rho=5")
    ('ddim 10 eta=1 w=2', 'heun 10 karras rho=5')
    """
    from bench.report.text import is_number

    count = str(int(steps)) if is_number(steps) else ""
    grid = "" if grid in COMMON_GRIDS else grid
    guided = f"w={float(guidance):g}" if is_number(guidance) and float(guidance) != 1.0 else ""
    return " ".join(part for part in (sampler, count, grid, options, guided) if part)


def cell_label(
    model: str,
    sampler: str = "",
    steps: Any = None,
    guidance: Any = None,
    options: str = "",
    grid: str = "",
) -> str:
    """How the report calls a cell, e.g. `ddpm · heun 20 karras`; sheets are found by this name."""
    return f"{model} · {way(sampler, steps, guidance, options, grid)}" if sampler else model


def ways(rows: pd.DataFrame, steps: bool = True) -> list[str]:
    """The `way` of every row, with or without its number of steps."""
    columns = [rows[name] if steps or name != "steps" else [None] * len(rows) for name in HOW]
    return [way(*values) for values in zip(*columns, strict=True)]


def is_native(row: Any) -> bool:
    """True for a model's own way of sampling, where there is no choice of steps, grid or options."""
    from bench.report.text import is_number

    return not (is_number(row["steps"]) or row["grid"] or row["options"])


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
    """Rows of what is compared: neither reference nor anchor nor certificate."""
    return records[~records["family"].isin(NEVER_RANKED)]


def likelihoods(records: pd.DataFrame) -> pd.DataFrame:
    """Measured bits per dimension of the models, lowest first, one row a model.

    The row of a model is its first estimate, as its suite lists them: choosing the lowest would choose
    among estimators by what they say.
    """
    rows = all_likelihoods(records).drop_duplicates(["dataset", "model"])
    return rows.sort_values(["value", "model"], kind="stable")


def all_likelihoods(records: pd.DataFrame) -> pd.DataFrame:
    """Measured bits per dimension of the models, every estimate, in the order of the records."""
    rows = generators(records)
    return rows[(rows["metric"] == BITS) & (rows["status"] == "ok") & rows["value"].notna()]


def not_measured(records: pd.DataFrame) -> pd.DataFrame:
    """Rows that ended without a number: failed, skipped or not applicable; failed first."""
    return not_measured_first(records[records["status"] != "ok"])


def not_measured_first(records: pd.DataFrame) -> pd.DataFrame:
    """All rows: failed ones, then skipped ones, then the others in their order."""
    order = records["status"].map({"failed": 0, "skipped": 1}).fillna(2)
    return records.loc[order.sort_values(kind="stable").index]


def _metric_columns(rows: pd.DataFrame, metric: str | None, name: str, on: Sequence[str]) -> pd.DataFrame:
    """One metric as columns name, name_low, name_high, name_protocol, name_n, name_cell, keyed by `on`."""
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

    Columns: the key (`KEY`), label, way, series (the way without its steps), family, params, nfe, status,
    error, then quality, speed, memory, compiling, bits, training each with _low, _high, _protocol, _n and
    _cell (the key of the cell it is from), then ms (milliseconds an image, with _low, _high),
    bits_kind and front (on the Pareto front of quality and speed). The likelihood and the training time
    belong to the model and stand in each of its cells.
    """
    rows = generators(tidy(records))
    headline = headline_metric(rows)
    table = _cell_rows(rows, headline)
    measured = ((headline, "quality"), (SPEED, "speed"), (MEMORY, "memory"), (COMPILING, "compiling"))
    for metric, name in measured:
        table = table.merge(_metric_columns(rows, metric, name, KEY), on=KEY, how="left")
    by_model = ["dataset", "model"]
    for metric, name in ((BITS, "bits"), (TRAINING, "training")):
        table = table.merge(_metric_columns(rows, metric, name, by_model), on=by_model, how="left")
    kinds = likelihoods(rows)[[*by_model, "kind"]].rename(columns={"kind": "bits_kind"})
    table = table.merge(kinds, on=by_model, how="left")
    table["way"], table["series"] = ways(table), ways(table, steps=False)
    table["label"] = _labels(table)
    for end, other in (("", ""), ("_low", "_high"), ("_high", "_low")):
        table[f"ms{end}"] = 1000.0 / table[f"speed{other}"].where(table[f"speed{other}"] > 0)
    table["front"] = pareto_front(table["quality"], table["speed"])
    return table.sort_values(["quality", "bits", "label"], kind="stable").reset_index(drop=True)


def _labels(table: pd.DataFrame) -> list[str]:
    """The `cell_label` of every row; where rows would share one, also what tells them apart."""
    found = [cell_label(*keys) for keys in zip(table["model"], *(table[name] for name in HOW), strict=True)]
    for name in ("grid", "dtype", "dataset", "guidance"):
        values = [f"w={value:g}" if name == "guidance" else str(value) for value in table[name]]
        kinds: dict[str, set[str]] = {}
        for label, value in zip(found, values, strict=True):
            kinds.setdefault(label, set()).add(value)
        found = [
            f"{label} {value}" if len(kinds[label]) > 1 and value not in ("", "w=nan") else label
            for label, value in zip(found, values, strict=True)
        ]
    return found


def mixed_protocols(records: pd.DataFrame) -> bool:
    """True where ranked quality rows differ in protocol or data set and so cannot be ranked together."""
    rows = generators(records)
    rows = rows[(rows["metric"] == headline_metric(rows)) & (rows["status"] == "ok")]
    return len(rows[["dataset", "split", "protocol"]].drop_duplicates()) > 1
