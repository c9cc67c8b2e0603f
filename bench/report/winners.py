"""Which cells win: the Pareto front, the best of every model, the fastest good one, the best by budget."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


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
