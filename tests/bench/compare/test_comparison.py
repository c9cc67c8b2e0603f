"""Protects what is compared with what, its verdicts, and the words for what cannot be compared."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from bench import files
from bench.compare import Comparison, compare
from bench.compare.evidence import RunEvidence
from bench.compare.pages import render_html, render_json, render_markdown
from bench.errors import UsageError
from bench.records import Record
from bench.run import RUN, write_tables
from tests.bench.compare.synthetic import Truth, write_run
from tests.conftest import ROOT, environment


def run_of(path: Path, *records: Record) -> RunEvidence:
    """A run of records alone, without a store, as results that were published are."""
    write_tables(path, records)
    files.write_json(path / RUN, {"schema": 1, "run": path.name})
    return RunEvidence.open(path)


def number(metric: str = "bits/dim", value: float = 2.0, error: float = 0.01, **changes: Any) -> Record:
    row: dict[str, Any] = {"dataset": "digits", "model": "flow", "protocol": "how", "kind": "exact"}
    row |= {"low": value - error, "high": value + error}
    return Record(metric=metric, value=value, **{**row, **changes})


def verdicts(found: Comparison) -> list[str]:
    return [row.verdict for row in found.rows]


def test_a_run_is_the_same_as_itself(tmp_path: Path) -> None:
    a = write_run(tmp_path, "a", 0, "a")
    found = compare(a, a)
    assert verdicts(found) == ["same"] * 3
    assert {row.method for row in found.rows} == {"one cell of the store"}
    assert not found.regressed


def test_everything_of_a_worse_run_is_worse_and_of_a_better_one_better(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", "run", 0, "a")
    worse = write_run(tmp_path / "b", "run", 0, "b", Truth(bits=0.02, distance=0.5, speed=0.7))
    better = write_run(tmp_path / "c", "run", 0, "b", Truth(bits=-0.02, distance=-0.5, speed=1.4))
    assert verdicts(compare(a, worse)) == ["worse"] * 3
    assert verdicts(compare(a, better)) == ["better"] * 3
    assert verdicts(compare(worse, a)) == ["better"] * 3


def test_a_change_of_speed_within_the_noise_is_none(tmp_path: Path) -> None:
    """However sure the difference is: two runs of one program differ by some per cent."""
    row = {"unit": "images/s", "device": "A", "kind": ""}
    a = run_of(tmp_path / "a", number("throughput", 100.0, 0.1, **row))
    b = run_of(tmp_path / "b", number("throughput", 97.0, 0.1, **row))
    assert verdicts(compare(a, b)) == ["same"]
    assert verdicts(compare(a, b, noise=0.01)) == ["worse"]
    with pytest.raises(ValueError, match="noise is a share"):
        compare(a, b, noise=-1.0)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"protocol": "how, s=1/128"}, "protocol differs: s=1/128 only in b"),
        ({"protocol": "otherwise"}, "protocol differs: how in a, otherwise in b"),
        ({"kind": "bound"}, "kind differs: exact in a, bound in b"),
        ({"status": "n/a", "value": None, "low": None, "high": None}, "n/a in b"),
        ({"low": None, "high": None}, "there is no interval, and nothing to take one from"),
    ],
)
def test_what_cannot_be_compared_says_why(changes: dict[str, Any], reason: str, tmp_path: Path) -> None:
    a = run_of(tmp_path / "a", number())
    b = run_of(tmp_path / "b", number().replace(**changes))
    (row,) = compare(a, b).rows
    assert (row.verdict, row.reason) == ("not comparable", reason)


def test_other_data_and_other_machines_are_not_compared(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", "run", 0, "a")
    b = write_run(tmp_path / "b", "run", 0, "b", device="B (64 cores)")
    rows = {row.metric: row for row in compare(a, b).rows}
    assert rows["throughput"].reason == "hardware differs: A (2 cores) in A: run, B (64 cores) in B: run"
    assert rows["bits/dim"].verdict == "same"
    (cell,) = [record for record in b.records if record.metric == "bits/dim"]
    b.store.begin(cell.cell_key, "likelihood", {"data": "data-2"})
    (row,) = [row for row in compare(a, RunEvidence.open(b.folder)).rows if row.metric == "bits/dim"]
    assert "data differ" in row.reason


def test_timings_of_a_busy_machine_are_not_compared(tmp_path: Path) -> None:
    """Else whoever compiles something during a run is told of a regression."""
    row = {"unit": "images/s", "device": "A", "kind": "", "cell_key": "c"}
    load = number("other load", 4.0).replace(low=None, high=None, cell_key="c")
    a = run_of(tmp_path / "a", number("throughput", 100.0, 1.0, **row), load)
    b = run_of(tmp_path / "b", number("throughput", 30.0, 1.0, **row), load.replace(value=43.2))
    (found,) = compare(a, b).rows
    assert found.reason == "other programs used 43 % of the processor in b: measure it again"
    quiet = run_of(tmp_path / "c", number("throughput", 30.0, 1.0, **row), load)
    assert verdicts(compare(a, quiet)) == ["worse"]


def test_timings_of_a_machine_that_was_slower_itself_are_not_compared(tmp_path: Path) -> None:
    """A shared machine slows down without a load that it can see; fixed work beside the timings shows it."""
    a = write_run(tmp_path / "a", "run", 0, "a", Truth(pace=0.010))
    b = write_run(tmp_path / "b", "run", 0, "b", Truth(pace=0.014, speed=1 / 1.4))
    c = write_run(tmp_path / "c", "run", 0, "b", Truth(pace=0.0102, speed=1 / 1.4))
    rows = {row.metric: row for row in compare(a, b).rows}
    said = "the machine did fixed work 0.71 times as fast in B: run: measure again"
    assert rows["throughput"].reason == said
    assert rows["bits/dim"].verdict == "same"
    rows = {row.metric: row for row in compare(a, c).rows}
    assert rows["throughput"].verdict == "worse"


def test_what_one_run_alone_has_is_told(tmp_path: Path) -> None:
    a = run_of(tmp_path / "a", number(), number(model="only-here"))
    b = run_of(tmp_path / "b", number(), number(model="new"), number("training time"))
    found = compare(a, b)
    assert [(row.model, row.verdict, row.reason) for row in found.rows] == [
        ("flow", "same", ""),
        ("only-here", "not comparable", "only in a"),
        ("new", "not comparable", "only in b"),
    ]


@pytest.mark.parametrize("metric", ["bits/dim", "throughput", "peak memory", "FD-x@400", "FD-x debiased"])
def test_a_cell_that_now_fails_is_worse(metric: str, tmp_path: Path) -> None:
    kind = {"FD-x@400": "quality", "FD-x debiased": "quality", "peak memory": "throughput"}.get(
        metric, metric
    )
    empty = {"value": None, "low": None, "high": None, "protocol": ""}
    failed = number(kind).replace(**empty, status="failed", error="a sample is not finite")
    a, b = run_of(tmp_path / "a", number(metric, split="test")), run_of(tmp_path / "b", failed)
    (row,) = compare(a, b).rows
    assert (row.verdict, row.reason) == ("worse", "failed in b: a sample is not finite")
    (row,) = compare(b, a).rows
    assert row.verdict == "better"


def test_estimates_of_one_likelihood_are_matched_by_their_protocol(tmp_path: Path) -> None:
    """The order of estimators in a suite may change, and one may come in between."""
    first, second = number(protocol="bound", value=2.0), number(protocol="ode", value=1.5)
    a = run_of(tmp_path / "a", first, second)
    b = run_of(tmp_path / "b", number(protocol="new", value=9.0), second, first)
    found = compare(a, b)
    assert verdicts(found) == ["same", "same", "not comparable"]
    assert [row.difference for row in found.rows] == [0.0, 0.0, None]


def test_without_a_store_the_intervals_decide(tmp_path: Path) -> None:
    a, b = run_of(tmp_path / "a", number()), run_of(tmp_path / "b", number(value=2.1))
    (row,) = compare(a, b).rows
    assert (row.verdict, row.method) == ("worse", "from the two intervals, unpaired")
    c = run_of(tmp_path / "c", number(value=2.005))
    assert verdicts(compare(a, c)) == ["same"]


def test_memory_is_a_count(tmp_path: Path) -> None:
    rows = [
        number("peak memory", value).replace(low=None, high=None, kind="") for value in (10.0, 10.3, 12.0)
    ]
    a, b, c = (run_of(tmp_path / name, row) for name, row in zip("abc", rows, strict=True))
    assert verdicts(compare(a, b)) == ["same"]
    assert verdicts(compare(a, c)) == ["worse"]
    assert verdicts(compare(c, a)) == ["better"]


# Pages.

EVIL = "<script>alert(1)</script>"


@pytest.fixture
def mixed(tmp_path: Path) -> Comparison:
    """One of each verdict, and a name that is code."""
    row = {"unit": "images/s", "device": "A", "kind": "", "model": EVIL}
    a = run_of(tmp_path / "a", number(), number("throughput", 100.0, 1.0, **row), number(model="gone"))
    b = run_of(tmp_path / "b", number(value=2.1), number("throughput", 150.0, 1.0, **row))
    return compare(a, b)


class _Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_the_page_is_closed_to_the_network_and_to_code_in_names(mixed: Comparison) -> None:
    page = render_html([mixed])
    assert page == render_html([mixed])
    assert EVIL not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    elements = _Elements()
    elements.feed(page)
    addresses = [
        value for _, attrs in elements.tags for name, value in attrs.items() if name in ("src", "href")
    ]
    assert all(value.startswith(("#", "data:")) for value in addresses if value)
    assert sum(1 for tag, attrs in elements.tags if attrs.get("class") == "chart") == 2


def test_markdown_and_json_say_the_same(mixed: Comparison) -> None:
    text = render_markdown([mixed])
    assert EVIL not in text
    assert mixed.sentence.startswith(
        "b against a: 1 better, 1 worse, 0 the same within noise, 1 not comparable"
    )
    for heading in ("## Worse: 1", "## Better: 1", "## Not comparable: 1"):
        assert heading in text
    assert "×1.5" in text
    (read,) = json.loads(render_json([mixed]))
    assert read["counts"] == mixed.counts
    assert len(read["rows"]) == len(mixed.rows) == len(mixed.frame())


# The command.


def command(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", "compare", *words],
        cwd=cwd,
        env={**environment(), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_exits_with_3_on_a_regression_and_writes_what_is_asked_for(tmp_path: Path) -> None:
    for name, value in (("a", 2.0), ("b", 2.1)):
        run_of(tmp_path / "results" / "runs" / name, number(value=value))
    done = command("a", "b", "--fail-on-regression", "--output", "x.html", "--output", "x.md", cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    assert "b against a: 0 better, 1 worse" in done.stdout
    assert {"x.html", "x.md"} <= {path.name for path in tmp_path.iterdir()}
    assert command("b", "a", "--fail-on-regression", cwd=tmp_path).returncode == 0
    found = json.loads(command("a", "b", "--json", cwd=tmp_path).stdout)
    assert found[0]["counts"]["worse"] == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["a"], "takes two runs or more"),
        (["a", "nowhere"], "Unknown run 'nowhere'"),
        (["a", "b", "--only", "wurse"], "Did you mean 'worse'"),
        (["a", "b", "--output", "x.pdf"], "files that end in .html, .md, .json"),
        (["a", "b", "--noise", "2"], "noise is a share"),
    ],
)
def test_bad_usage_is_one_sentence(words: list[str], sentence: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        run_of(tmp_path / "results" / "runs" / name, number())
    done = command(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_without_results_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"holds no results\.json"):
        compare(tmp_path / "empty", tmp_path / "empty")


SUITE = """
name: tiny
dataset: digits
metrics: [quality, likelihood, throughput]
training: {steps: 3, batch_size: 8, learning_rate: 0.001}
models: {vae: {likelihood: {importance_samples: 1}}}
sampling: {images: 80, batch: 32}
quality: {features: digits-features, group: 80}
throughput: {batch: 4, repeats: 3}
"""


def test_real_runs_are_compared_by_what_they_share(
    tmp_path: Path, noisebench: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """Two runs of one suite in two stores are the same; one trained otherwise is paired image by image."""
    (tmp_path / "tiny.yaml").write_text(SUITE)
    for results, change in (("a", "3"), ("b", "3"), ("c", "4")):
        done = noisebench("run", "tiny.yaml", "--set", f"training.steps={change}", "--results", results)
        assert done.returncode == 0, done.stderr + done.stdout
    folders = [str(next((tmp_path / name / "runs").iterdir())) for name in "abc"]
    again = compare(folders[0], folders[1], noise=0.95)
    methods = {row.metric: row.method for row in again.rows}
    timed = [r for r in RunEvidence.open(Path(folders[0])).records if r.metric == "throughput"]
    assert all((RunEvidence.open(Path(folders[0])).pace(record) or 0.0) > 0.0 for record in timed)
    found = {row.metric: row.verdict for row in again.rows}
    assert found.pop("throughput") in ("same", "not comparable")  # tests run side by side and disturb it
    assert set(found.values()) == {"same"}
    assert methods["bits/dim"] == methods["FD-digits@80"] == "one cell of the store"
    other = {row.metric: row for row in compare(folders[0], folders[2]).rows}
    assert other["bits/dim"].method == "paired over 360 images"
    assert other["FD-digits@80"].method == "jackknife over 20 blocks of the same seeds"
    bits = other["bits/dim"]
    assert bits.difference is not None
    assert bits.difference != 0.0
    assert bits.a is not None
    assert bits.b is not None
    assert bits.difference == pytest.approx(bits.b[0] - bits.a[0], rel=1e-6)
    frechet = other["FD-digits@80"]
    assert frechet.difference == pytest.approx(frechet.b[0] - frechet.a[0], rel=1e-9)  # type: ignore[index]
