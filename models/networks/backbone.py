"""Networks of Gaussian-path models by name: `network: unet` or `network: dit`, beside its own options."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from models.names import unknown
from models.networks.dit import DiT
from models.networks.unet import UNet

BACKBONES: dict[str, type[nn.Module]] = {"unet": UNet, "dit": DiT}
_GIVEN = {"self", "shape", "channels_out", "classes"}


def backbone(
    kind: str,
    shape: tuple[int, int, int],
    options: Mapping[str, Any],
    *,
    channels_out: int | None = None,
    classes: int = 0,
) -> nn.Module:
    """A network (x_BCHW, t_B, condition_B) → (B, channels_out, H, W) that says 0 before training.

    kind          `unet` or `dit`
    shape         (C, H, W) of x
    options       keywords of that network; an unknown one is answered with the nearest
    channels_out  C unless given: 2C where a variance is learned
    classes       labels it is told, 0 for none
    """
    if kind not in BACKBONES:
        raise ValueError(unknown("network", kind, BACKBONES))
    found = BACKBONES[kind]
    valid = set(inspect.signature(found.__init__).parameters) - _GIVEN
    for option in options:
        if option not in valid:
            raise ValueError(unknown(f"option of network {kind}", option, valid))
    network: nn.Module = found(shape, channels_out=channels_out or shape[0], classes=classes, **options)
    return network
