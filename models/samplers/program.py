"""What a sampler is once its formulas are recorded: a list of operations on registers, and who runs it.

Register 0 is x_T. Coefficients are Python floats of the host, so nothing is read back from a device; a
program has no state, so threads may share it.

Shapes: B batch; registers (B, C, H, W).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from models.denoiser import split
from models.learned_variance import log_interpolated

if TYPE_CHECKING:
    from models.denoiser import Denoiser
    from models.samplers import Callback, Noise


class Evaluate(NamedTuple):
    """said, extra, past_out ← network(x, t), guided with a weight; x̂_0 = x0[0]·x + x0[1]·said."""

    said: int
    extra: int
    x: int
    past: int
    past_out: int
    t: float
    weight: float
    x0: tuple[float, float]


class Combine(NamedTuple):
    """out ← Σ c_i r_i."""

    out: int
    terms: tuple[tuple[int, float], ...]


class Clip(NamedTuple):
    """out ← r clamped to [−1, 1]."""

    out: int
    source: int


class Draw(NamedTuple):
    """out ← standard normal noise."""

    out: int


class Interpolate(NamedTuple):
    """out ← noise with the variance that `extra` says between two, given by their logarithms."""

    out: int
    extra: int
    noise: int
    log_small: float
    log_large: float


class StepEnd(NamedTuple):
    """The state at the end of a step, at time s."""

    step: int
    s: float
    x: int


Operation = Evaluate | Combine | Clip | Draw | Interpolate | StepEnd


def reads(operation: Operation) -> tuple[int, ...]:
    """Registers that an operation reads."""
    match operation:
        case Evaluate():
            return (operation.x, *((operation.past,) if operation.past >= 0 else ()))
        case Combine():
            return tuple(register for register, _ in operation.terms)
        case Clip():
            return (operation.source,)
        case Interpolate():
            return operation.extra, operation.noise
        case StepEnd():
            return (operation.x,)
    return ()


def writes(operation: Operation) -> tuple[int, ...]:
    """Registers that an operation writes."""
    match operation:
        case Evaluate():
            past = (operation.past_out,) if operation.past_out >= 0 else ()
            return (operation.said, operation.extra, *past)
        case StepEnd():
            return ()
    return (operation.out,)


@dataclass(frozen=True)
class Program:
    """A recorded sampler.

    operations   in order, each writing registers of its own
    called_back  the same for the eager loop, registers shared where their lives do not overlap
    quick        the same without the ends of steps, which only a callback asks for
    size         registers of the eager loop
    times        of the evaluations
    result       register of x_0 in `operations`, and in the eager loop
    """

    operations: tuple[Operation, ...]
    called_back: tuple[tuple[Any, ...], ...]
    quick: tuple[tuple[Any, ...], ...]
    size: int
    times: tuple[float, ...]
    result: tuple[int, int]

    @property
    def draws(self) -> int:
        """How often noise is drawn."""
        return sum(isinstance(operation, Draw) for operation in self.operations)


def program(operations: Sequence[Operation]) -> Program:
    """The program of recorded operations, the last of which ends the last step."""
    end = operations[-1]
    assert isinstance(end, StepEnd)
    times = tuple(operation.t for operation in operations if isinstance(operation, Evaluate))
    places = _Places(operations)
    coded = tuple(_quick(operation, places.at(index)) for index, operation in enumerate(operations))
    quick = tuple(code for code in coded if code[0] != END)
    return Program(tuple(operations), coded, quick, places.size, times, (end.x, places.table[end.x]))


class _Places:
    """Where each register lives: a place is used again once its register was read for the last time."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        self._operations = operations
        self._last = {
            register: i for i, op in enumerate(operations) for register in (*writes(op), *reads(op))
        }
        self.table, self.size = {0: 0, -1: -1}, 1
        self._free: list[int] = []

    def at(self, index: int) -> dict[int, int]:
        """The places of the registers of an operation; to be asked in order."""
        operation = self._operations[index]
        for register in writes(operation):
            if register not in self.table:
                self.table[register] = self._free.pop() if self._free else self.size
                self.size = max(self.size, self.table[register] + 1)
        dead = {r for r in (*writes(operation), *reads(operation)) if self._last[r] == index}
        self._free += [self.table[register] for register in sorted(dead)]
        return self.table


