"""The verbs. Each reads its options, calls the library and prints; nothing is computed here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.cli import FAILED, OK, REGRESSION, words
from bench.cli.kernels import app as kernels_app
from bench.cli.words import completed, examples
from bench.errors import UsageError, unknown

app = typer.Typer(
    name="noisebench",
    help="Benchmark image generators: sample quality, bits per dimension and speed, with error bars.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.add_typer(kernels_app, name="kernels")

Suite = Annotated[
    str,
    typer.Argument(
        help="A built-in suite (see `noisebench ls suites`) or a YAML file.",
        autocompletion=completed(words.suites),
    ),
]
Results = Annotated[Path, typer.Option("--results", help="Folder of all runs and of the store.")]
Models = Annotated[
    str,
    typer.Option(
        help="Only these models, separated by commas; package.module:Class adds your own.",
        autocompletion=completed(words.models),
    ),
]
Samplers = Annotated[
    str,
    typer.Option(help="Only these samplers, separated by commas.", autocompletion=completed(words.samplers)),
]
Metrics = Annotated[
    str, typer.Option(help="Only these of quality, likelihood, throughput, certificates, scaling.")
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Threads = Annotated[int | None, typer.Option(help="Threads of the processor; default: its cores.")]
Attention = Annotated[
    str, typer.Option(help="Backend of every attention: auto, triton, cudnn, flash, efficient or math.")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change one value of the suite, e.g. --set sampling.images=720; repeatable."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of text.")]

RESULTS = Path("results")


@app.command(
    epilog=examples(
        "run digits",
        "run digits --models vae,ddpm --samplers heun",
        "run mine.yaml --plain",
        "run digits --driver ray --workers 2",
    )
)
def run(
    suite: Suite = "digits",
    results: Results = RESULTS,
    models: Models = "",
    samplers: Samplers = "",
    metrics: Metrics = "",
    device: Device = "auto",
    threads: Threads = None,
    attention: Attention = "auto",
    set_: Set = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Print failures and the report's place alone.")
    ] = False,
    plain: Annotated[bool, typer.Option("--plain", help="No bar and no colour, one line a cell.")] = False,
    driver: Annotated[
        str,
        typer.Option(help="process: this one, or as torchrun, srun or mpirun say; ray: processes of Ray."),
    ] = "process",
    workers: Annotated[int, typer.Option(min=1, help="Processes that Ray starts.")] = 2,
    address: Annotated[str, typer.Option(help="Of a Ray cluster, such as auto; default: one here.")] = "",
    gpus: Annotated[float, typer.Option(help="GPUs of each of Ray's processes; 0.5 puts two on one.")] = 1.0,
) -> int:
    """Train, sample, measure and write the comparison report. Running it again does what is missing."""
    from bench.cli.progress import follow
    from bench.drivers.place import Place

    place = Place.taken()
    found, planner = _plan(suite, results, models, samplers, metrics, device, threads, attention, set_)
    events = None
    if driver == "ray":
        from bench.drivers.by_ray import execute_by_ray

        events = execute_by_ray(found, planner.runtime, workers=workers, address=address, gpus=gpus)
    elif driver != "process":
        raise unknown("driver", driver, ("process", "ray"))
    failed = follow(found, planner, place, events=events, quiet=quiet, plain=plain)
    return FAILED if failed else OK


@app.command(
    epilog=examples("plan digits", "plan catalogue --models dit --json", "plan digits --processes 64")
)
def plan(
    suite: Suite = "digits",
    results: Results = RESULTS,
    models: Models = "",
    samplers: Samplers = "",
    metrics: Metrics = "",
    device: Device = "auto",
    threads: Threads = None,
    attention: Attention = "auto",
    set_: Set = None,
    processes: Annotated[
        int,
        typer.Option(min=1, help="Also the time with up to so many processes, each on its own GPU or core."),
    ] = 1,
    as_json: Json = False,
) -> None:
    """Show the cells of a suite: cached or missing, with the time and disk they are expected to take."""
    from bench.cli.tables import show_plan

    found, planner = _plan(suite, results, models, samplers, metrics, device, threads, attention, set_)
    show_plan(found, planner, as_json, processes)


@app.command(epilog=examples("ls models", "ls runs --json"))
def ls(
    what: Annotated[
        str,
        typer.Argument(help="suites, models, samplers, grids, datasets, metrics, features, measures, runs."),
    ] = "",
    results: Results = RESULTS,
    as_json: Json = False,
) -> None:
    """List what there is: suites, models, samplers, grids, datasets, metrics, features, measures, runs."""
    from bench.cli.tables import show_list

    show_list(what, results, as_json)


@app.command(epilog=examples("report", "report digits"))
def report(
    run: Annotated[
        str,
        typer.Argument(
            help="A run's folder or name; default: the latest run.", autocompletion=completed(words.runs)
        ),
    ] = "",
    results: Results = RESULTS,
    as_json: Json = False,
) -> None:
    """Make the report of a finished run again, from its results and the store."""
    from bench.present import find_run, write_report

    folder = find_run(results, run)
    page = write_report(folder, results / "store", again=True)
    print(json.dumps({"report": str(page)}) if as_json else f"Report: {page}")


@app.command(
    "compare",
    epilog=examples(
        "compare results/reference/digits digits",
        "compare before/runs/digits-0123 after/runs/digits-0123 --fail-on-regression",
        "compare digits digits-4567 --only worse --output compare.html --output compare.md",
    ),
)
def compare_(
    runs: Annotated[
        list[str],
        typer.Argument(
            help="Runs by folder or name; the first is what the others are seen from.",
            autocompletion=completed(words.runs),
        ),
    ],
    results: Results = RESULTS,
    noise: Annotated[
        float, typer.Option(help="Relative change of speed and memory that is no difference.")
    ] = 0.05,
    only: Annotated[
        str, typer.Option(help="Print only these of worse, better, same, not comparable; by commas.")
    ] = "",
    output: Annotated[
        list[Path] | None, typer.Option(help="Also write .html, .md or .json; repeatable.")
    ] = None,
    fail_on_regression: Annotated[
        bool, typer.Option("--fail-on-regression", help="Exit with 3 if anything is worse.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Compare runs cell by cell: better, worse, the same within noise, or not comparable and why."""
    from bench.cli.compare import show_comparison

    worse = show_comparison(runs, results, _words(only), output or [], as_json, noise=noise)
    return REGRESSION if worse and fail_on_regression else OK


