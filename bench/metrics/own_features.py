"""A feature network of one's own: any module or function from uint8 pixels to rows.

    def features(pixels):          # uint8 (n, C, H, W)
        return rows                # (n, d)

Shapes: n images, d feature dimensions.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.metrics.features import BATCH, FeatureNetwork


class OwnFeatures(FeatureNetwork):
    """A module or function; its identity is the SHA-256 of what it is made of, see `digest`."""

    def __init__(self, network: Callable[[Tensor], Any], name: str = "") -> None:
        self.network = network.eval() if isinstance(network, nn.Module) else network
        self.name = name or getattr(network, "__name__", type(network).__name__)
        self.metric = f"FD-{self.name.rpartition(':')[2]}"
        self.identity = f"{self.name} {digest(network)[:12]}"
        self.dims = 0  # known once an image was seen

    @classmethod
    def imported(cls, name: str) -> OwnFeatures:
        """Of `package.module:attribute`; a class is built without arguments."""
        module, _, attribute = name.partition(":")
        try:
            found = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise ValueError(
                f"{name} cannot be imported ({error}): write package.module:attribute."
            ) from None
        found = found() if inspect.isclass(found) else found
        if not callable(found):
            raise ValueError(
                f"{name} is a {type(found).__name__}, and features are made by a module or function."
            )
        return cls(found, name)

    @torch.inference_mode()
    def extract(self, pixels_nCHW: Tensor) -> Tensor:
        """Features (n, d) float32, always `BATCH` images at a time, padded."""
        rows: list[Tensor] = []
        for batch in pixels_nCHW.cpu().split(BATCH) if len(pixels_nCHW) else ():
            padded = F.pad(batch, (0, 0, 0, 0, 0, 0, 0, BATCH - len(batch)))
            found = torch.as_tensor(self.network(padded))
            if found.dim() != 2 or len(found) != BATCH or found.shape[1] < 2:
                raise ValueError(
                    f"{self.name} gives {tuple(found.shape)} for {BATCH} images: features are (n, d), a row "
                    "an image, with d of 2 or more."
                )
            rows.append(found[: len(batch)].float())
        if not rows:
            return torch.zeros(0, self.dims)
        joined = torch.cat(rows)
        self.dims = joined.shape[1]
        return joined


def digest(network: Any) -> str:
    """SHA-256 of what a module or function is made of: its source, and the tensors and values that it holds.

    A module counts with its structure, a function with what it closes over, an object with its attributes;
    what is reached through globals is not seen.
    """
    found = hashlib.sha256(_source(network).encode())
    if isinstance(network, nn.Module):
        found.update(repr(network).encode())
        held: Mapping[str, Any] = network.state_dict()
    else:
        cells = getattr(network, "__closure__", None) or ()
        names = getattr(getattr(network, "__code__", None), "co_freevars", ())
        closed = {name: cell.cell_contents for name, cell in zip(names, cells, strict=False)}
        held = {**closed, **getattr(network, "__dict__", {})}
    for name, value in sorted(held.items()):
        found.update(f"{name}={_content(value)}".encode())
    return found.hexdigest()


def _content(value: Any) -> str:
    if isinstance(value, nn.Module) or inspect.isfunction(value):
        return digest(value)
    if isinstance(value, Tensor | np.ndarray):
        array = torch.as_tensor(value).detach().cpu().contiguous()
        return hashlib.sha256(array.double().numpy().tobytes()).hexdigest() + str(tuple(array.shape))
    # An address in memory is another in every process.
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def _source(network: Any) -> str:
    try:
        return inspect.getsource(network if inspect.isroutine(network) else type(network))
    except (OSError, TypeError):
        return type(network).__qualname__
