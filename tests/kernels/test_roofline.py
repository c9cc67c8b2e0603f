"""The least time of work on a card, against figures worked out by hand."""

from __future__ import annotations

import pytest

from bench.kernel_bench.shapes import SHAPES, Shape
from bench.kernel_bench.work import work
from kernels.roofline import CARDS, roof


@pytest.mark.parametrize(
    ("shape", "bound", "microseconds"),
    [
        (SHAPES["dit-xl-2-256"], "bandwidth", 17.7),  # short: memory
        (SHAPES["flux-1024"], "matrix", 330),
        (Shape("small heads", 2, 24, 16, 4250), "exponentials", 234),  # more exponentials a product
    ],
)
def test_what_binds_attention(shape: Shape, bound: str, microseconds: float) -> None:
    of = work("attention", shape, "forward", "bfloat16")
    found = roof(of.flops, of.bytes, of.exps, CARDS["h200"])
    assert found.bound_by == bound
    assert found.seconds * 1e6 == pytest.approx(microseconds, rel=0.02)


def test_what_computes_nothing_is_bound_by_memory() -> None:
    of = work("modulate", SHAPES["dit-xl-2-512"], "forward", "bfloat16")
    found = roof(of.flops, of.bytes, of.exps, CARDS["a100"])
    assert found.bound_by == "bandwidth"
    assert found.seconds == pytest.approx(of.bytes / 2.039e12)
