"""A kernel compiled without a GPU, and what the machine code says of it.

Triton lowers to PTX and its own ptxas to machine code for any architecture; cuobjdump of the same package
reads registers, stack and instructions from it. So the compiler's side of performance is known, and tested,
on a machine that has no GPU at all.
"""

from __future__ import annotations

import functools
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernels.shipped import Shipped

KINDS: dict[str, str] = {
    "wgmma": r"[HQIB]GMMA",
    "mma.sync": r"HMMA",
    "tcgen05": r"UTC\w*MMA",
    "tma load": r"UTMALDG",
    "tma store": r"UTMASTG",
    "async copy": r"LDGSTS",
    "global load": r"LDG",
    "global store": r"STG",
    "shared load": r"LDS[M]?",
    "shared store": r"STS[M]?",
    "exp2": r"MUFU\.EX2",
    "other special function": r"MUFU(?!\.EX2)",
    "fma": r"FFMA2?",
    "multiply": r"FMUL2?",
    "add": r"FADD2?",
    "maximum": r"FMNMX3?",
    "select": r"F?SEL",
    "convert": r"F2F\w*",
    "shuffle": r"SHFL",
    "spill store": r"STL",
    "spill load": r"LDL",
    "setmaxreg": r"USETMAXREG",
    "barrier": r"(?:BAR|SYNCS|WARPSYNC)",
}
"""Instructions by what they are for, as names at the head of a line of machine code."""


@dataclass(frozen=True)
class Compiled:
    """What the compiler made of a kernel.

    registers     of a thread                        spilled  bytes of stack a thread, 0 where all fits
    shared        bytes a block                      warps    of a block, as compiled
    instructions  how many of each of `KINDS` the machine code holds, not how often they run
    scratch       bytes of global memory a block, for descriptors
    ptx, sass     the code itself
    """

    name: str
    capability: int
    registers: int
    spilled: int
    shared: int
    warps: int
    scratch: int
    instructions: Mapping[str, int]
    ptx: str
    sass: str

    @property
    def specialised(self) -> bool:
        """Whether warps have different work: registers are moved between them, which needs more than 4."""
        return self.instructions.get("setmaxreg", 0) > 0 and self.warps > 4


def compile_kernel(kernel: Shipped) -> Compiled:
    """Machine code of one shipped configuration; takes a second or two, and Triton keeps it on disk.

    Raises RuntimeError with the compiler's last words where it fails.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = list(kernel.kernel.arg_names)
    signature = {n: "constexpr" if n in kernel.constants else kernel.types[n] for n in names}
    constants = {(names.index(n),): value for n, value in kernel.constants.items()}
    aligned = [n for n in names if signature[n].startswith("*") or n in kernel.divisible]
    attributes = {(names.index(n),): [["tt.divisibility", 16]] for n in aligned}
    try:
        made = triton.compile(
            ASTSource(kernel.kernel, signature, constants, attributes),
            target=GPUTarget("cuda", kernel.capability, 32),
            options={"num_warps": kernel.num_warps, "num_stages": kernel.num_stages},
        )
    except Exception as error:
        raise RuntimeError(f"{kernel.name} does not compile: {str(error).strip()[-300:]}") from error
    usage, sass = _read(made.asm["cubin"])
    registers, stack = (int(_first(rf"{what}:(\d+)", usage)) for what in ("REG", "STACK"))
    return Compiled(
        name=kernel.name,
        capability=kernel.capability,
        registers=registers,
        spilled=stack,
        shared=int(made.metadata.shared),
        warps=int(made.metadata.num_warps),
        scratch=int(getattr(made.metadata, "global_scratch_size", 0) or 0),
        instructions=count(sass),
        ptx=made.asm["ptx"],
        sass=sass,
    )


def count(sass: str) -> dict[str, int]:
    """How many instructions of each kind, and `all` of them."""
    # `/*0a10*/  @P0 MUFU.EX2 R1, R2 ;` : an address, a predicate or none, the name.
    found = Counter(
        re.findall(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", sass, re.MULTILINE)
    )
    kinds = {kind: re.compile(rf"{pattern}(?:\.|$)") for kind, pattern in KINDS.items()}
    counts = {
        kind: sum(n for name, n in found.items() if pattern.match(name)) for kind, pattern in kinds.items()
    }
    return {**{kind: n for kind, n in counts.items() if n}, "all": sum(found.values())}


def _first(pattern: str, text: str) -> Any:
    found = re.search(pattern, text)
    if found is None:
        raise RuntimeError(f"cuobjdump printed nothing that looks like {pattern}: {text[:200]!r}")
    return found[1]


def _read(cubin: bytes) -> tuple[str, str]:
    """Use of resources and machine code, as cuobjdump prints them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        return _tool("-res-usage", path), _tool("-sass", path)


def _tool(option: str, path: Path) -> str:
    done = subprocess.run([_cuobjdump(), option, str(path)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"cuobjdump {option} failed: {done.stderr.strip()[-300:]}")
    return done.stdout + done.stderr


@functools.cache
def _cuobjdump() -> str:
    """The one that comes with Triton."""
    import triton

    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    if not path.exists():
        raise RuntimeError("this build of triton has no cuobjdump: install triton 3.6 or newer for Linux")
    return str(path)