@app.command(epilog=examples("peers samplers", "peers frechet --repeats 5", "peers pipelines --json"))
def peers(
    kind: Annotated[
        str,
        typer.Argument(
            help="What to compare with other packages: samplers, frechet, likelihood, flows, pipelines."
        ),
    ] = "samplers",
    steps: Annotated[int | None, typer.Option(min=4, help="Steps of every sampler (50).")] = None,
    repeats: Annotated[
        int | None, typer.Option(min=1, help="Repeats of every timing (samplers 40, others 3 to 15).")
    ] = None,
    as_json: Json = False,
) -> int:
    """Compare with other people's packages in one run: results, evaluations, cost outside the network."""
    from bench.cli.peers import show_peers

    given = {"steps": steps, "repeats": repeats}
    options = {name: value for name, value in given.items() if value is not None}
    return OK if show_peers(kind, as_json, **options) else FAILED


@app.command(
    epilog=examples(
        "evaluate samples/ --against digits --features digits-features",
        "evaluate samples.npz --against photos.zip --metrics fid,kid --output numbers.csv",
        "evaluate diffusers:pipeline/ --against cifar10 --n 1000 --sampler heun --steps 20",
        "evaluate mine:sample --n 720 --against digits --features digits-features --pairs pairs.png",
    )
)
def evaluate(
    source: Annotated[
        str,
        typer.Argument(
            help="Folder, .zip, .parquet, .npz, .npy; package.module:name; diffusers:PATH of a pipeline."
        ),
    ],
    against: Annotated[
        str, typer.Option(help="Real images: a dataset such as digits or digits:test, or as SOURCE.")
    ],
    features: Annotated[
        str,
        typer.Option(
            help="Feature network; see `noisebench ls features`.", autocompletion=completed(words.features)
        ),
    ] = "inception-v3-tf",
    metrics: Annotated[
        str,
        typer.Option(
            help="Of the measures that `noisebench ls measures` lists, separated by commas.",
            autocompletion=completed(words.measures),
        ),
    ] = "fid,kid,prdc",
    held_out: Annotated[
        str, typer.Option(help="Real images that were not trained on, for memorisation.")
    ] = "",
    n: Annotated[int | None, typer.Option(min=1, help="Images of SOURCE; a function needs it.")] = None,
    seed: Annotated[int, typer.Option(help="Of a function's images, and of what is drawn at random.")] = 0,
    column: Annotated[str, typer.Option(help="Column of a .parquet, or array of an .npz.")] = "",
    sampler: Annotated[
        str, typer.Option(help="Of diffusers:PATH: one of ours, or own for its own scheduler.")
    ] = "",
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of that sampler; 50.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Its guidance weight w; 1 is none.")] = None,
    labels: Annotated[str, typer.Option(help="Classes it draws in turn, separated by commas.")] = "",
    prompts: Annotated[
        Path | None, typer.Option(help="File with a caption a line, which it draws in turn.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="File of the feature network's weights.")] = None,
    skip_damaged: Annotated[
        bool, typer.Option("--skip-damaged", help="Go on without images that cannot be read, and name them.")
    ] = False,
    output: Annotated[Path | None, typer.Option(help="Also write the records: .csv or .json.")] = None,
    save_statistics: Annotated[
        Path | None, typer.Option(help="Also write the moments of SOURCE, to compare others with.")
    ] = None,
    save_features: Annotated[
        Path | None, typer.Option(help="Also write the features of every image of SOURCE: .parquet.")
    ] = None,
    pairs: Annotated[
        Path | None, typer.Option(help="Also draw the images nearest to real ones, beside them: .png.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="Of the feature network: float32 or bfloat16.")] = "float32",
    compiled: Annotated[bool, typer.Option("--compile", help="Compile the feature network.")] = False,
    as_json: Json = False,
) -> int:
    """Measure images of any origin against real ones: Fréchet and kernel distances, precision, recall …"""
    from bench.cli.evaluate import sampling, show_evaluation

    show_evaluation(
        source,
        against,
        held_out,
        features,
        weights,
        _words(metrics),
        output,
        save_statistics,
        save_features,
        pairs,
        as_json,
        n=n,
        seed=seed,
        column=column,
        skip_damaged=skip_damaged,
        sampling=sampling(sampler, steps, guidance, _words(labels), prompts),
        arithmetic={"dtype": dtype, "compiled": compiled},
    )
    return OK


@app.command(epilog=examples("verify", "verify digits"))
def verify(
    suite: Annotated[str, typer.Argument(help="A suite whose solver settings are checked too.")] = "",
    as_json: Json = False,
) -> int:
    """Check this installation's likelihoods against closed-form truth; with a suite also its solvers."""
    from bench.cli.verify import show_verification

    return OK if show_verification(suite, as_json) else FAILED


@app.command(epilog=examples("doctor", "doctor --repair", "doctor --prune --json"))
def doctor(
    results: Results = RESULTS,
    repair: Annotated[
        bool, typer.Option("--repair", "--fix", help="Remove what is damaged or left over.")
    ] = False,
    prune: Annotated[bool, typer.Option("--prune", help="Also remove cells that no run shows.")] = False,
    as_json: Json = False,
) -> int:
    """Check the installation and every file of the store; with --repair remove what is damaged."""
    from bench.cli.tables import show_examination
    from bench.doctor import examine

    found = examine(results, repair=repair, prune=prune)
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
    attention: str,
    changes: list[str] | None,
) -> tuple[Any, Any]:
    """The run and its cells, every name checked."""
    from bench.run import Run, make_planner
    from bench.runtime import resolve
    from bench.suite import load_suite, select

    suite = load_suite(source, _overrides(changes or []))
    suite = select(suite, _words(models), _words(samplers), _words(metrics))
    return Run(suite, source, results), make_planner(suite, resolve(device, threads, attention))


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _overrides(changes: list[str]) -> dict[str, Any]:
    """`a.b=1` to {"a": {"b": 1}}; values are YAML."""
    from bench.suite_text import parsed_value

    merged: dict[str, Any] = {}
    for change in changes:
        path, equals, value = change.partition("=")
        if not equals or not path:
            raise UsageError(f"--set takes KEY=VALUE, such as sampling.images=720, and got '{change}'.")
        *parents, last = path.strip().split(".")
        inner = merged
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = parsed_value(value.encode("utf-8", "surrogateescape"), f"--set {change}")
    return merged
