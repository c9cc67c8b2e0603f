"""The verbs. Each reads its options, calls the library and prints; nothing is computed here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.cli import FAILED, OK
from bench.errors import UsageError

app = typer.Typer(
    name="noisebench",
    help="Benchmark image generators: sample quality, bits per dimension and speed, with error bars.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Suite = Annotated[str, typer.Argument(help="A built-in suite (see `noisebench ls suites`) or a YAML file.")]
Results = Annotated[Path, typer.Option("--results", help="Folder of all runs and of the store.")]
Models = Annotated[
    str, typer.Option(help="Only these models, separated by commas; package.module:Class adds your own.")
]
Samplers = Annotated[str, typer.Option(help="Only these samplers, separated by commas.")]
Metrics = Annotated[str, typer.Option(help="Only these of quality, likelihood, throughput, certificates.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Threads = Annotated[int | None, typer.Option(help="Threads of the processor; default: its cores.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change one value of the suite, e.g. --set sampling.images=720; repeatable."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of text.")]

RESULTS = Path("results")


@app.command()
def run(
    suite: Suite = "digits",
    results: Results = RESULTS,
    models: Models = "",
    samplers: Samplers = "",
    metrics: Metrics = "",
    device: Device = "auto",
    threads: Threads = None,
    set_: Set = None,
) -> int:
    """Train, sample, measure and write the comparison report. Running it again does what is missing."""
    from bench.cli.progress import follow

    found, planner = _plan(suite, results, models, samplers, metrics, device, threads, set_)
    failed = follow(found, planner)
    return FAILED if failed else OK


@app.command()
def plan(
    suite: Suite = "digits",
    results: Results = RESULTS,
    models: Models = "",
    samplers: Samplers = "",
    metrics: Metrics = "",
    device: Device = "auto",
    threads: Threads = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Show the cells of a suite: cached or missing, with the time and disk they are expected to take."""
    from bench.cli.tables import show_plan

    found, planner = _plan(suite, results, models, samplers, metrics, device, threads, set_)
    show_plan(found, planner, as_json)


@app.command()
def ls(
    what: Annotated[
        str, typer.Argument(help="suites, models, samplers, grids, datasets, metrics or runs.")
    ] = "",
    results: Results = RESULTS,
    as_json: Json = False,
) -> None:
    """List what there is: suites, models, samplers, grids, datasets, metrics, runs."""
    from bench.cli.tables import show_list

    show_list(what, results, as_json)


@app.command()
def report(
    run: Annotated[str, typer.Argument(help="A run's folder or name; default: the latest run.")] = "",
    results: Results = RESULTS,
    as_json: Json = False,
) -> None:
    """Make the report of a finished run again, from its results and the store."""
    from bench.present import find_run, write_report

    folder = find_run(results, run)
    page = write_report(folder, results / "store", again=True)
    print(json.dumps({"report": str(page)}) if as_json else f"Report: {page}")


@app.command()
def peers(
    kind: Annotated[str, typer.Argument(help="What to compare with other packages: samplers.")] = "samplers",
    steps: Annotated[int, typer.Option(min=4, help="Steps of every sampler.")] = 50,
    repeats: Annotated[int, typer.Option(min=1, help="Repeats of every timing.")] = 40,
    as_json: Json = False,
) -> int:
    """Compare with other people's packages in one run: results, evaluations, cost outside the network."""
    from bench.cli.peers import show_peers

    return OK if show_peers(kind, as_json, steps=steps, repeats=repeats) else FAILED


@app.command()
def verify(
    suite: Annotated[str, typer.Argument(help="A suite whose solver settings are checked too.")] = "",
    as_json: Json = False,
) -> int:
    """Check this installation's likelihoods against closed-form truth; with a suite also its solvers."""
    from bench.cli.verify import show_verification

    return OK if show_verification(suite, as_json) else FAILED


@app.command()
def doctor(
    results: Results = RESULTS,
    fix: Annotated[bool, typer.Option("--fix", help="Remove what is damaged or left over.")] = False,
    prune: Annotated[bool, typer.Option("--prune", help="Also remove cells that no run shows.")] = False,
    as_json: Json = False,
) -> int:
    """Check the installation and every file of the store; with --fix remove what is damaged."""
    from bench.cli.tables import show_examination
    from bench.doctor import examine

    found = examine(results, fix=fix, prune=prune)
    show_examination(found, as_json)
    return OK if found.healthy else FAILED


def _plan(
    source: str,
    results: Path,
    models: str,
    samplers: str,
    metrics: str,
    device: str,
    threads: int | None,
    changes: list[str] | None,
) -> tuple[Any, Any]:
    """The run and its cells, every name checked."""
    from bench.run import Run, make_planner
    from bench.runtime import resolve
    from bench.suite import load_suite, select

    suite = load_suite(source, _overrides(changes or []))
    suite = select(suite, _words(models), _words(samplers), _words(metrics))
    return Run(suite, source, results), make_planner(suite, resolve(device, threads))


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _overrides(changes: list[str]) -> dict[str, Any]:
    """`a.b=1` to {"a": {"b": 1}}; values are YAML."""
    import yaml

    merged: dict[str, Any] = {}
    for change in changes:
        path, equals, value = change.partition("=")
        if not equals or not path:
            raise UsageError(f"--set takes KEY=VALUE, such as sampling.images=720, and got '{change}'.")
        *parents, last = path.strip().split(".")
        inner = merged
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = yaml.safe_load(value)
    return merged
