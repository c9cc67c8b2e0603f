"""The page: self-contained, escaped, allowed to run its own scripts only, the same bytes every time."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from typing import Any

import pytest

from bench.records import Record
from bench.report import ReportData
from bench.report.page import packed, render_html
from tests.bench.report.conftest import failed_record, make_report, synthetic_records

EVIL = "</script><script>document.documentElement.dataset.evil=1</script><img src=x onerror=alert(1)>\"'&"


class Reader(HTMLParser):
    """Tags with their attributes, and the text of scripts, styles and cells."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        if self.tags:
            self.texts.append((self.tags[-1][0], data))

    def named(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def reader(page: str) -> Reader:
    return Reader(page)


@pytest.fixture(scope="module")
def evil_page() -> str:
    rows = [row.replace(model=EVIL) if row.model == "vae" else row for row in synthetic_records()[:15]]
    rows = [*rows, failed_record(EVIL).replace(error=EVIL, protocol=EVIL)]
    sheets = {"real": b"png", EVIL: b"png"}
    return render_html(make_report(rows, sheets=sheets, run={EVIL: {EVIL: [EVIL]}}, suite=EVIL))


def inline(page: str, tag: str) -> list[str]:
    """The text of inline elements that a policy must allow."""
    return re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)


def policy(page: str) -> str:
    found = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert found
    return found.group(1).replace("&#39;", "'")


def test_policy_forbids_everything_but_the_pages_own_parts(page: str) -> None:
    assert policy(page).startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy(page)
    assert "http" not in policy(page)


def test_policy_hashes_are_those_of_the_scripts_and_the_style(page: str) -> None:
    scripts, styles = inline(page, "script"), inline(page, "style")
    assert (len(scripts), len(styles)) == (2, 1)
    allowed = set(re.findall(r"'sha256-([^']+)'", policy(page)))
    found = {base64.b64encode(hashlib.sha256(t.encode()).digest()).decode() for t in (*scripts, *styles)}
    assert found == allowed


def test_nothing_on_the_page_names_an_address(reader: Reader, page: str) -> None:
    for tag, attributes in reader.tags:
        for name in ("src", "href", "srcset", "action", "data", "poster", "content"):
            assert "//" not in attributes.get(name, "").split("base64,")[0], (tag, attributes)
        assert not any(name.startswith("on") or name == "style" for name in attributes)
    assert not re.search(r"url\(|@import", inline(page, "style")[0])


def unpacked(page: str) -> dict[str, Any]:
    """What the page's script reads."""
    found = re.search(r'id="payload">([A-Za-z0-9+/=]*)</script>', page)
    assert found
    text = gzip.decompress(base64.b64decode(found.group(1)))
    payload: dict[str, Any] = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    return payload


def test_payload_is_strict_json_with_a_chart_for_every_place(reader: Reader, page: str) -> None:
    payload = unpacked(page)
    for place in reader.named("div"):
        if "data-figure" in place:
            assert payload["charts"][place["data-figure"]][int(place["data-panel"])]["description"]
    assert {name: len(panels) for name, panels in payload["charts"].items()} == {
        "pareto": 1, "evaluations": 2, "time": 2, "bits": 1, "curves": 5,
    }  # fmt: skip


def test_what_is_packed_has_no_nan_and_cannot_end_its_element() -> None:
    text = packed({"a": [float("nan"), float("inf"), 1.5], EVIL: "</script>&"})
    assert unpacked(f'id="payload">{text}</script>') == {"a": [None, None, 1.5], EVIL: "</script>&"}
    assert text == packed({"a": [float("nan"), float("inf"), 1.5], EVIL: "</script>&"})


def test_same_records_same_bytes(report: ReportData, page: str) -> None:
    assert render_html(report) == page


def test_bytes_do_not_depend_on_the_process() -> None:
    """Hash order differs between processes; the page must not."""
    code = (
        "import hashlib; from bench.report.page import render_html;"
        "from tests.bench.report.conftest import make_report, synthetic_records;"
        "print(hashlib.sha256(render_html(make_report(synthetic_records()[:12])).encode()).hexdigest())"
    )
    environment = os.environ | {"PYTHONHASHSEED": "12345"}
    other = subprocess.check_output([sys.executable, "-c", code], text=True, env=environment).strip()
    own = render_html(make_report(synthetic_records()[:12])).encode()
    assert hashlib.sha256(own).hexdigest() == other


def test_names_from_records_are_inert(evil_page: str) -> None:
    """No tag comes from a name: the page with evil names has the same scripts and images as without."""
    reader = Reader(evil_page)
    assert len(reader.named("script")) == 3
    assert all(image["src"].startswith("data:image/png;base64,") for image in reader.named("img"))
    assert not any("onerror" in attributes for _, attributes in reader.tags)
    assert "<script>document.documentElement.dataset.evil" not in evil_page
    assert "&lt;script&gt;document.documentElement.dataset.evil" in evil_page


