"""Protects the content keys: equal content, equal key; anything that changes a number changes it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.identity import canonical_json, code_sha256, content_key, source_digest, source_files

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=4), plain, max_size=5))
def test_the_order_of_keys_does_not_matter(value: dict[str, object]) -> None:
    assert content_key(value) == content_key(dict(reversed(value.items())))


def test_values_that_json_cannot_tell_are_refused() -> None:
    with pytest.raises(ValueError):
        canonical_json({"value": math.nan})


def _digest(tmp_path: Path, text: str) -> str:
    path = tmp_path / "code.py"
    path.write_text(text)
    return code_sha256(path)


def test_prose_does_not_change_the_digest_of_code(tmp_path: Path) -> None:
    bare = _digest(tmp_path, "def f(x):\n    return x + 1\n")
    told = _digest(tmp_path, '"""Title."""\n# why\ndef f(x):\n    """Adds."""\n    return (x +\n      1)\n')
    assert bare == told


@pytest.mark.parametrize("other", ["def f(x):\n    return x + 2\n", "def f(x):\n    return 'x + 1'\n"])
def test_a_changed_formula_changes_the_digest(tmp_path: Path, other: str) -> None:
    assert _digest(tmp_path, other) != _digest(tmp_path, "def f(x):\n    return x + 1\n")


def test_a_models_digest_covers_what_it_imports_and_nothing_else() -> None:
    names = {f"{path.parent.name}/{path.name}" for path in source_files("models.vae")}
    assert {"models/vae.py", "models/base.py"} <= names
    assert "models/normalizing_flow.py" not in names
    assert not any(name.startswith("report/") for name in names)


def test_the_samplers_loaded_by_name_belong_to_the_digest_of_sampling() -> None:
    names = {f"{path.parent.name}/{path.name}" for path in source_files("bench.metrics.quality")}
    assert {"samplers/runge_kutta.py", "samplers/dpm_solver.py", "metrics/frechet.py"} <= names


def test_unknown_modules_are_refused() -> None:
    with pytest.raises(ModuleNotFoundError):
        source_digest("models.no_such_module")
