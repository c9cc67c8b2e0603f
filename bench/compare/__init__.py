"""Two runs, cell by cell: better, worse, the same within noise, or not comparable and why.

    from bench.compare import compare
    found = compare("results/runs/digits-0123", "elsewhere/runs/digits-0123")
    found.counts, found.frame()

What is compared is the difference, from what both runs share (see `statistics`): the same test images, the
same seeds. Nothing here needs torch.
"""

from __future__ import annotations

from bench.compare.comparison import Comparison, Row, compare

__all__ = ["Comparison", "Row", "compare"]
