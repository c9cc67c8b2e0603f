"""Published weights of DiT and Stable Diffusion 3 into our networks, by name.

The networks carry the published parameter names, so loading is a comparison of names and shapes. Weights
are read from safetensors files only: a pickle can run code when it is opened.

Shapes: E embedding, p patch, S side of the table of positions.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file as _read
from torch import Tensor, nn

from models.networks.dit import DiT
from models.networks.mmdit import MMDiT

PREFIX = "model.diffusion_model."
"""What stands before the names of the network in a file that holds text encoders and autoencoder too."""

HEAD = 64
"""Size of an attention head in the published MM-DiT family."""


def load_file(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file; anything else is refused."""
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(
            f"{path.name} is no safetensors file, and pickles are never opened: convert it once with "
            "safetensors.torch.save_file(torch.load(path, weights_only=True), 'weights.safetensors')"
        )
    if not path.is_file():
        raise ValueError(f"there is no file {path}: download the weights first, or correct the path")
    try:
        return _read(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}): download it again") from error


def load_dit(network: DiT, state: Mapping[str, Tensor]) -> None:
    """Copy the weights of a published DiT (facebookresearch/DiT) into a network of its size."""
    _load(network, state, "DiT", "models.networks.dit.preset gives the options of the published sizes")


def load_sd3(network: MMDiT, state: Mapping[str, Tensor]) -> None:
    """Copy the MM-DiT of a published SD3 or SD3.5 file into a network of its size.

    Names may carry the prefix `model.diffusion_model.`; the file's other parts are then left alone.
    """
    _load(network, _without_prefix(state), "SD3", "build it as MMDiT(**mmdit_options(state))")


def mmdit_options(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Keywords of the `MMDiT` that a published state dict belongs to.

    `shape` is that of the largest image the table of positions holds. The size of a head is read from the
    normalisation of queries; where there is none it is 64, as in all published sizes.
    """
    state = _without_prefix(state)
    E, channels, p, _ = _get(state, "x_embedder.proj.weight").shape
    S = math.isqrt(_get(state, "pos_embed").shape[1])
    context_width = _get(state, "context_embedder.weight").shape[1]
    pooled_width = _get(state, "y_embedder.mlp.0.weight").shape[1]
    normalised = state.get("joint_blocks.0.x_block.attn.ln_q.weight")
    return {
        "shape": (channels, S * p, S * p),
        "patch": p,
        "width": E,
        "depth": len(_blocks(state, r"joint_blocks\.(\d+)\.x_block\.attn\.qkv\.weight")),
        "heads": E // (HEAD if normalised is None else len(normalised)),
        "context_width": context_width,
        "pooled_width": pooled_width,
        "channels_out": _get(state, "final_layer.linear.weight").shape[0] // p**2,
        "qk_norm": None if normalised is None else "rms",
        "dual_blocks": len(_blocks(state, r"joint_blocks\.(\d+)\.x_block\.attn2\.qkv\.weight")),
        "positions": S,
        "expansion": _get(state, "joint_blocks.0.x_block.mlp.fc1.weight").shape[0] / E,
    }


def _blocks(state: Mapping[str, Tensor], pattern: str) -> list[int]:
    """Indices of the blocks that have a parameter; they must be the first ones without a gap."""
    found = sorted(int(match[1]) for name in state if (match := re.fullmatch(pattern, name)))
    if found != list(range(len(found))):
        raise ValueError(f"the weights have blocks {found} of {pattern}, with a gap: the file is incomplete")
    return found


def _without_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    own = {name.removeprefix(PREFIX): tensor for name, tensor in state.items() if name.startswith(PREFIX)}
    return own or dict(state)


def _get(state: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in state:
        raise ValueError(f"the weights lack {name}: they are not those of a published SD3")
    return state[name]


def _load(network: nn.Module, state: Mapping[str, Tensor], what: str, remedy: str) -> None:
    """Names and shapes must agree exactly; the first that does not is named."""
    own = network.state_dict()
    for name, tensor in own.items():
        if name not in state:
            raise ValueError(f"the {what} weights lack {name}, which this network has: {remedy}")
        if state[name].shape != tensor.shape:
            raise ValueError(
                f"the {what} weights have {name} of shape {tuple(state[name].shape)}, "
                f"and this network of {tuple(tensor.shape)}: {remedy}"
            )
    for name in state:
        if name not in own:
            raise ValueError(f"the {what} weights have {name}, which this network lacks: {remedy}")
    network.load_state_dict(dict(state))
