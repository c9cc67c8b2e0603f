"""Which numbers of two runs belong together, and which of them may be compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bench.compare.evidence import RunEvidence
from bench.records import Record
from bench.report.tables import BITS, MEMORY, QUALITY_PREFIXES, SHARES, SPEED

LOWER, HIGHER = -1, 1
LATENCY = "latency"
HARDWARE = (SPEED, MEMORY, LATENCY)
"""How the metrics begin that belong to a machine."""
TIMED = (SPEED, LATENCY)
BUSY = 10.0
"""Per cent of the processor that other programs may use: above it a timing says nothing."""
KEY = ("dataset", "split", "model", "sampler", "grid", "steps", "guidance", "options", "dtype", "metric")
LOWER_IS_BETTER = ("sampler error", "sampler law error")
HIGHER_IS_BETTER = ("precision", "recall", "density", "coverage", "IS", *SHARES)

Pair = tuple[Record | None, Record | None]


def direction(metric: str) -> int | None:
    """`LOWER` or `HIGHER` is better; None for what is no measure of merit, or a part of one."""
    if metric.startswith((SPEED, *HIGHER_IS_BETTER)):
        return HIGHER
    if metric in (BITS, MEMORY) or metric.startswith((LATENCY, *QUALITY_PREFIXES, *LOWER_IS_BETTER)):
        return LOWER
    return None


def pairs(a: Sequence[Record], b: Sequence[Record]) -> Iterator[Pair]:
    """Numbers of the same thing measured in the same way, in the order of A; then what B alone has.

    Of several that have one key, as estimates of one likelihood do, those of one protocol belong together.
    A number that the other run failed to get stands beside that failure.
    """
    mine, rest = ([record for record in records if _judged(record)] for records in (a, b))
    for place, record in enumerate(mine):
        found = _partner(record, rest, mine[place + 1 :])
        if found is not None:
            rest = [other for other in rest if other is not found]
        yield record, found or _failure(record, b)
    for record in rest:
        found = _failure(record, a)
        yield found, record


def _partner(record: Record, rest: Sequence[Record], ahead: Sequence[Record]) -> Record | None:
    """The number of the same key, of the same protocol if there is one; else none that another waits for."""
    same = [other for other in rest if _key(other) == _key(record)]
    alike = [other for other in same if other.protocol == record.protocol]
    waited_for = {other.protocol for other in ahead if _key(other) == _key(record)}
    return next(iter(alike or [other for other in same if other.protocol not in waited_for]), None)


def _failure(record: Record, others: Sequence[Record]) -> Record | None:
    """The row of the cell that should have given this number, and failed or was left out for a failure."""
    names = tuple(name for name in KEY if name not in ("metric", "split"))
    for other in others:
        ended = other.status in ("failed", "skipped") and _covers(other.metric, record.metric)
        if ended and all(getattr(other, name) == getattr(record, name) for name in names):
            return other
    return None


def _covers(failed: str, metric: str) -> bool:
    """Whether the row of a failed cell, which is called by its kind, stands for a metric."""
    if failed == "quality":
        return metric.startswith((*QUALITY_PREFIXES, *SHARES))
    if failed == "scaling":
        return metric.startswith((f"{SPEED} at", LATENCY))
    return failed == metric or (failed == SPEED and metric == MEMORY)


def _judged(record: Record) -> bool:
    """Measures of merit of what a run compares."""
    unranked = record.family in ("reference", "anchor")
    return not unranked and direction(record.metric) is not None and record.status in ("ok", "n/a")


def _key(record: Record) -> tuple[object, ...]:
    return tuple(getattr(record, name) for name in KEY)


def why_not(a: RunEvidence, b: RunEvidence, one: Record | None, other: Record | None) -> str:
    """Why two numbers may not be compared; empty where they may."""
    if one is None or other is None:
        return f"only in {a.name if other is None else b.name}"
    for run, record in ((a, one), (b, other)):
        if record.status != "ok" or record.value is None:
            reason = f": {record.error}" if record.error else ""
            return f"{record.status} in {run.name}{reason}"
    data = [run.spec(record.cell_key).get("data") for run, record in ((a, one), (b, other))]
    if None not in data and data[0] != data[1]:
        return (
            f"data differ: {one.dataset} is {str(data[0])[:12]} in {a.name}, {str(data[1])[:12]} in {b.name}"
        )
    if one.metric.startswith(HARDWARE) and one.device != other.device:
        return f"hardware differs: {one.device} in {a.name}, {other.device} in {b.name}"
    if one.metric.startswith(TIMED):
        for run, record in ((a, one), (b, other)):
            load = run.loads.get(record.cell_key, 0.0)
            if load > BUSY:
                return f"other programs used {load:.0f} % of the processor in {run.name}: measure it again"
    if one.kind != other.kind:
        return f"kind differs: {one.kind} in {a.name}, {other.kind} in {b.name}"
    if one.protocol != other.protocol:
        return f"protocol differs: {_told_apart(one.protocol, other.protocol, a.name, b.name)}"
    return ""


def _told_apart(one: str, other: str, a: str, b: str) -> str:
    """The first parts, between commas, in which two protocols differ."""
    first, second = one.split(", "), other.split(", ")
    for left, right in zip(first, second, strict=False):
        if left != right:
            return f"{left} in {a}, {right} in {b}"
    longer, name = (first, a) if len(first) > len(second) else (second, b)
    return f"{longer[min(len(first), len(second))]} only in {name}"
