"""The set-up: `.venv` is made once, survives kills and dropped connections, and says what it lacks.

Most tests run the real install.py in a copy of the project, with a stand-in for `uv` on PATH that notes
its calls; nothing here touches the network.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "requirements"))
import checks  # noqa: E402
import environment  # noqa: E402
import install  # noqa: E402
import installer  # noqa: E402
from installer import Outcome  # noqa: E402

PINS = (ROOT / "requirements" / "pins.txt").read_text()
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DROPPED = Outcome(
    1, "WARNING: Retrying after connection broken by 'NewConnectionError'\nERROR: No matching x"
)


class Project:
    """A copy of what the set-up needs, and a `uv` that writes down its calls instead of installing."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "project"
        shutil.copytree(ROOT / "requirements", self.root / "requirements")
        shutil.copy(ROOT / "pyproject.toml", self.root)
        self.notes = folder / "calls"
        self.programs = folder / "bin"
        self.programs.mkdir()
        self.uv("")

    def uv(self, body: str) -> None:
        """Replace the stand-in: it notes its call, does `body`, notes its end."""
        script = f'#!/bin/sh\necho "$@" >> "{self.notes}"\n{body}\necho end >> "{self.notes}"\n'
        fresh = self.programs / "uv.new"
        fresh.write_text(script)
        fresh.chmod(0o755)
        fresh.replace(self.programs / "uv")

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        path = f"{self.programs}:{os.environ['PATH']}"
        return subprocess.Popen(
            [sys.executable, str(self.root / "requirements" / "install.py"), *arguments],
            env={**os.environ, "PATH": path, "NOISEBENCH_FREE_GB": "0.001"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def call(self, *arguments: str) -> str:
        """Run the set-up to its good end; what it said."""
        process = self.start(*arguments)
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 0, said
        return said

    def calls(self) -> list[str]:
        """The stand-in's calls and ends so far."""
        return self.notes.read_text().splitlines() if self.notes.exists() else []

    def wait_for_call(self) -> None:
        for _ in range(600):
            if self.calls():
                return
            time.sleep(0.05)
        raise AssertionError("the installer was never called")

    @property
    def state(self) -> dict[str, object]:
        return environment.read_state(self.root / ".venv")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


# What stops it, in one sentence.


@pytest.mark.parametrize("version", [(2, 7, 18), (3, 6, 15), (3, 9, 2), (3, 10, 13)])
def test_an_old_python_is_told_which_one_it_is_and_what_to_type(version: tuple[int, ...]) -> None:
    """Protects the sentence of a machine whose python3 is too old."""
    problem = install.python_problem(version, "/usr/bin/python3")
    found = ".".join(map(str, version))
    assert problem == (
        f"noisebench needs Python 3.11 or newer and this is {found} (/usr/bin/python3): "
        "run make PYTHON=/path/to/python3.11"
    )
    assert install.python_problem((3, 11, 0), "/usr/bin/python3") is None


def test_an_old_python_can_read_install_py() -> None:
    """Protects the same sentence: a newer syntax or module would be a traceback instead."""
    tree = ast.parse((ROOT / "requirements" / "install.py").read_text(), feature_version=(3, 6))
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in imports for alias in node.names}
    assert names == {"shutil", "subprocess", "sys", "Path"}


def test_an_old_python_without_environment_gets_that_sentence_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Protects against tracebacks, and names a newer Python that is on PATH."""
    newer = tmp_path / "python3.13"
    newer.symlink_to(sys.executable)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(install, "ROOT", tmp_path)
    monkeypatch.setattr(install.sys, "version_info", (3, 9, 2))
    assert install.main([]) == 1
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert said.endswith(f"run make PYTHON={newer}\n")


def test_the_set_up_needs_the_standard_library_alone() -> None:
    """Protects a bare machine: no site-packages are there before the set-up."""
    code = f"import sys; sys.path.insert(0, {str(ROOT / 'requirements')!r}); import environment"
    subprocess.run([sys.executable, "-I", "-S", "-B", "-c", code], check=True)


def test_a_python_without_ensurepip_names_the_package() -> None:
    """Protects Debian and Ubuntu, which ship venv apart; uv can do without pip."""

    def find(name: str) -> object:
        return None if name == "ensurepip" else object()

    problem = checks.module_problem(has_uv=False, find=find)
    assert problem is not None
    assert f"apt install python3.{sys.version_info[1]}-venv" in problem
    assert "ensurepip" in problem
    assert checks.module_problem(has_uv=True, find=find) is None


def test_a_small_disk_is_refused_before_anything_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Protects against a disk filled halfway; less is needed once torch is there or with a stated size."""
    monkeypatch.delenv("NOISEBENCH_FREE_GB", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")

    def free(gigabytes: float) -> Callable[[Path], SimpleNamespace]:
        return lambda path: SimpleNamespace(free=gigabytes * 1e9)

    problem = checks.disk_problem(tmp_path, free(2.0))
    assert problem is not None
    assert "there is 2.0 GB" in problem
    assert "NOISEBENCH_FREE_GB" in problem
    assert checks.disk_problem(tmp_path, free(20.0)) is None
    monkeypatch.setenv("NOISEBENCH_FREE_GB", "1.5")
    assert checks.disk_problem(tmp_path, free(2.0)) is None
    monkeypatch.delenv("NOISEBENCH_FREE_GB")
    torch = tmp_path / ".venv/lib/python3.11/site-packages/torch"
    torch.mkdir(parents=True)
    (torch / "__init__.py").touch()
    assert checks.disk_problem(tmp_path, free(2.0)) is None


# When it installs and when it does not.


def test_a_second_call_installs_nothing(project: Project) -> None:
    """Protects `make bench` twice, and `make bench` after `make test`: one `.venv` serves both."""
    assert "is ready (uv" in project.call()
    assert project.call() == ""
    assert len(project.calls()) == 2
    project.call("--extra", "dev")
    assert project.calls()[2].endswith("--editable .[dev]")
    assert project.call() == ""
    assert len(project.calls()) == 4


def test_changed_requirements_are_installed_over_what_is_there(project: Project) -> None:
    """Protects a pull that changes pins: extras stay, what need not change stays, prose changes nothing."""
    project.call("--extra", "dev")
    kept = project.root / ".venv/lib/kept"
    kept.touch()
    pyproject = project.root / "pyproject.toml"
    pyproject.write_text(pyproject.read_text().replace('description = "', 'description = "Really: '))
    assert project.call() == ""
    pins = project.root / environment.PINS
    pins.write_text(pins.read_text() + "another==1.0\n")
    assert "bringing .venv up to date" in project.call()
    assert project.calls()[-2].endswith(".[dev]")
    pyproject.write_text(pyproject.read_text().replace('"torch>=', '"torch>1,>='))
    assert "bringing .venv up to date" in project.call()
    assert kept.exists()


def test_a_moved_checkout_gets_a_new_environment(project: Project) -> None:
    """Protects a copied or moved folder, whose scripts would run the old one."""
    project.call()
    project.root = project.root.rename(project.root.parent / "elsewhere")
    assert "making .venv anew" in project.call()
    assert project.call() == ""


def test_an_environment_whose_interpreter_is_gone_is_made_anew(project: Project) -> None:
    """Protects a machine whose Python was upgraded under it."""
    project.call()
    python = project.root / ".venv/bin/python"
    python.unlink()
    python.symlink_to("/nowhere/python3.11")
    assert "making .venv anew" in project.call()
    assert project.call() == ""


def test_a_kill_at_any_moment_is_healed_by_the_next_call(project: Project) -> None:
    """Protects kill -9 of all processes while files are being written: half-made files do not stay."""
    half = project.root / ".venv/lib/half-made"
    project.uv(f"touch {half}; sleep 60")
    process = project.start()
    project.wait_for_call()
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert project.state == environment.UNFINISHED
    project.uv("")
    assert "making .venv anew" in project.call()
    assert not half.exists()
    assert project.call() == ""


def test_an_orphaned_installer_is_waited_for(project: Project) -> None:
    """Protects kill -9 of the set-up alone: its installer still writes, and holds the lock."""
    project.uv("sleep 1")
    process = project.start()
    project.wait_for_call()
    process.kill()
    process.wait()
    assert "waiting for it" in project.call()
    assert [line == "end" for line in project.calls()] == [False, True, False, True]


def test_a_torn_record_is_not_believed(project: Project) -> None:
    """Protects against a record that no set-up finished."""
    project.call()
    (project.root / ".venv/.setup-state").write_text('{"digest": "')
    assert "making .venv anew" in project.call()


def test_two_calls_at_once_install_once(project: Project) -> None:
    """Protects two `make` in one folder."""
    project.uv("sleep 1")
    first, second = project.start(), project.start()
    said = first.communicate(timeout=60)[0] + second.communicate(timeout=60)[0]
    assert (first.returncode, second.returncode) == (0, 0), said
    assert len(project.calls()) == 2
    assert "waiting for it" in said


def test_uv_can_take_its_own_lock(project: Project) -> None:
    """Protects five minutes: uv locks `.venv/.lock`, and waits that long if its caller holds it."""
    lock = project.root / ".venv/.lock"
    code = f"import fcntl; fcntl.flock(open('{lock}', 'a'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    project.uv(f'{sys.executable} -c "{code}" && echo free >> "{project.notes}"')
    project.call()
    assert "free" in project.calls()


# Failing installers.


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch, project: Project) -> Iterator[SimpleNamespace]:
    """Installer ends are taken from `.outcomes`; `.commands` and `.waits` tell what was done."""
    project.call()
    script = SimpleNamespace(outcomes=[], commands=[], waits=[], root=project.root, uv=None)

    def run(command: list[str], *_: object) -> Outcome:
        script.commands.append(command)
        return script.outcomes.pop(0)

    monkeypatch.setattr(installer, "run", run)
    monkeypatch.setattr(environment, "is_usable", lambda *_: True)
    monkeypatch.setattr(environment.time, "sleep", script.waits.append)
    monkeypatch.setattr(environment.shutil, "which", lambda name: script.uv)
    monkeypatch.setenv("NOISEBENCH_FREE_GB", "0.001")
    yield script
    assert not script.outcomes


def test_a_dropped_connection_is_tried_again(scripted: SimpleNamespace) -> None:
    """Protects a download of gigabytes over a weak line."""
    scripted.outcomes = [DROPPED, DROPPED, Outcome(0, "")]
    environment.set_up(scripted.root, {"dev"})
    assert scripted.waits == list(environment.WAITS_S)
    assert environment.is_ready(scripted.root, {"dev"})


def test_a_failed_download_leaves_the_environment_ready_for_what_it_had(scripted: SimpleNamespace) -> None:
    """Protects `make bench` after a `make test` without network."""
    scripted.outcomes = [DROPPED] * 3
    with pytest.raises(environment.SetupError, match=r"the network failed .* run the same command again"):
        environment.set_up(scripted.root, {"dev"})
    assert environment.is_ready(scripted.root, set())


@pytest.mark.parametrize(
    ("outcome", "sentence", "whole"),
    [
        (Outcome(1, "ERROR: No matching distribution found for x"), "No matching distribution", True),
        (
            Outcome(1, "Installing collected packages: x\nOSError: No space left on device"),
            "disk is full",
            False,
        ),
        (Outcome(-9, "Collecting x"), "could not be installed", False),
        (Outcome(1, "ERROR: Operation cancelled by user", interrupted=True), "was stopped", True),
    ],
)
def test_other_failures_stop_at_once(
    scripted: SimpleNamespace, outcome: Outcome, sentence: str, whole: bool
) -> None:
    """Protects against pointless tries, and against trusting files that were being replaced."""
    scripted.outcomes = [outcome]
    with pytest.raises(environment.SetupError, match=sentence):
        environment.set_up(scripted.root, {"dev"})
    assert scripted.waits == []
    assert environment.is_ready(scripted.root, set()) is whole


def test_pip_takes_over_where_uv_fails(scripted: SimpleNamespace) -> None:
    """Protects machines whose package mirror is known to pip alone."""
    scripted.uv = "/bin/uv"
    scripted.outcomes = [Outcome(2, "error: No solution found"), Outcome(0, "")]
    environment.set_up(scripted.root, {"dev"})
    assert [command[0] for command in scripted.commands] == ["uv", str(scripted.root / ".venv/bin/python")]
    for command in scripted.commands:
        assert command[-4:] == ["--constraint", environment.PINS, "--editable", ".[dev]"]


@pytest.mark.parametrize(
    ("output", "dropped"),
    [
        ("pip._vendor.urllib3.exceptions.ReadTimeoutError: HTTPSConnectionPool: Read timed out.", True),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE", True),
        ("error: Request failed after 3 retries\n  Caused by: dns error", True),
        ("ERROR: HTTP error 503 Server Error: Service Unavailable for url", True),
        ("Collecting networkx\nCollecting async-timeout\nERROR: No matching distribution found", False),
        ("connection reset by peer\nInstalling collected packages: torch\nERROR: bad wheel", False),
    ],
)
def test_what_counts_as_a_dropped_connection(output: str, dropped: bool) -> None:
    """Protects the choice between trying again and giving up, in the words of pip and uv."""
    assert Outcome(1, output).dropped is dropped
    assert not Outcome(0, output).dropped


def test_all_an_installer_says_is_in_the_log(tmp_path: Path) -> None:
    """Protects the only trace of a failed install; standard error and bad bytes are part of it."""
    command = ["sh", "-c", r"echo one; printf 'two \377\n' >&2; echo 'ERROR: three'; echo four; exit 7"]
    log = tmp_path / "log"
    with (tmp_path / "lock").open("w") as lock:
        outcome = installer.run(command, tmp_path, log, lock.fileno())
    assert (outcome.code, outcome.reason) == (7, "ERROR: three")
    assert log.read_text() == outcome.output == "one\ntwo \ufffd\nERROR: three\nfour\n"


# What is installed, and the files round it.


def test_pins_name_no_host_and_fit_the_project() -> None:
    """Protects the lock: usable behind any index, complete, and in step with pyproject.toml."""
    assert not re.search(r"https?://|^\s*-", PINS, re.MULTILINE)
    pinned: dict[str, list[str]] = {}
    for line in PINS.splitlines():
        name, version = line.split(";")[0].strip().split("==")
        pinned.setdefault(name, []).append(version)
    extras = PYPROJECT["project"]["optional-dependencies"].values()
    for text in [*PYPROJECT["project"]["dependencies"], *(text for extra in extras for text in extra)]:
        wanted = Requirement(text)
        versions = pinned[re.sub(r"[-_.]+", "-", wanted.name).lower()]
        assert all(wanted.specifier.contains(version) for version in versions), text


def test_the_wheel_holds_what_the_program_reads(tmp_path: Path) -> None:
    """Protects an installed noisebench: suites, report assets and weights travel; tests do not."""
    for name in ("bench", "models", "kernels"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    probes = [
        "bench/suites/probe.yaml",
        "bench/report/assets/probe.css",
        "bench/metrics/weights/probe.safetensors",
    ]
    for probe in probes:
        (tmp_path / probe).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / probe).write_text("probe")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/__init__.py").touch()
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", str(tmp_path)]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    [wheel] = (tmp_path / "dist").glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = {
        str(path.relative_to(ROOT))
        for top in ("bench", "models", "kernels")
        for path in (ROOT / top).rglob("*.py")
    }
    assert not {*sources, *probes} - names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {name.split("/")[0] for name in names} <= {
        "bench",
        "models",
        "kernels",
        wheel.name.split("-py3")[0] + ".dist-info",
    }


