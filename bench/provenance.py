"""How a run came about: command line, versions, hardware, git state. No secrets, no folder names."""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from bench.identity import content_key
from bench.runtime import Runtime, device_name

PACKAGES = (
    *("noisebench", "torch", "torchvision", "triton", "numpy", "pandas", "pyarrow", "scikit-learn"),
    *("accelerate", "torchdiffeq", "safetensors", "torch-fidelity", "clean-fid", "altair"),
)
FLAGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUBLAS_WORKSPACE_CONFIG", "OPENBLAS_CORETYPE")


def versions() -> dict[str, str]:
    """Python and the packages that numbers depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def hardware(runtime: Runtime) -> dict[str, Any]:
    """Machine, memory, load at the start, and the device in use."""
    import psutil

    return {
        "device": device_name(runtime.device),
        "threads": runtime.threads,
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_average": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "flags": {name: os.environ[name] for name in FLAGS if name in os.environ},
    }


def _git(*arguments: str) -> str | None:
    folder = Path(__file__).resolve().parent
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def git_state() -> dict[str, Any]:
    """Commit and a digest of uncommitted changes of the checkout the code runs from, if it is one."""
    inside = _git("ls-files", "--error-unmatch", "provenance.py")
    commit = _git("rev-parse", "HEAD") if inside else None
    if not commit:
        return {"commit": None, "dirty": None}
    changes = (_git("status", "--porcelain", "--untracked-files=no") or "").strip()
    diff = _git("diff", "HEAD") or ""
    return {"commit": commit.strip(), "dirty": content_key(diff)[:12] if changes else False}


def command_line() -> str:
    """The call as typed: program name without its folder, credentials in addresses removed."""
    words = [Path(sys.argv[0]).name, *sys.argv[1:]]
    return re.sub(r"://[^/@\s]+@", "://", " ".join(words))


def collect(runtime: Runtime) -> dict[str, Any]:
    """Everything above, with the time of the call (UTC)."""
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command_line(),
        "versions": versions(),
        "hardware": hardware(runtime),
        "git": git_state(),
    }
