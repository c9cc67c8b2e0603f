"""Cases one after the other, each to a row a provider: checked, observed, timed.

    for row in rows(plan): ...

Order of a case: the truth in float64, then each provider's result against it, then the kernels that really
ran, then times with all providers in turn. A provider that cannot run, is wrong, or ran other kernels than it
claims has a row that says so, and no time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from bench.kernel_bench import GROUPS, OPERATIONS
from bench.kernel_bench.backends import Absent
from bench.kernel_bench.correctness import Deviation, Truth, results, truth
from bench.kernel_bench.observed import names_of
from bench.kernel_bench.problems import Call, Problem, make
from bench.kernel_bench.providers import Provider, providers
from bench.kernel_bench.roofs import measured
from bench.kernel_bench.shapes import Shape, pairs
from bench.kernel_bench.timing import Times, interleaved
from bench.kernel_bench.work import work
from kernels.roofline import Card, roof


@dataclass(frozen=True)
class Plan:
    """What to measure.

    only     providers by name; none: all
    repeats  rounds of every case       budget  seconds for all of it; later cases get rows that say so
    """

    shapes: Sequence[Shape]
    operations: Sequence[str] = ("attention",)
    directions: Sequence[str] = ("forward",)
    dtype: str = "bfloat16"
    only: Sequence[str] = ()
    repeats: int = 30
    budget: float = float("inf")
    device: str = "cuda"

    @property
    def cases(self) -> list[tuple[str, Shape, str]]:
        """Operation, shape and direction, in the order that they are measured."""
        operations = [one for name in self.operations for one in GROUPS.get(name, (name,))]
        chosen = [name for name in OPERATIONS if name in operations]
        return [(*pair, way) for pair in pairs(self.shapes, chosen) for way in self.directions]


@dataclass(frozen=True)
class Row:
    """One provider of one case.

    seconds   median, with its 20th and 80th percentile in `low` and `high`; `graph` within a CUDA graph
    flops     useful floating-point operations a second; `share` of the card's roof, and which roof binds
    error     largest relative error of outputs and gradients, that of `worst`; `plain_error` that of PyTorch
    memory    bytes at the peak above what the inputs take
    kernels   names that ran        samples  seconds of every call
    status    ok, or absent, failed or skipped, and `note` why
    """

    operation: str
    shape: str
    direction: str
    dtype: str
    provider: str
    status: str
    note: str = ""
    seconds: float | None = None
    low: float | None = None
    high: float | None = None
    graph: float | None = None
    flops: float | None = None
    bandwidth: float | None = None
    share: float | None = None
    bound_by: str = ""
    error: float | None = None
    plain_error: float | None = None
    worst: str = ""
    memory: int | None = None
    kernels: tuple[str, ...] = ()
    samples: list[float] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Fit for JSON."""
        return asdict(self) | {"kernels": list(self.kernels)}


@dataclass(frozen=True)
class Candidate:
    """A provider whose result was checked, with what to time."""

    provider: Provider
    call: Callable[[], object]
    deviation: Deviation
    kernels: tuple[str, ...]
    memory: int | None


def rows(plan: Plan, card: Card | None = None) -> Iterator[Row]:
    """All rows of a plan; `card` has the roofs, which are measured first where it is not given."""
    end, device = time.monotonic() + plan.budget, torch.device(plan.device)
    card = card or measured(device)
    for operation, shape, direction in plan.cases:
        if time.monotonic() > end:
            for provider in _chosen(plan, operation):
                yield _row(
                    plan, operation, shape, direction, provider, "skipped", "out of time: raise --budget"
                )
            continue
        yield from _case(plan, operation, shape, direction, card, end)


def _case(
    plan: Plan, operation: str, shape: Shape, direction: str, card: Card | None, end: float
) -> Iterator[Row]:
    device = torch.device(plan.device)
    # Else the compiler counts the shapes of earlier cases against its limit of recompilations.
    torch.compiler.reset()
    problem = make(operation, shape, getattr(torch, plan.dtype), device)
    known = truth(problem, gradients=direction != "forward")
    candidates: dict[str, Candidate] = {}
    for provider in _chosen(plan, operation):
        found = _candidate(provider, problem, known, direction)
        if isinstance(found, Candidate):
            candidates[provider.name] = found
        else:
            yield _row(plan, operation, shape, direction, provider, *found)
    del known
    times = interleaved({n: c.call for n, c in candidates.items()}, device, plan.repeats, deadline=end)
    for name, candidate in candidates.items():
        yield _timed(plan, operation, shape, direction, candidate, times[name], card)


def _candidate(
    provider: Provider, problem: Problem, known: Truth, direction: str
) -> Candidate | tuple[str, str]:
    """Something to time, or a status and why not."""
    try:
        call = provider.make(problem)
        found = results(problem, call, gradients=direction != "forward")
    except Absent as reason:
        return "absent", str(reason)
    except Exception as error:  # somebody's compiler or library: the row says what, the others go on
        return "absent", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    deviations = known.deviations(found)
    del found
    worst = max(deviations, key=lambda one: one.relative if one.relative == one.relative else float("inf"))
    if any(one.gross for one in deviations):
        return "failed", f"{worst.name} is wrong: relative error {worst.relative:.2g}"
    timed = work_of(problem, call, direction)
    kernels = names_of(timed, problem.device)
    complaint = provider.claim(problem.device).complaint(kernels)
    if complaint:
        return "failed", complaint
    return Candidate(provider, timed, worst, kernels, _peak(timed, problem.device))


def work_of(problem: Problem, call: Call, direction: str) -> Callable[[], object]:
    """What a direction is timed on: the call, its gradients alone, or both."""
    if direction == "forward":

        def forward() -> object:
            with torch.no_grad():
                return call(*problem.inputs)

        return forward
    if direction == "both":
        return lambda: torch.autograd.grad(tuple(call(*problem.inputs)), problem.inputs, problem.grads)
    outputs = tuple(call(*problem.inputs))
    return lambda: torch.autograd.grad(outputs, problem.inputs, problem.grads, retain_graph=True)


def _timed(
    plan: Plan,
    operation: str,
    shape: Shape,
    direction: str,
    candidate: Candidate,
    times: Times,
    card: Card | None,
) -> Row:
    of = work(operation, shape, direction, plan.dtype)
    seconds, (low, high) = times.median, times.spread
    graph = sorted(times.graph)[len(times.graph) // 2] if times.graph else None
    limit = None if card is None else roof(of.flops, of.bytes, of.exps, card)
    return _row(
        plan, operation, shape, direction, candidate.provider, "ok", "",
        seconds=seconds, low=low, high=high, graph=graph,
        flops=of.flops / seconds if of.flops else None,
        bandwidth=of.bytes / seconds,
        share=None if limit is None else limit.seconds / seconds,
        bound_by="" if limit is None else limit.bound_by,
        error=candidate.deviation.relative, plain_error=candidate.deviation.low_relative,
        worst=candidate.deviation.name, memory=candidate.memory, kernels=candidate.kernels,
        samples=times.samples,
    )  # fmt: skip


def _row(
    plan: Plan,
    operation: str,
    shape: Shape,
    direction: str,
    provider: Provider,
    status: str,
    note: str,
    **measured: Any,
) -> Row:
    return Row(operation, shape.name, direction, plan.dtype, provider.name, status, note, **measured)


def _chosen(plan: Plan, operation: str) -> list[Provider]:
    return [one for one in providers(operation) if not plan.only or one.name in plan.only]


def _peak(call: Callable[[], object], device: torch.device) -> int | None:
    """Bytes at the peak of a call above those before it; None on a CPU, which does not count them."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before
