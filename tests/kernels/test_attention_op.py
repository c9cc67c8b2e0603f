"""Fused attention as an operator: its twin on the CPU, its place in autograd and in the compiler.

Shapes: B batch, H heads, L queries, S keys, D size of a head.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kernels.attention import attention, reference_attention
from kernels.attention_op import attention_backward, attention_forward

CASES = [(False, None), (True, None), (False, [3, 0]), (True, [5, 2])]


def draw(dtype: torch.dtype = torch.float32, L: int = 5, S: int = 5, *, grad: bool = False) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 3, length, 8) for length in (L, S, S)]
    return [torch.randn(s, generator=generator, dtype=dtype).requires_grad_(grad) for s in shapes]


def lengths_of(lengths: list[int] | None) -> Tensor | None:
    return None if lengths is None else torch.tensor(lengths)


@pytest.mark.parametrize(("causal", "lengths"), CASES)
def test_twin_is_the_reference(causal: bool, lengths: list[int] | None) -> None:
    """Output, and the gradients that the twin writes out by hand."""
    qkv, key_lengths = draw(torch.float64, grad=True), lengths_of(lengths)
    fused, _ = attention_forward(*qkv, key_lengths, causal)
    plain = reference_attention(*qkv, causal=causal, key_lengths_B=key_lengths)
    torch.testing.assert_close(fused, plain)
    weights = torch.randn(fused.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for ours, theirs in zip(
        torch.autograd.grad((fused * weights).sum(), qkv),
        torch.autograd.grad((plain * weights).sum(), qkv),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_log_sum_exp_is_in_units_of_log_2() -> None:
    q, k, v = draw(torch.float64)
    _, lse_BHL = attention_forward(q, k, v, None, False)
    expected = (q @ k.mT / math.sqrt(8)).exp().sum(-1).log2()
    torch.testing.assert_close(lse_BHL, expected)
    _, none = attention_forward(q, k, v, torch.tensor([0, 5]), False)
    assert (none[0] == -math.inf).all()


@pytest.mark.parametrize(("causal", "lengths"), CASES)
def test_gradients_are_differences(causal: bool, lengths: list[int] | None) -> None:
    qkv = draw(torch.float64, grad=True)
    assert torch.autograd.gradcheck(lambda *x: attention_forward(*x, lengths_of(lengths), causal)[0], qkv)


@pytest.mark.parametrize(("causal", "lengths"), [*CASES[:2], (False, [3, 1]), CASES[3]])
def test_registration_is_sound(causal: bool, lengths: list[int] | None) -> None:
    """PyTorch's own checks: schema, shapes and strides of fake tensors, autograd, the compiler."""
    qkv = draw(grad=True, S=7 if not causal else 5)
    torch.library.opcheck(attention_forward, (*qkv, lengths_of(lengths), causal))
    q, k, v = (x.detach() for x in qkv)
    o, lse = attention_forward(q, k, v, lengths_of(lengths), causal)
    torch.library.opcheck(attention_backward, (o, lse, q, k, v, o, lse, lengths_of(lengths), causal))


def test_compiles_as_one_graph_forwards_and_backwards() -> None:
    """No graph break, from strided slices of a packed projection too."""

    def loss(packed_BN3HD: Tensor) -> Tensor:
        q, k, v = packed_BN3HD.permute(2, 0, 3, 1, 4).unbind(0)
        return attention_forward(q, k, v, None, False)[0].square().sum()

    packed = torch.randn(2, 5, 3, 3, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    expected = torch.autograd.grad(loss(packed), packed)[0]
    torch.testing.assert_close(torch.autograd.grad(compiled(packed), packed)[0], expected)


def test_shapes_on_a_gpu_are_known_without_one() -> None:
    """What a compiler sees of the operator on CUDA tensors: shapes, dtypes, memory as (B, L, H, D)."""
    with torch._subclasses.FakeTensorMode():
        q = torch.empty(2, 3, 5, 72, device="cuda", dtype=torch.bfloat16)
        k = torch.empty(2, 3, 7, 72, device="cuda", dtype=torch.bfloat16)
        o, lse = attention_forward(q, k, k, None, False)
        dq, dk, _ = attention_backward(o, None, q, k, k, o, lse, None, False)
    assert (o.shape, o.dtype, o.device.type) == (q.shape, torch.bfloat16, "cuda")
    assert (lse.shape, lse.dtype) == ((2, 3, 5), torch.float32)
    assert o.transpose(1, 2).is_contiguous()
    assert dq.transpose(1, 2).is_contiguous()
    assert dk.shape == k.shape


@pytest.mark.parametrize("backend", ["auto", "math"])
@pytest.mark.parametrize("causal", [False, True])
def test_key_lengths_hide_what_comes_later(backend: str, causal: bool) -> None:
    """Every backend: each sample as if its later keys were not there, zeros where there are none."""
    q, k, v = draw()
    lengths = torch.tensor([3, 0])
    got = attention(q, k, v, causal=causal, key_lengths_B=lengths, backend=backend)
    torch.testing.assert_close(
        got, reference_attention(q, k, v, causal=causal, key_lengths_B=lengths), atol=1e-6, rtol=1e-5
    )
    assert not got[1].any()
    if not causal:
        alone = attention(q[:1], k[:1, :, :3], v[:1, :, :3])
        torch.testing.assert_close(got[:1], alone)


def test_gradients_are_finite_where_no_key_is_seen() -> None:
    qkv = draw(grad=True)
    for backend in ("reference", "math"):
        out = attention(*qkv, key_lengths_B=torch.tensor([0, 5]), backend=backend)
        gradients = torch.autograd.grad(out.sum(), qkv)
        assert all(g.isfinite().all() for g in gradients)
        assert not any(g[0].any() for g in gradients)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU runs it")
def test_triton_on_the_cpu_is_refused_with_the_remedy() -> None:
    """By name it is never replaced; a timing would carry a wrong name."""
    with pytest.raises(ValueError, match=r"needs an NVIDIA GPU .* tensors are on cpu: use auto or math"):
        attention(*draw(), backend="triton")


def test_bad_input_is_one_sentence() -> None:
    q, k, v = draw()
    with pytest.raises(ValueError, match=r"integers, one for each of the 2 samples: got torch.int64 of"):
        attention(q, k, v, key_lengths_B=torch.tensor([1, 2, 3]))
    with pytest.raises(ValueError, match=r"got torch.float32 of shape \(2,\)"):
        attention(q, k, v, key_lengths_B=torch.tensor([1.0, 2.0]))
    with pytest.raises(ValueError, match="of one dtype: got"):
        attention(q, k.double(), v)


@pytest.mark.parametrize("causal", [False, True])
def test_gradients_of_the_log_sum_exp(causal: bool) -> None:
    """Alone and beside the output, as a merge of attention over parts of the keys needs them."""
    qkv = draw(torch.float64, grad=True)
    assert torch.autograd.gradcheck(lambda *x: attention_forward(*x, None, causal), qkv)
    assert torch.autograd.gradcheck(lambda *x: attention_forward(*x, None, causal)[1], qkv)
