"""The page in headless Chromium: figures drawn, nothing on the console, no request, no sideways scroll."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.bench.report.test_page import policy

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None
)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on this machine"),
]
QUIET = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]
"""Flags of a browser that does nothing of its own."""
FLAGS = [
    *("--headless", *QUIET, "--disable-extensions", "--enable-logging=stderr"),
    *("--virtual-time-budget=20000", "--window-size=1400,2000"),
]
FAR = "http://192.0.2.1/canary"
"""An address of the range reserved for documentation: nothing answers there."""


@dataclass(frozen=True)
class Visit:
    """What the browser made of a page."""

    dom: str
    console: list[str]
    requests: list[str]


def visit(page: str, folder: Path, *flags: str) -> Visit:
    """Open a page from disk; `requests` are the addresses that the page itself asked for."""
    file, log = folder / "page.html", folder / "net.json"
    file.write_text(page, encoding="utf-8")
    done = subprocess.run(
        [str(BROWSER), *FLAGS, f"--user-data-dir={folder / 'profile'}", f"--log-net-log={log}",
         "--host-resolver-rules=MAP * ~NOTFOUND", *flags, "--dump-dom", file.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return Visit(done.stdout, console, _asked_by_the_page(log))


def _asked_by_the_page(log: Path) -> list[str]:
    """Requests with an initiator: those of the browser itself have none."""
    events = [event.get("params", {}) for event in json.loads(log.read_text())["events"]]
    started = [event for event in events if "url" in event and event.get("initiator", "") != ""]
    return [event["url"] for event in started if event["initiator"] != "not an origin"]


def with_script(page: str, code: str) -> str:
    """The page with one more script at its end, allowed by the policy."""
    source = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    old = html.escape(policy(page)).replace("&#x27;", "&#39;")
    assert old in page
    new = old.replace("script-src ", f"script-src &#39;sha256-{source}&#39; ")
    return at_the_end(page.replace(old, new), f"<script>{code}</script>")


def at_the_end(page: str, addition: str) -> str:
    """The page with something more before its last tags: scripts within it may speak of tags too."""
    head, tag, tail = page.rpartition("</body>")
    return head + addition + tag + tail


@pytest.fixture(scope="module")
def opened(page: str, tmp_path_factory: pytest.TempPathFactory) -> Visit:
    code = """
    const root = document.documentElement, before = performance.now();
    const wait = setInterval(() => {
      if (!root.dataset.drawn) return;
      clearInterval(wait);
      const table = document.querySelector("table.sortable");
      const button = [...table.querySelectorAll("button")].find((b) => b.textContent.startsWith("Images/s"));
      button.click(); button.click();
      root.dataset.first = table.tBodies[0].rows[0].cells[1].firstChild.textContent.trim();
      root.dataset.sort = button.closest("th").getAttribute("aria-sort");
    }, 50);
    """
    return visit(with_script(page, code), tmp_path_factory.mktemp("visit"))


def test_console_is_silent_under_the_policy(opened: Visit) -> None:
    assert opened.console == []


def test_every_figure_is_drawn(opened: Visit) -> None:
    places = re.findall(
        r'<div class="chart [^>]*data-panel="\d+".*?(?=<div class="chart |<noscript)', opened.dom, re.S
    )
    assert len(places) == 11
    assert 'data-drawn="11"' in opened.dom
    for place in places:
        assert place.count("<svg") == 1
        assert place.count("<path") > 10
        assert "aria-label=" in place


def test_no_request_leaves_the_page(opened: Visit) -> None:
    assert opened.requests == []


def test_a_click_sorts_and_says_so(opened: Visit) -> None:
    """Twice on images per second: the fastest model on top, announced as descending."""
    assert 'data-first="vae"' in opened.dom
    assert 'data-sort="descending"' in opened.dom


def test_the_policy_stops_what_is_injected(page: str, tmp_path: Path) -> None:
    """A script and an image smuggled into the file: neither runs nor leaves, and the browser says so."""
    code = "document.documentElement.dataset.evil = 1"
    found = visit(at_the_end(page, f'<script>{code}</script><img src="{FAR}">'), tmp_path)
    assert "data-evil" not in found.dom
    assert FAR not in found.requests
    assert sum("Content Security Policy" in line for line in found.console) == 2


def test_the_request_check_can_fail(tmp_path: Path) -> None:
    """Without a policy the same image is asked for, and the check above would see it."""
    assert FAR in visit(f'<img src="{FAR}">', tmp_path).requests


@pytest.mark.parametrize("width", [390, 820])
@pytest.mark.parametrize("name", ["page", "swept_page"])
def test_no_sideways_scroll_and_nothing_cut(
    name: str, width: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """On a phone and a tablet: the page is as wide as its window, and every figure fits its frame."""
    page: str = request.getfixturevalue(name)
    code = """
    const root = document.documentElement;
    const wait = setInterval(() => {
      if (!root.dataset.drawn) return;
      clearInterval(wait);
      const wrong = [...document.querySelectorAll(".chart")].filter((place) => {
        const frame = place.getBoundingClientRect();
        return [...place.querySelectorAll("svg text")].some((text) => {
          const box = text.getBoundingClientRect();
          const across = box.right > frame.right + 1 || box.left < frame.left - 1;
          return box.width && (across || box.bottom > frame.bottom + 1);
        });
      });
      const names = wrong.map((place) => place.dataset.figure).join();
      parent.postMessage([root.scrollWidth - root.clientWidth, names], "*");
    }, 50);
    """
    (tmp_path / "inner.html").write_text(with_script(page, code), encoding="utf-8")
    outer = (
        f'<iframe src="inner.html" width="{width}" height="900" style="border:0"></iframe><script>'
        "const said = document.documentElement.dataset;"
        "addEventListener('message', (event) => said.said = event.data.join('|'))</script>"
    )
    found = visit(outer, tmp_path)
    assert 'data-said="0|"' in found.dom, re.findall(r'data-said="[^"]*"', found.dom)
