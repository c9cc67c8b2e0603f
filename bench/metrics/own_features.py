"""A feature network of one's own: any module or function from uint8 pixels to rows.

    def features(pixels):          # uint8 (n, C, H, W)
        return rows                # (n, d)

Shapes: n images, d feature dimensions.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.metrics.features import BATCH, FeatureNetwork
from bench.metrics.fingerprint import fingerprint


class OwnFeatures(FeatureNetwork):
    """A module or function; its identity is the SHA-256 of all that it is made of.

    weights_sha256  of a network whose weights cannot be read here, such as one of another framework: stands
                    in the identity instead, and its truth is the caller's
    """

    def __init__(self, network: Callable[[Tensor], Any], name: str = "", weights_sha256: str = "") -> None:
        self.network = network.eval() if isinstance(network, nn.Module) else network
        self.name = name or getattr(network, "__name__", type(network).__name__)
        self.metric = f"FD-{self.name.rpartition(':')[2]}"
        self.identity = f"{self.name} {(weights_sha256 or fingerprint(network))[:12]}"
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
