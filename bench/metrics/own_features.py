"""A feature network of one's own: any module or function from uint8 pixels to rows.

    def features(pixels):          # uint8 (n, C, H, W)
        return rows                # (n, d)

Shapes: n images, d feature dimensions.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.metrics.features import BATCH, FeatureNetwork


class OwnFeatures(FeatureNetwork):
    """A module, whose identity is its class and the SHA-256 of its weights, or a function and its source."""

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
        rows = []
        for batch in pixels_nCHW.cpu().split(BATCH):
            padded = F.pad(batch, (0, 0, 0, 0, 0, 0, 0, BATCH - len(batch)))
            found = torch.as_tensor(self.network(padded))
            if found.dim() != 2 or len(found) != BATCH or found.shape[1] < 2:
                raise ValueError(
                    f"{self.name} gives {tuple(found.shape)} for {BATCH} images: features are (n, d), a row "
                    "an image, with d of 2 or more."
                )
            rows.append(found[: len(batch)].float())
        found = torch.cat(rows)
        self.dims = found.shape[1]
        return found


def digest(network: Any) -> str:
    """SHA-256 of a module's class and tensors, or of a function's source."""
    if isinstance(network, nn.Module):
        found = hashlib.sha256(type(network).__qualname__.encode())
        for key, value in sorted(network.state_dict().items()):
            found.update(key.encode())
            found.update(value.detach().cpu().contiguous().double().numpy().tobytes())
        return found.hexdigest()
    try:
        source = inspect.getsource(network if inspect.isroutine(network) else type(network))
    except (OSError, TypeError):
        source = repr(network)
    return hashlib.sha256(source.encode()).hexdigest()
