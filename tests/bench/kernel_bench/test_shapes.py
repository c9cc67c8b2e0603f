"""Protects what is measured: the published sizes, what each model has, and how work is counted."""

from __future__ import annotations

import pytest

from bench.errors import UsageError
from bench.kernel_bench import OPERATIONS
from bench.kernel_bench.shapes import MODELS, SHAPES, SMOKE, SWEEP, find, pairs
from bench.kernel_bench.work import Work, work
from models.networks.dit import preset


def test_the_shape_of_dit_is_that_of_our_network() -> None:
    size, shape = preset("XL/2"), SHAPES["dit-xl-2-256"]
    assert (shape.heads, shape.width) == (size["heads"], size["width"])
    assert shape.image == (256 // 8 // size["patch"]) ** 2
    assert SHAPES["dit-xl-2-512"].image == (512 // 8 // 2) ** 2


@pytest.mark.parametrize(
    ("name", "width", "tokens"),
    [
        ("sd3-medium-1024", 1536, 4250),
        ("sd3.5-large-1024", 2432, 4429),
        ("flux-512", 3072, 1536),
        ("flux-1024", 3072, 4608),
        ("qwen-image-1328", 3072, 83**2 + 256),
        ("hunyuan-dit-1024", 1408, 4096),
    ],
)
def test_published_widths_and_tokens(name: str, width: int, tokens: int) -> None:
    assert (SHAPES[name].width, SHAPES[name].tokens) == (width, tokens)


def test_names_and_sets_are_found_once_and_in_order() -> None:
    assert [shape.name for shape in find(["flux-512", "smoke", "flux-512"])] == [
        "flux-512",
        *(shape.name for shape in SMOKE),
    ]
    with pytest.raises(UsageError, match="Did you mean 'flux-512'"):
        find(["flux-521"])


def test_a_model_has_only_its_own_operations() -> None:
    found = pairs(MODELS, OPERATIONS)
    assert ("joint-attention", SHAPES["sd3-medium-1024"]) in found
    assert ("rms-norm", SHAPES["sd3-medium-1024"]) not in found
    assert ("joint-attention", SHAPES["dit-xl-2-256"]) not in found
    assert {operation for operation, _ in pairs(SWEEP, OPERATIONS)} == {"attention"}


def test_the_sweep_keeps_the_tokens_of_a_batch() -> None:
    assert {shape.batch * shape.image for shape in SWEEP} == {16384}


def test_attention_counts_real_columns_and_tokens() -> None:
    """FLUX at 1024²: 261 GFLOP, as 4·24·128·4608²."""
    done = work("attention", SHAPES["flux-1024"], "forward", "bfloat16")
    assert done.flops == 4 * 24 * 128 * 4608**2 == pytest.approx(261e9, rel=2e-3)
    assert done.exps == 24 * 4608**2
    assert done.bytes == 4 * 4608 * 3072 * 2 + 4 * 24 * 4608
    dit = work("attention", SHAPES["dit-xl-2-512"], "forward", "bfloat16")
    assert dit.flops == 4 * 8 * 16 * 1024**2 * 72


def test_backward_is_two_and_a_half_times_forward_and_both_is_the_sum() -> None:
    shape = SHAPES["sd3-medium-1024"]
    forward, backward, both = (
        work("attention", shape, way, "float16") for way in ("forward", "backward", "both")
    )
    assert backward.flops == 2.5 * forward.flops
    assert both == Work(
        forward.flops + backward.flops, forward.bytes + backward.bytes, forward.exps + backward.exps
    )


@pytest.mark.parametrize("operation", ["modulate", "gated-residual", "rms-norm"])
def test_elementwise_work_is_traffic_alone(operation: str) -> None:
    shape = SHAPES["flux-1024"]
    half, whole = (work(operation, shape, "forward", dtype) for dtype in ("bfloat16", "float32"))
    assert half.flops == half.exps == 0
    assert whole.bytes == 2 * half.bytes > 2 * 2 * shape.image * shape.width * 2
