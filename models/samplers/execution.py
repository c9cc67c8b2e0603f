"""Two faster ways to run a recorded sampler than one operation after another; equal up to rounding.

    compiled    each kind of step, network included, is one graph of torch.compile. Steps that differ in
                their coefficients only share it: those come in as a tensor
    cuda-graph  the whole loop is captured once and replayed, so that the host launches one thing. Noise is
                drawn before, in the order and from the source of the eager loop

What was compiled or captured is kept as long as the network lives; the first call pays for it.

Shapes: B batch; registers (B, C, H, W).
"""

from __future__ import annotations

import dataclasses
import types
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from models.learned_variance import log_interpolated
from models.samplers import program as programs
from models.samplers.program import Clip, Combine, Draw, Evaluate, Interpolate, Operation, Program, StepEnd

if TYPE_CHECKING:
    from models.denoiser import Denoiser
    from models.samplers import Callback, Noise

_COMPILED: weakref.WeakKeyDictionary[nn.Module, dict[Any, Any]] = weakref.WeakKeyDictionary()
_CAPTURED: weakref.WeakKeyDictionary[nn.Module, dict[Any, Any]] = weakref.WeakKeyDictionary()

CAPTURES = 8
"""Graphs kept for a network: each holds the memory of a whole loop."""

ALIGNMENT = 16
"""Coefficients of a step start at multiples of so many entries, or compiled code would copy them first."""


def run(
    execution: str, program: Program, denoiser: Denoiser, x_T: Tensor, noise: Noise, callback: Callback | None
) -> Tensor:
    """x_0 of x_T; a captured loop has no steps to call back from, so with a callback it is run eagerly."""
    if execution == "compiled":
        return _run_compiled(program, denoiser, x_T, noise, callback)
    if x_T.device.type != "cuda":
        raise ValueError("A CUDA graph needs a CUDA device: use the execution eager or compiled here.")
    if callback is not None:
        return programs.run(program, denoiser, x_T, noise, callback)
    return _replay(program, denoiser, x_T, noise)


def forget(network: nn.Module) -> None:
    """Drop what was compiled and captured for a network."""
    _COMPILED.pop(network, None)
    _CAPTURED.pop(network, None)


