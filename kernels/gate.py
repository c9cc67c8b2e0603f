"""What a compiled kernel must be like before it is shipped."""

from __future__ import annotations

from kernels.compiled import Compiled
from kernels.occupancy import LIMITS
from kernels.shipped import Shipped

BACKWARD_SPILL = 64
"""Bytes of stack a thread that a kernel of gradients may use; forward ones use none."""


def defects(kernel: Shipped, compiled: Compiled) -> list[str]:
    """What is wrong with it, a sentence each; empty for a kernel as it should be.

    Registers stay in registers, shared memory is within that of the architecture's smallest card, and what
    the configuration claims (wgmma, the copy engine, specialised warps) is in the machine code.
    """
    found, seen = [], compiled.instructions
    allowed = BACKWARD_SPILL if kernel.backward else 0
    if compiled.spilled > allowed:
        found.append(f"spills {compiled.spilled} bytes a thread, where {allowed} are allowed")
    limit = LIMITS[kernel.capability].shared_of_a_block
    if compiled.shared > limit:
        found.append(f"needs {compiled.shared} bytes of shared memory, of {limit}")
    if "wgmma" in kernel.claims:
        if not seen.get("wgmma"):
            found.append("claims wgmma and has none")
        if seen.get("mma.sync"):
            found.append(f"falls back to {seen['mma.sync']} mma.sync")
    if "tma" in kernel.claims and not seen.get("tma load"):
        found.append("claims the copy engine and never uses it")
    if "warp-specialised" in kernel.claims and not compiled.specialised:
        found.append(f"claims specialised warps and has {compiled.warps} alike")
    return found
