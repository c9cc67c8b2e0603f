"""Attention: every backend computes what its plain twin defines, and none stands in for another.

Shapes: B batch, H heads, L queries, S keys, D size of a head.
"""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from kernels.attention import attention, chosen_backend, reference_attention, using_backend


def _qkv(L: int = 7, S: int = 7, dtype: torch.dtype = torch.float32, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    lengths = (L, S, S)
    return [
        torch.randn(2, 3, length, 8, generator=generator).to(dtype).requires_grad_() for length in lengths
    ]


def _gradients(output: torch.Tensor, inputs: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(9))
    return torch.autograd.grad((output * weights.to(output.dtype)).sum(), inputs)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("backend", ["auto", "math", "flash"])
def test_backend_equals_twin_forward_and_backward(backend: str, causal: bool) -> None:
    """A backend that masks, scales or differentiates otherwise than the definition."""
    qkv = _qkv()
    fast = attention(*qkv, causal=causal, backend=backend)
    slow = attention(*qkv, causal=causal, backend="reference")
    torch.testing.assert_close(fast, slow, atol=1e-6, rtol=1e-5)
    for ours, twin in zip(_gradients(fast, qkv), _gradients(slow, qkv), strict=True):
        torch.testing.assert_close(ours, twin, atol=1e-5, rtol=1e-4)


def test_twin_is_the_formula_by_hand() -> None:
    """The twin itself: one query, two keys, worked out with scalars."""
    q, k = torch.tensor([1.0, 2.0]), torch.tensor([[0.5, 0.0], [0.0, 1.0]])
    v = torch.tensor([[1.0, 0.0], [0.0, 10.0]])
    weight = 1 / (1 + math.exp((2.0 - 0.5) / math.sqrt(2)))
    output = reference_attention(q.view(1, 1, 1, 2), k.view(1, 1, 2, 2), v.view(1, 1, 2, 2))
    torch.testing.assert_close(output.flatten(), torch.tensor([weight, 10 * (1 - weight)]))


def test_causal_output_ignores_the_future() -> None:
    """Changing the last key and value must leave all earlier outputs as they are, to the bit."""
    q, k, v = (x.detach() for x in _qkv())
    before = attention(q, k, v, causal=True)
    k[:, :, -1], v[:, :, -1] = 100.0, -100.0
    after = attention(q, k, v, causal=True)
    assert torch.equal(before[:, :, :-1], after[:, :, :-1])
    assert not torch.allclose(before[:, :, -1], after[:, :, -1])


def test_fewer_queries_than_keys_equal_the_last_rows_of_causal() -> None:
    """Decoding with a cache: one query on all keys is the last row of the causal square."""
    q, k, v = _qkv()
    whole = attention(q, k, v, causal=True)
    torch.testing.assert_close(attention(q[:, :, -1:], k, v), whole[:, :, -1:])


def test_twin_keeps_softmax_wide_for_half_precision() -> None:
    """bfloat16 inputs: the twin's only error is that of its inputs and of rounding the output."""
    q, k, v = _qkv(dtype=torch.bfloat16)
    output = reference_attention(q, k, v)
    exact = F.scaled_dot_product_attention(q.double(), k.double(), v.double())
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.double(), exact, atol=2**-8, rtol=2**-8)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU has these backends")
@pytest.mark.parametrize("backend", ["efficient", "cudnn"])
def test_unavailable_backend_is_refused(backend: str) -> None:
    """A backend the device lacks must not be replaced in silence: timings would carry a wrong name."""
    with pytest.raises(ValueError, match=f"'{backend}' cannot run .* on cpu: use auto, math or reference"):
        attention(*_qkv(), backend=backend)


def test_unknown_backend_and_wrong_shapes_are_one_sentence() -> None:
    with pytest.raises(ValueError, match="'flsh' is unknown: use one of auto, reference, triton, math"):
        attention(*_qkv(), backend="flsh")
    with pytest.raises(ValueError, match="as many queries as keys: got 3 and 7"):
        attention(*_qkv(L=3), causal=True)
    q, k, v = _qkv()
    with pytest.raises(ValueError, match="needs q"):
        attention(q, k[:, :, :, :4], v)


def test_one_switch_for_every_network() -> None:
    """What a process chooses is what `auto` runs; a backend given by name stays itself."""
    assert chosen_backend("auto") == "auto"
    q, k, v = _qkv()
    with using_backend("cudnn"):
        assert chosen_backend("auto") == "cudnn"
        assert chosen_backend("math") == "math"
        if not torch.cuda.is_available():
            with pytest.raises(ValueError, match="'cudnn' cannot run"):
                attention(q, k, v)
        attention(q, k, v, backend="math")
    assert chosen_backend("auto") == "auto"
    with pytest.raises(ValueError, match="unknown"), using_backend("tritn"):
        pass
