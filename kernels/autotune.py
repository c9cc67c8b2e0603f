"""The fastest of a few tiles, measured once on a card and kept on disk.

Off unless NOISEBENCH_AUTOTUNE=1: then the first call of a kernel with a new head size, dtype or order of
magnitude of lengths times each candidate and keeps the fastest, which later processes read. A candidate
whose result is not that of the table's tiles is never taken, however fast it is.
"""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from kernels.configurations import Tiles, candidates, tiles_for
from kernels.launch import capability

Run = Callable[[Tiles], Tensor]
TOLERANCE = 0.02
"""Largest difference from what the table's tiles give, of its largest value: some roundings of bfloat16."""


def enabled() -> bool:
    """Whether this process tunes."""
    return os.environ.get("NOISEBENCH_AUTOTUNE") == "1"


def folder() -> Path:
    """Where choices are kept: NOISEBENCH_CACHE, or `noisebench` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("NOISEBENCH_CACHE") or Path(base) / "noisebench")


def best(kernel: str, q_BHLD: Tensor, keys: int, run: Run) -> Tiles:
    """Tiles for this call: of the table, or, where tuning is on, the fastest; `run` launches the kernel."""
    head_size, dtype = q_BHLD.shape[-1], q_BHLD.dtype
    default = tiles_for(kernel, head_size, dtype, capability(q_BHLD.device))
    if not enabled():
        return default
    lengths = [1 << (max(length, 1) - 1).bit_length() for length in (q_BHLD.shape[2], keys)]
    rows = 1 << (q_BHLD.shape[0] * q_BHLD.shape[1] - 1).bit_length()
    where = [kernel, head_size, str(dtype), *lengths, rows, card(q_BHLD.device), versions()]
    key = " ".join(map(str, where))
    kept = _known().get(key)
    if kept is None:
        choice = fastest(default, candidates(kernel, head_size, dtype, capability(q_BHLD.device)), run)
        _known()[key] = kept = {"tiles": vars(choice)}
        _keep(key, kept)
    return Tiles(**kept["tiles"])


def fastest(default: Tiles, others: list[Tiles], run: Run) -> Tiles:
    """The one that takes the least time among those that compile and agree with `default`."""
    expected = run(default).clone()
    within = TOLERANCE * expected.abs().max().item()
    times = {default: seconds(lambda: run(default))}
    for tiles in others:
        try:
            difference = (run(tiles).float() - expected.float()).abs().max().item()
        except Exception as error:
            if "out of resource" not in str(error) and "PassManager" not in str(error):
                raise
            continue
        # NaN is not within anything.
        if difference <= within:
            times[tiles] = seconds(lambda tiles=tiles: run(tiles))  # type: ignore[misc]
    return min(times, key=lambda tiles: times[tiles])


def seconds(call: Callable[[], object]) -> float:
    """Median time of a call, on the GPU where there is one."""
    if torch.cuda.is_available():
        from triton.testing import do_bench

        return float(do_bench(call, quantiles=[0.5])) / 1000
    taken = []
    for _ in range(3):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return median(taken)


def card(device: torch.device) -> str:
    """Name of the GPU, without spaces."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "interpreter"
    return name.replace(" ", "-")


@functools.cache
def versions() -> str:
    """A choice holds for the compiler that it was made with."""
    import triton

    return f"triton-{triton.__version__}"


@functools.cache
def _known() -> dict[str, dict[str, Any]]:
    path = folder() / "attention_tiles.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}


def _keep(key: str, value: dict[str, Any]) -> None:
    """Add to the file, which other processes may have changed, and which is always whole."""
    path = folder() / "attention_tiles.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = json.loads(path.read_text()) if path.exists() else {}
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(json.dumps(stored | {key: value}, indent=1, sort_keys=True))
    part.replace(path)
