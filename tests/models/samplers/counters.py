"""Counts what a sampler does to tensors: operations on whole states, and waits of the host for a value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
READS = (
    aten._local_scalar_dense.default,
    aten.item.default,
    aten.is_nonzero.default,
    aten.nonzero.default,
)


class Operations(TorchDispatchMode):
    """`full_size`: operations that write a tensor of the state's shape; `reads`: those the host waits for."""

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape, self.full_size, self.reads = tuple(shape), 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        self.reads += func in READS
        writes = isinstance(found, Tensor) and tuple(found.shape) == self.shape and not func.is_view
        self.full_size += bool(writes)
        return found
