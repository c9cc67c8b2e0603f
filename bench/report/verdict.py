"""The answers in sentences: what wins, by how much, at which budget, and what failed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.report import choice, tables, winners
from bench.report.text import interval, is_number, number, plural, short

if TYPE_CHECKING:
    import pandas as pd

NEAR = 1.5
"""`Fastest` means: the fastest cell within this factor of the best quality."""
MOST_BUDGETS = 6
BUDGET = 10
"""Evaluations at which samplers are compared in a sentence."""
WORTH = 0.9
"""A larger budget is named where it lowers the metric to this share of what the smaller one gave."""


@dataclass(frozen=True)
class Verdict:
    """One answer: `label` the question, `subject` what wins, `text` by how much, `items` the cases of it."""

    label: str
    subject: str
    text: str
    items: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [part for part in (self.subject, self.text) if part]
        cases = f": {'; '.join(self.items)}." if self.items else ""
        return f"{self.label}: {', '.join(parts)}{cases}"


def verdicts(records: pd.DataFrame) -> list[Verdict]:
    """The sentences at the top of the report; a question that was not measured has none."""
    table = tables.cells(records)
    metric = tables.headline_metric(tables.generators(records))
    answers = [
        _samples(records, table, metric),
        _likelihood(records),
        *_asked_for(records),
        _speed(table, metric),
        _budgets(table, metric),
        _samplers(table),
        _failures(records),
    ]
    return [answer for answer in answers if answer is not None]


def _how(row: pd.Series) -> str:
    """`ddpm with heun karras w=2`, or the model alone where there is no choice of sampler."""
    if tables.is_native(row):
        return str(row["model"])
    return f"{row['model']} with {tables.way(row['sampler'], None, *row[tables.HOW[2:]])}"


def _evaluations(nfe: Any) -> str:
    return f" at {number(nfe)} evaluation{'' if nfe == 1 else 's'}" if is_number(nfe) else ""


def _names(names: Iterable[str]) -> str:
    unique = list(dict.fromkeys(names))
    return unique[0] if len(unique) == 1 else ", ".join(unique[:-1]) + " and " + unique[-1]


def _samples(records: pd.DataFrame, table: pd.DataFrame, metric: str | None) -> Verdict | None:
    known = table[table["quality"].notna()]
    if known.empty:
        return None
    best = known.iloc[0]
    value = interval(best["quality"], best["quality_low"], best["quality_high"])
    text = f"{metric} {value}{_floor(best['quality'], tables.reference(records, metric))}."
    rivals = winners.overlapping(best, known)
    if len(rivals):
        text += f" The interval meets that of {_names(rivals['model'])}: not told apart."
    if tables.mixed_protocols(records):
        text += " Cells were measured by different protocols, so the order is not a ranking."
    return Verdict("Best samples", _how(best) + _evaluations(best["nfe"]), text)


def _floor(value: float, floor: pd.Series | None) -> str:
    if floor is None or not floor["value"] > 0:
        return ""
    real = interval(floor["value"], floor["low"], floor["high"])
    return f", {value / floor['value']:.2g}× the floor of real images, {real}"


def _likelihood(records: pd.DataFrame) -> Verdict | None:
    known = tables.likelihoods(records)
    if known.empty:
        return None
    best = known.iloc[0]
    text = f"{interval(best['value'], best['low'], best['high'])} bits/dim ({best['kind'] or 'kind unknown'})"
    certain = known[known["kind"].isin(["exact", "bound"])]
    if best["kind"] == "estimate" and len(certain):
        sure = certain.iloc[0]
        text += (
            f"; an estimate is no guarantee: the lowest {sure['kind']} value is that of {sure['model']}, "
            f"{interval(sure['value'], sure['low'], sure['high'])}"
        )
    return Verdict("Best likelihood", str(best["model"]), text + ".")


def _asked_for(records: pd.DataFrame) -> list[Verdict]:
    """For each share of samples that show what was asked for: the best cell and its guidance."""
    rows = tables.generators(records)
    rows = rows[rows["metric"].str.startswith(tables.SHARES) & rows["value"].notna()]
    answers = []
    for metric in dict.fromkeys(rows["metric"]):
        best = rows.loc[rows.loc[rows["metric"] == metric, "value"].idxmax()]
        guided = " w=1" if best["guidance"] == 1.0 else ""
        text = f"{interval(best['value'], best['low'], best['high'])} of {number(best['n'])} samples."
        answers.append(Verdict(f"Best {metric}", _how(best) + guided, text))
    return answers


def _speed(table: pd.DataFrame, metric: str | None) -> Verdict | None:
    row = winners.fastest_within(table, NEAR)
    if row is None:
        return None
    speed = short(row["speed"], row["speed_low"], row["speed_high"])
    quality = short(row["quality"], row["quality_low"], row["quality_high"])
    text = f"{speed} images/s, {metric} {quality}."
    return Verdict(f"Fastest within {NEAR:g}× of the best", _how(row) + _evaluations(row["nfe"]), text)


def _budgets(table: pd.DataFrame, metric: str | None) -> Verdict | None:
    found = winners.budget_winners(table)
    if len(found) < 2:
        return None
    steps: list[pd.Series] = []
    for _, row in found.iterrows():
        if not steps or row["quality"] <= WORTH * steps[-1]["quality"] or row["quality"] <= 0:
            steps.append(row)
    items = [
        f"{number(row['nfe'])}: {_how(row)}, {short(row['quality'], row['quality_low'], row['quality_high'])}"
        for row in steps[-MOST_BUDGETS:]
    ]
    return Verdict("Best at a budget", "", f"{metric} where so many evaluations are allowed", tuple(items))


def _samplers(table: pd.DataFrame) -> Verdict | None:
    """For each model with a choice of samplers the best one at a budget, and those not told apart."""
    models = choice.swept(table)
    lowest = [rows["nfe"].min() for rows in models.values() if rows["nfe"].notna().any()]
    if not lowest:
        return None
    budget = max(BUDGET, *choice.ladder([min(lowest)])[:1])
    items = []
    for model, rows in models.items():
        best = choice.best_within(rows, "quality", choice.NFE, budget, of_series=True)
        if best.cell is not None:
            rivals = f"; not told apart from {choice.listed(best.rivals, 3)}" if best.rivals else ""
            items.append(f"{model}: {best.cell['way']}, {choice.measure(best.cell, 'quality')}{rivals}")
    return Verdict(f"Best sampler at {number(budget)} evaluations", "", "for each model", tuple(items))


def _failures(records: pd.DataFrame) -> Verdict | None:
    failed = records[records["status"] == "failed"]
    if failed.empty:
        return None
    count = len(failed[tables.KEY].drop_duplicates())
    return Verdict(
        "Failed", _names(failed["model"]), f"{plural(count, 'cell')} without a number, listed below."
    )
