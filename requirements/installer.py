"""Runs pip or uv: a log of all it says, one moving line of progress, and what its end means."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

# In the words of pip, its urllib3, and uv; packages are called networkx and async-timeout, so no bare words.
DROPPED = re.compile(
    r"connection (was |is )?(broken|reset|refused|aborted|error|closed)|ConnectionError|Connect(ion)?Timeout"
    r"|ReadTimeout|timed out|temporary failure in name|IncompleteRead|reset by peer|broken pipe"
    r"|remote end closed|network is unreachable|dns error|resolve host|error sending request"
    r"|error decoding response|do not match the hashes|failed to fetch"
    r"|\b(429|50[0234]) (server|client|bad|service)",
    re.IGNORECASE,
)
BEGAN = re.compile(r"^(installing collected packages|error: failed to install)", re.IGNORECASE | re.MULTILINE)
# What pip and uv say when a new part of the work begins; pip is silent from "Installing" to its end.
PHASE = re.compile(
    r"(collecting|downloading|using cached|building|installing|resolved|prepared) ", re.IGNORECASE
)
NO_SPACE = re.compile(r"no space left|quota exceeded", re.IGNORECASE)
TERMINAL_PERIOD_S = 1.0
LOG_PERIOD_S = 60.0
GRACE_S = 5.0


def say(text: str) -> None:
    """One line for the user, away from standard output."""
    print(f"noisebench: {text}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Outcome:
    """How an installer ended: its exit code (negative: killed by a signal) and all it said."""

    code: int
    output: str
    interrupted: bool = False

    @property
    def ok(self) -> bool:
        """Everything is installed."""
        return self.code == 0 and not self.interrupted

    @property
    def dropped(self) -> bool:
        """The network let it down before it changed anything, so that another try may do."""
        failed = not self.ok and not self.interrupted and not self.full
        return failed and self.untouched and bool(DROPPED.search(self.output))

    @property
    def full(self) -> bool:
        """The disk is full."""
        return bool(NO_SPACE.search(self.output))

    @property
    def untouched(self) -> bool:
        """It failed while it resolved or downloaded: what was installed before is whole."""
        return self.code >= 0 and not BEGAN.search(self.output)

    @property
    def reason(self) -> str:
        """The last line that names an error, else the last line."""
        lines = [line.strip() for line in self.output.splitlines() if line.strip()]
        errors = [line for line in lines if re.match(r"error|×|╰─▶", line, re.IGNORECASE)]
        return (errors or lines or [f"exit code {self.code} and no message"])[-1]

    def advice(self, log: str) -> str:
        """One sentence for an installer that gave up; `log` is where it is told in full."""
        again = "run the same command again (finished downloads are kept)"
        if self.interrupted:
            return f"noisebench: the set-up was stopped: {again}"
        if self.full:
            return f"noisebench: the disk is full ({self.reason}): free some, or set TMPDIR to another disk"
        if self.dropped:
            return f"noisebench: the network failed ({self.reason}): {again}"
        return f"noisebench could not be installed ({self.reason}): the whole story is in {log}"


class Progress:
    """The latest line and the time so far: each second on a terminal, each minute in a log."""

    def __init__(self) -> None:
        self.latest = ""
        self._began = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> Progress:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def _tick(self) -> None:
        terminal = sys.stderr.isatty()
        while not self._stop.wait(TERMINAL_PERIOD_S if terminal else LOG_PERIOD_S):
            text = f"{time.monotonic() - self._began:5.0f} s  {self.latest}"
            text = text[: shutil.get_terminal_size().columns - 1]
            print(f"\r\x1b[K{text}" if terminal else f"{text}\n", end="", file=sys.stderr, flush=True)


def run(command: list[str], folder: Path, log: Path, lock: int) -> Outcome:
    """Run an installer in `folder` and append what it says to `log`.

    It inherits the `lock` descriptor: were this process killed, the lock would hold until it ended too.
    """
    process = subprocess.Popen(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        # A user-wide `user = true` makes pip refuse a virtual environment.
        env=os.environ | {"PYTHONUNBUFFERED": "1", "PIP_USER": "0"},
        pass_fds=(lock,),
    )
    said: list[str] = []
    interrupted = False
    try:
        _follow(process, log, said)
    except KeyboardInterrupt:
        interrupted = True
        _stop(process, said)
    return Outcome(process.wait(), "".join(said), interrupted)


def _stop(process: subprocess.Popen[str], said: list[str]) -> None:
    """Let it clean up (a terminal interrupts it too) and hear its last words: had it begun to install?"""
    assert process.stdout is not None
    try:
        process.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        process.terminate()
    said.append(process.stdout.read())


def _follow(process: subprocess.Popen[str], log: Path, said: list[str]) -> None:
    assert process.stdout is not None
    with log.open("a", encoding="utf-8") as file, Progress() as progress:
        for line in process.stdout:
            said.append(line)
            file.write(line)
            file.flush()
            if PHASE.match(line.strip()):
                progress.latest = line.strip()
        process.wait()
