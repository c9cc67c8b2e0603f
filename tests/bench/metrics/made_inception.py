"""The true Inception-v3 with weights made on the spot: everything of FID but the published numbers."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors.torch import save_file


@functools.cache
def tensors() -> dict[str, torch.Tensor]:
    """A state dict with He-initialised weights from a fixed seed."""
    import torch_fidelity.feature_extractor_inceptionv3 as module

    # Its constructor loads weights before there are any: it is kept from it once.
    none = mock.patch.object(module, "load_state_dict_from_url", return_value={})
    with none, torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made: Any = module.FeatureExtractorInceptionV3
        with mock.patch.object(made, "load_state_dict", return_value=None):
            network = made("made", ["2048"])
        for layer in network.modules():
            if isinstance(layer, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(layer.weight)
    return {name: value.clone() for name, value in network.state_dict().items()}


def safetensors(path: Path) -> Path:
    """The file as .safetensors."""
    save_file(tensors(), path)
    return path


def state_dict(path: Path) -> Path:
    """The file as .pth."""
    torch.save(tensors(), path)
    return path
