"""Protects promise 6 and the cost of starting: one clear sentence, exit 2, and no torch to read."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT, environment

Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("run digits --models ddmp", "Unknown model 'ddmp'. Did you mean 'ddpm'?"),
        ("run digits --samplers huen", "Did you mean 'heun'?"),
        ("run digits --metrics qualty", "Did you mean 'quality'?"),
        ("run digit", "Unknown suite 'digit'. Did you mean 'digits'?"),
        ("run missing.yaml", "There is no suite file missing.yaml"),
        ("run digits --set sampling.images=361", "multiple of quality.group"),
        ("run digits --set sampling.imgaes=360", "Did you mean 'sampling.images'?"),
        ("run digits --set sampling.images", "--set takes KEY=VALUE"),
        ("run digits --set dataset=digit", "digits"),
        ("run digits --set sampling.grid=shard", "shared"),
        ("run digits --set quality.features=digit-features", "digits-features"),
        ("run digits --set models.vae.options.latnet=3 --models vae", "Did you mean 'latent'?"),
        ("run digits --set models.vae.likelihood.k=3 --models vae", "Unknown likelihood option"),
        ("run digits --models no_module:Model", "no module 'no_module'"),
        ("run digits --device gpu", "Unknown device 'gpu'. "),
        ("run digits --threads 0", "--threads must be at least 1"),
        ("run digits --modles vae", "No such option"),
        ("rnu digits", "Did you mean 'run'?"),
        ("plan digit", "Did you mean 'digits'?"),
        ("ls modles", "Did you mean 'models'?"),
        ("run digits --attention tritn", "Did you mean 'triton'?"),
        ("kernels profile atention", "Did you mean 'attention'?"),
        ("kernels profile attention --card h20", "Did you mean 'h200'?"),
        ("kernels bench --shape flux", "flux-"),
        ("kernels bench --op atention", "Did you mean 'attention'?"),
        ("kernels bench --providers tritn", "Did you mean 'triton'?"),
        ("kernels bench --dtype bf16", "bfloat16"),
        ("report", "There is no run in results/runs"),
        ("report nothing", "There is no run in"),
    ],
)
def test_bad_input_gets_one_sentence_and_exit_2(noisebench: Call, arguments: str, sentence: str) -> None:
    done = noisebench(*arguments.split())
    assert done.returncode == 2, done.stderr
    assert sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["ls"], ["plan", "digits"], ["report"], ["doctor"]])
def test_reading_verbs_do_not_import_torch(tmp_path: Path, arguments: list[str]) -> None:
    code = (
        "import sys; sys.argv = ['noisebench', *sys.argv[1:]]\n"
        "from bench.cli import main\n"
        "try:\n    main()\n"
        "finally:\n    print('torch' in sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stderr.strip().splitlines()[-1] == "False"


def test_every_list_is_printed_for_people_and_for_programs(noisebench: Call) -> None:
    lists = json.loads(noisebench("ls", "--json").stdout)
    assert {row["suite"] for row in lists["suites"]} >= {"digits"}
    assert {row["sampler"] for row in lists["samplers"]} >= {"ddpm", "ddim", "euler", "heun"}
    assert {row["model"] for row in lists["models"]} >= {"transformer", "vae", "realnvp", "ddpm"}
    text = noisebench("ls", "samplers").stdout
    assert "2N − 1" in text


def test_plan_counts_cells_and_knows_their_cost(noisebench: Call) -> None:
    planned = json.loads(noisebench("plan", "digits", "--json").stdout)
    assert planned["cells"] == planned["missing"] == len(planned["plan"])
    assert {row["state"] for row in planned["plan"]} == {"missing", "waits"}
    text = noisebench("plan", "digits").stdout
    assert f"{planned['cells']} cells, 0 cached" in text


def test_the_command_is_also_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--help"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0
    for verb in ("run", "plan", "ls", "report", "peers", "verify", "doctor"):
        assert verb in done.stdout
