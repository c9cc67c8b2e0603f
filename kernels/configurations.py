"""Tiles of the attention kernels by head size, dtype and architecture.

Chosen so that no register is spilled and shared memory suffices, with and without masks, as the compiler says
without a GPU; among those, the largest tiles. What is fastest on a card, `kernels.autotune` finds there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

HEAD_SIZES = (32, 64, 72, 80, 88, 96, 128)
"""Sizes of a head that models use; others up to 128 take the tiles of the next one."""
CAPABILITIES = (80, 90, 100)
"""Compute capability × 10 of the architectures with a table of their own: Ampere, Hopper, Blackwell."""


@dataclass(frozen=True)
class Tiles:
    """BLOCK_L queries and BLOCK_S keys at a time, by `num_warps` warps, `num_stages` loads ahead.

    Where `specialised`, some warps only load and others only compute.
    """

    BLOCK_L: int
    BLOCK_S: int
    num_warps: int
    num_stages: int
    specialised: bool = False


Row = tuple[Tiles, ...]
"""One for each of `HEAD_SIZES`."""


TEXT = """
kernel bits   on  32          64          72          80          88          96          128
forward  16   80  128x64:4:3  128x64:4:3  128x64:8:3  128x64:8:3  128x64:8:3  128x64:8:3  64x32:4:2
forward  16   90  128x128:8:3 128x128:8:3 128x128:8:3 128x128:8:3 128x128:8:3 128x128:8:3 128x128:8:2
forward  16  100  128x128:8:3 128x128:8:3 128x128:8:3 128x128:8:3 128x128:8:3 128x128:8:3 128x128:8:2
forward  32   80  64x32:8:1   16x32:4:2   16x32:4:2   32x16:4:1   32x32:4:1   32x32:4:1   32x32:4:1
forward  32   90  64x32:8:1   64x32:8:1   64x32:8:1   64x32:8:1   64x32:8:1   64x32:8:1   16x32:4:2
forward  32  100  64x32:8:1   64x32:8:1   64x32:8:1   64x32:8:1   64x32:8:1   64x32:8:1   16x32:4:2
keys     16   80  64x64:4:2   64x64:8:2   32x64:4:2   32x64:4:2   32x64:8:2   32x64:8:2   64x64:8:2
keys     16   90  64x128:8:2  64x128:8:2  64x128:8:2  64x128:8:1  64x64:8:2   64x64:8:2   32x128:8:2
keys     16  100  64x128:8:2  64x128:8:2  64x128:8:2  64x128:8:2  64x128:8:2  64x128:8:2  64x128:8:2
keys     32   80  32x32:4:1   64x32:8:1   16x32:4:2   64x32:8:1   16x32:4:2   16x32:4:2   16x32:4:2
keys     32   90  32x32:4:1   16x32:4:2   16x32:4:1   32x16:4:1   16x32:4:1   16x32:4:1   16x16:4:1
keys     32  100  32x32:4:1   16x32:4:2   32x16:4:1   32x16:4:1   16x32:4:1   16x32:4:1   16x16:4:1
queries  16   80  64x64:4:2   128x32:4:2  128x32:4:2  64x64:4:2   64x32:4:2   64x64:4:2   64x64:4:2
queries  16   90  128x64:8:2  128x64:8:2  128x64:8:2  128x64:8:2  128x64:8:2  128x64:8:2  128x64:8:2
queries  16  100  128x64:8:2  128x64:8:2  64x64:4:2   128x64:8:2  64x64:4:2   64x64:4:2   128x64:8:2
queries  32   80  64x32:8:1   64x32:8:1   64x32:8:1   64x32:8:1   32x32:4:1   64x32:8:1   64x32:8:1
queries  32   90  64x32:8:1   64x32:8:1   64x32:8:1   64x32:8:1   16x32:4:1   64x32:8:1   16x32:4:2
queries  32  100  64x32:8:1   64x32:8:1   64x32:8:1   64x32:8:1   16x32:4:1   64x32:8:1   16x32:4:2
hopper   16   90  128x128:8:3 128x128:8:3 128x128:8:3 128x128:8:3 128x128:8:3 128x128:8:3 128x128:8:3
special  16   90  128x128:4:3 128x128:4:3 128x128:4:3 128x128:4:3 128x128:4:2 128x128:4:2 128x128:4:2
"""
"""Queries x keys : warps : stages, for each kernel, bits of the dtype, architecture, and size of a head.

forward   by pointers, any mask                   keys, queries  gradients of keys and values, of queries
hopper    by tensor descriptors, without masks    special        the same with specialised warps, which is
                                                                 offered to tuning and not the first choice
"""


def parse(text: str) -> dict[tuple[str, int, int], Row]:
    """Rows of the table by kernel, bits and architecture."""
    found = {}
    for line in text.strip().splitlines()[1:]:
        kernel, bits, capability, *tiles = line.split()
        row = tuple(tile(one, specialised=kernel == "special") for one in tiles)
        found[kernel, int(bits), int(capability)] = row
    return found


def tile(text: str, *, specialised: bool) -> Tiles:
    """`128x64:8:3` is 128 queries, 64 keys, 8 warps, 3 stages."""
    queries, keys, warps, stages = map(int, text.replace("x", ":").split(":"))
    return Tiles(queries, keys, warps, stages, specialised)


TABLE = parse(TEXT)
_forced: dict[str, Tiles | None] = {}


def tiles_for(kernel: str, head_size: int, dtype: torch.dtype, capability: int) -> Tiles:
    """Tiles of `kernel` on a GPU of that compute capability × 10.

    An architecture without a table takes that of the one before it; consumer cards of capability 12.x have
    the shared memory of Ampere's, and take its table.
    """
    forced = _forced.get(kernel)
    if forced is not None:
        return forced
    known = 80 if capability >= 110 else max(c for c in CAPABILITIES if c <= capability)
    return TABLE[kernel, 32 if dtype == torch.float32 else 16, known][place(head_size)]


def place(head_size: int) -> int:
    """Which of `HEAD_SIZES` a head of that many columns is handled as."""
    return next(i for i, size in enumerate(HEAD_SIZES) if head_size <= size)


def candidates(kernel: str, head_size: int, dtype: torch.dtype, capability: int) -> list[Tiles]:
    """What tuning tries beside the table's: its neighbours in size, warps and stages."""
    first = tiles_for(kernel, head_size, dtype, capability)
    sizes = {(first.BLOCK_L, first.BLOCK_S), (first.BLOCK_L, 64), (64, first.BLOCK_S), (64, 64)}
    found = [Tiles(*size, warps, stages) for size in sorted(sizes) for warps in (4, 8) for stages in (2, 3)]
    if kernel == "hopper":
        found.append(TABLE["special", 16, 90][place(head_size)])
    return [tiles for tiles in found if tiles != first]


@contextmanager
def using_tiles(**tiles: Tiles | None) -> Iterator[None]:
    """These tiles of these kernels for a while, to compare them; None is the table's again."""
    before = dict(_forced)
    _forced.update(tiles)
    try:
        yield
    finally:
        _forced.clear()
        _forced.update(before)
