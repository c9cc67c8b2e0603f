"""How much of a processor a kernel can fill: blocks, warps, and what limits them.

Limits are those of NVIDIA's CUDA C++ Programming Guide, table "Technical Specifications per Compute
Capability". An architecture is held to its smallest card: 8.0 to the shared memory of 8.6 and 8.9.
"""

from __future__ import annotations

from dataclasses import dataclass

from kernels.compiled import Compiled

REGISTERS = 65_536
"""Of a processor, 32 bits each, handed out 256 to a warp at a time."""
RESERVED = 1_024
"""Bytes of shared memory that the system takes of every block."""


@dataclass(frozen=True)
class Limits:
    """Of one streaming multiprocessor: warps, blocks, bytes of shared memory, and those of one block."""

    warps: int
    blocks: int
    shared: int
    shared_of_a_block: int


LIMITS = {
    80: Limits(warps=64, blocks=32, shared=167_936, shared_of_a_block=101_376),
    90: Limits(warps=64, blocks=32, shared=233_472, shared_of_a_block=232_448),
    100: Limits(warps=64, blocks=32, shared=233_472, shared_of_a_block=232_448),
}
"""By compute capability × 10."""


@dataclass(frozen=True)
class Occupancy:
    """Blocks of a processor at once, the share of its warps that they fill, and what allows no more."""

    blocks: int
    share: float
    limited_by: str


def occupancy(compiled: Compiled) -> Occupancy:
    """min over registers, shared memory, warps and blocks of what fits; 0 blocks where nothing does."""
    limits = LIMITS[compiled.capability]
    of_a_warp = -(-compiled.registers * 32 // 256) * 256
    fits = {
        "registers": REGISTERS // (of_a_warp * compiled.warps) if compiled.registers else limits.blocks,
        "shared memory": limits.shared // (compiled.shared + RESERVED),
        "warps": limits.warps // compiled.warps,
        "blocks": limits.blocks,
    }
    by = min(fits, key=lambda name: fits[name])
    return Occupancy(fits[by], fits[by] * compiled.warps / limits.warps, by)
