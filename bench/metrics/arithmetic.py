"""How a feature network computes: part of its identity, because features differ by it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch

from models.names import unknown

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Arithmetic:
    """dtype of convolutions and products (autocast; weights and features stay float32), and torch.compile.

    >>> str(Arithmetic()), str(Arithmetic("bfloat16", compiled=True))
    ('', ' bfloat16 compiled')
    """

    dtype: str = "float32"
    compiled: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(unknown("dtype of features", self.dtype, DTYPES))

    def __str__(self) -> str:
        half = "" if self.dtype == "float32" else f" {self.dtype}"
        return half + (" compiled" if self.compiled else "")

    def context(self) -> torch.autocast:
        """Within it the network is called."""
        return torch.autocast("cpu", DTYPES[self.dtype], enabled=self.dtype != "float32")

    def applied(self, function: Function) -> Function:
        """The function, compiled where that is asked for."""
        return cast(Function, torch.compile(function)) if self.compiled else function