ADD, EVALUATE, SUM, END, DRAW, CLIP, INTERPOLATE, GUIDE = range(8)


def _quick(operation: Operation, place: dict[int, int]) -> tuple[Any, ...]:
    """(code, where to write, where to read, the rest): what the eager loop needs, and no more."""
    match operation:
        case Evaluate(said, extra, x, past, past_out, _, weight, x0):
            if weight == 1.0:
                return EVALUATE, place[said], place[x], place[extra]
            return GUIDE, place[said], place[x], (place[extra], place[past], place[past_out], weight, x0)
        case Combine(out, ((first, weight), (second, c))) if weight == 1.0:
            return ADD, place[out], place[first], (place[second], c)
        case Combine(out, terms):
            return SUM, place[out], 0, tuple((place[register], c) for register, c in terms)
        case Clip(out, source):
            return CLIP, place[out], place[source], None
        case Draw(out):
            return DRAW, place[out], 0, None
        case Interpolate(out, extra, noise, log_small, log_large):
            return INTERPOLATE, place[out], place[extra], (place[noise], log_small, log_large)
        case StepEnd(step, s, x):
            return END, 0, place[x], (step, s)
    raise AssertionError(operation)


def time_rows(times: tuple[float, ...], x: Tensor) -> Sequence[Tensor]:
    """Each time as the network takes it, (B,): made once a batch size, since they cost as much as steps."""
    table, rows = _time_rows(times, len(x), x.dtype, x.device)
    if table._version:  # some network wrote into its times
        _time_rows.cache_clear()
        return time_rows(times, x)
    return rows


@functools.lru_cache(maxsize=64)
def _time_rows(
    times: tuple[float, ...], n: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Sequence[Tensor]]:
    with torch.inference_mode(False):
        column = torch.tensor(times, dtype=dtype, device=device).view(-1, 1)
        table = column.expand(-1, n).clone(memory_format=torch.contiguous_format)
        return table, table.unbind(0)


def run(
    program: Program,
    denoiser: Denoiser,
    x_T: Tensor,
    noise: Noise,
    callback: Callback | None,
    times: Sequence[Tensor] = (),
) -> Tensor:
    """x_0 of x_T: one operation after another; `times` are the `time_rows`, if they exist already."""
    network, condition, channels = denoiser.network, denoiser.condition, x_T.shape[1]
    next_time = iter(times or time_rows(program.times, x_T)).__next__
    r: list[Any] = [None] * program.size
    r[0] = x_T
    says_more: bool | None = None
    add, quick = torch.add, program.quick if callback is None else program.called_back
    for code, out, a, rest in quick:
        if code == EVALUATE:
            said = network(r[a], next_time(), *condition)
            if says_more is None:
                says_more = said.shape[1] != channels  # a learned variance, always or never
            if says_more:
                said, r[rest] = split(said, channels)
            r[out] = said
        elif code == ADD:
            second, c = rest
            r[out] = add(r[a], r[second], alpha=c)
        elif code == SUM:
            r[out] = combined(r, rest)
        elif code == END and callback is not None:
            step, s = rest
            callback(step, s, r[a])
        elif code == DRAW:
            r[out] = noise(x_T)
        elif code == CLIP:
            r[out] = r[a].clamp(-1.0, 1.0)
        elif code == INTERPOLATE:
            drawn, log_small, log_large = rest
            r[out] = (0.5 * log_interpolated(r[a], log_small, log_large)).exp() * r[drawn]
        else:
            extra, past, past_out, weight, x0 = rest
            found = denoiser.say(r[a], next_time(), weight, x0, r[past] if past >= 0 else None)
            r[out], r[extra] = found.output, found.extra
            if past_out >= 0:
                r[past_out] = found.past
    result: Tensor = r[program.result[1]]
    return result


def combined(r: list[Any], terms: tuple[tuple[int, float], ...]) -> Tensor:
    """Σ c_i r_i in as many operations as there are terms, one less where the first coefficient is 1."""
    first, weight = terms[0]
    if weight != 1.0:
        total: Tensor = r[first] * weight
        rest = 1
    else:
        total = torch.add(r[first], r[terms[1][0]], alpha=terms[1][1])
        rest = 2
    for register, c in terms[rest:]:
        total.add_(r[register], alpha=c)
    return total
