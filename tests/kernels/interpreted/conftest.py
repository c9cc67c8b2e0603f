"""bfloat16 for Triton's interpreter, which holds it as bits and does not compute with it.

Two places are put right: operands of `tl.dot` are widened to float32, and float32 becomes bfloat16 by
rounding to nearest, ties to even, as the hardware does. Other arithmetic on bfloat16 stays wrong there, so
kernels widen to float32 before it; `tests/kernels/interpreted/harness.py` checks the two.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import triton.language as tl
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

from kernels.launch import INTERPRETED

assert INTERPRETED, "these tests run with TRITON_INTERPRET=1: see tests/kernels/interpreter.py"


def widen(bits: np.ndarray) -> np.ndarray:
    """float32 of the same value as these bits of bfloat16."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def narrow(value: np.ndarray) -> np.ndarray:
    """Bits of the bfloat16 nearest to each float32, ties to even; NaN stays NaN."""
    value = np.ascontiguousarray(value, np.float32)
    bits = value.view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(value), np.uint16(0x7FC0), rounded)


plain_dot = InterpreterBuilder.create_dot
plain_cast = InterpreterBuilder.cast_impl
plain_fp_to_fp = InterpreterBuilder.create_fp_to_fp


def is_bfloat16(handle: TensorHandle) -> bool:
    return handle.dtype.scalar == tl.bfloat16


def dot(builder: InterpreterBuilder, a: TensorHandle, b: TensorHandle, *others: object) -> TensorHandle:
    wide = [TensorHandle(widen(x.data), tl.float32) if is_bfloat16(x) else x for x in (a, b)]
    return plain_dot(builder, *wide, *others)


def cast(builder: InterpreterBuilder, source: TensorHandle, target: tl.dtype) -> TensorHandle:
    if is_bfloat16(source) and target.scalar != tl.bfloat16:
        return plain_cast(builder, TensorHandle(widen(source.data), tl.float32), target)
    if target.scalar == tl.bfloat16 and source.dtype.scalar == tl.float32:
        return TensorHandle(narrow(source.data), tl.bfloat16)
    return plain_cast(builder, source, target)


def fp_to_fp(
    builder: InterpreterBuilder, source: TensorHandle, target: tl.dtype, rounding: object
) -> TensorHandle:
    if is_bfloat16(source) or (target.scalar == tl.bfloat16 and source.dtype.scalar == tl.float32):
        return cast(builder, source, target)
    return plain_fp_to_fp(builder, source, target, rounding)


InterpreterBuilder.create_dot = dot
InterpreterBuilder.cast_impl = cast
InterpreterBuilder.create_fp_to_fp = fp_to_fp


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
