"""Every shipped configuration, compiled without a GPU: no spill, enough memory, and the units it claims.

`make test` compiles those of bfloat16 on Hopper, and head size 72 everywhere; `make campaign` all of them.
"""

from __future__ import annotations

import pytest

pytest.importorskip("triton")

import torch

from kernels.compiled import Compiled, compile_kernel, count
from kernels.configurations import Tiles, using_tiles
from kernels.gate import defects
from kernels.jit.attention import one
from kernels.launch import INTERPRETED
from kernels.occupancy import Occupancy, occupancy
from kernels.shipped import Shipped, shipped

pytestmark = pytest.mark.skipif(INTERPRETED, reason="an interpreted kernel has no machine code")


def every_day(kernel: Shipped) -> bool:
    """The commonest dtype on the commonest card, and the commonest odd head size on every one."""
    name = kernel.name
    if "causal" in name or "lengths" in name:
        return "d72" in name and "causal lengths" in name and "sm90" in name
    return "bfloat16 sm90" in name or "d72 bfloat16" in name or "d72 float32 sm90" in name


ALL = [] if INTERPRETED else shipped()
NAMES = [kernel.name for kernel in ALL]


def test_names_are_told_apart() -> None:
    assert len(set(NAMES)) == len(NAMES) > 300


@pytest.mark.parametrize(
    "kernel", [kernel for kernel in ALL if every_day(kernel)], ids=lambda kernel: kernel.name
)
def test_shipped(kernel: Shipped) -> None:
    assert defects(kernel, compile_kernel(kernel)) == []


@pytest.mark.campaign
@pytest.mark.parametrize("kernel", ALL, ids=lambda kernel: kernel.name)
def test_shipped_in_full(kernel: Shipped) -> None:
    compiled = compile_kernel(kernel)
    at = f"{compiled.registers} registers, {compiled.spilled} spilled, {compiled.shared} shared"
    print(f"{kernel.name}: {at}, {compiled.warps} warps")
    assert defects(kernel, compiled) == []


def test_tiles_that_are_too_large_are_caught() -> None:
    """A gate that cannot fail guards nothing: eight times the work for as many registers spills."""
    with using_tiles(forward=Tiles(128, 128, 4, 2)):
        kernel = one("forward", 128, torch.bfloat16, 90, causal=False, lengths=False)
    compiled = compile_kernel(kernel)
    assert compiled.spilled > 64
    assert any(d.startswith(f"spills {compiled.spilled} bytes") for d in defects(kernel, compiled))


def made(**changes: object) -> Compiled:
    base = {"name": "k", "capability": 90, "registers": 168, "spilled": 0, "shared": 100_000, "warps": 8}
    base |= {"scratch": 0, "instructions": {"wgmma": 4}, "ptx": "", "sass": ""}
    return Compiled(**{**base, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "claims", "defect"),
    [
        ({"instructions": {}}, {"wgmma"}, "claims wgmma and has none"),
        ({"instructions": {"wgmma": 4, "mma.sync": 2}}, {"wgmma"}, "falls back to 2 mma.sync"),
        ({}, {"tma"}, "claims the copy engine and never uses it"),
        ({}, {"warp-specialised"}, "claims specialised warps and has 8 alike"),
        ({"shared": 240_000}, set(), "needs 240000 bytes of shared memory, of 232448"),
        ({"spilled": 8}, set(), "spills 8 bytes a thread, where 0 are allowed"),
        ({}, {"wgmma"}, None),
    ],
)
def test_each_defect_has_its_sentence(changes: dict, claims: set[str], defect: str | None) -> None:
    kernel = Shipped("k", None, {}, {}, 90, 8, 2, claims=frozenset(claims))
    assert defects(kernel, made(**changes)) == ([] if defect is None else [defect])


def test_instructions_are_counted_by_kind() -> None:
    sass = """
        /*0a10*/                   @P0 MUFU.EX2 R1, R2 ;       /* 0x0000000100027308 */
        /*0a20*/                   MUFU.RCP R1, R2 ;           /* 0x00 */
        /*0a30*/                   HGMMA.64x64x16.F32.BF16 R24, gdesc[UR8] ;
        /*0a40*/              @!PT FFMA R1, R2, R3, R4 ;
        /*0a50*/                   LDSM.16.M88.4 R4, [R2] ;
    """
    counted = {"exp2": 1, "other special function": 1, "wgmma": 1, "fma": 1, "shared load": 1, "all": 5}
    assert count(sass) == counted


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, Occupancy(1, 0.125, "registers")),  # 168 registers × 256 threads are 43 008 of 65 536
        ({"registers": 64}, Occupancy(2, 0.25, "shared memory")),
        ({"registers": 32, "shared": 0}, Occupancy(8, 1.0, "registers")),
        ({"registers": 24, "shared": 0, "warps": 16}, Occupancy(4, 1.0, "warps")),
        ({"registers": 255, "shared": 300_000, "warps": 8}, Occupancy(0, 0.0, "shared memory")),
    ],
)
def test_occupancy_by_hand(changes: dict, expected: Occupancy) -> None:
    assert occupancy(made(**changes)) == expected


def test_a_kernel_that_does_not_compile_says_which() -> None:
    good = one("forward", 64, torch.bfloat16, 90, causal=False, lengths=False)
    bad = Shipped(**{**vars(good), "name": "broken", "constants": {**good.constants, "D1": 48}})
    with pytest.raises(RuntimeError, match="broken does not compile"):
        compile_kernel(bad)
