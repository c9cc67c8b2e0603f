"""Protects training by several processes: the same bits as by one, and nobody left waiting for the dead."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from bench import data
from bench.drivers.group import Group, TreeSum, largest_power_of_two
from bench.errors import CellFailed, UsageError
from bench.store import Store
from bench.suite import Training, load_suite
from bench.training import Trainer
from models.glow import Glow
from models.vae import VAE
from tests.bench.test_drivers import moments, same
from tests.bench.test_run import _start
from tests.bench.toys import Histogram
from tests.conftest import TINY, environment

CONFIG = Training(steps=8, batch_size=32, warmup_steps=2, checkpoint_every=4, micro_batches=4)
MODELS: tuple[type, ...] = (Histogram, VAE, Glow)

SHARED = TINY.replace("batch_size: 32", "batch_size: 32, micro_batches: 4")


def trainer(folder: Path, model: type, group: Group | None = None, config: Training = CONFIG) -> Trainer:
    torch.manual_seed(0)
    pixels = torch.from_numpy(data.load("digits").train)[:100]
    path = folder / f"{model.__name__}.checkpoint.safetensors"
    return Trainer(model((1, 8, 8), 17), pixels, config, 0, "cpu", path, group=group)


def weights(one: Trainer) -> dict[str, Tensor]:
    for _ in one.run():
        pass
    return {name: value.clone() for name, value in one.model.state_dict().items()}


def launch(arguments: list[str], world: int, folder: Path) -> list[subprocess.Popen[str]]:
    """Processes with a place each, as srun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {**environment(folder), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        subprocess.Popen(
            [sys.executable, *arguments],
            cwd=folder,
            env={**shared, "OMP_NUM_THREADS": "1", "SLURM_PROCID": str(rank), "SLURM_NTASKS": str(world)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world)
    ]


TRAIN = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from safetensors.torch import save_file
from bench.drivers.group import Group
from bench.drivers.place import Place
from tests.bench.test_group import MODELS, trainer, weights

place = Place.taken()
group = Group.meet(place, "cpu")
if group is None:
    sys.exit(f"process {place.rank} is left over")
for model in MODELS:
    save_file(weights(trainer(Path.cwd(), model, group)), f"{model.__name__}.{place.rank}.safetensors")
    assert group.told(place.rank + 7, "cpu") == 7
group.close()
"""


@pytest.mark.parametrize("world", [pytest.param(2, marks=pytest.mark.campaign), 5])
def test_several_processes_train_the_weights_that_one_does(tmp_path: Path, world: int) -> None:
    """Bit for bit, also where the first images that a layer sees set it, as Glow's; of five, four meet."""
    processes = launch(["-c", TRAIN], world, tmp_path)
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    codes = [process.returncode for process in processes]
    assert codes == ([0, 0] if world == 2 else [0, 0, 0, 0, 1]), outputs
    for model in MODELS:
        expected = weights(trainer(tmp_path / "alone", model))
        for rank in range(largest_power_of_two(world)):
            found = load_file(tmp_path / f"{model.__name__}.{rank}.safetensors")
            assert found.keys() == expected.keys()
            assert all(torch.equal(found[name], expected[name]) for name in found), (model, rank)


def test_micro_batches_are_the_same_objective_as_the_whole_batch(tmp_path: Path) -> None:
    """Without noise in the loss the two differ by rounding alone; with a bad cut there is no training."""
    torch.manual_seed(0)

    class Plain(Histogram):
        def loss(self, pixels: Tensor, condition: object = None, generator: object = None) -> Tensor:
            self.network.eval()
            return self._nats(pixels).mean() / self.dims

    whole = weights(trainer(tmp_path, Plain, config=CONFIG.model_copy(update={"micro_batches": 1})))
    parts = weights(trainer(tmp_path / "parts", Plain))
    assert torch.allclose(whole["network.values"], parts["network.values"], atol=1e-5)
    with pytest.raises(CellFailed, match=r"cannot be cut into training.micro_batches = 8"):
        trainer(tmp_path, Plain, config=Training(batch_size=128, micro_batches=8))


def test_a_training_in_parts_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    whole = trainer(tmp_path / "whole", VAE)
    expected = weights(whole)
    running = trainer(tmp_path, VAE).run()
    for _ in range(6):
        next(running)
    resumed = trainer(tmp_path, VAE)
    assert resumed.step == 4
    found = weights(resumed)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert resumed.curve.loss == whole.curve.loss


def test_bfloat16_trains_to_nearly_the_same_loss(tmp_path: Path) -> None:
    whole, half = (
        trainer(tmp_path, VAE),
        trainer(tmp_path / "half", VAE, config=CONFIG.model_copy(update={"precision": "bf16"})),
    )
    weights(whole), weights(half)
    assert half.curve.loss == pytest.approx(whole.curve.loss, rel=0.02)
    assert half.curve.loss != whole.curve.loss


@pytest.mark.parametrize("parts", [3, 64])
def test_micro_batches_that_cannot_be_are_refused(tmp_path: Path, parts: int) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(TINY.replace("batch_size: 32", f"batch_size: 32, micro_batches: {parts}"))
    with pytest.raises(UsageError, match=r"a power of two that divides training.batch_size \(32\)"):
        load_suite(str(path))


def test_the_tree_adds_in_one_order_whoever_holds_what() -> None:
    torch.manual_seed(0)
    leaves = [torch.randn(1000) * 10.0**k for k in range(8)]
    whole, halves = TreeSum(), [TreeSum(), TreeSum()]
    for index, leaf in enumerate(leaves):
        whole.add(leaf.clone())
        halves[index // 4].add(leaf.clone())
    assert torch.equal(whole.total(), halves[0].total() + halves[1].total())
    assert not torch.equal(whole.total(), sum(leaves[1:], leaves[0]))
    whole.add(leaves[0])
    with pytest.raises(ValueError, match="2\\^k leaves"):
        whole.total()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process whose trainings are in four parts."""
    folder = tmp_path_factory.mktemp("alone")
    (folder / "shared.yaml").write_text(SHARED)
    process = _start(folder, "shared.yaml")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return folder


def trained(folder: Path) -> dict[str, str]:
    """Cell key of each training -> hash of its weights."""
    store, found = Store(folder / "results" / "store"), {}
    for key in store:
        if json.loads((store.folder(key) / "cell.json").read_text())["kind"] == "training":
            found[key] = store.records(key)[0].weights_sha256
    return found


COMMAND = ["-m", "bench", "run", "--threads", "1", "shared.yaml"]


def test_two_processes_of_torchrun_train_together_and_give_the_same(tmp_path: Path, alone: Path) -> None:
    """The launcher itself, at whose store they meet; only the first process prints."""
    (tmp_path / "shared.yaml").write_text(SHARED)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [sys.executable, *launcher, *COMMAND],
        cwd=tmp_path,
        env={**environment(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "note" not in done.stdout
    assert done.stdout.count("Report: ") == 1
    assert trained(tmp_path) == trained(alone)
    same(tmp_path, alone)


@pytest.mark.parametrize("killed", [pytest.param(0, marks=pytest.mark.campaign), 1])
def test_the_death_of_one_leaves_the_other_training(tmp_path: Path, alone: Path, killed: int) -> None:
    """The one that is left goes on from the checkpoint, alone, to the same weights."""
    (tmp_path / "shared.yaml").write_text(SHARED)
    processes = launch(COMMAND, 2, tmp_path)
    deadline = time.monotonic() + 240
    cells = tmp_path / "results" / "store" / "cells"
    while not list(cells.glob("*/*/checkpoint.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.005)
    processes[killed].send_signal(signal.SIGKILL)
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert processes[1 - killed].returncode == 0, outputs
    assert processes[killed].returncode == -signal.SIGKILL
    assert trained(tmp_path) == trained(alone)
    if killed == 1:
        assert "note    A process left the others (" in outputs[0]
        same(tmp_path, alone)
    else:  # nobody is left who leads: the same command ends it
        again = _start(tmp_path, "shared.yaml")
        output, _ = again.communicate(timeout=300)
        assert again.returncode == 0, output
        assert moments(tmp_path) == moments(alone)
