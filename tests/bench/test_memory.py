"""Protects a run whose memory ends: fewer images at a time, and every number says so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from bench import memory
from bench.drivers.events import Finished, Noted
from bench.drivers.in_process import InProcess
from bench.run import make_planner
from bench.runtime import Runtime
from bench.store import Store
from bench.suite import load_suite
from bench.workbench import Workbench
from models.base import Likelihood
from models.samplers import Sampler
from models.seeds import Seeds
from tests.bench.toys import Histogram


def refuse() -> None:
    """What the allocators raise when 2^60 bytes are asked for: the real exception."""
    torch.empty(2**60, dtype=torch.uint8)


class Greedy(Histogram):
    """Samples and likelihoods need more memory than there is for more than 16 images."""

    def sample(
        self, n: int, sampler: Sampler | None, seeds: Seeds, condition: Tensor | None = None
    ) -> Tensor:
        if n > 16:
            refuse()
        return super().sample(n, sampler, seeds, condition)

    def nll(
        self, pixels: Tensor, condition: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Likelihood:
        if len(pixels) > 16:
            refuse()
        return super().nll(pixels, condition, generator)


class Insatiable(Histogram):
    """Cannot be trained."""

    def loss(
        self, pixels: Tensor, condition: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        refuse()
        return super().loss(pixels, condition, generator)


def _events(folder: Path, model: str) -> list[object]:
    (folder / "greedy.yaml").write_text(
        f"name: greedy\ndataset: digits\ntraining: {{steps: 3}}\nmodels: {{greedy: '{model}'}}\n"
        "metrics: [quality, likelihood]\nsampling: {images: 360}\n"
        "quality: {features: digits-features, group: 360}\n"
    )
    planner = make_planner(load_suite(str(folder / "greedy.yaml")), Runtime("cpu", 1))
    bench = Workbench(planner.data, Store(folder / "store"), planner.runtime, "digits-features")
    return list(InProcess(planner, bench).run())


def test_memory_that_ends_halves_the_batch_and_every_number_says_so(tmp_path: Path) -> None:
    events = _events(tmp_path, "tests.bench.test_memory:Greedy")
    notes = [event.text for event in events if isinstance(event, Noted)]
    assert len(notes) == 4  # two shards of samples, two of likelihoods
    assert all("memory ran out; 16 images at a time did." in note for note in notes)
    done = {e.cell.kind: e for e in events if isinstance(e, Finished)}
    assert {event.outcome for event in done.values()} == {"ok"}
    for kind in ("quality", "likelihood"):
        for record in done[kind].records:
            assert record.protocol.endswith(
                ", 16 images at a time in 2 of 2 shards, where memory ended at 64"
            ), record


def test_a_training_without_memory_is_told_the_remedy(tmp_path: Path) -> None:
    events = _events(tmp_path, "tests.bench.test_memory:Insatiable")
    (failed,) = [e for e in events if isinstance(e, Finished) and e.outcome == "failed"]
    assert failed.error.startswith("memory ran out: set training.micro_batches to 2 or more (RuntimeError: ")


def test_halving_stops_at_one_and_passes_on_what_is_no_lack_of_memory() -> None:
    tried: list[int] = []

    def never(batch: int) -> None:
        tried.append(batch)
        refuse()

    with pytest.raises(RuntimeError, match="memory"):
        memory.halving(4, never)
    assert tried == [4, 2, 1]

    def broken(batch: int) -> None:
        tried.append(batch)
        raise RuntimeError("size mismatch")

    with pytest.raises(RuntimeError, match="size mismatch"):
        memory.halving(8, broken)
    assert tried == [4, 2, 1, 8]
    assert memory.halving(8, lambda batch: batch + 1) == (9, 8)
