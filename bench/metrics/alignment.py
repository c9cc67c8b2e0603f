"""Whether conditional samples show what was asked for: shares of images, each with its 95 % interval.

Scenes of captioned shapes are read back from their pixels; other images are classified by the feature
network, where it has classes. What an image is not asked for is left out of a share, not counted as right.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from bench.cells import Cell
from bench.records import Record

if TYPE_CHECKING:
    from torch import Tensor

    from bench.workbench import Workbench

PREFIX = "judged."
CLASS_ACCURACY = "class accuracy"
CORRECT_SCENES = "correct scenes"


def wilson(successes: float, n: int) -> tuple[float, float]:
    """95 % score interval of a share (Wilson 1927): never outside 0…1, honest at both ends."""
    z = 1.96
    p, scale = successes / n, 1 + z * z / n
    centre = (p + z * z / (2 * n)) / scale
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / scale
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return (0.0 if successes == 0 else low), (1.0 if successes == n else high)


def judged(pixels: Tensor, prompts: str, indices: Sequence[int], bench: Workbench) -> dict[str, np.ndarray]:
    """1 and 0 for each image and question, NaN where the question was not asked; arrays by name.

    Image i is held against the label or caption of number indices[i], modulo the number of prompts.
    """
    if bench.data.captions is not None and bench.data.name == "shapes":
        from bench.metrics.scene_checker import judge

        captions = bench.data.captions.of(prompts)
        found = judge(pixels.cpu().numpy(), captions[np.asarray(indices) % len(captions)])
    elif bench.features.classes == bench.data.classes and prompts == "test":
        labels = bench.data.test_labels[np.asarray(indices) % len(bench.data.test_labels)]
        guesses = bench.features.classify(pixels).argmax(1).cpu().numpy()
        found = {CLASS_ACCURACY: (guesses == labels).astype(np.float64)}
    else:
        found = {}
    return {f"{PREFIX}{name}": np.asarray(values, np.float64) for name, values in found.items()}


def share_records(
    cell: Cell, arrays: Sequence[Mapping[str, np.ndarray]], bench: Workbench, **columns: float
) -> list[Record]:
    """A record for each question that was asked of some image."""
    prompts = cell.spec.get("prompts", "test")
    names = [key for key in (arrays[0] if arrays else ()) if key.startswith(PREFIX)]
    records = []
    # What all questions amount to comes first; files hold their arrays in alphabetical order.
    for name in sorted(names, key=lambda key: key != f"{PREFIX}{CORRECT_SCENES}"):
        values = np.concatenate([part[name] for part in arrays])
        values = values[~np.isnan(values)]
        if not len(values):
            continue
        low, high = wilson(float(values.sum()), len(values))
        question = name[len(PREFIX) :]
        suffix = "" if prompts == "test" else f" ({prompts})"
        record = bench.row(
            cell,
            metric=question + suffix,
            value=float(values.mean()),
            low=low,
            high=high,
            n=len(values),
            split=prompts,
            protocol=_protocol(question, prompts, bench),
            **columns,
        )
        records.append(record)
    return records


def _protocol(question: str, prompts: str, bench: Workbench) -> str:
    judge = "scenes read back from pixels"
    if question == CLASS_ACCURACY:
        judge = f"classified by {bench.features.identity}"
    return f"share of images, {judge}, conditions of {bench.data.name} {prompts}, Wilson interval"
