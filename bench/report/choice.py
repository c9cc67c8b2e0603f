"""Which sampler to use: the best within a budget, the least cost of a quality, and what is not settled.

An answer is the cell of least value under a limit: of quality under a budget, or of cost under a quality.
It is settled only where its own 95 % interval keeps the limit and no rival's interval meets it; a number
without an interval settles nothing. Limits themselves are taken as exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.report import tables
from bench.report.text import interval, is_number, number, plural

if TYPE_CHECKING:
    import pandas as pd

FACTORS = (1.1, 1.25, 1.5, 2.0)
"""How much worse than the best of its model a quality may be."""
NFE, MS = "nfe", "ms"
_ENDS = {
    "quality": ("quality_low", "quality_high"),
    MS: ("ms_low", "ms_high"),
    NFE: (NFE, NFE),
}
"""Columns of the interval of each number; evaluations are counted and have none."""


@dataclass(frozen=True)
class Choice:
    """The answer to one question.

    cell    the row of `tables.cells` that wins; None where none keeps the limit
    sure    its whole interval keeps the limit
    rivals  what cannot be told apart from it, nearest first: series, or cells where steps matter
    alone   nothing else may keep the limit
    ratio   its quality over the best of its model; None where that is not positive
    """

    cell: dict[str, Any] | None
    sure: bool = False
    rivals: tuple[str, ...] = ()
    ratio: float | None = None
    alone: bool = False

    @property
    def settled(self) -> bool:
        """True where the intervals leave no doubt."""
        return self.cell is not None and self.sure and not self.rivals

    @property
    def heat(self) -> int | None:
        """0 for a quality within the first of `FACTORS` of the model's best, up to 4 beyond the last."""
        return None if self.ratio is None else sum(self.ratio > factor for factor in FACTORS)

    def brief(self) -> str:
        """The same in a word or two, for a winner under a budget."""
        if self.settled:
            return self.doubt()
        word = plural(len(self.rivals), "rival") if self.rivals else "not settled"
        return word if self.sure else f"{word}, may pass the budget"

    def doubt(self, most: int = 3) -> str:
        """Why it is not settled, with at most so many rivals by name; `settled` where it is."""
        if self.settled:
            return "no other is in reach" if self.alone else "settled"
        if self.cell is None:
            return f"none; not ruled out: {listed(self.rivals, most)}" if self.rivals else "none"
        beyond = [] if self.sure else ["its interval passes the limit"]
        rivals = [f"not told apart from {listed(self.rivals, most)}"] if self.rivals else []
        return "not settled: " + "; ".join([*beyond, *rivals])


@dataclass(frozen=True)
class Budgets:
    """The best cell of every model for every budget: a row a model, a choice a budget."""

    cost: str
    limits: tuple[float, ...]
    rows: dict[str, tuple[Choice, ...]]

    @property
    def title(self) -> str:
        """What the budgets count."""
        return "evaluations of the network" if self.cost == NFE else "milliseconds an image"

    def unsettled(self) -> list[tuple[str, float, Choice]]:
        """Model, budget and choice where rivals are not told apart."""
        pairs = [(m, b, c) for m, row in self.rows.items() for b, c in zip(self.limits, row, strict=True)]
        return [(model, budget, choice) for model, budget, choice in pairs if choice.rivals]


@dataclass(frozen=True)
class Reach:
    """What a model needs for a quality of at most `limit`, in evaluations and in milliseconds."""

    model: str
    target: str
    limit: float
    least: dict[str, Choice]


@dataclass(frozen=True)
class Advice:
    """Everything the report says on samplers; nothing where no model has a choice of them."""

    budgets: tuple[Budgets, ...] = ()
    reaches: tuple[Reach, ...] = ()
    costs: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.budgets)


def listed(names: Sequence[str], most: int) -> str:
    """`a, b, c and 4 more`.

    >>> listed(["a", "b", "c"], 3), listed(["a", "b", "c", "d"], 2)
    ('a, b and c', 'a, b and 2 more')
    """
    shown = list(names) if len(names) <= most else [*names[:most], f"{len(names) - most} more"]
    return shown[0] if len(shown) == 1 else ", ".join(shown[:-1]) + " and " + shown[-1]


def advice(records: pd.DataFrame) -> Advice:
    """The best cell by budget and the least cost by quality, for models sampled in more than one way."""
    metric = tables.headline_metric(tables.generators(records))
    models = swept(tables.cells(records))
    if not models:
        return Advice()
    costs = tuple(cost for cost in (NFE, MS) if any(rows[cost].notna().any() for rows in models.values()))
    budgets = tuple(by_budget(models, cost) for cost in costs)
    floor = tables.reference(records, metric)
    reaches = [reach for model, rows in models.items() for reach in reached(model, rows, floor, costs)]
    return Advice(budgets, tuple(reaches), costs)


