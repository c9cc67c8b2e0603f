"""Gradients of attention in three kernels, none of which adds atomically: the same bits every time.

With p_ij = 2^(s_ij − lse_i) made again from the kept log-sum-exp, and δ_i = Σ_d do_id·o_id
(Dao et al. 2022, arXiv 2205.14135, appendix B.2):

    dv_j = Σ_i p_ij·do_i,  ds_ij = p_ij·(do_i·v_j − δ_i),  dq_i = Σ_j ds_ij·k_j/√D,  dk_j = Σ_i ds_ij·q_i/√D

One kernel makes δ, one owns a tile of keys and makes dk and dv, one owns a tile of queries and makes dq.

Shapes: B batch, H heads, L queries, S keys, D = D1 + D2 size of a head. Tiles: BLOCK_L queries, BLOCK_S keys.
"""

import triton
import triton.language as tl

from kernels.jit.tiles import inner_products, load_tile, store_tile


@triton.jit
def delta_kernel(
    o_ptr, do_ptr, delta_ptr, o_batch, o_head, o_row, do_batch, do_head, do_row, H, L,
    D: tl.constexpr, D1: tl.constexpr, D2: tl.constexpr, BLOCK_L: tl.constexpr,
):  # fmt: skip
    """δ_i = Σ_d do_id·o_id of one tile of queries; program (tile, batch·H + head)."""
    l_start = tl.program_id(0) * BLOCK_L
    batch = (tl.program_id(1) // H).to(tl.int64)
    head = (tl.program_id(1) % H).to(tl.int64)
    o_ptr += batch * o_batch + head * o_head + l_start.to(tl.int64) * o_row
    do_ptr += batch * do_batch + head * do_head + l_start.to(tl.int64) * do_row
    o1, o2 = load_tile(o_ptr, o_row, L - l_start, BLOCK_L, D, D1, D2, True)
    do1, do2 = load_tile(do_ptr, do_row, L - l_start, BLOCK_L, D, D1, D2, True)
    delta_L = tl.sum(o1.to(tl.float32) * do1.to(tl.float32), 1)
    if D2 > 0:
        delta_L += tl.sum(o2.to(tl.float32) * do2.to(tl.float32), 1)
    l_index = l_start + tl.arange(0, BLOCK_L)
    tl.store(delta_ptr + tl.program_id(1).to(tl.int64) * L + l_index, delta_L, mask=l_index < L)


@triton.jit
def gather_for_keys(
    dk1, dk2, dv1, dv2, k1, k2, v1, v2, q_ptr, do_ptr, lse_ptr, delta_ptr, q_row, do_row,
    begin, end, L, s_index, scale_log2,
    D: tl.constexpr, D1: tl.constexpr, D2: tl.constexpr, BLOCK_L: tl.constexpr,
    CAUSAL: tl.constexpr, MASKED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dk and dv after the queries from `begin` to `end`, in tiles."""
    for l_start in tl.range(begin, end, BLOCK_L):
        l_index = l_start + tl.arange(0, BLOCK_L)
        q1, q2 = load_tile(
            q_ptr + tl.cast(l_start, tl.int64) * q_row, q_row, L - l_start, BLOCK_L, D, D1, D2, MASKED
        )
        do1, do2 = load_tile(
            do_ptr + tl.cast(l_start, tl.int64) * do_row, do_row, L - l_start, BLOCK_L, D, D1, D2, MASKED
        )
        if MASKED:
            # Queries past the end get probability 2^(−∞).
            lse_L = tl.load(lse_ptr + l_index, mask=l_index < L, other=float("inf"))
            delta_L = tl.load(delta_ptr + l_index, mask=l_index < L, other=0.0)
        else:
            lse_L = tl.load(lse_ptr + l_index)
            delta_L = tl.load(delta_ptr + l_index)
        s_SL = inner_products(k1, k2, q1, q2, D2, PRECISION)
        p_SL = tl.math.exp2(tl.fma(s_SL, scale_log2, -lse_L[None, :]))
        if MASKED and CAUSAL:
            p_SL = tl.where(l_index[None, :] >= s_index[:, None], p_SL, 0.0)
        narrow_SL = p_SL.to(do1.dtype)
        dv1 = tl.dot(narrow_SL, do1, dv1, input_precision=PRECISION)
        if D2 > 0:
            dv2 = tl.dot(narrow_SL, do2, dv2, input_precision=PRECISION)
        dp_SL = inner_products(v1, v2, do1, do2, D2, PRECISION)
        ds_SL = (p_SL * (dp_SL - delta_L[None, :])).to(q1.dtype)
        dk1 = tl.dot(ds_SL, q1, dk1, input_precision=PRECISION)
        if D2 > 0:
            dk2 = tl.dot(ds_SL, q2, dk2, input_precision=PRECISION)
    return dk1, dk2, dv1, dv2


@triton.jit
def key_value_kernel(
    q_ptr, k_ptr, v_ptr, do_ptr, lse_ptr, delta_ptr, dk_ptr, dv_ptr, lengths_ptr, scale_log2, scale,
    q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row, do_batch, do_head, do_row,
    dk_batch, dk_head, dk_row, dv_batch, dv_head, dv_row,
    H, L, S,
    D: tl.constexpr, D1: tl.constexpr, D2: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_S: tl.constexpr,
    CAUSAL: tl.constexpr, LENGTHS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dk and dv of one tile of keys; program (tile, batch·H + head)."""
    s_start = tl.program_id(0) * BLOCK_S
    batch = (tl.program_id(1) // H).to(tl.int64)
    head = (tl.program_id(1) % H).to(tl.int64)
    s_index = s_start + tl.arange(0, BLOCK_S)
    k_ptr += batch * k_batch + head * k_head + s_start.to(tl.int64) * k_row
    v_ptr += batch * v_batch + head * v_head + s_start.to(tl.int64) * v_row
    k1, k2 = load_tile(k_ptr, k_row, S - s_start, BLOCK_S, D, D1, D2, True)
    v1, v2 = load_tile(v_ptr, v_row, S - s_start, BLOCK_S, D, D1, D2, True)

    dk1 = tl.zeros([BLOCK_S, D1], tl.float32)
    dv1 = tl.zeros([BLOCK_S, D1], tl.float32)
    dk2, dv2 = dk1, dv1
    if D2 > 0:
        dk2 = tl.zeros([BLOCK_S, D2], tl.float32)
        dv2 = tl.zeros([BLOCK_S, D2], tl.float32)
    # First the queries on the diagonal, then whole tiles that see every key, then the ragged rest.
    first, whole = 0, L // BLOCK_L * BLOCK_L
    diagonal = first
    if CAUSAL:
        first = s_start // BLOCK_L * BLOCK_L
        diagonal = tl.minimum(tl.cdiv(s_start + BLOCK_S, BLOCK_L) * BLOCK_L, whole)
        diagonal = tl.maximum(diagonal, first)
    q_ptr += batch * q_batch + head * q_head
    do_ptr += batch * do_batch + head * do_head
    lse_ptr += tl.program_id(1).to(tl.int64) * L
    delta_ptr += tl.program_id(1).to(tl.int64) * L
    end = L
    if LENGTHS:
        # Keys that no query sees have no gradient.
        keys = tl.load(lengths_ptr + batch).to(tl.int32)
        end = tl.where(s_start < keys, L, 0)
        whole = tl.minimum(whole, end)
        diagonal = tl.minimum(diagonal, end)
    if CAUSAL:
        dk1, dk2, dv1, dv2 = gather_for_keys(
            dk1, dk2, dv1, dv2, k1, k2, v1, v2, q_ptr, do_ptr, lse_ptr, delta_ptr, q_row, do_row,
            first, diagonal, L, s_index, scale_log2, D, D1, D2, BLOCK_L, CAUSAL, True, PRECISION,
        )  # fmt: skip
    dk1, dk2, dv1, dv2 = gather_for_keys(
        dk1, dk2, dv1, dv2, k1, k2, v1, v2, q_ptr, do_ptr, lse_ptr, delta_ptr, q_row, do_row,
        diagonal, whole, L, s_index, scale_log2, D, D1, D2, BLOCK_L, CAUSAL, False, PRECISION,
    )  # fmt: skip
    dk1, dk2, dv1, dv2 = gather_for_keys(
        dk1, dk2, dv1, dv2, k1, k2, v1, v2, q_ptr, do_ptr, lse_ptr, delta_ptr, q_row, do_row,
        tl.maximum(whole, diagonal), end, L, s_index, scale_log2, D, D1, D2, BLOCK_L, CAUSAL, True, PRECISION,
    )  # fmt: skip

    if LENGTHS:
        seen_S1 = (s_index < keys)[:, None]
        dk1, dv1 = tl.where(seen_S1, dk1, 0.0), tl.where(seen_S1, dv1, 0.0)
        dk2, dv2 = tl.where(seen_S1, dk2, 0.0), tl.where(seen_S1, dv2, 0.0)
    dk_ptr += batch * dk_batch + head * dk_head + s_start.to(tl.int64) * dk_row
    dv_ptr += batch * dv_batch + head * dv_head + s_start.to(tl.int64) * dv_row
    store_tile(dk1 * scale, dk2 * scale, dk_ptr, dk_row, S - s_start, BLOCK_S, D, D1, D2)
    store_tile(dv1, dv2, dv_ptr, dv_row, S - s_start, BLOCK_S, D, D1, D2)


@triton.jit
def gather_for_queries(
    dq1, dq2, q1, q2, do1, do2, lse_L, delta_L, k_ptr, v_ptr, k_row, v_row,
    begin, end, keys, l_index, scale_log2,
    D: tl.constexpr, D1: tl.constexpr, D2: tl.constexpr, BLOCK_S: tl.constexpr,
    CAUSAL: tl.constexpr, MASKED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dq after the keys from `begin` to `end`, in tiles."""
    for s_start in tl.range(begin, end, BLOCK_S):
        k1, k2 = load_tile(
            k_ptr + tl.cast(s_start, tl.int64) * k_row, k_row, keys - s_start, BLOCK_S, D, D1, D2, MASKED
        )
        v1, v2 = load_tile(
            v_ptr + tl.cast(s_start, tl.int64) * v_row, v_row, keys - s_start, BLOCK_S, D, D1, D2, MASKED
        )
        s_LS = inner_products(q1, q2, k1, k2, D2, PRECISION)
        p_LS = tl.math.exp2(tl.fma(s_LS, scale_log2, -lse_L[:, None]))
        if MASKED:
            s_index = s_start + tl.arange(0, BLOCK_S)
            seen = (s_index < keys)[None, :]
            if CAUSAL:
                seen = seen & (l_index[:, None] >= s_index[None, :])
            p_LS = tl.where(seen, p_LS, 0.0)
        dp_LS = inner_products(do1, do2, v1, v2, D2, PRECISION)
        ds_LS = (p_LS * (dp_LS - delta_L[:, None])).to(k1.dtype)
        dq1 = tl.dot(ds_LS, k1, dq1, input_precision=PRECISION)
        if D2 > 0:
            dq2 = tl.dot(ds_LS, k2, dq2, input_precision=PRECISION)
    return dq1, dq2


@triton.jit
def query_kernel(
    q_ptr, k_ptr, v_ptr, do_ptr, lse_ptr, delta_ptr, dq_ptr, lengths_ptr, scale_log2, scale,
    q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row, do_batch, do_head, do_row,
    dq_batch, dq_head, dq_row,
    H, L, S,
    D: tl.constexpr, D1: tl.constexpr, D2: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_S: tl.constexpr,
    CAUSAL: tl.constexpr, LENGTHS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dq of one tile of queries; program (tile, batch·H + head)."""
    l_start = tl.program_id(0) * BLOCK_L
    batch = (tl.program_id(1) // H).to(tl.int64)
    head = (tl.program_id(1) % H).to(tl.int64)
    l_index = l_start + tl.arange(0, BLOCK_L)
    q_ptr += batch * q_batch + head * q_head + l_start.to(tl.int64) * q_row
    do_ptr += batch * do_batch + head * do_head + l_start.to(tl.int64) * do_row
    q1, q2 = load_tile(q_ptr, q_row, L - l_start, BLOCK_L, D, D1, D2, True)
    do1, do2 = load_tile(do_ptr, do_row, L - l_start, BLOCK_L, D, D1, D2, True)
    at = tl.program_id(1).to(tl.int64) * L + l_index
    lse_L = tl.load(lse_ptr + at, mask=l_index < L, other=0.0)
    delta_L = tl.load(delta_ptr + at, mask=l_index < L, other=0.0)
    keys = S
    if LENGTHS:
        keys = tl.load(lengths_ptr + batch).to(tl.int32)

    dq1 = tl.zeros([BLOCK_L, D1], tl.float32)
    dq2 = dq1
    if D2 > 0:
        dq2 = tl.zeros([BLOCK_L, D2], tl.float32)
    unmasked, end = keys // BLOCK_S * BLOCK_S, keys
    if CAUSAL:
        unmasked = tl.minimum(l_start, unmasked) // BLOCK_S * BLOCK_S
        end = tl.minimum(l_start + BLOCK_L, keys)
    k_ptr += batch * k_batch + head * k_head
    v_ptr += batch * v_batch + head * v_head
    dq1, dq2 = gather_for_queries(
        dq1, dq2, q1, q2, do1, do2, lse_L, delta_L, k_ptr, v_ptr, k_row, v_row,
        0, unmasked, keys, l_index, scale_log2, D, D1, D2, BLOCK_S, CAUSAL, False, PRECISION,
    )  # fmt: skip
    dq1, dq2 = gather_for_queries(
        dq1, dq2, q1, q2, do1, do2, lse_L, delta_L, k_ptr, v_ptr, k_row, v_row,
        unmasked, end, keys, l_index, scale_log2, D, D1, D2, BLOCK_S, CAUSAL, True, PRECISION,
    )  # fmt: skip
    dq_ptr += batch * dq_batch + head * dq_head + l_start.to(tl.int64) * dq_row
    store_tile(dq1 * scale, dq2 * scale, dq_ptr, dq_row, L - l_start, BLOCK_L, D, D1, D2)