class Step(NamedTuple):
    """One step with its numbers taken out.

    code             the operations, registers numbered within the step, coefficients by their place
    inputs, outputs  registers of the program that go in and come out
    needed           registers that later steps read
    coefficients     the numbers
    """

    code: tuple[Any, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    needed: tuple[int, ...]
    coefficients: tuple[float, ...]
    draws: int
    evaluations: int
    end: StepEnd


def steps(program: Program) -> list[Step]:
    """The steps of a program; steps that do the same have equal code."""
    needed: set[int] = {program.result[0]}
    parts: list[list[Operation]] = [[]]
    for operation in program.operations:
        parts[-1].append(operation)
        if isinstance(operation, StepEnd):
            parts.append([])
    found = []
    for part in reversed(parts[:-1]):
        written = {register for operation in part for register in programs.writes(operation)}
        read = {register for operation in part for register in programs.reads(operation)}
        end = part[-1]
        assert isinstance(end, StepEnd)
        found.append(_step(part[:-1], end, read - written, written & (needed | {end.x}), needed))
        needed = (needed - written) | (read - written)
    return found[::-1]


def _step(
    part: Sequence[Operation], end: StepEnd, inputs: set[int], outputs: set[int], needed: set[int]
) -> Step:
    ordered = sorted(inputs)
    local = {register: index for index, register in enumerate(ordered)}
    numbers: list[float] = []

    def place(register: int) -> int:
        return -1 if register < 0 else local.setdefault(register, len(local))

    def number(value: float) -> int:
        numbers.append(value)
        return len(numbers) - 1

    code: list[Any] = []
    for op in part:
        match op:
            case Evaluate():
                plain = op.weight in (0.0, 1.0)
                weight = op.weight if plain else number(op.weight)
                x0 = () if plain else tuple(number(c) for c in op.x0)
                registers = (op.said, op.extra, op.x, op.past, op.past_out)
                code.append(("evaluate", *map(place, registers), plain, weight, x0))
            case Combine():
                terms = tuple((place(register), number(c)) for register, c in op.terms)
                code.append(("combine", place(op.out), terms))
            case Clip():
                code.append(("clip", place(op.out), place(op.source)))
            case Draw():
                code.append(("draw", place(op.out)))
            case Interpolate():
                logs = number(op.log_small), number(op.log_large)
                code.append(("interpolate", place(op.out), place(op.extra), place(op.noise), *logs))
    leaving = tuple(sorted(outputs))
    kinds = [entry[0] for entry in code]
    whole = (tuple(code), len(ordered), tuple(place(register) for register in leaving), len(local))
    draws, evaluations = kinds.count("draw"), kinds.count("evaluate")
    return Step(
        whole, tuple(ordered), leaving, tuple(sorted(needed)), tuple(numbers), draws, evaluations, end
    )


def _stepper(code: tuple[Any, ...]) -> Callable[..., list[Tensor]]:
    """The function of a step, for torch.compile: coefficients are entries of a tensor."""
    operations, _, leaving, size = code

    def step(
        denoiser: Denoiser, inputs: list[Tensor], c: Tensor, times: list[Tensor], noises: list[Tensor]
    ) -> list[Tensor]:
        r: list[Any] = [*inputs, *[None] * (size - len(inputs))]
        evaluations, draws = 0, 0
        for op in operations:
            if op[0] == "evaluate":
                _, said, extra, x, past, past_out, plain, weight, x0 = op
                w = weight if plain else c[weight]
                pair = (0.0, 1.0) if plain else (c[x0[0]], c[x0[1]])
                found = denoiser.say(r[x], times[evaluations], w, pair, r[past] if past >= 0 else None)
                r[said], r[extra] = found.output, found.extra
                if past_out >= 0:
                    r[past_out] = found.past
                evaluations += 1
            elif op[0] == "combine":
                first, *others = [c[weight] * r[register] for register, weight in op[2]]
                r[op[1]] = sum(others, first)
            elif op[0] == "clip":
                r[op[1]] = r[op[2]].clamp(-1.0, 1.0)
            elif op[0] == "draw":
                r[op[1]] = noises[draws]
                draws += 1
            else:
                _, out, extra, noise, small, large = op
                r[out] = (0.5 * log_interpolated(r[extra], c[small], c[large])).exp() * r[noise]
        return [r[register] for register in leaving]

    # torch.compile counts recompilations by code object; every kind of step has its own.
    return types.FunctionType(step.__code__.replace(), globals(), "step", None, step.__closure__)


def _run_compiled(
    program: Program, denoiser: Denoiser, x_T: Tensor, noise: Noise, callback: Callback | None
) -> Tensor:
    r: dict[int, Tensor] = {0: x_T}
    rows = programs.time_rows(program.times, x_T)
    parts = steps(program)
    table = _table([part.coefficients for part in parts], x_T)
    seen = 0
    for part, coefficients in zip(parts, table, strict=True):
        function = _compiled(denoiser.network, part.code)
        noises = [noise(x_T) for _ in range(part.draws)]
        given = [r[register] for register in part.inputs]
        found = function(denoiser, given, coefficients, list(rows[seen : seen + part.evaluations]), noises)
        seen += part.evaluations
        r |= dict(zip(part.outputs, found, strict=True))
        if callback is not None:
            callback(part.end.step, part.end.s, r[part.end.x])
        r = {register: r[register] for register in part.needed}
    return r[program.result[0]]


def _table(coefficients: Sequence[Sequence[float]], x: Tensor) -> list[Tensor]:
    """The coefficients of each step as a tensor, all in one transfer."""
    widths = [max(1, -(-len(row) // ALIGNMENT)) * ALIGNMENT for row in coefficients]
    padded = [
        value
        for row, width in zip(coefficients, widths, strict=True)
        for value in (*row, *[0.0] * (width - len(row)))
    ]
    return list(torch.tensor(padded, dtype=x.dtype, device=x.device).split(widths))


def _compiled(network: nn.Module, code: tuple[Any, ...]) -> Callable[..., list[Tensor]]:
    known = _COMPILED.setdefault(network, {})
    if code not in known:
        known[code] = torch.compile(_stepper(code), fullgraph=True, dynamic=False)
    function: Callable[..., list[Tensor]] = known[code]
    return function


def _replay(program: Program, denoiser: Denoiser, x_T: Tensor, noise: Noise) -> Tensor:
    known = _CAPTURED.setdefault(denoiser.network, {})
    told = (*denoiser.condition, *denoiser.null)
    key = program, denoiser.rule, id(denoiser.weaker), *(_form(tensor) for tensor in (x_T, *told))
    if key not in known:
        while len(known) >= CAPTURES:
            del known[next(iter(known))]
        known[key] = _Capture(program, denoiser, x_T)
    captured: _Capture = known[key]
    return captured((x_T, *told), [noise(x_T) for _ in range(program.draws)])


def _form(tensor: Tensor) -> tuple[Any, ...]:
    return tuple(tensor.shape), tensor.dtype


class _Capture:
    """A loop as a CUDA graph: inputs are copied into its own tensors, the result out of them."""

    def __init__(self, program: Program, denoiser: Denoiser, x_T: Tensor) -> None:
        condition, null = (tuple(t.clone() for t in told) for told in (denoiser.condition, denoiser.null))
        denoiser = dataclasses.replace(denoiser, condition=condition, null=null)
        self._noises = [torch.zeros_like(x_T) for _ in range(program.draws)]
        self._inputs = (x_T.clone(), *condition, *null)
        rows = programs.time_rows(program.times, x_T)

        def loop() -> Tensor:
            noises = iter(self._noises)
            return programs.run(program, denoiser, self._inputs[0], lambda _: next(noises), None, rows)

        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            loop()  # libraries allocate their workspaces outside the capture
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._result = loop()
        self._rows = rows

    def __call__(self, inputs: Sequence[Tensor], noises: Sequence[Tensor]) -> Tensor:
        for own, given in zip((*self._inputs, *self._noises), (*inputs, *noises), strict=True):
            own.copy_(given)
        self._graph.replay()
        return self._result.clone()
