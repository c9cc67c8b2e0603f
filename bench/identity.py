"""Content keys: SHA-256 of the canonical JSON of everything that can change a number.

Code belongs to that: the syntax trees of the packages that compute a number are hashed without their
comments and docstrings, so that prose may change and a changed formula is never served from the store.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

SCHEMA = 1
"""Layout version of cells and records; part of every key."""


COMPUTING = (
    "kernels",
    "models",
    "bench.metrics",
    "bench.training",
    "bench.train_cell",
    "bench.drivers.group",
)
"""Where numbers are made. What only plans, stores or shows them may change without making them again."""


def canonical_json(value: Any) -> str:
    """JSON with sorted keys, no spaces and no NaN: equal content gives equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def content_key(value: Any) -> str:
    """SHA-256 (hex) of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _without_docstrings(tree: ast.AST) -> ast.AST:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            value = body[0].value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                node.body = body[1:]  # type: ignore[attr-defined]
    return tree


def code_sha256(path: Path) -> str:
    """Digest of one Python file's syntax tree, blind to comments, layout and docstrings."""
    return _parsed(path, *_state(path))[0]


def _state(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size


@functools.cache
def _parsed(path: Path, _modified: int, _size: int) -> tuple[str, frozenset[str]]:
    """Digest and imports of a file in a given state; a plan asks for the same files for every model."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = frozenset(_imported(tree))
    return hashlib.sha256(ast.dump(_without_docstrings(tree)).encode()).hexdigest(), found


def _module_files(module: str) -> list[Path]:
    """The file of a module; every file of a package, since a package may load its own by name.

    Submodules are found by path: looking them up by name would import their parents, and torch with them.
    """
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return []
    if not rest:
        return [Path(spec.origin)]
    place = Path(spec.origin).parent.joinpath(*rest)
    if (place / "__init__.py").is_file():
        return sorted(place.rglob("*.py"))
    file = place.with_suffix(".py")
    return [file] if file.is_file() else []


def _imported(tree: ast.AST) -> set[str]:
    """Names a file may import: modules, and `module.name` where the name may be a submodule."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@functools.cache
def source_files(*modules: str) -> tuple[Path, ...]:
    """Files the modules consist of: themselves and what they import from their own packages and ours."""
    roots = (*COMPUTING, *(m.partition(".")[0] for m in modules if not m.startswith("bench.")))
    pending, seen = list(modules), set()
    files: set[Path] = set()
    while pending:
        module = pending.pop()
        inside = any(module == root or module.startswith(f"{root}.") for root in roots)
        if module in seen or not inside:
            continue
        seen.add(module)
        for file in set(_module_files(module)) - files:
            files.add(file)
            pending += sorted(_parsed(file, *_state(file))[1])
    return tuple(sorted(files))


@functools.cache
def source_digest(*modules: str) -> str:
    """Digest of the code behind modules, found by import name without importing what they import."""
    files = source_files(*modules)
    if not files:
        raise ModuleNotFoundError(f"no source found for {', '.join(modules)}")
    digest = hashlib.sha256()
    for file in files:
        # Parent folder and name, not the whole path: the same code elsewhere is the same code.
        digest.update(f"{file.parent.name}/{file.name}={code_sha256(file)}\n".encode())
    return digest.hexdigest()
