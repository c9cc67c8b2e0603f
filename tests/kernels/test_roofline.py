"""The least time of attention, against figures worked out by hand."""

from __future__ import annotations

import pytest

from kernels.roofline import CARDS, Attention, roof


def test_work_is_the_models_and_not_the_padded() -> None:
    """DiT-XL/2 at 256²: 16 heads of 72, 256 tokens, batch 32."""
    call = Attention(32, 16, 256, 256, 72)
    assert call.operations("forward") == 4 * 32 * 16 * 256 * 256 * 72
    assert call.operations("both") == 3.5 * call.operations("forward")
    assert call.bytes("forward") == 4 * 32 * 16 * 256 * 72 * 2 + 4 * 32 * 16 * 256
    assert call.exponentials("forward") == 32 * 16 * 256 * 256


@pytest.mark.parametrize(
    ("call", "bound", "microseconds"),
    [
        (Attention(32, 16, 256, 256, 72), "bandwidth", 17.7),  # short: memory
        (Attention(1, 24, 4608, 4608, 128), "matrix", 330),  # FLUX.1 at 1024²
        (Attention(2, 24, 4250, 4250, 16), "exponentials", 234),  # small heads: more exponentials a product
    ],
)
def test_what_binds(call: Attention, bound: str, microseconds: float) -> None:
    found = roof(call, CARDS["h200"])
    assert found.bound_by == bound
    assert found.seconds * 1e6 == pytest.approx(microseconds, rel=0.02)
