"""Fused operations beside every other way to compute the same, in one run: time, error, memory, kernels.

    for row in run.rows(plan): ...

A case is one operation on one shape, in one direction and dtype; a provider is one way to compute it. The
providers of a case take turns, each is pinned, and the kernels that really ran are checked against what it
claims. Nothing here imports torch before a case is measured.
"""

from __future__ import annotations

OPERATIONS = ("attention", "joint-attention", "modulate", "gated-residual", "rms-norm")
GROUPS = {"adaln": ("modulate", "gated-residual")}
"""Names that stand for several operations."""
DIRECTIONS = ("forward", "backward", "both")
DTYPES = ("bfloat16", "float16", "float32")
