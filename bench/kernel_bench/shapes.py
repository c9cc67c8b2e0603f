"""Shapes named after the models that have them, a sweep over the sequence length, and tiny ones.

Batches are those of sampling with guidance on one card. Sources: DiT (2212.09748), SiT (2401.08740),
PixArt-α (2310.00426), SD3 (2403.03206), SD3.5, FLUX.1, Qwen-Image (2508.02324) and HunyuanDiT (2405.08748)
as their published configurations have them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.errors import unknown
from bench.kernel_bench import OPERATIONS


@dataclass(frozen=True)
class Shape:
    """Sizes of one attention layer.

    batch, heads, dim  B, H and D; the embedding is E = H·D
    image, text        tokens of each stream; 0 text: one stream
    text_first         order of the streams in joint attention
    qk_norm, rope      whether queries and keys are normalised by head, and rotated by position
    swept              the series that a point of the sweep belongs to
    """

    name: str
    batch: int
    heads: int
    dim: int
    image: int
    text: int = 0
    text_first: bool = True
    qk_norm: bool = False
    rope: bool = False
    swept: str = ""

    @property
    def tokens(self) -> int:
        """N of attention: both streams."""
        return self.image + self.text

    @property
    def width(self) -> int:
        """E."""
        return self.heads * self.dim

    def has(self, operation: str) -> bool:
        """Whether the model has this operation at this shape."""
        if operation == "joint-attention":
            return self.text > 0
        if operation == "rms-norm":
            return self.qk_norm
        return operation == "attention" or not self.swept


MODELS = (
    Shape("dit-xl-2-256", 32, 16, 72, 256),
    Shape("dit-xl-2-512", 8, 16, 72, 1024),
    Shape("sit-xl-2-256", 64, 16, 72, 256),
    Shape("pixart-1024", 2, 16, 72, 4096),
    Shape("sd3-medium-1024", 2, 24, 64, 4096, 154, text_first=False),
    Shape("sd3.5-large-1024", 2, 38, 64, 4096, 333, text_first=False, qk_norm=True),
    Shape("flux-512", 1, 24, 128, 1024, 512, qk_norm=True, rope=True),
    Shape("flux-1024", 1, 24, 128, 4096, 512, qk_norm=True, rope=True),
    Shape("qwen-image-1328", 1, 24, 128, 6889, 256, qk_norm=True, rope=True),
    Shape("hunyuan-dit-1024", 2, 16, 88, 4096),
)

LENGTHS = (256, 512, 1024, 2048, 4096, 8192, 16384)
SERIES = {64: 32, 72: 16, 128: 16}
"""Heads by head size in the sweep; E is 2048 at 64 and 128, as in FlashAttention's own figures."""

SWEEP = tuple(
    Shape(f"sweep-d{dim}-n{length}", 16384 // length, heads, dim, length, swept=f"head size {dim}")
    for dim, heads in SERIES.items()
    for length in LENGTHS
)

SMOKE = (
    Shape("smoke-dit", 2, 3, 8, 17),
    Shape("smoke-sd3", 1, 2, 16, 12, 5, text_first=False, qk_norm=True),
    Shape("smoke-flux", 1, 2, 16, 16, 4, qk_norm=True, rope=True),
    Shape("smoke-sweep-n16", 1, 2, 8, 16, swept="head size 8"),
    Shape("smoke-sweep-n32", 1, 2, 8, 32, swept="head size 8"),
)

SHAPES = {shape.name: shape for shape in (*MODELS, *SWEEP, *SMOKE)}
SETS = {"models": MODELS, "sweep": SWEEP, "smoke": SMOKE}


def find(names: Sequence[str]) -> list[Shape]:
    """Shapes by name or by set (`models`, `sweep`, `smoke`), each once, in the order given.

    Raises UsageError for an unknown name, with the nearest valid one.
    """
    found: dict[str, Shape] = {}
    for name in names:
        if name not in SHAPES and name not in SETS:
            raise unknown("shape", name, (*SETS, *SHAPES))
        found |= {shape.name: shape for shape in SETS.get(name, ()) or (SHAPES[name],)}
    return list(found.values())


def pairs(shapes: Sequence[Shape], operations: Sequence[str]) -> list[tuple[str, Shape]]:
    """(operation, shape) of every operation that each model has, in the order of `OPERATIONS`."""
    chosen = [name for name in OPERATIONS if name in operations]
    return [(operation, shape) for operation in chosen for shape in shapes if shape.has(operation)]
