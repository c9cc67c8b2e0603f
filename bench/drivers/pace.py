"""How fast the machine is at the moment: seconds of fixed work, taken beside every timing.

A shared machine is now and then slower for minutes, without any load that it can see itself. Two timings are
worth comparing only if this work took equally long beside both.
"""

from __future__ import annotations

import statistics
import time

SIDE, PRODUCTS, REPEATS = 192, 24, 5
"""Products of two square matrices and as many sigmoids, as networks have them: some milliseconds."""


def seconds_of_fixed_work(device: str) -> float:
    """Median of five goes, after one that warms up."""
    import torch

    matrix = torch.full((SIDE, SIDE), 1.0 / SIDE, device=device)
    taken = []
    with torch.inference_mode():
        for _ in range(1 + REPEATS):
            started = time.perf_counter()
            found = matrix
            for _ in range(PRODUCTS):
                found = torch.sigmoid(found @ matrix)
            if device == "cuda":
                torch.cuda.synchronize()
            taken.append(time.perf_counter() - started)
    return statistics.median(taken[1:])
