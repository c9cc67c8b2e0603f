"""The interpreter as these tests patch it agrees with PyTorch on bfloat16."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def product_kernel(a_ptr, b_ptr, wide_ptr, narrow_ptr, N: tl.constexpr):
    at = tl.arange(0, N)[:, None] * N + tl.arange(0, N)[None, :]
    product = tl.dot(tl.load(a_ptr + at), tl.load(b_ptr + at))
    tl.store(wide_ptr + at, product)
    tl.store(narrow_ptr + at, product.to(tl.bfloat16))


def test_products_and_rounding_of_bfloat16_are_those_of_pytorch(generator: torch.Generator) -> None:
    a, b = (torch.randn(64, 64, generator=generator).bfloat16() for _ in range(2))
    wide, narrow = torch.empty(64, 64), torch.empty(64, 64, dtype=torch.bfloat16)
    product_kernel[(1,)](a, b, wide, narrow, N=64)
    torch.testing.assert_close(wide, a.float() @ b.float(), rtol=1e-5, atol=1e-5)
    assert torch.equal(narrow, wide.bfloat16())
