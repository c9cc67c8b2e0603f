"""What an operation has to do at least: useful multiply-adds, bytes of memory traffic, exponentials.

Attention counts 4·B·H·N²·D floating-point operations forward and 2.5 times that backward (the convention of
Dao 2023, 2307.08691), with the real D and the real tokens, never padded ones. Bytes are every input read and
every output written once; backward reads inputs, output and its gradient again and writes a gradient for
each input. A fused kernel reaches these; more traffic is a cost of the implementation, not work.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.kernel_bench.shapes import Shape

BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
BACKWARD_FLOPS = 2.5
"""Five products of matrices against two."""


@dataclass(frozen=True)
class Work:
    """Floating-point operations of matrix products, bytes, and exponentials (exp2)."""

    flops: float
    bytes: float
    exps: float

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.bytes + other.bytes, self.exps + other.exps)


def work(operation: str, shape: Shape, direction: str, dtype: str) -> Work:
    """Of one call; `both` is the sum of forward and backward."""
    if direction == "both":
        parts = (work(operation, shape, one, dtype) for one in ("forward", "backward"))
        return next(parts) + next(parts)
    count = {
        "attention": _attention,
        "joint-attention": _attention,
        "modulate": _modulate,
        "gated-residual": _gated,
        "rms-norm": _rms_norm,
    }[operation]
    return count(shape, direction == "backward", BYTES[dtype])


def _attention(shape: Shape, backward: bool, size: int) -> Work:
    """Backward recomputes the probabilities, so it has as many exponentials as forward."""
    scores = shape.batch * shape.heads * shape.tokens**2
    states = shape.batch * shape.tokens * shape.width * size
    sums = 4 * shape.batch * shape.heads * shape.tokens
    flops = 4.0 * scores * shape.dim
    if backward:
        return Work(BACKWARD_FLOPS * flops, 8.0 * states + sums, scores)
    return Work(flops, 4.0 * states + sums, scores)


def _states(shape: Shape, size: int) -> tuple[float, float]:
    """Bytes of the image stream, and of one vector a sample."""
    vector = float(shape.batch * shape.width * size)
    return vector * shape.image, vector


def _modulate(shape: Shape, backward: bool, size: int) -> Work:
    states, vector = _states(shape, size)
    return Work(0.0, 3 * states + 4 * vector if backward else 2 * states + 2 * vector, 0.0)


def _gated(shape: Shape, backward: bool, size: int) -> Work:
    """x + gate·y: the gradient of x is the incoming one itself, so backward reads two and writes one."""
    states, vector = _states(shape, size)
    return Work(0.0, 3 * states + (2 if backward else 1) * vector, 0.0)


def _rms_norm(shape: Shape, backward: bool, size: int) -> Work:
    """Queries of the image stream, head by head."""
    states, _ = _states(shape, size)
    return Work(0.0, (3 if backward else 2) * states + (2 if backward else 1) * shape.dim * size, 0.0)
