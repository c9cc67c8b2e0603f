"""`noisebench kernels`: list, examine and time the fused operations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from bench.cli import FAILED, OK
from bench.cli.words import examples

console = Console(highlight=False)
app = typer.Typer(
    help="List, examine and time the fused kernels; without a GPU, from their machine code.",
    no_args_is_help=True,
)

Out = Annotated[Path, typer.Option(help="Folder for tables, figures and raw samples.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of text.")]
WIDE = 190


@app.command("ls", epilog=examples("kernels ls"))
def show_kernels(as_json: Json = False) -> None:
    """List every kernel configuration that is shipped."""
    from kernels.shipped import shipped

    names = [kernel.name for kernel in shipped()]
    print(json.dumps(names) if as_json else "\n".join(names))


@app.command(epilog=examples("kernels profile 'attention d72'", "kernels profile prepare --card h100 --json"))
def profile(
    name: Annotated[
        str, typer.Argument(help="Words of a kernel's name, such as 'attention d72'; see `kernels ls`.")
    ] = "attention",
    card: Annotated[str, typer.Option(help="Card whose roof is shown: h200, h100, a100, b200.")] = "h200",
    shape: Annotated[str, typer.Option(help="Model whose attention the least time is of.")] = "dit-xl-2-512",
    dtype: Annotated[str, typer.Option(help="bfloat16, float16 or float32.")] = "bfloat16",
    out: Out = Path("results/kernels/profile"),
    as_json: Json = False,
) -> int:
    """Examine kernels: registers, spills, occupancy, instructions, roof; on a GPU also Proton and a trace."""
    from bench.kernel_bench.shapes import find
    from bench.kernel_profile import card_named, match, static

    at, chosen = card_named(card), find([shape])[0]
    kernels = match(name, at.capability, dtype)
    with console.status(f"compiling {len(kernels)} kernels"):
        profiles = list(static(kernels))
    lines = [_profile_line(one, chosen, at) for one in profiles]
    if as_json:
        print(json.dumps(lines, ensure_ascii=False))
    else:
        _print(f"{at.name}, least time for {chosen.name}", lines)
        for one in profiles:
            for defect in one.defects:
                console.print(f"{one.kernel.name}: {defect}.", style="red")
    written = _write_profile(profiles, lines, at, out)
    operation = _operation(name)
    seen = _on_gpu(operation, chosen, out)
    if not as_json:
        if seen:
            _print("Proton", seen)
        _say_where(written, operation, chosen.name)
    return FAILED if any(one.defects for one in profiles) else OK


def _profile_line(one: Any, shape: Any, card: Any) -> dict[str, str]:
    from bench.kernel_profile import least_time

    least, seen = least_time(one, shape, card), one.compiled.instructions
    kinds = ("wgmma", "mma.sync", "tcgen05", "tma load", "exp2", "fma")
    return {
        "kernel": one.kernel.name,
        "registers": str(one.compiled.registers),
        "spilled": str(one.compiled.spilled),
        "shared": f"{one.compiled.shared / 1024:.0f} KiB",
        "warps": str(one.compiled.warps) + (" specialised" if one.compiled.specialised else ""),
        "occupancy": f"{one.occupancy.share:.0%} ({one.occupancy.limited_by})",
        **{kind: str(seen.get(kind, 0)) for kind in kinds},
        "all": str(seen.get("all", 0)),
        "least for all": "" if least is None else f"{1e6 * least.seconds:.1f} µs ({least.bound_by})",
    }


def _write_profile(profiles: Any, lines: list[dict[str, str]], card: Any, out: Path) -> list[Path]:
    from bench import files
    from bench.kernel_profile import mix_figure, roof_figure
    from bench.report.pictures import png

    files.write_json(out / "profile.json", {"card": card.name, "source": card.source, "kernels": lines})
    files.write_bytes(out / "instructions.png", png([mix_figure(profiles)]))
    files.write_bytes(out / "roofline.png", png([roof_figure(card)]))
    return [out / name for name in ("profile.json", "instructions.png", "roofline.png")]


def _operation(name: str) -> str:
    from bench.kernel_profile import OPERATIONS

    words = name.split()
    if words and words[0] == "adaln":
        return "gated-residual" if "gate" in words else "modulate"
    return OPERATIONS.get(words[0] if words else "", "attention")


def _on_gpu(operation: str, shape: Any, out: Path) -> list[dict[str, str]]:
    """What Proton saw; nothing where there is no GPU."""
    import torch

    if not torch.cuda.is_available() or not shape.has(operation):
        return []
    from bench.kernel_profile import on_gpu

    return [
        {
            "kernel": one.name,
            "µs": f"{1e6 * one.seconds:.1f}",
            "launches": str(one.launches),
            "TFLOP/s": "" if one.flops is None else f"{one.flops / 1e12:.0f}",
            "GB/s": "" if one.bandwidth is None else f"{one.bandwidth / 1e9:.0f}",
        }
        for one in on_gpu(operation, shape, "both", out)
    ]


def _say_where(written: list[Path], operation: str, shape: str) -> None:
    from bench.kernel_profile import ncu_command

    console.print(f"Written: {', '.join(map(str, written))}")
    console.print("With a GPU and Nsight Compute:")
    console.print(f"  {ncu_command(operation, shape)}", soft_wrap=True)


@app.command(epilog=examples("kernels bench --shape smoke", "kernels bench --shape flux-1024 --json"))
def bench(
    shape: Annotated[
        str, typer.Option(help="Shapes or sets, separated by commas: models, sweep, smoke, flux-1024 …")
    ] = "models",
    op: Annotated[
        str, typer.Option(help="Of attention, joint-attention, adaln, modulate, gated-residual, rms-norm.")
    ] = "attention",
    direction: Annotated[str, typer.Option(help="Of forward, backward, both.")] = "forward,backward",
    dtype: Annotated[str, typer.Option(help="bfloat16, float16 or float32.")] = "bfloat16",
    providers: Annotated[str, typer.Option(help="Only these, separated by commas.")] = "",
    repeats: Annotated[int, typer.Option(min=3, help="Rounds of every case.")] = 30,
    budget: Annotated[float, typer.Option(help="Seconds for all of it.")] = 3600.0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    out: Out = Path("results/kernels/bench"),
    as_json: Json = False,
) -> int:
    """Time every way to compute the fused operations, in turn, each checked and its kernels observed."""
    from bench.kernel_bench import DIRECTIONS, DTYPES, GROUPS, OPERATIONS
    from bench.kernel_bench.shapes import find
    from bench.runtime import resolve

    operations = _known("operation", op, (*OPERATIONS, *GROUPS))
    directions = _known("direction", direction, DIRECTIONS)
    _known("dtype", dtype, DTYPES)
    shapes, runtime = find(_words(shape)), resolve(device)
    from bench.kernel_bench.providers import providers as all_of
    from bench.kernel_bench.run import Plan, rows

    names = [one.name for name in OPERATIONS for one in all_of(name)]
    only = _known("provider", providers, names) if providers else []
    plan = Plan(shapes, operations, directions, dtype, only, repeats, budget, runtime.device)
    return _measure(plan, rows, runtime, out, as_json)


def _measure(plan: Any, rows: Any, runtime: Any, out: Path, as_json: bool) -> int:
    import torch

    from bench.kernel_bench.page import HEAD, tables
    from bench.kernel_bench.roofs import measured
    from bench.kernel_bench.stored import save

    card, found = measured(torch.device(plan.device)), []
    with console.status("measuring") as status:
        for row in rows(plan, card):
            found.append(row)
            status.update(f"{row.operation}, {row.shape}, {row.direction}: {row.provider} {row.status}")
    page = save(out, found, card, runtime)
    if as_json:
        print(json.dumps([row.as_dict() for row in found], ensure_ascii=False))
    else:
        for title, lines, notes in tables(found):
            _print(title, [dict(zip(HEAD, line, strict=True)) for line in lines])
            for note in notes:
                console.print(note, markup=False)
        console.print(f"Report: {page}")
    return FAILED if any(row.status == "failed" for row in found) else OK


@app.command("end-to-end", epilog=examples("kernels end-to-end"))
def end_to_end(
    smoke: Annotated[
        bool, typer.Option("--smoke", help="A tiny network, to see that all of it works.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    out: Out = Path("results/kernels/end-to-end"),
    as_json: Json = False,
) -> int:
    """Images a second of DiT-XL/2: fused, compiled, as a CUDA graph, beside diffusers on the same network."""
    import torch

    from bench.kernel_bench.end_to_end import SMOKE, Setting, ways
    from bench.kernel_bench.reference import save_ways
    from bench.runtime import resolve

    runtime, setting = resolve(device), SMOKE if smoke else Setting()
    with console.status("sampling"):
        found = ways(setting, torch.device(runtime.device))
    written = save_ways(out, found, setting, runtime)
    if as_json:
        print(json.dumps([way.as_dict() for way in found], ensure_ascii=False))
        return OK
    lines = [
        {
            "way": way.name,
            "images/s": "" if way.images_per_second is None else f"{way.images_per_second:.3g}",
            "range": "" if way.low is None else f"{way.low:.3g}–{way.high:.3g}",
            "where time goes": ", ".join(f"{k} {v:.0%}" for k, v in (way.shares or {}).items()) or way.note,
        }
        for way in found
    ]
    _print("DiT, guided DDIM", lines)
    console.print(f"Written: {written}")
    return OK


@app.command(epilog=examples("kernels reference --smoke", "kernels reference --out results/reference/h200"))
def reference(
    out: Out = Path("results/kernels/reference"),
    budget: Annotated[float, typer.Option(help="Seconds for all parts.")] = 570.0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    smoke: Annotated[bool, typer.Option("--smoke", help="Tiny shapes, to see that all of it works.")] = False,
) -> int:
    """Measure everything a GPU machine should, in parts, the most telling first, within a budget."""
    from bench.kernel_bench.reference import run
    from bench.runtime import resolve

    codes = []
    with console.status("measuring"):
        for done in run(out, budget, smoke, resolve(device)):
            ended = {0: "done", -1: "out of time"}.get(done.code, f"exit code {done.code}")
            console.print(f"{done.name}: {ended}, {done.seconds:.0f} s")
            codes.append(done.code)
    console.print(f"Written: {out}")
    return OK if not any(codes) else FAILED


def _known(what: str, text: str, valid: Any) -> list[str]:
    from bench.errors import unknown

    words = _words(text)
    for word in words:
        if word not in valid:
            raise unknown(what, word, list(valid))
    return words


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _print(title: str, lines: list[dict[str, str]]) -> None:
    """Lines of equal columns as a table; a narrow terminal wraps."""
    if not lines:
        console.print(title, style="bold")
        return
    table = Table(box=None, pad_edge=False, title=title, title_justify="left")
    for index, name in enumerate(lines[0]):
        table.add_column(name, justify="left" if index == 0 else "right", no_wrap=True)
    for line in lines:
        table.add_row(*line.values())
    Console(highlight=False, width=max(console.width, WIDE)).print(table)
