"""Launching the attention kernels: grids, strides, and the tiles that the table gives.

Shapes: B batch, H heads, L queries, S keys, D size of a head.
"""

from __future__ import annotations

import functools
import math
from itertools import product
from typing import Any

import torch
import triton
from torch import Tensor

from kernels.attention_op import empty_heads_last
from kernels.autotune import best
from kernels.configurations import CAPABILITIES, HEAD_SIZES, Tiles, tiles_for
from kernels.jit.attention_backward import delta_kernel, key_value_kernel, query_kernel
from kernels.jit.attention_forward import forward_kernel
from kernels.jit.attention_hopper import hopper_kernel
from kernels.jit.tiles import parts
from kernels.launch import allow_descriptors, capability
from kernels.shipped import Shipped

KERNELS = {"forward": forward_kernel, "keys": key_value_kernel, "queries": query_kernel}
TRITON_TYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


def launch_forward(
    q: Tensor, k: Tensor, v: Tensor, key_lengths: Tensor | None, causal: bool
) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp in units of log 2, see `kernels.attention_op`."""
    q, k, v = (dense_rows(x) for x in (q, k, v))
    (B, H, L, D), S = q.shape, k.shape[2]
    o, lse = empty_heads_last(q), q.new_empty(B, H, L, dtype=torch.float32)
    lengths = lengths_of(key_lengths)

    def by_pointers(tiles: Tiles) -> Tensor:
        forward_kernel[(triton.cdiv(L, tiles.BLOCK_L), B * H)](
            q, k, v, o, lse, lengths, scale_log2(D), *strides(q, k, v, o), H, L, S,
            **constants(D, tiles, causal, lengths is not None), **options(tiles),
        )  # fmt: skip
        return o

    def by_descriptors(tiles: Tiles) -> Tensor:
        allow_descriptors()
        programs = min(triton.cdiv(L, tiles.BLOCK_L) * B * H, processors(q.device))
        hopper_kernel[(programs,)](
            q, k, v, o, lse, scale_log2(D), *strides(q, k, v, o), B, H, L, S,
            **hopper_constants(D, tiles, S % tiles.BLOCK_S == 0), **options(tiles),
        )  # fmt: skip
        return o

    if not q.numel():
        return o, lse
    if k.numel() and not causal and lengths is None and suits_descriptors(q, k, v):
        by_descriptors(best("hopper", q, S, by_descriptors))
    else:
        by_pointers(best("forward", q, S, by_pointers))
    return o, lse


def launch_backward(
    do: Tensor,
    dlse: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    o: Tensor,
    lse: Tensor,
    key_lengths: Tensor | None,
    causal: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v from those of the output and, where it was used, of the log-sum-exp."""
    do, q, k, v, o = (dense_rows(x) for x in (do, q, k, v, o))
    (B, H, L, D), S = q.shape, k.shape[2]
    dq, dk, dv = (empty_heads_last(x) for x in (q, k, v))
    if not (q.numel() and k.numel()):
        return dq.zero_(), dk.zero_(), dv.zero_()
    delta = torch.empty_like(lse)
    D1, D2 = parts(D)
    delta_kernel[(triton.cdiv(L, DELTA_ROWS), B * H)](
        o, do, delta, *strides(o, do), H, L, D=D, D1=D1, D2=D2, BLOCK_L=DELTA_ROWS
    )
    if dlse is not None:
        delta -= dlse * math.log2(math.e)
    lengths = lengths_of(key_lengths)

    def for_keys(tiles: Tiles) -> Tensor:
        key_value_kernel[(triton.cdiv(S, tiles.BLOCK_S), B * H)](
            q, k, v, do, lse, delta, dk, dv, lengths, scale_log2(D), D**-0.5,
            *strides(q, k, v, do, dk, dv), H, L, S,
            **constants(D, tiles, causal, lengths is not None), **options(tiles),
        )  # fmt: skip
        return dk

    def for_queries(tiles: Tiles) -> Tensor:
        query_kernel[(triton.cdiv(L, tiles.BLOCK_L), B * H)](
            q, k, v, do, lse, delta, dq, lengths, scale_log2(D), D**-0.5,
            *strides(q, k, v, do, dq), H, L, S,
            **constants(D, tiles, causal, lengths is not None), **options(tiles),
        )  # fmt: skip
        return dq

    for_keys(best("keys", q, S, for_keys))
    for_queries(best("queries", q, S, for_queries))
    return dq, dk, dv


DELTA_ROWS = 64
"""Queries to a program of `delta_kernel`, which is bound by memory."""


def dense_rows(x_BHLD: Tensor) -> Tensor:
    """The tensor itself where the D columns of a row lie side by side, else a copy in which they do."""
    return x_BHLD if x_BHLD.stride(-1) == 1 else x_BHLD.contiguous()


def strides(*tensors: Tensor) -> list[int]:
    """Of batch, head and row, one tensor after the other."""
    return [stride for tensor in tensors for stride in tensor.stride()[:3]]


def scale_log2(D: int) -> float:
    """log2 e/√D: what makes q·k an exponent of 2."""
    return math.log2(math.e) * D**-0.5


def lengths_of(key_lengths: Tensor | None) -> Tensor | None:
    """In the dtype that the kernels are compiled for."""
    return None if key_lengths is None else key_lengths.to(torch.int32)


