"""Protects the seeds: image i is the same image in any batch, shard or process."""

from __future__ import annotations

import subprocess
import sys

import torch

from models.seeds import Seeds, derive_seed, shard_stream
from tests.conftest import ROOT, environment


def test_an_images_noise_does_not_depend_on_its_batch() -> None:
    together = Seeds(5, range(100, 164)).per_image((1, 8, 8))
    alone = torch.cat([Seeds(5, [i]).per_image((1, 8, 8)) for i in range(100, 164)])
    assert torch.equal(together, alone)


def test_successive_draws_differ_and_are_repeated_alike() -> None:
    a, b = Seeds(0, [3, 4]), Seeds(0, [3, 4])
    first, second = a.per_image((2,)), a.per_image((2,), "uniform")
    assert torch.equal(first, b.per_image((2,)))
    assert torch.equal(second, b.per_image((2,), "uniform"))
    assert not torch.equal(first[0], first[1])


def test_seed_image_and_shard_all_matter() -> None:
    base = Seeds(0, [0]).per_image((4,))
    assert not torch.equal(base, Seeds(1, [0]).per_image((4,)))
    assert not torch.equal(base, Seeds(0, [1]).per_image((4,)))
    a, b = (torch.randn(4, generator=shard_stream(0, shard)) for shard in (0, 1))
    assert not torch.equal(a, b)


def test_derived_seeds_are_the_same_in_another_process() -> None:
    code = "from models.seeds import derive_seed; print(derive_seed('image', 7, 1234))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment(), capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == derive_seed("image", 7, 1234)


def test_noise_is_standard_normal() -> None:
    noise = Seeds(0, range(2000)).per_image((8,))
    assert abs(float(noise.mean())) < 4 / 16000**0.5
    assert abs(float(noise.var()) - 1) < 4 * (2 / 16000) ** 0.5
