#!/usr/bin/env python3
"""Makes `.venv` and installs noisebench there: `install.py [--extra NAME]...`, called by the Makefile.

This file parses on Python 3.6, so that an old Python gets one sentence and no traceback; the work is in
environment.py, which is imported only by a Python that can read it.
"""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST = (3, 11)
NEWEST_TO_LOOK_FOR = 16


def newer_python() -> "str | None":
    """Path of a Python on PATH that runs and is new enough, the oldest first (it has most wheels)."""
    for minor in range(OLDEST[1], NEWEST_TO_LOOK_FOR + 1):
        path = shutil.which(f"python3.{minor}")
        if path and runs(path):
            return path
    return None


def runs(python: "str | Path") -> bool:
    """Whether the interpreter at this path starts and is new enough."""
    check = f"import sys; sys.exit(sys.version_info < {OLDEST})"
    try:
        return subprocess.call([str(python), "-c", check], stderr=subprocess.DEVNULL) == 0
    except OSError:
        return False


def python_problem(version: "tuple[int, ...]", executable: str, newer: "str | None" = None) -> "str | None":
    """The sentence for a Python that is too old, or None; `newer` is one that would do."""
    if tuple(version[:2]) >= OLDEST:
        return None
    wanted, found = ".".join(map(str, OLDEST)), ".".join(map(str, version[:3]))
    remedy = newer or f"/path/to/python{wanted}"
    this = f"this is {found} ({executable})"
    return f"noisebench needs Python {wanted} or newer and {this}: run make PYTHON={remedy}"


def main(arguments: "list[str]") -> int:
    """Exit code of the set-up."""
    version = sys.version_info[:3]
    if python_problem(version, sys.executable) is None:
        import environment

        return environment.main(ROOT, arguments)
    # An environment made by a newer Python looks after itself, whichever Python calls.
    inside = ROOT / ".venv" / "bin" / "python"
    if runs(inside):
        return subprocess.call([str(inside), str(Path(__file__).resolve()), *arguments])
    sys.stderr.write(f"{python_problem(version, sys.executable, newer_python())}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
