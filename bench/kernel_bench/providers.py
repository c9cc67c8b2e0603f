"""Every way to compute an operation: one name each, one function each, and what must be seen to run.

attention        each backend; eager and compiled in plain PyTorch; `triton`, ours
joint-attention  `eager + B`, `compiled + B`: norms, rotation and joining in plain PyTorch, then backend
                 B; `prepared + B`: our preparation, then B; `triton`: our preparation and attention
the others       eager, compiled, triton
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.kernel_bench.backends import BACKENDS, Absent
from bench.kernel_bench.compositions import EPS, Attend, composition, parted
from bench.kernel_bench.observed import FUSED, Claim
from bench.kernel_bench.problems import Call, Problem
from kernels.adaln import gated_residual, layer_norm_modulate
from kernels.launch import runs_triton
from kernels.prepare import prepare
from kernels.rms_norm import rms_norm

BEFORE = ("flash", "cudnn", "efficient", "fa3", "fa4")
"""Backends that a preparation is put before: those that people use with these models."""


@dataclass(frozen=True)
class Provider:
    """One way to compute an operation.

    make      the function for a problem; raises Absent with the reason where it cannot run
    claim     kernels that must be seen, and must not, on a device
    compiled  whether making it compiles, which takes seconds
    """

    name: str
    make: Callable[[Problem], Call]
    claim: Callable[[torch.device], Claim]
    compiled: bool = False


def providers(operation: str) -> list[Provider]:
    """All for an operation, in the order of tables, ours last."""
    if operation == "attention":
        return [*_compositions(fused=False), *(_backend(name) for name in BACKENDS)]
    if operation == "joint-attention":
        found = [_joined(way, name) for way in ("eager", "compiled", "prepared") for name in BEFORE]
        return [
            *found,
            Provider("triton", _joint_by_triton, _needs("prepare_kernel", "(forward|hopper)_kernel")),
        ]
    names = {
        "modulate": "modulate_kernel",
        "gated-residual": "gate_kernel",
        "rms-norm": "forward_kernel",
    }
    return [*_compositions(fused=True), Provider("triton", _elementwise_by_triton, _needs(names[operation]))]


def _compositions(fused: bool) -> list[Provider]:
    """Plain PyTorch, and what its compiler makes of it; neither may fall into somebody's fused attention."""
    forbidden = Claim() if fused else Claim(forbidden=(FUSED,))
    return [
        Provider("eager", composition, lambda _: forbidden),
        Provider("compiled", lambda problem: compiled(composition(problem)), lambda _: forbidden, True),
    ]


def _backend(name: str) -> Provider:
    backend = BACKENDS[name]

    def make(problem: Problem) -> Call:
        attend = _attend(name, problem)
        return lambda *inputs: (attend(*inputs),)

    def claim(device: torch.device) -> Claim:
        own = Claim((r"(forward|hopper)_kernel",)) if name == "triton" and device.type == "cuda" else Claim()
        return backend.claim(device) + own

    return Provider(name, make, claim, backend.compiled)


def _joined(way: str, name: str) -> Provider:
    """Norms, rotation and joining by `way`, attention by a backend."""

    def make(problem: Problem) -> Call:
        attend = _attend(name, problem)
        if way == "prepared":
            need_triton(problem)
            return lambda *inputs: parted(problem, attend(*prepared(problem, inputs)))
        call = composition(problem, attend)
        return call if way == "eager" else compiled(call)

    def claim(device: torch.device) -> Claim:
        own = Claim(("prepare_kernel",)) if way == "prepared" and device.type == "cuda" else Claim()
        return BACKENDS[name].claim(device) + own

    return Provider(f"{way} + {name}", make, claim, way == "compiled")


def _attend(name: str, problem: Problem) -> Attend:
    if name == "triton":
        need_triton(problem)
    return BACKENDS[name].make()


def _joint_by_triton(problem: Problem) -> Call:
    need_triton(problem)
    attend = BACKENDS["triton"].make()
    return lambda *inputs: parted(problem, attend(*prepared(problem, inputs)))


def prepared(problem: Problem, inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Joint q̂, k̂, v̂ by our kernel."""
    given = dict(zip(problem.names, inputs, strict=True))
    names = [f"w{x}_{stream}" for stream in ("image", "text") for x in "qk"]
    weights = tuple(given[name] for name in names) if problem.shape.qk_norm else None
    return prepare(
        given["image"],
        given["text"],
        weights=weights,  # type: ignore[arg-type]
        rotation=problem.rope,
        order="text-first" if problem.shape.text_first else "image-first",
        eps=EPS,
        backend="triton",
    )


def _elementwise_by_triton(problem: Problem) -> Call:
    need_triton(problem)
    ways: dict[str, Callable[..., Tensor]] = {
        "modulate": lambda x, scale, shift: layer_norm_modulate(
            x, shift[:, None], scale[:, None], eps=EPS, backend="triton"
        ),
        "gated-residual": lambda x, y, gate: gated_residual(x, y, gate[:, None], backend="triton"),
        "rms-norm": functools.partial(rms_norm, eps=EPS, backend="triton"),
    }
    run = ways[problem.operation]
    return lambda *inputs: (run(*inputs),)


def need_triton(problem: Problem) -> None:
    """Absent where our kernels do not run: their interpreter has no speed to measure."""
    if not runs_triton(problem.device):
        raise Absent("our kernels need an NVIDIA GPU of compute capability 8.0 or newer")


def compiled(call: Call) -> Call:
    """What torch.compile makes of it, as one graph for these shapes."""
    return torch.compile(call, fullgraph=True, dynamic=False)


def _needs(*patterns: str) -> Callable[[torch.device], Claim]:
    return lambda device: Claim(patterns) if device.type == "cuda" else Claim()
