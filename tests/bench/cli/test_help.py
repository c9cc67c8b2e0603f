"""Protects the help: every verb has examples, which the command line understands, and names complete."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator

import pytest
import typer.main

from bench.cli import words
from bench.cli.app import app
from tests.conftest import ROOT

GROUP = typer.main.get_command(app)


def verbs(group: object = GROUP, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        if hasattr(command, "commands"):
            yield from verbs(command, (*path, name))
        else:
            yield (*path, name), command


VERBS = dict(verbs())


def of(command: object) -> list[str]:
    lines = (command.epilog or "").splitlines()  # type: ignore[attr-defined]
    return [line.strip() for line in lines if line.strip().startswith("noisebench")]


@pytest.mark.parametrize("path", VERBS, ids=" ".join)
def test_every_verb_has_examples_that_are_understood(path: tuple[str, ...]) -> None:
    found = of(VERBS[path])
    assert found
    for example in found:
        _, *arguments = shlex.split(example)
        assert tuple(arguments[: len(path)]) == path
        command = VERBS[path]
        # Parsed and not run: an option that is gone, or a word too many, is an error here.
        context = command.make_context(path[-1], arguments[len(path) :])  # type: ignore[attr-defined]
        assert context.params


def test_names_complete_and_so_does_the_last_of_several() -> None:
    assert "digits" in words.completed(words.suites)("dig")
    assert words.completed(words.samplers)("euler,heu") == ["euler,heun"]
    assert words.completed(words.features)("inception-v3-t")[0].startswith("inception-v3-tf")
    assert "kid" in words.completed(words.measures)("fid,k")[0]
    assert words.completed(words.models)("zzz") == []


def test_the_shell_gets_completions_without_torch() -> None:
    """As bash asks: the words so far and the place of the one to complete."""
    code = "import sys; from bench.cli import main; sys.argv=['noisebench']; main()"
    asked = {"_NOISEBENCH_COMPLETE": "complete_bash", "COMP_WORDS": "noisebench run dig", "COMP_CWORD": "2"}
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code],
        env={**os.environ, **asked},
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert "digits" in done.stdout.split()
    assert "| torch\n" not in done.stderr