def suits_descriptors(*tensors: Tensor) -> bool:
    """Whether the card has a copy engine for tiles, and can address these: multiples of 16 bytes, Hopper."""
    if capability(tensors[0].device) // 10 != 9 or tensors[0].dtype == torch.float32:
        return False
    size = tensors[0].element_size()
    places = [x.data_ptr() for x in tensors] + [stride * size for stride in strides(*tensors)]
    return all(place > 0 and place % 16 == 0 for place in places)


@functools.cache
def processors(device: torch.device) -> int:
    """Streaming multiprocessors of the card; the interpreter takes three, so that programs take turns."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 3


def hopper_constants(D: int, tiles: Tiles, even: bool) -> dict[str, Any]:
    """What `hopper_kernel` is compiled for; EVEN: no tile of keys is ragged."""
    D1, D2 = parts(D)
    sizes = {"D": D, "D1": D1, "D2": D2, "BLOCK_L": tiles.BLOCK_L, "BLOCK_S": tiles.BLOCK_S}
    return {**sizes, "EVEN": even, "SPECIALISED": tiles.specialised}


def constants(D: int, tiles: Tiles, causal: bool, lengths: bool) -> dict[str, Any]:
    """What the kernel is compiled for."""
    D1, D2 = parts(D)
    sizes = {"D": D, "D1": D1, "D2": D2, "BLOCK_L": tiles.BLOCK_L, "BLOCK_S": tiles.BLOCK_S}
    return {**sizes, "CAUSAL": causal, "LENGTHS": lengths, "PRECISION": "ieee"}


def options(tiles: Tiles) -> dict[str, int]:
    """How it is compiled."""
    return {"num_warps": tiles.num_warps, "num_stages": tiles.num_stages}


def shipped() -> list[Shipped]:
    """Every kernel, head size, dtype and architecture; and, for the masks, each kernel at two head sizes."""
    plain = [
        one(kernel, D, dtype, at, causal=False, lengths=False)
        for kernel, D, dtype, at in product(KERNELS, HEAD_SIZES, TRITON_TYPES, CAPABILITIES)
    ]
    masked = [
        one(kernel, D, torch.bfloat16, at, causal=causal, lengths=lengths)
        for kernel, D, at in product(KERNELS, (64, 72), CAPABILITIES)
        for causal, lengths in ((True, False), (False, True), (True, True))
    ]
    deltas = [delta(D, dtype) for D, dtype in product((64, 72), TRITON_TYPES)]
    halves = (torch.bfloat16, torch.float16)
    hopper = [
        descriptors(D, dtype, even, tiles)
        for D, dtype, even in product(HEAD_SIZES, halves, (True, False))
        for tiles in (tiles_for("hopper", D, dtype, 90), tiles_for("special", D, dtype, 90))
    ]
    return hopper + plain + masked + deltas


def one(kernel: str, D: int, dtype: torch.dtype, at: int, *, causal: bool, lengths: bool) -> Shipped:
    """A kernel that computes addresses, as `launch_forward` and `launch_backward` start it."""
    tiles = tiles_for(kernel, D, dtype, at)
    fixed = constants(D, tiles, causal, lengths) | ({} if lengths else {"lengths_ptr": None})
    masks = " causal" * causal + " lengths" * lengths
    claims = {"wgmma"} if at == 90 and dtype != torch.float32 else set()
    return describe(f"{kernel} d{D}", KERNELS[kernel], dtype, fixed, tiles, at, masks, claims)


def descriptors(D: int, dtype: torch.dtype, even: bool, tiles: Tiles) -> Shipped:
    """The forward kernel of Hopper."""
    fixed = hopper_constants(D, tiles, even)
    claims = {"wgmma", "tma"} | ({"warp-specialised"} if tiles.specialised else set())
    notes = " specialised" * tiles.specialised + " ragged" * (not even)
    return describe(f"hopper d{D}", hopper_kernel, dtype, fixed, tiles, 90, notes, claims)


def delta(D: int, dtype: torch.dtype) -> Shipped:
    """The sums Σ_d do·o."""
    D1, D2 = parts(D)
    fixed = {"D": D, "D1": D1, "D2": D2, "BLOCK_L": DELTA_ROWS}
    return describe(f"delta d{D}", delta_kernel, dtype, fixed, Tiles(DELTA_ROWS, 0, 4, 3), 90, "", set())


def describe(
    what: str,
    function: Any,
    dtype: torch.dtype,
    fixed: dict[str, Any],
    tiles: Tiles,
    at: int,
    notes: str,
    claims: set[str],
) -> Shipped:
    """All that the compiler needs to know."""
    return Shipped(
        name=f"attention {what} {str(dtype).removeprefix('torch.')} sm{at}{notes}",
        kernel=function,
        types=argument_types(function, dtype, fixed),
        constants=fixed,
        capability=at,
        num_warps=tiles.num_warps,
        num_stages=tiles.num_stages,
        divisible=tuple(n for n in function.arg_names if n.endswith(("_batch", "_head", "_row"))),
        backward=function not in (forward_kernel, hopper_kernel),
        claims=frozenset(claims),
    )


def argument_types(function: Any, dtype: torch.dtype, fixed: dict[str, Any]) -> dict[str, str]:
    """Triton's type of each argument that is no constant."""
    special = {"lse_ptr": "*fp32", "delta_ptr": "*fp32", "lengths_ptr": "*i32"}
    special |= {"scale_log2": "fp32", "scale": "fp32"}
    pointer = f"*{TRITON_TYPES[dtype]}"
    return {
        name: special.get(name, pointer if name.endswith("_ptr") else "i32")
        for name in function.arg_names
        if name not in fixed
    }
