"""Turns a run's results and the store into its report. Pandas and pictures, no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock

from bench import files
from bench.cells import shard_sizes
from bench.errors import UsageError, unknown
from bench.identity import code_sha256, content_key, file_sha256
from bench.records import Record, to_frame
from bench.run import RUN, read_records, read_run
from bench.store import DONE, Part, Store

if TYPE_CHECKING:
    import pandas as pd

    from bench.report import ReportData

SHEET_IMAGES = 64


def run_folders(results: Path) -> list[Path]:
    """Folders of runs, the one written last at the end."""
    folders = [path.parent for path in (results / "runs").glob(f"*/{RUN}")]
    return sorted(folders, key=lambda folder: ((folder / RUN).stat().st_mtime_ns, folder.name))


def find_run(results: Path, name: str = "") -> Path:
    """The folder of a run given by folder, name or the start of its name; the latest without one."""
    if name and (Path(name) / RUN).is_file():
        return Path(name)
    folders = run_folders(results)
    if not folders:
        raise UsageError(f"There is no run in {results / 'runs'}: start one with `noisebench run digits`.")
    matching = [folder for folder in folders if folder.name.startswith(name)]
    if not matching:
        raise unknown("run", name, [folder.name for folder in folders])
    return matching[-1]


PAGE, MARKDOWN, LATEX, FIGURES, MADE_FROM = "report.html", "report.md", "report.tex", "figures", ".report"


def write_report(folder: Path, store_root: Path, again: bool = False) -> Path:
    """Write report.html, report.md, report.tex and their pictures; returns the page's path.

    A report made from the same results by the same code is left as it is, unless it is asked for `again`.
    """
    from bench.report.latex import render_latex
    from bench.report.markdown import figures_png, render_markdown
    from bench.report.page import render_html

    with filelock.FileLock(folder / ".lock"):
        store = Store(store_root)
        page, made_from = folder / PAGE, _made_from(folder, store)
        seal = folder / MADE_FROM
        known = seal.is_file() and all((folder / name).is_file() for name in (PAGE, MARKDOWN, LATEX))
        if known and seal.read_text() == made_from and not again:
            return page
        seal.unlink(missing_ok=True)
        data = report_data(folder, store)
        files.write_text(page, render_html(data))
        for name, png in figures_png(data).items():
            files.write_bytes(folder / FIGURES / name, png)
        files.write_text(folder / MARKDOWN, render_markdown(data, FIGURES))
        files.write_text(folder / LATEX, render_latex(data))
        files.write_text(seal, made_from)
    return page


def _made_from(folder: Path, store: Store) -> str:
    """Identifies what a report is made from: results, run, shards of likelihoods and the code that draws."""
    assets = sorted((Path(__file__).parent / "report" / "assets").iterdir())
    report = sorted((Path(__file__).parent / "report").glob("*.py"))
    code = [code_sha256(path) for path in (Path(__file__), *report)]
    parts = [*code, *map(file_sha256, assets), file_sha256(folder / "results.json")]
    seals = [store.folder(record.cell_key) / DONE for record in measured_likelihoods(read_records(folder))]
    shards = [file_sha256(seal) if seal.is_file() else "" for seal in seals]
    return content_key([*parts, *shards, _shown_run(folder)])


def _shown_run(folder: Path) -> dict[str, Any]:
    """run.json with the calls that computed something: asking again does not change a report."""
    run = read_run(folder)
    calls = run["provenance"]
    return {**run, "provenance": [call for call in calls if call["computed"]] or calls[:1]}


def report_data(folder: Path, store: Store) -> ReportData:
    """Everything the report shows, from the run's folder and the store."""
    from bench.report import ReportData

    records = read_records(folder)
    run = _shown_run(folder)
    sheets, nearest = _sheets(records, store, run)
    return ReportData(
        suite=run["spec"]["resolved"]["name"],
        records=to_frame(records),
        run=run,
        curves=_curves(records, store),
        sheets=sheets,
        nearest=nearest,
        **_likelihoods(records, store),
    )


def measured_likelihoods(records: list[Record]) -> list[Record]:
    """The records that are a model's bits per dimension, one an estimate."""
    from bench.report.tables import ANCHOR, BITS

    return [r for r in records if r.metric == BITS and r.status == "ok" and r.family != ANCHOR]


def _likelihoods(records: list[Record], store: Store) -> dict[str, pd.DataFrame]:
    """What `ReportData` holds of likelihoods beside their records; what is not in the store is left out."""
    import pandas as pd

    from bench.report import stored

    made = {"nats": stored.nats_frame, "terms": stored.terms_frame, "ladders": stored.ladder_frame}
    frames: dict[str, list[pd.DataFrame]] = {name: [] for name in made}
    for record in measured_likelihoods(records):
        parts = _shards(record, store)
        for name, make in made.items():
            frame = make(record, parts)
            if frame is not None:
                frames[name].append(frame)
    return {name: pd.concat(some, ignore_index=True) for name, some in frames.items() if some}


def _shards(record: Record, store: Store) -> list[Part]:
    """All shards of a likelihood cell, or none where one is missing."""
    count = len(shard_sizes(record.n or 0))
    parts = [part for i in range(count) if (part := store.load_part(record.cell_key, i)) is not None]
    return parts if len(parts) == count else []


def _curves(records: list[Record], store: Store) -> pd.DataFrame:
    """Learning curves of the trained models."""
    import pandas as pd

    frames = []
    for record in records:
        part = store.load_part(record.cell_key, 0) if record.metric == "training time" else None
        if part is not None:
            columns = {name: part.arrays[f"curve.{name}"] for name in ("step", "loss", "seconds")}
            frames.append(pd.DataFrame({"model": record.model, **columns}))
    empty = pd.DataFrame(columns=["model", "step", "loss", "seconds"])
    return pd.concat(frames, ignore_index=True) if frames else empty


def _sheets(
    records: list[Record], store: Store, run: dict[str, Any]
) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Real test images, then the first images of each model's best cell: same seeds, not chosen.

    Beside them, for each of their images, the training image that is nearest in pixels.
    """
    from bench import data
    from bench.report.sheets import contact_sheet, nearest_in_pixels

    images = data.load(run["spec"]["resolved"]["dataset"])
    sheets = {"real": contact_sheet(images.test[:SHEET_IMAGES], images.levels)}
    nearest = {}
    for label, cell_key in best_cells(records).items():
        part = store.load_part(cell_key, 0)
        if part is not None:
            shown = part.arrays["pixels"][:SHEET_IMAGES]
            sheets[label] = contact_sheet(shown, images.levels)
            close = images.train[nearest_in_pixels(shown, images.train)]
            nearest[label] = contact_sheet(close, images.levels)
    return sheets, nearest


def best_cells(records: list[Record]) -> dict[str, str]:
    """Label -> key of each model's cell of best quality, best model first: what the report ranks, no more."""
    from bench.report import tables, winners

    best = winners.best_per_model(tables.cells(to_frame(records))).dropna(subset=["quality"])
    return dict(zip(best["label"], best["quality_cell"], strict=True))
