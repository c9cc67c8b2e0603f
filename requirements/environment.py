"""The state of `.venv`: what it holds, whether that is what is wanted, and how it gets there.

`.venv/.setup-state` is a record of what was installed, written last and whole. While an installer runs it
says `unfinished`; a set-up that was killed is therefore known by it and made anew, since nobody can tell
which files are missing (the installer's own cache keeps the downloads). A try that failed before it changed
anything puts the former record back. `.venv/.setup-lock` lets one set-up run at a time.

Versions come from pins.txt, used as constraints, which serves the CPU and the CUDA builds of torch alike.
Where packages come from is the user's choice (PIP_*, UV_*, their configuration), never this file's.
"""

from __future__ import annotations

import argparse
import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import checks
import installer
from installer import Outcome, say

PINS = "requirements/pins.txt"
# Not `.lock`: uv locks that one itself, and would wait for its own caller.
STATE, LOCK, LOG = ".setup-state", ".setup-lock", "install.log"
UNFINISHED = {"unfinished": True}
PROJECT_KEYS = ["name", "version", "requires-python", "dependencies", "optional-dependencies", "scripts"]
PROJECT_KEYS += ["entry-points"]
WAITS_S = (5.0, 20.0)


class SetupError(Exception):
    """What stops the set-up and what to do about it, in one sentence."""


def wanted_digest(root: Path) -> str:
    """SHA-256 (hex) of the pins and of what pyproject.toml says about installing."""
    pyproject = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    project = [pyproject["project"].get(key) for key in PROJECT_KEYS]
    text = json.dumps([project, pyproject["build-system"], pyproject.get("tool", {}).get("setuptools")])
    return hashlib.sha256((root / PINS).read_bytes() + text.encode()).hexdigest()


def read_state(folder: Path) -> dict[str, Any]:
    """The record of what `.venv` holds: empty if there is none, UNFINISHED if it cannot be read."""
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        return UNFINISHED
    return state if isinstance(state, dict) else UNFINISHED


def write_state(folder: Path, state: dict[str, Any]) -> None:
    """Replace the record atomically; an empty one is removed."""
    if not state:
        (folder / STATE).unlink(missing_ok=True)
        return
    temporary = folder / f"{STATE}.{os.getpid()}"
    with temporary.open("w", encoding="utf-8") as file:
        file.write(json.dumps(state) + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / STATE)


def place(root: Path) -> list[str]:
    """Where the project and the interpreter of `.venv` really are: the scripts in it name both."""
    python = root / ".venv" / "bin" / "python"
    return [str(root.resolve()), str(python.resolve()) if os.access(python, os.X_OK) else "no interpreter"]


def is_ready(root: Path, extras: set[str]) -> bool:
    """Whether `.venv` holds what is wanted, so that nothing is left to do."""
    state = read_state(root / ".venv")
    kept = extras <= set(state.get("extras", [])) and state.get("place") == place(root)
    return kept and state.get("digest") == wanted_digest(root)


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Hold `.venv/.setup-lock` and yield its descriptor; a second call waits for the first."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another set-up of .venv is running; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:
            say("this file system has no locks: run one make at a time")
        yield lock.fileno()


def is_usable(root: Path, state: dict[str, Any], tool: str) -> bool:
    """Whether `tool` can install over what `.venv` holds."""
    if state.get("unfinished") or (state and state.get("place") != place(root)):
        return False
    check = f"import sys{', pip' if tool == 'pip' else ''}; sys.exit(sys.version_info < (3, 11))"
    try:
        done = subprocess.run([str(root / ".venv/bin/python"), "-c", check], capture_output=True)
    except OSError:
        return False
    return done.returncode == 0


def rebuild(folder: Path, tool: str, lock: int) -> None:
    """Make an empty environment; lock and state stay in place, so that a kill in here is seen as well."""
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name not in (LOCK, STATE, LOG):
            entry.unlink()
    # The interpreter that runs this may be the one whose folder was just emptied.
    python = getattr(sys, "_base_executable", None) or sys.executable
    command = [python, "-m", "venv", *(["--without-pip"] if tool == "uv" else []), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, pass_fds=(lock,))
    if done.returncode:
        lines = (done.stdout + done.stderr).strip().splitlines() or [f"exit code {done.returncode}"]
        why = f"noisebench could not make .venv with {python} ({lines[-1]})"
        raise SetupError(f"{why}: run make PYTHON=/path/to/another/python")


