"""What can be known of a kernel: from its machine code anywhere, and from a run where there is a GPU.

    for one in static(match("attention forward d72", 90)): ...

Without a GPU: registers, spills, shared memory, occupancy, instructions by kind, and the least time at a
named card's roof. With one also: Proton's time, TFLOP/s and GB/s of every kernel, and PyTorch's trace.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import UsageError, unknown
from kernels.roofline import CARDS, Card, Roof, roof

if TYPE_CHECKING:
    from bench.kernel_bench.shapes import Shape
    from kernels.compiled import Compiled
    from kernels.occupancy import Occupancy
    from kernels.shipped import Shipped

OPERATIONS = {"attention": "attention", "prepare": "joint-attention", "rms_norm": "rms-norm"}
"""Kernels by the first word of their names, and the operation of `kernels bench` that they belong to."""
DRAWN = {
    "matrix": ("wgmma", "mma.sync", "tcgen05"),
    "copy to shared": ("tma load", "async copy"),
    "exp2": ("exp2",),
    "fma": ("fma",),
    "multiply": ("multiply",),
    "add": ("add",),
    "maximum": ("maximum",),
    "select": ("select",),
    "convert": ("convert",),
    "shared memory": ("shared load", "shared store"),
    "global memory": ("global load", "global store", "tma store"),
    "barrier": ("barrier",),
}
"""Kinds of instruction as the figure joins them, a colour each."""


@dataclass(frozen=True)
class Profile:
    """One configuration: what the compiler made of it, how it fills a processor, what is wrong with it."""

    kernel: Shipped
    compiled: Compiled
    occupancy: Occupancy
    defects: list[str]

    @property
    def head_size(self) -> int | None:
        """D, where its name has one."""
        sizes = [word[1:] for word in self.kernel.name.split() if word[0] == "d" and word[1:].isdigit()]
        return int(sizes[0]) if sizes else None


def match(name: str, capability: int | None = None, dtype: str = "") -> list[Shipped]:
    """Shipped configurations whose names hold every word of `name`, of an architecture and a dtype.

    Raises UsageError, with the nearest word, where there is none.
    """
    from kernels.shipped import shipped

    everything, words = shipped(), name.split()
    known = sorted({word for one in everything for word in one.name.split()})
    for word in words:
        if word not in known:
            raise unknown("kernel", word, known, "See: noisebench kernels ls.")
    found = [
        one
        for one in everything
        if set(words) <= set(one.name.split())
        and capability in (None, one.capability)
        and (not dtype or dtype in one.name.split())
    ]
    if not found:
        raise UsageError(f"No kernel is called '{name}' on this card and dtype; see: noisebench kernels ls.")
    return found


def card_named(name: str) -> Card:
    """A card with known roofs."""
    if name not in CARDS:
        raise unknown("card", name, CARDS, "Any other has no roof until it is measured.")
    return CARDS[name]


def static(kernels: Sequence[Shipped]) -> Iterator[Profile]:
    """Compile each and read its machine code; a second or two for each that is new."""
    from kernels.compiled import compile_kernel
    from kernels.gate import defects
    from kernels.occupancy import occupancy

    for kernel in kernels:
        compiled = compile_kernel(kernel)
        yield Profile(kernel, compiled, occupancy(compiled), defects(kernel, compiled))


def least_time(profile: Profile, shape: Shape, card: Card) -> Roof | None:
    """Least seconds of the whole forward or backward that the kernel is a part of; None for other shapes."""
    from bench.kernel_bench.work import work

    words = profile.kernel.name.split()
    if words[0] != "attention" or words[1] == "delta" or profile.head_size != shape.dim:
        return None
    direction = "backward" if profile.kernel.backward else "forward"
    of = work("attention", shape, direction, "bfloat16")
    return roof(of.flops, of.bytes, of.exps, card)


def ncu_command(operation: str, shape: str) -> str:
    """The command line that has Nsight Compute examine our kernels of an operation on a shape."""
    run = f"noisebench kernels bench --op {operation} --shape {shape} --providers triton --repeats 3"
    names = r"regex:(forward|hopper|key_value|query|prepare|modulate|gate).*kernel"
    return (
        f"ncu --set full --target-processes all -k {shlex.quote(names)} --launch-skip 4 -c 4 -o profile {run}"
    )


@dataclass(frozen=True)
class Observed:
    """One kernel as Proton saw it: seconds of all its launches, how many, and rates where work is known."""

    name: str
    seconds: float
    launches: int
    flops: float | None
    bandwidth: float | None


def on_gpu(operation: str, shape: Shape, direction: str, out: Path) -> list[Observed]:
    """Run our kernels on a shape under both profilers: `trace.json` and `proton.hatchet` in `out`."""
    import torch

    from bench.kernel_bench.problems import make
    from bench.kernel_bench.providers import providers
    from bench.kernel_bench.run import work_of
    from bench.kernel_bench.work import work

    device = torch.device("cuda")
    problem = make(operation, shape, torch.bfloat16, device)
    ours = next(one for one in providers(operation) if one.name == "triton")
    call = work_of(problem, ours.make(problem), direction)
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    out.mkdir(parents=True, exist_ok=True)
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profiler:
        call()
        torch.cuda.synchronize()
    profiler.export_chrome_trace(str(out / "trace.json"))
    import triton.profiler as proton

    of = work(operation, shape, direction, "bfloat16")
    proton.start(str(out / "proton"), hook="triton")
    with proton.scope(f"{operation} {shape.name}", metrics={"flops16": of.flops, "bytes": of.bytes}):
        call()
    torch.cuda.synchronize()
    proton.finalize()
    return observed(json.loads((out / "proton.hatchet").read_text(encoding="utf-8")))


def observed(tree: Sequence[Mapping[str, Any]]) -> list[Observed]:
    """Kernels and scopes of Proton's tree that have a time, longest first."""
    found = []
    for node in tree:
        if "frame" not in node:
            continue
        metrics, below = node.get("metrics", {}), node.get("children", [])
        inner = observed(below)
        found += inner
        nanoseconds = next((v for k, v in metrics.items() if k.startswith("time")), None)
        total = float(nanoseconds) / 1e9 if nanoseconds else sum(
            one.seconds for one, child in zip(inner, below, strict=False) if child
        )  # fmt: skip
        work_done = metrics.get("flops16"), metrics.get("bytes")
        if nanoseconds is None and work_done == (None, None):
            continue
        flops, moved = (None if value is None or not total else float(value) / total for value in work_done)
        found.append(
            Observed(str(node["frame"].get("name", "")), total, int(metrics.get("count", 1)), flops, moved)
        )
    return sorted(found, key=lambda one: -one.seconds)


