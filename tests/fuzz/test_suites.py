"""Any bytes as a suite: one clear error or a valid plan.

Hypothesis edits the built-in suites as trees and as text, and makes bytes of its own; `make campaign` runs
100 000 of them, and atheris, guided by coverage, as many again.
"""

from __future__ import annotations

import copy
import datetime
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from bench.suite_text import builtin_names
from tests.conftest import TINY, environment
from tests.fuzz.suites import verdict

SEEDS = [*[TINY] * 8, *(Path(f"bench/suites/{name}.yaml").read_text() for name in builtin_names())]


TREES = {seed: yaml.safe_load(seed) for seed in SEEDS}


def _key(value: Any) -> bool:
    return not isinstance(value, float) or value == value


ODD: list[Any] = [
    *(None, True, False, 0, -1, 1, 2, 7, 10**6, 10**9, 10**30, 0.0, -0.5, 0.999, 1.0, 1e308),
    *(float("nan"), float("inf"), "", " ", "a" * 5000, "../../etc/passwd", "digits", "vae", "mnist"),
    *("<script>alert(1)</script>", "a/b", "a'b\"c", "a\nb", "\x00", "😀", "0", "1e5", "null", "heun"),
    *("os:system", "numpy:array", "no.such:Thing", ":", "::", "x:", "tests.bench.toys:Histogram"),
    *("shared", "karras rho=0", "karras rho=nan", "native", "ddpm", "digits-features", "quality"),
    *("inception-v3-tf", b"\xff\x00", datetime.date(2001, 1, 1), datetime.datetime(2001, 1, 1)),
]
scalars = st.one_of(st.sampled_from(ODD), st.integers(), st.floats(), st.text(max_size=20))
keys = st.one_of(st.text(max_size=8), scalars.filter(_key))
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(keys, inner, max_size=4)),
    max_leaves=8,
)
edits = st.lists(
    st.tuples(
        st.sampled_from(["replace", "delete", "rename", "add", "list", "copy", "character"]),
        st.integers(0, 10**6),
        values,
        st.integers(0, 10**6),
    ),
    min_size=1,
    max_size=4,
)
cuts = st.lists(
    st.tuples(
        st.sampled_from(["flip", "cut", "insert", "repeat"]), st.integers(0, 10**6), st.binary(max_size=12)
    ),
    max_size=3,
)
WORDS = [
    *(b"!!python/object/apply:os.system [id]", b"!!binary |\n  /w==", b"&a [*a]", b"*a", b"<<: *a"),
    *(b"? [a, b]\n", b"{{{{", b"[" * 2000, b"- " * 500, b"!!set {a}", b"!!omap", b"!!timestamp x"),
    *(b"1:2:3", b"0x1F", b"---\n", b"...\n", b"%YAML 1.1\n", b"\xef\xbb\xbf", b"\xff\xfe", b"\t"),
    *(b"|\n", b">\n", b"extends: digits\n", b"=", b"1" * 5000, b"models: {a: {model: vae}}\n"),
]
soups = st.lists(st.one_of(st.binary(max_size=30), st.sampled_from(WORDS)), max_size=8).map(b"".join)


def _places(node: Any, found: list[tuple[Any, Any]], depth: int = 0) -> list[tuple[Any, Any]]:
    if depth > 12:  # it holds itself
        return found
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, inner in list(items):
        found.append((node, key))
        _places(inner, found, depth + 1)
    return found


def edited(text: str, changes: list[tuple[str, int, Any, int]]) -> Any:
    """The suite as a tree after some changes."""
    tree = copy.deepcopy(TREES[text])
    for what, where, value, other in changes:
        places = _places(tree, [])
        if not places:
            return value
        node, key = places[where % len(places)]
        if what == "replace":
            node[key] = value
        elif what == "delete":
            del node[key]
        elif what == "rename" and isinstance(node, dict) and _hashable(value):
            node[value] = node.pop(key)
        elif what == "add" and isinstance(node, dict):
            node[str(value)[:20]] = value
        elif what == "list":
            node[key] = [node[key], value]
        elif what == "copy":
            source, at = places[other % len(places)]
            node[key] = source[at]  # it may come to hold itself
        elif what == "character" and isinstance(node[key], str) and node[key]:
            at = other % len(node[key])
            node[key] = node[key][:at] + str(value)[:1] + node[key][at + 1 :]
    return tree


def _hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def written(tree: Any) -> bytes:
    """As YAML."""
    return yaml.dump(tree, Dumper=yaml.SafeDumper, allow_unicode=True, sort_keys=False).encode(
        "utf-8", "surrogatepass"
    )


def scarred(data: bytes, changes: list[tuple[str, int, bytes]]) -> bytes:
    """The text after some damage."""
    for what, where, value in changes:
        at = where % (len(data) + 1)
        if what == "flip" and data:
            at = where % len(data)
            data = data[:at] + bytes([data[at] ^ (1 << (where % 8))]) + data[at + 1 :]
        elif what == "cut":
            data = data[:at] + data[at + len(value) :]
        elif what == "repeat":
            data = data[:at] + data[at : at + 40] * 3 + data[at:]
        else:
            data = data[:at] + value + data[at:]
    return data


fuzzed = st.one_of(
    st.builds(lambda text, changes: written(edited(text, changes)), st.sampled_from(SEEDS), edits),
    st.builds(
        lambda text, changes, scars: scarred(written(edited(text, changes)), scars),
        st.sampled_from(SEEDS),
        edits,
        cuts,
    ),
    st.builds(lambda text, scars: scarred(text.encode(), scars), st.sampled_from(SEEDS), cuts),
    soups,
)


def _fuzz(examples: int) -> Counter[str]:
    """Run that many and count what came out."""
    seen: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:

        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(fuzzed)
        def one(data: bytes) -> None:
            found = verdict(data, Path(folder))
            seen["plan" if found == "plan" else "refused"] += 1

        one()
    return seen


def test_any_bytes_are_a_plan_or_one_sentence() -> None:
    seen = _fuzz(200)
    assert seen["plan"] > 5
    assert seen["refused"] > 50


@pytest.mark.campaign
def test_a_hundred_thousand_suites() -> None:
    seen = _fuzz(100_000)
    print(dict(seen))
    assert sum(seen.values()) >= 100_000
    assert seen["plan"] > 1000


@pytest.mark.campaign
def test_a_hundred_thousand_suites_guided_by_coverage(tmp_path: Path) -> None:
    pytest.importorskip("atheris")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for index, seed in enumerate(SEEDS):
        (corpus / f"{index}.yaml").write_text(seed)
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.guided_suites", "-runs=100000", "-max_len=8192", str(corpus)],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    print(done.stderr.strip().splitlines()[-1])