def test_failed_cells_are_shown_with_their_reason(page: str) -> None:
    section = page[page.index('id="failures"') : page.index('id="reading"')]
    assert "ddpm" in section
    assert "heun 100" in section
    assert "shard 3, image 17, step 31 of 100" in section


def test_tables_are_tables_and_images_have_words(reader: Reader) -> None:
    assert all(header.get("scope") in ("col", "row") for header in reader.named("th"))
    assert all(image.get("alt") for image in reader.named("img"))
    assert len(reader.named("caption")) == len(reader.named("table"))
    regions = [div for div in reader.named("div") if "scroll" in div.get("class", "").split()]
    assert len(regions) == len(reader.named("table")) + 1  # that of all records is filled by script
    assert all(region["tabindex"] == "0" and region["aria-label"] for region in regions)


def test_targets_of_links_exist(reader: Reader) -> None:
    identifiers = {attributes["id"] for _, attributes in reader.tags if "id" in attributes}
    links = [link.get("href", "") for link in reader.named("a")]  # files to download get theirs by script
    assert {link[1:] for link in links if link.startswith("#")} <= identifiers


def test_downloads_hold_every_record(page: str, reader: Reader, report: ReportData) -> None:
    import io

    import pandas as pd

    files = unpacked(page)["files"]
    names = {link["data-file"] for link in reader.named("a") if "data-file" in link}
    assert names == set(files)
    rows, table = json.loads(files["results.json"]), pd.read_csv(io.StringIO(files["results.csv"]))
    assert len(rows) == len(table) == len(report.records)
    assert list(rows[0]) == list(table.columns) == list(report.records.columns)
    assert next(row for row in rows if row["status"] == "failed")["value"] is None


def test_real_images_come_first_and_the_best_cells_next(reader: Reader) -> None:
    words = [image["alt"] for image in reader.named("img")]
    assert words[0] == "Real images of the data set"
    assert words[1:3] == ["Samples of rectified-flow · heun 50", "Samples of ddpm · heun 50"]


def test_sheets_of_other_names_are_all_shown() -> None:
    sheets = {"real": b"a", "vae, prior": b"b", "ddpm, heun, 20 steps": b"c"}
    page = render_html(make_report(synthetic_records()[:12], sheets=sheets))
    assert [image["alt"] for image in Reader(page).named("img")][1:] == [
        "Samples of vae, prior", "Samples of ddpm, heun, 20 steps"
    ]  # fmt: skip


PARTIAL: dict[str, list[Record]] = {
    "nothing": [],
    "likelihood only": [row for row in synthetic_records() if row.metric == "bits/dim"],
    "one model": [row for row in synthetic_records() if row.model == "vae"],
    "quality only": [row for row in synthetic_records() if row.metric == "FD-digits@360"],
    "all failed": [failed_record(), failed_record("vae", "prior", 1)],
    "one number": [Record(model="a", family="b", metric="KD", value=-0.01, sampler="s", status="ok")],
}


@pytest.mark.parametrize("name", list(PARTIAL))
def test_partial_runs_render_and_say_what_is_absent(name: str) -> None:
    import pandas as pd

    empty = pd.DataFrame(columns=["model", "step", "loss", "seconds"])
    page = render_html(make_report(PARTIAL[name], curves=empty, sheets={}, run={}))
    assert "No learning curve was recorded." in page
    assert "No sample sheet was made." in page
    assert (">nan<" in page.lower()) is False
    if name in ("nothing", "likelihood only", "quality only", "all failed"):
        assert "No cell has both a quality and a throughput." in page


def test_the_time_of_compiling_has_a_column_of_all_cells_only_where_it_was_measured(
    page: str, swept_page: str
) -> None:
    assert "Compiling" not in page
    table = swept_page[swept_page.index("All cells, best quality first") :]
    table = table[: table.index("</table>")]
    assert "Compiling" in table
    row = next(line for line in table.split("<tr")[2:] if "heun 50 compiled w=4" in line)
    assert 'data-value="17.3"' in row
    assert swept_page.count("Compiling") == 1


def test_names_of_options_are_inert_too() -> None:
    rows = [
        row.replace(options=EVIL, grid=EVIL, steps=5, sampler=EVIL + str(index % 2))
        for index, row in enumerate(synthetic_records())
        if row.model == "vae" and row.metric in ("FD-digits@360", "throughput")
    ]
    rows += [row.replace(sampler="b") for row in rows]
    page = render_html(make_report(rows, sheets={}))
    assert "which-sampler" in page
    assert len(Reader(page).named("script")) == 3
    assert "<script>document.documentElement.dataset.evil" not in page


def test_import_is_cheap() -> None:
    """Importing the report must not pay for torch, altair, vl-convert, jinja2 or pandas."""
    code = (
        "import sys, bench.report; heavy = {'torch', 'altair', 'vl_convert', 'jinja2', 'pandas'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules);"
        "import bench.report.page, bench.report.markdown, bench.report.figures;"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
