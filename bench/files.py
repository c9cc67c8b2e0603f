"""Files appear whole or not at all: temporary file, fsync, replace, fsync of the folder."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import platform
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.identity import canonical_json

if TYPE_CHECKING:
    import numpy as np

TEMPORARY = ".tmp-"
"""Prefix of unfinished files: `<prefix><host>-<pid>-…`, swept once that process is gone."""
ABANDONED = 24 * 3600.0
"""Seconds after which an unfinished file of another machine's process counts as left behind."""


@functools.cache
def _host() -> str:
    """This machine in eight digits: a process number means something on one machine alone."""
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically; an error (a full disk, say) leaves what was there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f"{TEMPORARY}{_host()}-{os.getpid()}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of UTF-8 text."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: object) -> None:
    """Canonical JSON on one line; NaN is refused."""
    write_text(path, canonical_json(value) + "\n")


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], info: Mapping[str, Any] | None = None) -> None:
    """Numpy arrays, and JSON that describes them, as one safetensors file."""
    import numpy as np
    from safetensors.numpy import save

    # Contiguity first: safetensors writes the buffer, not the strides.
    plain = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    write_bytes(path, save(plain, metadata={"info": canonical_json(info or {})}))


def read_arrays(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays of a safetensors file and the JSON that describes them."""
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return arrays, json.loads((file.metadata() or {}).get("info", "{}"))


def stale_temporaries(root: Path, pattern: str = f"**/{TEMPORARY}*") -> list[Path]:
    """Unfinished files under `root` whose process is gone."""
    return sorted(path for path in root.glob(pattern) if _is_abandoned(path))


def sweep(folder: Path) -> None:
    """Remove what processes that are gone left unfinished in a folder."""
    for path in stale_temporaries(folder, f"{TEMPORARY}*"):
        path.unlink(missing_ok=True)


def _is_abandoned(path: Path) -> bool:
    host, _, rest = path.name.removeprefix(TEMPORARY).partition("-")
    pid = rest.partition("-")[0]
    if host == _host() and pid.isdigit():
        return not _is_alive(int(pid))
    try:
        return time.time() - path.stat().st_mtime > ABANDONED
    except FileNotFoundError:
        return False


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
