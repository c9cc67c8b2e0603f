"""Protects latents that are encoded once: one file for all models on an autoencoder, and for the next run."""

from __future__ import annotations

from pathlib import Path

from bench.doctor import examine
from bench.drivers.events import Finished
from bench.drivers.in_process import InProcess
from bench.run import make_planner
from bench.runtime import Runtime
from bench.store import Store
from bench.suite import load_suite
from bench.workbench import Workbench

SUITE = """
name: latents
dataset: digits
training: {steps: 4, batch_size: 16}
models:
  autoencoder: {}
  transformer-on-latents: {model: latent-diffusion, builds_on: autoencoder, options: {width: 16, depth: 1}}
  unet-on-latents: {model: latent-diffusion, builds_on: autoencoder, options: {network: unet, channels: 8}}
metrics: [likelihood]
likelihood: {images: 8}
quality: {features: digits-features, group: 360}
sampling: {images: 360}
"""


def test_models_on_one_autoencoder_share_what_was_encoded(tmp_path: Path) -> None:
    (tmp_path / "latents.yaml").write_text(SUITE)
    planner = make_planner(load_suite(str(tmp_path / "latents.yaml")), Runtime("cpu", 1))
    store = Store(tmp_path / "results" / "store")
    bench = Workbench(planner.data, store, planner.runtime, "digits-features")
    events = [event for event in InProcess(planner, bench).run() if isinstance(event, Finished)]
    trained = [event for event in events if event.cell.kind == "training"]
    assert [event.outcome for event in trained] == ["ok"] * 3
    (array,) = (store.root / "prepared").glob("*.npy")
    assert array.stat().st_size > 1437 * 4 * 16 * 4
    assert examine(tmp_path / "results").findings == []
    pruned = examine(tmp_path / "results", prune=True).findings
    assert any("encoded images" in finding.what for finding in pruned)
    assert not list((store.root / "prepared").glob("*.npy"))
