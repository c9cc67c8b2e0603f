"""Attention forwards: online softmax in powers of two, one tile of queries a program.

For a query i of one head, scores s_ij = q_i·k_j/√D come a tile of keys at a time. With the running maximum
m and sum l (Milakov and Gimelshein 2018, arXiv 1805.02867; Dao 2023, arXiv 2307.08691)

    m' = max(m, max_j s_ij)
    l' = l·2^(m − m') + Σ_j 2^(s_ij − m')
    a' = a·2^(m − m') + Σ_j 2^(s_ij − m')·v_j

and at the end o = a/l. Scores are in units of log 2, so that the exponential is the hardware's exp2, and the
log-sum-exp m + log2 l is kept for the gradient. A query that sees no key gives zeros and −∞.

Shapes: B batch, H heads, L queries, S keys, D = D1 + D2 size of a head. Tiles: BLOCK_L queries, BLOCK_S keys.
"""

import triton
import triton.language as tl

from kernels.jit.tiles import inner_products, load_tile, store_tile


@triton.jit
def keep_seen(s_LS, l_index, s_index, keys, CAUSAL: tl.constexpr):
    """Scores, −∞ where the key is none of the sample's or, where CAUSAL, comes after the query."""
    seen = (s_index < keys)[None, :]
    if CAUSAL:
        seen = seen & (l_index[:, None] >= s_index[None, :])
    return tl.where(seen, s_LS, float("-inf"))


@triton.jit
def accumulate(a1, a2, m_L, l_L, s_LS, v1, v2, scale_log2, D2: tl.constexpr, PRECISION: tl.constexpr):
    """The sums and the running maximum after one more tile of keys."""
    m_new = tl.maximum(m_L, tl.max(s_LS, 1) * scale_log2)
    p_LS = tl.math.exp2(tl.fma(s_LS, scale_log2, -m_new[:, None]))
    shrink_L = tl.math.exp2(m_L - m_new)
    l_L = tl.fma(l_L, shrink_L, tl.sum(p_LS, 1))
    p_LS = p_LS.to(v1.dtype)
    a1 = tl.dot(p_LS, v1, a1 * shrink_L[:, None], input_precision=PRECISION)
    if D2 > 0:
        a2 = tl.dot(p_LS, v2, a2 * shrink_L[:, None], input_precision=PRECISION)
    return a1, a2, m_new, l_L


@triton.jit
def attend(
    a1, a2, m_L, l_L, q1, q2, k_ptr, v_ptr, k_row, v_row, begin, end, keys, l_index, scale_log2,
    D: tl.constexpr, D1: tl.constexpr, D2: tl.constexpr, BLOCK_S: tl.constexpr,
    CAUSAL: tl.constexpr, MASKED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Go through the keys from `begin` to `end`, in tiles; whole tiles that all are seen need no mask."""
    for s_start in tl.range(begin, end, BLOCK_S):
        k1, k2 = load_tile(
            k_ptr + tl.cast(s_start, tl.int64) * k_row, k_row, keys - s_start, BLOCK_S, D, D1, D2, MASKED
        )
        s_LS = inner_products(q1, q2, k1, k2, D2, PRECISION)
        if MASKED:
            s_LS = keep_seen(s_LS, l_index, s_start + tl.arange(0, BLOCK_S), keys, CAUSAL)
        v1, v2 = load_tile(
            v_ptr + tl.cast(s_start, tl.int64) * v_row, v_row, keys - s_start, BLOCK_S, D, D1, D2, MASKED
        )
        a1, a2, m_L, l_L = accumulate(a1, a2, m_L, l_L, s_LS, v1, v2, scale_log2, D2, PRECISION)
    return a1, a2, m_L, l_L


@triton.jit
def forward_kernel(
    q_ptr, k_ptr, v_ptr, o_ptr, lse_ptr, lengths_ptr, scale_log2,
    q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row, o_batch, o_head, o_row,
    H, L, S,
    D: tl.constexpr, D1: tl.constexpr, D2: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_S: tl.constexpr,
    CAUSAL: tl.constexpr, LENGTHS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """o and log-sum-exp of one tile of queries; program (tile, batch·H + head)."""
    l_start = tl.program_id(0) * BLOCK_L
    batch = (tl.program_id(1) // H).to(tl.int64)
    head = (tl.program_id(1) % H).to(tl.int64)
    keys = S
    if LENGTHS:
        keys = tl.load(lengths_ptr + batch).to(tl.int32)
    l_index = l_start + tl.arange(0, BLOCK_L)
    q_ptr += batch * q_batch + head * q_head + l_start.to(tl.int64) * q_row
    q1, q2 = load_tile(q_ptr, q_row, L - l_start, BLOCK_L, D, D1, D2, True)

    a1 = tl.zeros([BLOCK_L, D1], tl.float32)
    a2 = a1
    if D2 > 0:
        a2 = tl.zeros([BLOCK_L, D2], tl.float32)
    m_L = tl.full([BLOCK_L], float("-inf"), tl.float32)
    l_L = tl.zeros([BLOCK_L], tl.float32)
    # Whole tiles that every query of this tile sees, then those that need a mask.
    unmasked, end = keys // BLOCK_S * BLOCK_S, keys
    if CAUSAL:
        unmasked = tl.minimum(l_start, unmasked) // BLOCK_S * BLOCK_S
        end = tl.minimum(l_start + BLOCK_L, keys)
    k_ptr += batch * k_batch + head * k_head
    v_ptr += batch * v_batch + head * v_head
    a1, a2, m_L, l_L = attend(
        a1, a2, m_L, l_L, q1, q2, k_ptr, v_ptr, k_row, v_row, 0, unmasked, keys, l_index, scale_log2,
        D, D1, D2, BLOCK_S, CAUSAL, False, PRECISION,
    )  # fmt: skip
    a1, a2, m_L, l_L = attend(
        a1, a2, m_L, l_L, q1, q2, k_ptr, v_ptr, k_row, v_row, unmasked, end, keys, l_index, scale_log2,
        D, D1, D2, BLOCK_S, CAUSAL, True, PRECISION,
    )  # fmt: skip

    o_ptr += batch * o_batch + head * o_head + l_start.to(tl.int64) * o_row
    inverse_L = tl.where(l_L > 0, 1.0 / l_L, 0.0)
    store_tile(
        a1 * inverse_L[:, None], a2 * inverse_L[:, None], o_ptr, o_row, L - l_start, BLOCK_L, D, D1, D2
    )
    lse_ptr += tl.program_id(1).to(tl.int64) * L
    tl.store(lse_ptr + l_index, m_L + tl.math.log2(l_L), mask=l_index < L)
