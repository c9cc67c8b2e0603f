"""What is looked at before anything is installed; each check gives a sentence with the remedy, or None."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

# The CUDA build of torch and what it needs, measured: 3.2 GB of wheels, 6.2 GB installed.
INSTALLED_GB, WHEELS_GB, MORE_GB = 6.5, 3.5, 0.5
# Off Linux torch comes without CUDA.
SMALL_BUILD = 0.25


def module_problem(has_uv: bool, find: Callable[[str], object] = importlib.util.find_spec) -> str | None:
    """The sentence for a Python that cannot make environments: Debian ships that part apart."""
    missing = [name for name in ("venv", "ensurepip")[: 1 if has_uv else 2] if find(name) is None]
    if not missing:
        return None
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    return (
        f"noisebench needs Python's module {' and '.join(missing)}, which {sys.executable} lacks: install it "
        f"(Debian, Ubuntu: apt install python{version}-venv; Fedora: dnf install python{version}) "
        f"or run make PYTHON=/path/to/another/python"
    )


def disk_problem(root: Path, usage: Callable[[Path], Any] = shutil.disk_usage) -> str | None:
    """The sentence for a disk too small for what is to be installed; GB are 10⁹ bytes.

    What is installed, downloads in passing and the installer's cache each count on the disk they fall on.
    """
    for path, need in _needs(root):
        free = usage(path).free / 1e9
        if free < need:
            return (
                f"noisebench needs about {need:.1f} GB free on the disk of {path}, most of it for torch "
                f"with CUDA, and there is {free:.1f} GB: free some, make .venv a link to a folder on another "
                f"disk, or set NOISEBENCH_FREE_GB=3 if you install a CPU build"
            )
    return None


def _needs(root: Path) -> list[tuple[Path, float]]:
    """One path on each disk that takes part, and the GB needed there."""
    scale = 1.0 if sys.platform.startswith("linux") else SMALL_BUILD
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    needs = [(root / ".venv", INSTALLED_GB), (Path(tempfile.gettempdir()), WHEELS_GB), (cache, WHEELS_GB)]
    if any((root / ".venv").glob("lib/python*/site-packages/torch/__init__.py")):
        needs = [(root / ".venv", MORE_GB)]
    if stated := os.environ.get("NOISEBENCH_FREE_GB"):
        needs, scale = [(root / ".venv", float(stated))], 1.0
    disks: dict[int, tuple[Path, float]] = {}
    for path, need in needs:
        there = next(parent for parent in (path, *path.parents) if parent.exists())
        device = there.stat().st_dev
        first, before = disks.get(device, (there, 0.0))
        disks[device] = (first, before + need * scale)
    return list(disks.values())