def test_make_lists_its_targets() -> None:
    """Protects `make` alone, the first thing typed in an unknown folder."""
    said = subprocess.run(["make", "-C", str(ROOT)], capture_output=True, text=True, check=True).stdout
    targets = {"help", "bench", "test", "campaign", "lint", "types", "wheel", "pins", "clean-env"}
    assert targets <= set(re.findall(r"^make (\S+) ", said, re.MULTILINE))


@pytest.mark.parametrize("failing", ["", "test", "lint", "types"])
def test_ci_fails_if_any_check_fails(tmp_path: Path, failing: str) -> None:
    """Protects the gate: each check runs whatever the others say, and one failure is enough."""
    make = tmp_path / "make"
    make.write_text(f'#!/bin/sh\necho "ran $1"\n[ "$1" != "{failing}" ]\n')
    make.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        [str(ROOT / ".ci/run")], capture_output=True, text=True, env={**os.environ, "PATH": path}
    )
    assert re.findall(r"ran (\w+)", done.stdout) == ["test", "lint", "types"]
    assert done.returncode == (1 if failing else 0)


def test_the_record_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Protects the record from a full disk: the former one stays."""
    environment.write_state(tmp_path, {"digest": "a"})

    def full(_: int) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        environment.write_state(tmp_path, {"digest": "b"})
    assert json.loads((tmp_path / environment.STATE).read_text()) == {"digest": "a"}
