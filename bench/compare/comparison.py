"""Two runs compared cell by cell, with a verdict for every number that both have."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bench.compare import matching, statistics
from bench.compare.evidence import RunEvidence
from bench.compare.statistics import ALARM, Difference
from bench.records import Record
from bench.report.tables import BITS, MEMORY, QUALITY_PREFIXES, SPEED, cell_label

if TYPE_CHECKING:
    import pandas as pd

Verdict = Literal["better", "worse", "same", "not comparable"]
VERDICTS: tuple[Verdict, ...] = ("worse", "better", "same", "not comparable")
NOISE = 0.05
"""Relative change of a speed or a memory below which two runs of one program are the same."""


@dataclass(frozen=True)
class Row:
    """One number in both runs.

    a, b        (value, low, high) in A and in B; None where there is none
    difference  B less A; of a throughput the ratio B over A; with low and high its 95 % interval
    p           chance of so much or more in this direction without a difference, after Holm's correction
    verdict     of B, seen from A; `reason` says why there is none
    method      how the difference was taken
    """

    label: str
    model: str
    family: str
    dataset: str
    metric: str
    unit: str
    a: tuple[float, float | None, float | None] | None
    b: tuple[float, float | None, float | None] | None
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    verdict: Verdict
    reason: str
    method: str
    protocol: str


@dataclass(frozen=True)
class Comparison:
    """All numbers of run B beside those of run A."""

    a: str
    b: str
    rows: tuple[Row, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Rows by verdict."""
        found = Counter(row.verdict for row in self.rows)
        return {verdict: found[verdict] for verdict in VERDICTS}

    @property
    def regressed(self) -> bool:
        """Whether anything is worse."""
        return self.counts["worse"] > 0

    @property
    def sentence(self) -> str:
        """`B against A: 2 better, 1 worse, 51 the same within noise, 4 not comparable.`"""
        n = self.counts
        return (
            f"{self.b} against {self.a}: {n['better']} better, {n['worse']} worse, {n['same']} the same "
            f"within noise, {n['not comparable']} not comparable."
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        rows = [dataclasses.asdict(row) for row in self.rows]
        return {"a": self.a, "b": self.b, "counts": self.counts, "rows": rows}

    def frame(self) -> pd.DataFrame:
        """A row a number, for notebooks."""
        import pandas as pd

        columns = [field.name for field in dataclasses.fields(Row)]
        return pd.DataFrame([dataclasses.asdict(row) for row in self.rows], columns=columns)


@dataclass(frozen=True)
class _Open:
    """A row whose verdict waits for its neighbours."""

    one: Record | None
    other: Record | None
    reason: str = ""
    found: Difference | None = None


def compare(
    a: str | Path | RunEvidence,
    b: str | Path | RunEvidence,
    *,
    noise: float = NOISE,
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Run B seen from run A; both are folders that `noisebench run` made.

    noise  relative change of speed and memory that is no difference

    Raises UsageError for a folder that holds no run, ValueError for a negative noise.
    """
    if not 0.0 <= noise < 1.0:
        raise ValueError(f"noise is a share from 0 to below 1, such as {NOISE}, and not {noise}.")
    first, second = (run if isinstance(run, RunEvidence) else RunEvidence.open(Path(run)) for run in (a, b))
    if first.name == second.name:
        first, second = (
            dataclasses.replace(r, name=f"{n}: {r.name}") for n, r in zip("AB", (first, second), strict=True)
        )
    matched = list(matching.pairs(first.records, second.records))
    waiting = []
    for done, (one, other) in enumerate(matched):
        waiting.append(_opened(first, second, one, other, noise))
        if progress is not None:
            progress(done + 1, len(matched))
    return Comparison(first.name, second.name, tuple(_judged(waiting, noise, first.name)))


def _opened(a: RunEvidence, b: RunEvidence, one: Record | None, other: Record | None, noise: float) -> _Open:
    reason = matching.why_not(a, b, one, other)
    if reason or one is None or other is None:
        return _Open(one, other, reason)
    if one.cell_key and one.cell_key == other.cell_key and one.value == other.value:
        return _Open(one, other, found=Difference(*_nothing(one), "one cell of the store"))
    reason = _other_pace(a, b, one, other, noise)
    if reason:
        return _Open(one, other, reason)
    found = difference(a, b, one, other)
    return _Open(one, other, "" if found else "there is no interval, and nothing to take one from", found)


def _other_pace(a: RunEvidence, b: RunEvidence, one: Record, other: Record, noise: float) -> str:
    """Why two timings are not compared: the machine itself was slower beside one of them."""
    if not ratios(one.metric):
        return ""
    paces = a.pace(one), b.pace(other)
    if paces[0] is None or paces[1] is None:
        return ""
    faster = paces[0] / paces[1]
    if 1.0 / (1.0 + noise) <= faster <= 1.0 + noise:
        return ""
    return f"the machine did fixed work {faster:.2f} times as fast in {b.name}: measure again"


def ratios(metric: str) -> bool:
    """Whether a metric is compared by its ratio: what is timed."""
    return metric.startswith((SPEED, matching.LATENCY))


def _nothing(one: Record) -> tuple[float, float, float, float, float]:
    zero = 1.0 if ratios(one.metric) else 0.0
    return zero, zero, zero, 1.0, 1.0


def difference(a: RunEvidence, b: RunEvidence, one: Record, other: Record) -> Difference | None:
    """What is known of the difference of two comparable numbers, from the most that both runs share."""
    assert one.value is not None
    assert other.value is not None
    if one.metric == MEMORY:
        change = other.value - one.value
        return Difference(change, change, change, 1.0, 1.0, "a count, without error")
    taken: Difference | None = None
    if one.metric == BITS:
        taken = _of_bits(a, b, one, other)
    elif ratios(one.metric):
        rounds = (a.seconds(one), b.seconds(other)) if one.metric == SPEED else (None, None)
        if rounds[0] is not None and rounds[1] is not None:
            taken = statistics.median_ratio(1 / rounds[0], 1 / rounds[1], f"{one.cell_key} {other.cell_key}")
        else:
            taken = _ratio_of_intervals(one, other)
    elif one.metric.startswith(QUALITY_PREFIXES):
        taken = _of_frechet(a, b, one, other)
    known = [record.low is not None and record.high is not None for record in (one, other)]
    if taken is None and all(known) and not ratios(one.metric):
        taken = statistics.of_intervals(*(_values(record) for record in (one, other)))
    return taken


def _values(record: Record) -> tuple[float, float, float]:
    assert record.value is not None
    assert record.low is not None
    assert record.high is not None
    return record.value, record.low, record.high


def _of_bits(a: RunEvidence, b: RunEvidence, one: Record, other: Record) -> Difference | None:
    """Image by image, where both took the same images."""
    bits = a.bits(one), b.bits(other)
    if bits[0] is None or bits[1] is None or len(bits[0]) != len(bits[1]):
        return None
    return statistics.paired(bits[0], bits[1], "images")


def _ratio_of_intervals(one: Record, other: Record) -> Difference | None:
    """Of timings whose rounds are not at hand: the ratio of the values, errors of their logarithms."""
    import math

    if None in (one.low, one.high, other.low, other.high):
        return None
    logs = [tuple(map(math.log, _values(record))) for record in (one, other)]
    found = statistics.of_intervals(*logs)  # type: ignore[arg-type]
    value, low, high = (math.exp(end) for end in (found.value, found.low, found.high))
    return Difference(value, low, high, found.above, found.below, found.method)


def _of_frechet(a: RunEvidence, b: RunEvidence, one: Record, other: Record) -> Difference | None:
    """Leaving out the same block of both, where both sampled from the same seeds."""
    blocks, reference = (a.blocks(one), b.blocks(other)), a.reference(one) or b.reference(other)
    if blocks[0] is None or blocks[1] is None or reference is None:
        return None
    shapes = [(each.block_size, tuple(each.blocks), each.dims) for each in blocks if each is not None]
    specs = a.spec(one.cell_key), b.spec(other.cell_key)
    per_group = specs[0]["group"] // blocks[0].block_size
    if shapes[0] != shapes[1] or specs[0]["group"] != specs[1]["group"] or len(shapes[0][1]) % per_group:
        return None
    shared = specs[0].get("seed") == specs[1].get("seed") and specs[0].get("prompts") == specs[1].get(
        "prompts"
    )
    plain, debiased = statistics.jackknife(
        blocks[0], blocks[1], reference, blocks_per_group=per_group, shared=shared
    )
    return debiased if "debiased" in one.metric else plain


def _judged(waiting: Sequence[_Open], noise: float, a: str) -> list[Row]:
    """Verdicts, with Holm's correction among the rows of one metric."""
    by_metric: dict[str, list[int]] = {}
    for i, row in enumerate(waiting):
        if row.found is not None and row.one is not None:
            by_metric.setdefault(row.one.metric, []).append(i)
    rising, falling = [1.0] * len(waiting), [1.0] * len(waiting)
    for places in by_metric.values():
        for target, name in ((rising, "above"), (falling, "below")):
            chances = [getattr(waiting[i].found, name) for i in places]
            for i, p in zip(places, statistics.holm(chances), strict=True):
                target[i] = p
    return [_row(row, rising[i], falling[i], noise) for i, row in enumerate(waiting)]


def _row(row: _Open, above: float, below: float, noise: float) -> Row:
    record = row.one or row.other
    assert record is not None
    verdict, reason, p = _verdict(row, above, below, noise)
    found = row.found
    return Row(
        label=cell_label(
            record.model, record.sampler, record.steps, record.guidance, record.options, record.grid
        ),
        model=record.model,
        family=record.family,
        dataset=record.dataset,
        metric=record.metric,
        unit=record.unit,
        a=_shown(row.one),
        b=_shown(row.other),
        difference=None if found is None else found.value,
        low=None if found is None else found.low,
        high=None if found is None else found.high,
        p=p,
        verdict=verdict,
        reason=reason,
        method="" if found is None else found.method,
        protocol=record.protocol,
    )


def _verdict(row: _Open, above: float, below: float, noise: float) -> tuple[Verdict, str, float | None]:
    """The verdict, why there is none, and the p-value of the direction that was seen."""
    one, other, found = row.one, row.other, row.found
    ended = ("failed", "skipped")
    if one is not None and other is not None and other.status in ended and one.status == "ok":
        return "worse", row.reason, None
    if one is not None and other is not None and one.status in ended and other.status == "ok":
        return "better", row.reason, None
    if found is None or one is None:
        return "not comparable", row.reason, None
    better = matching.direction(one.metric)
    size, limit = _size(one, found), noise if one.metric.startswith(matching.HARDWARE) else 0.0
    rises = size > 0
    p = above if rises else below
    certain = one.metric == MEMORY or p <= ALARM
    if not certain or abs(size) <= limit or size == 0.0:
        return "same", "", None if one.metric == MEMORY else p
    return ("better" if rises == (better == matching.HIGHER) else "worse"), "", p


def _size(one: Record, found: Difference) -> float:
    """The change as a share of A for what belongs to a machine, else as it is; its sign is what counts."""
    if ratios(one.metric):
        return found.value - 1.0
    if one.metric == MEMORY:
        assert one.value is not None
        return found.value / one.value if one.value else found.value
    return found.value


def _shown(record: Record | None) -> tuple[float, float | None, float | None] | None:
    if record is None or record.value is None:
        return None
    return record.value, record.low, record.high