def install_command(root: Path, extras: set[str], tool: str) -> list[str]:
    """The call of pip or uv, to be made in `root`.

    Byte-compiling everything takes pip longer than writing it, and the first import does it for the
    modules that are used; where Python may not write bytecode, every start would pay, so it is done here.
    """
    python = str(root / ".venv/bin/python")
    project = ".[" + ",".join(sorted(extras)) + "]" if extras else "."
    what = ["--constraint", PINS, "--editable", project]
    if tool == "uv":
        compiled = ["--compile-bytecode"] if sys.dont_write_bytecode else []
        return ["uv", "pip", "install", "--python", python, *compiled, *what]
    compiled = [] if sys.dont_write_bytecode else ["--no-compile"]
    quiet = ["--no-input", "--disable-pip-version-check"]
    return [python, "-m", "pip", "install", *quiet, *compiled, *what]


def install(root: Path, extras: set[str], tool: str, lock: int) -> Outcome:
    """Install with `tool`, and again after a pause each time the network drops."""
    for wait in (*WAITS_S, None):
        outcome = installer.run(install_command(root, extras, tool), root, root / ".venv" / LOG, lock)
        if wait is None or not outcome.dropped:
            break
        say(f"the download broke off ({outcome.reason}); trying again in {wait:.0f} s")
        try:
            time.sleep(wait)
        except KeyboardInterrupt:
            return dataclasses.replace(outcome, interrupted=True)
    return outcome


def set_up(root: Path, extras: set[str]) -> None:
    """Bring `.venv` to what is wanted, with uv if it is on PATH, else or if uv fails with pip."""
    if is_ready(root, extras):
        return
    tools = (["uv"] if shutil.which("uv") else []) + ["pip"]
    with locked(root / ".venv") as lock:
        if is_ready(root, extras):
            return
        if problem := checks.disk_problem(root):
            raise SetupError(problem)
        (root / ".venv" / LOG).unlink(missing_ok=True)
        for tool in tools:
            began = time.monotonic()
            outcome = _set_up_with(tool, root, extras, lock)
            if outcome.ok:
                say(f".venv is ready ({tool}, {time.monotonic() - began:.0f} s)")
                return
            if outcome.interrupted or outcome.full:
                break
            say(f"{tool} failed ({outcome.reason})")
        raise SetupError(outcome.advice(f".venv/{LOG}"))


def _set_up_with(tool: str, root: Path, extras: set[str], lock: int) -> Outcome:
    folder = root / ".venv"
    before = read_state(folder)
    keep = is_usable(root, before, tool)
    if not keep and (problem := checks.module_problem(tool == "uv")):
        raise SetupError(problem)
    wanted = extras | set(before.get("extras", [])) if keep else extras
    write_state(folder, UNFINISHED)
    if keep:
        say(f"bringing .venv up to date with {tool}")
    else:
        say(f"making .venv {'anew ' if before else ''}with {tool} (up to 3 GB to download, once)")
        rebuild(folder, tool, lock)
    outcome = install(root, wanted, tool, lock)
    if outcome.ok:
        write_state(folder, {"digest": wanted_digest(root), "extras": sorted(wanted), "place": place(root)})
    elif outcome.untouched:
        write_state(folder, before if keep else {})
    return outcome


def main(root: Path, arguments: list[str]) -> int:
    """Command line of install.py; the exit code."""
    parser = argparse.ArgumentParser(prog="install.py", description="Makes .venv and installs noisebench.")
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    parser.add_argument(
        "--extra", action="append", default=[], choices=list(project["optional-dependencies"])
    )
    try:
        set_up(root, set(parser.parse_args(arguments).extra))
    except SetupError as error:
        print(error, file=sys.stderr)
    except OSError as error:
        print(f"noisebench could not write .venv ({error}): check its owner and the disk", file=sys.stderr)
    except KeyboardInterrupt:
        print("noisebench: the set-up was stopped: run the same command again", file=sys.stderr)
    else:
        return 0
    return 1
