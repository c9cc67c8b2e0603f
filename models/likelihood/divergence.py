"""The divergence ∇·f = Σ_d ∂f_d/∂x_d of a field, exactly or by random probes.

    Hutchinson   ∇·f = E[zᵀ(∂f/∂x)z] for any z with E[zzᵀ] = I     (Grathwohl et al. 2019, 1810.01367)

For a symmetric Jacobian S one probe has the variance 2 Σ_{i≠j} S_ij² with Rademacher z and 2‖S‖²_F with
Gaussian z: signs cost nothing on the diagonal.

Shapes: B batch, D dimensions, P probes; x and f(x) have one shape, (B, …).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Divergence = Callable[[Tensor, Tensor], Tensor]
"""(f, x) → ∇·f of each row, (B,), where f was computed from x with gradients on."""


def rademacher(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Independent signs in the shape of x."""
    bits = torch.randint(0, 2, x.shape, generator=generator, device=x.device)
    return (2 * bits - 1).to(x.dtype)


def gaussian(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Independent standard normals in the shape of x."""
    return torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)


PROBES = {"rademacher": rademacher, "gaussian": gaussian}
"""Laws of z."""


def product(f: Tensor, x: Tensor, z: Tensor, keep: bool = False, differentiable: bool = False) -> Tensor:
    """zᵀ(∂f/∂x) in the shape of x; `keep` the graph for another one, or make it `differentiable` itself."""
    (found,) = torch.autograd.grad(f, x, z, retain_graph=keep or differentiable, create_graph=differentiable)
    return found


def hutchinson(probes: Sequence[Tensor]) -> Divergence:
    """(f, x) to the mean of zᵀ(∂f/∂x)z over the probes, (B,)."""
    each = each_probe(probes)
    return lambda f, x: each(f, x).mean(0)


def each_probe(probes: Sequence[Tensor]) -> Divergence:
    """(f, x) to zᵀ(∂f/∂x)z of every probe, (P, B)."""

    def estimate(f: Tensor, x: Tensor) -> Tensor:
        last = len(probes) - 1
        parts = [inner(product(f, x, z, keep=index < last), z) for index, z in enumerate(probes)]
        return torch.stack(parts)

    return estimate


def exact(f: Tensor, x: Tensor) -> Tensor:
    """The trace of the Jacobian from one product a dimension, (B,)."""
    flat, trace = f.flatten(1), torch.zeros(len(x), dtype=x.dtype, device=x.device)
    for d in range(flat.shape[1]):
        (row,) = torch.autograd.grad(flat[:, d].sum(), x, retain_graph=d + 1 < flat.shape[1])
        trace = trace + row.flatten(1)[:, d]
    return trace


def inner(a: Tensor, b: Tensor) -> Tensor:
    """⟨a, b⟩ of each row, (B,)."""
    return (a * b).flatten(1).sum(1)
