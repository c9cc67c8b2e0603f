"""Speed, measured and never asserted: `make campaign` prints the tables of pytest-benchmark."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from bench.metrics.frechet import group_frechet
from bench.metrics.moments import BlockMoments, Moments
from models.denoiser import Denoiser
from models.grids import grid
from models.paths import path
from models.samplers import catalogue, sampler

pytestmark = pytest.mark.campaign


class Halving(torch.nn.Module):
    """As cheap as a network can be: what is timed is the sampler."""

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return 0.5 * x


@pytest.mark.parametrize("name", catalogue.names())
def test_sampler_overhead_of_20_steps(benchmark: Any, name: str) -> None:
    torch.set_num_threads(1)
    straight = path("rectified-flow")
    denoiser = Denoiser(Halving(), straight, "velocity")
    chosen, times = sampler(name, 20), grid("shared", straight, 20)
    x = torch.randn(64, 3, 32, 32)
    with torch.inference_mode():
        found = benchmark(lambda: chosen(denoiser, x, times, noise=torch.randn_like))
    assert bool(torch.isfinite(found).all())


@pytest.mark.parametrize("dims", [64, 256])
def test_frechet_distance_of_four_groups(benchmark: Any, dims: int) -> None:
    rng = np.random.default_rng(0)
    blocks = BlockMoments(18, dims)
    blocks.add(0, rng.normal(size=(1440, dims)))
    reference = Moments.of(rng.normal(size=(1437, dims)))
    found = benchmark(lambda: group_frechet(blocks, group_size=360, blocks_per_group=20, reference=reference))
    assert found.value > 0
