"""Attention forwards on Hopper: tiles by the tensor memory accelerator, programs that stay.

The sums are those of `kernels.jit.attention_forward`; see there. What differs is how tiles arrive: one
descriptor of keys and one of values tell the copy engine shape (B, H, S, D) and strides, so that ragged ends
and columns past D are filled with zeros by the hardware, and no thread computes an address. A program takes
one tile of queries after the other, as many programs as the card has processors. Where SPECIALISED, some
warps only load and others only compute; queries have a descriptor of each head, of two dimensions, since the
compiler cannot divide one of four between the warps that compute.

Shapes: B batch, H heads, L queries, S keys, D = D1 + D2 size of a head. Tiles: BLOCK_L queries, BLOCK_S keys.
"""

import triton
import triton.language as tl

from kernels.jit.attention_forward import accumulate
from kernels.jit.tiles import inner_products, store_tile


@triton.jit
def hopper_kernel(
    q_ptr, k_ptr, v_ptr, o_ptr, lse_ptr, scale_log2,
    q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row, o_batch, o_head, o_row,
    B, H, L, S,
    D: tl.constexpr, D1: tl.constexpr, D2: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_S: tl.constexpr,
    EVEN: tl.constexpr, SPECIALISED: tl.constexpr,
):  # fmt: skip
    """o and log-sum-exp of tiles of queries; program p takes tiles p, p + programs, …"""
    k1_tiles = tl.make_tensor_descriptor(
        k_ptr, [B, H, S, D], [k_batch, k_head, k_row, 1], [1, 1, BLOCK_S, D1]
    )
    v1_tiles = tl.make_tensor_descriptor(
        v_ptr, [B, H, S, D], [v_batch, v_head, v_row, 1], [1, 1, BLOCK_S, D1]
    )
    if D2 > 0:
        k2_tiles = tl.make_tensor_descriptor(
            k_ptr, [B, H, S, D], [k_batch, k_head, k_row, 1], [1, 1, BLOCK_S, D2]
        )
        v2_tiles = tl.make_tensor_descriptor(
            v_ptr, [B, H, S, D], [v_batch, v_head, v_row, 1], [1, 1, BLOCK_S, D2]
        )
    tiles_a_head = tl.cdiv(L, BLOCK_L)
    for tile in tl.range(tl.program_id(0), tiles_a_head * B * H, tl.num_programs(0)):
        l_start = tile % tiles_a_head * BLOCK_L
        batch, head = tile // tiles_a_head // H, tile // tiles_a_head % H
        q_at = q_ptr + batch.to(tl.int64) * q_batch + head.to(tl.int64) * q_head
        q1_tiles = tl.make_tensor_descriptor(q_at, [L, D], [q_row, 1], [BLOCK_L, D1])
        q1 = q1_tiles.load([l_start, 0])
        q2 = q1
        a1 = tl.zeros([BLOCK_L, D1], tl.float32)
        a2 = a1
        if D2 > 0:
            q2_tiles = tl.make_tensor_descriptor(q_at, [L, D], [q_row, 1], [BLOCK_L, D2])
            q2 = q2_tiles.load([l_start, D1])
            a2 = tl.zeros([BLOCK_L, D2], tl.float32)
        m_L = tl.full([BLOCK_L], float("-inf"), tl.float32)
        l_L = tl.zeros([BLOCK_L], tl.float32)
        for s_start in tl.range(0, S, BLOCK_S, warp_specialize=SPECIALISED):
            k1 = k1_tiles.load([batch, head, s_start, 0]).reshape(BLOCK_S, D1)
            v1 = v1_tiles.load([batch, head, s_start, 0]).reshape(BLOCK_S, D1)
            k2, v2 = k1, v1
            if D2 > 0:
                k2 = k2_tiles.load([batch, head, s_start, D1]).reshape(BLOCK_S, D2)
                v2 = v2_tiles.load([batch, head, s_start, D1]).reshape(BLOCK_S, D2)
            s_LS = inner_products(q1, q2, k1, k2, D2, "ieee")
            if not EVEN:
                s_LS = tl.where((s_start + tl.arange(0, BLOCK_S) < S)[None, :], s_LS, float("-inf"))
            a1, a2, m_L, l_L = accumulate(a1, a2, m_L, l_L, s_LS, v1, v2, scale_log2, D2, "ieee")
        l_index = l_start + tl.arange(0, BLOCK_L)
        at = batch.to(tl.int64) * o_batch + head.to(tl.int64) * o_head + l_start.to(tl.int64) * o_row
        share_L1 = (1.0 / l_L)[:, None]
        store_tile(a1 * share_L1, a2 * share_L1, o_ptr + at, o_row, L - l_start, BLOCK_L, D, D1, D2)
        lse = lse_ptr + (batch * H + head).to(tl.int64) * L
        tl.store(lse + l_index, m_L + tl.math.log2(l_L), mask=l_index < L)