def mix_figure(profiles: Sequence[Profile]) -> Any:
    """Bars: instructions of each configuration by kind."""
    import altair as alt
    import pandas as pd

    from bench.report import theme

    lines = [
        {"kernel": one.kernel.name, "kind": kind, "order": order, "count": sum(map(of(one), parts))}
        for one in profiles
        for order, (kind, parts) in enumerate(DRAWN.items())
    ]
    colours = dict(zip(DRAWN, theme.SERIES_COLOURS, strict=True))
    scale = alt.Scale(domain=list(colours), range=list(colours.values()))
    return (
        alt.Chart(pd.DataFrame(lines), width=640)
        .mark_bar()
        .encode(
            x=alt.X("sum(count):Q", title="instructions in the machine code"),
            y=alt.Y("kernel:N", title=None, sort=None, axis=alt.Axis(labelLimit=320)),
            color=alt.Color("kind:N", scale=scale, title=None, legend=alt.Legend(columns=6)),
            order="order:Q",
        )
    )


def of(profile: Profile) -> Callable[[str], int]:
    """How many instructions of a kind."""
    return lambda kind: profile.compiled.instructions.get(kind, 0)


def roof_figure(card: Card) -> Any:
    """Least time of each model's attention by matrix units, memory and exponentials: the longest binds."""
    import altair as alt
    import pandas as pd

    from bench.kernel_bench.shapes import MODELS
    from bench.kernel_bench.work import work
    from bench.report import theme

    lines = []
    for shape in MODELS:
        done = work("attention", shape, "forward", "bfloat16")
        times = {
            "matrix": done.flops / card.matrix,
            "bandwidth": done.bytes / card.bandwidth,
            "exponentials": done.exps / card.exponentials,
        }
        lines += [{"shape": shape.name, "by": by, "µs": 1e6 * seconds} for by, seconds in times.items()]
    scale = alt.Scale(domain=["matrix", "bandwidth", "exponentials"], range=list(theme.SERIES_COLOURS[:3]))
    return (
        alt.Chart(pd.DataFrame(lines), width=640)
        .mark_bar()
        .encode(
            x=alt.X("µs:Q", scale=alt.Scale(type="log"), title="least µs, forward, bfloat16"),
            y=alt.Y("shape:N", sort=None, title=None),
            yOffset=alt.YOffset("by:N", sort=list(scale.domain)),
            color=alt.Color("by:N", scale=scale, title=None),
        )
        .properties(title=alt.Title(card.name, subtitle=card.source))
    )
