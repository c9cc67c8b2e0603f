"""Tiles of a head, whose D columns are taken as D1 + D2 with each a power of two.

72 columns are 64 + 16, of which the last 8 are zero, where padding to 128 would compute 1.6 times as much.
A tensor core takes 16 columns at least. Where D2 is 0 the second part is not there, and the first is passed
in its place, unused.

Shapes: tiles are (rows, D1) and (rows, D2).
"""

import triton
import triton.language as tl


def parts(head_size: int) -> tuple[int, int]:
    """(D1, D2) for heads of that many columns: the greatest power of two within, and one for the rest."""
    first = max(16, 1 << (head_size.bit_length() - 1))
    rest = head_size - first
    return first, max(16, triton.next_power_of_2(rest)) if rest > 0 else 0


@triton.jit
def load_part(
    base_ptr,
    row_stride,
    rows_left,
    ROWS: tl.constexpr,
    FIRST: tl.constexpr,
    COLUMNS: tl.constexpr,
    D: tl.constexpr,
    RAGGED: tl.constexpr,
):
    """(ROWS, COLUMNS) from column FIRST on; zero past column D and, where RAGGED, past the rows left."""
    rows = tl.arange(0, ROWS)[:, None]
    columns = FIRST + tl.arange(0, COLUMNS)[None, :]
    ptrs = base_ptr + rows * row_stride + columns
    if RAGGED:
        if FIRST + COLUMNS <= D:
            tile = tl.load(ptrs, mask=rows < rows_left, other=0.0)
        else:
            tile = tl.load(ptrs, mask=(rows < rows_left) & (columns < D), other=0.0)
    else:
        if FIRST + COLUMNS <= D:
            tile = tl.load(ptrs)
        else:
            tile = tl.load(ptrs, mask=columns < D, other=0.0)
    return tile


@triton.jit
def load_tile(
    base_ptr,
    row_stride,
    rows_left,
    ROWS: tl.constexpr,
    D: tl.constexpr,
    D1: tl.constexpr,
    D2: tl.constexpr,
    RAGGED: tl.constexpr,
):
    """Both parts of a tile of ROWS rows."""
    first = load_part(base_ptr, row_stride, rows_left, ROWS, 0, D1, D, RAGGED)
    if D2 > 0:
        second = load_part(base_ptr, row_stride, rows_left, ROWS, D1, D2, D, RAGGED)
    else:
        second = first
    return first, second


@triton.jit
def store_tile(
    first,
    second,
    base_ptr,
    row_stride,
    rows_left,
    ROWS: tl.constexpr,
    D: tl.constexpr,
    D1: tl.constexpr,
    D2: tl.constexpr,
):
    """Write both parts, rows and columns that are there, in the dtype of the pointer."""
    rows = tl.arange(0, ROWS)[:, None]
    columns = tl.arange(0, D1)[None, :]
    inside = (rows < rows_left) & (columns < D)
    tl.store(base_ptr + rows * row_stride + columns, first.to(base_ptr.dtype.element_ty), mask=inside)
    if D2 > 0:
        columns = D1 + tl.arange(0, D2)[None, :]
        inside = (rows < rows_left) & (columns < D)
        tl.store(base_ptr + rows * row_stride + columns, second.to(base_ptr.dtype.element_ty), mask=inside)


@triton.jit
def inner_products(a1, a2, b1, b2, D2: tl.constexpr, PRECISION: tl.constexpr):
    """a·bᵀ over both parts, float32: (rows of a, rows of b)."""
    product = tl.dot(a1, tl.trans(b1), input_precision=PRECISION)
    if D2 > 0:
        product = tl.dot(a2, tl.trans(b2), product, input_precision=PRECISION)
    return product