def swept(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Cells with a quality of the models that have a choice of sampler, options or grid, best first."""
    known = table[table["quality"].notna()]
    distinct = known.drop_duplicates(["model", "sampler", "options", "grid"])["model"].value_counts()
    return {
        str(model): known[known["model"] == model]
        for model in dict.fromkeys(known["model"])
        if distinct[model] > 1
    }


def best_within(rows: pd.DataFrame, least: str, under: str, limit: float, of_series: bool = False) -> Choice:
    """The row of least `least` among those whose `under` is at most `limit`, and what rivals it.

    A rival is another cell whose interval of `under` reaches down to the limit and whose interval of
    `least` meets the winner's; with `of_series`, other numbers of steps of the winner are no rivals.
    """
    rows = rows[rows[least].notna() & rows[under].notna()].sort_values([least, under, "label"], kind="stable")
    keeping = rows.index[rows[under] <= limit]
    possible = _lows(rows, under) <= limit
    name = "series" if of_series else "way"
    if not len(keeping):
        return Choice(None, rivals=tuple(dict.fromkeys(rows.loc[possible, name])))
    winner = rows.loc[keeping[0]]
    meeting = possible & (_lows(rows, least) <= _highs(rows, least)[keeping[0]])
    rivals = [rival for rival in dict.fromkeys(rows.loc[meeting, name]) if rival != winner[name]]
    best = rows["quality"].min()
    ratio = float(winner["quality"] / best) if best > 0 else None
    sure = bool(_highs(rows, under)[keeping[0]] <= limit)
    alone = bool((rows.loc[possible, name] == winner[name]).all())
    return Choice({str(key): value for key, value in winner.items()}, sure, tuple(rivals), ratio, alone)


def _lows(rows: pd.DataFrame, name: str) -> pd.Series:
    """The low end of every interval; −∞ where there is none."""
    return rows[_ENDS[name][0]].astype(float).fillna(-math.inf)


def _highs(rows: pd.DataFrame, name: str) -> pd.Series:
    """The high end of every interval; ∞ where there is none."""
    return rows[_ENDS[name][1]].astype(float).fillna(math.inf)


def ladder(values: Iterable[float]) -> tuple[float, ...]:
    """1-2-5 numbers from the first that holds the least value to the first that holds all.

    >>> ladder([1, 7, 19]), ladder([0.3])
    ((1.0, 2.0, 5.0, 10.0, 20.0), (0.5,))
    """
    known = [value for value in values if is_number(value) and value > 0]
    if not known:
        return ()
    powers = range(math.floor(math.log10(min(known))) - 1, math.ceil(math.log10(max(known))) + 2)
    steps = [float(f"{digit}e{power}") for power in powers for digit in (1, 2, 5)]
    first = next(step for step in steps if step >= min(known))
    last = next(step for step in steps if step >= max(known))
    return tuple(step for step in steps if first <= step <= last)


def by_budget(models: dict[str, pd.DataFrame], cost: str) -> Budgets:
    """The best quality of every model within every budget."""
    limits = ladder(value for rows in models.values() for value in rows[cost])
    rows = {
        model: tuple(best_within(cells, "quality", cost, limit, of_series=True) for limit in limits)
        for model, cells in models.items()
    }
    return Budgets(cost, limits, rows)


def reached(model: str, rows: pd.DataFrame, floor: pd.Series | None, costs: Sequence[str]) -> list[Reach]:
    """The least cost of some multiples of the model's best quality, and of what real images have.

    Real images are reached at the high end of their interval: below it a model is not told apart from them.
    """
    best = float(rows["quality"].min())
    targets = [(f"{factor:g}× the best", factor * best) for factor in FACTORS if best > 0]
    if floor is not None:
        limit = floor["high"] if is_number(floor["high"]) else floor["value"]
        targets.append(("real images", float(limit)))
    return [
        Reach(model, name, limit, {cost: best_within(rows, cost, "quality", limit) for cost in costs})
        for name, limit in targets
    ]


def measure(cell: dict[str, Any], name: str) -> str:
    """A number of a cell with its interval and unit."""
    if name == NFE:
        return plural_evaluations(cell[NFE])
    text = interval(cell[name], *(cell[end] for end in _ENDS[name]))
    return f"{text} ms" if name == MS else text


def plural_evaluations(nfe: float) -> str:
    """`1 evaluation`, `19 evaluations`."""
    return plural(int(nfe), "evaluation") if nfe == int(nfe) else f"{number(nfe)} evaluations"
