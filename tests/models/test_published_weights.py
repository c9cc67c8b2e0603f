"""Protects the loading of published weights: by name, prefix or not, and nothing loaded by halves.

Shapes: B batch.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from models.networks.dit import DiT
from models.networks.mmdit import MMDiT
from models.published_weights import PREFIX, load_dit, load_file, load_sd3, mmdit_options
from tests.models.networks.published import random_weights

WIDTH = 64


def _dit_file() -> dict[str, Tensor]:
    """A state dict with the names of facebookresearch/DiT, typed from its checkpoints, two blocks."""
    E, p, C, classes, tokens = 16, 2, 4, 3, 4
    shapes: dict[str, tuple[int, ...]] = {
        "pos_embed": (1, tokens, E),
        "x_embedder.proj.weight": (E, C, p, p),
        "t_embedder.mlp.0.weight": (E, 256),
        "t_embedder.mlp.2.weight": (E, E),
        "final_layer.linear.weight": (p * p * 2 * C, E),
        "final_layer.adaLN_modulation.1.weight": (2 * E, E),
    }
    for i in range(2):
        shapes |= {
            f"blocks.{i}.attn.qkv.weight": (3 * E, E),
            f"blocks.{i}.attn.proj.weight": (E, E),
            f"blocks.{i}.mlp.fc1.weight": (4 * E, E),
            f"blocks.{i}.mlp.fc2.weight": (E, 4 * E),
            f"blocks.{i}.adaLN_modulation.1.weight": (6 * E, E),
        }
    shapes |= {
        name.replace("weight", "bias"): shape[:1] for name, shape in shapes.items() if "weight" in name
    }
    return _random(shapes | {"y_embedder.embedding_table.weight": (classes + 1, E)})


def _sd3_file(qk_norm: bool, dual: int) -> dict[str, Tensor]:
    """A state dict with the names of Stable Diffusion 3 and 3.5, two joint blocks of heads of 64."""
    E, p, C, S = WIDTH, 2, 4, 6
    shapes: dict[str, tuple[int, ...]] = {
        "x_embedder.proj.weight": (E, C, p, p),
        "t_embedder.mlp.0.weight": (E, 256),
        "t_embedder.mlp.2.weight": (E, E),
        "y_embedder.mlp.0.weight": (E, 10),
        "y_embedder.mlp.2.weight": (E, E),
        "context_embedder.weight": (E, 12),
        "final_layer.linear.weight": (p * p * C, E),
        "final_layer.adaLN_modulation.1.weight": (2 * E, E),
    }
    for i in range(2):
        for side in ("context_block", "x_block"):
            name, last = f"joint_blocks.{i}.{side}", side == "context_block" and i == 1
            second = side == "x_block" and i < dual
            parts = 2 if last else 9 if second else 6
            shapes[f"{name}.adaLN_modulation.1.weight"] = (parts * E, E)
            for attention in ("attn", "attn2") if second else ("attn",):
                shapes[f"{name}.{attention}.qkv.weight"] = (3 * E, E)
                if not last:
                    shapes[f"{name}.{attention}.proj.weight"] = (E, E)
            if not last:
                shapes |= {f"{name}.mlp.fc1.weight": (4 * E, E), f"{name}.mlp.fc2.weight": (E, 4 * E)}
    shapes |= {name.replace("weight", "bias"): shape[:1] for name, shape in shapes.items()}
    if qk_norm:
        names = [name for name in shapes if name.endswith("qkv.weight")]
        shapes |= {name.replace("qkv", norm): (64,) for name in names for norm in ("ln_q", "ln_k")}
    return _random(shapes | {"pos_embed": (1, S * S, E)})


def _random(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def _dit() -> DiT:
    return DiT((4, 4, 4), 2, 16, 2, 2, channels_out=8, classes=3)


def test_a_published_dit_loads_by_name(tmp_path: Path) -> None:
    """Through a file and back: every tensor arrives under its name, positions included."""
    state, network = _dit_file(), _dit()
    save_file(state, tmp_path / "dit.safetensors")
    load_dit(network, load_file(tmp_path / "dit.safetensors"))
    found = network.state_dict()
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)


@pytest.mark.parametrize("prefix", ["", PREFIX])
@pytest.mark.parametrize(("qk_norm", "dual"), [(False, 0), (True, 0), (True, 1)])
def test_a_published_sd3_says_its_options_and_loads(prefix: str, qk_norm: bool, dual: int) -> None:
    """SD3-medium, SD3.5-large and SD3.5-medium in small; beside other parts of the same file."""
    state = _sd3_file(qk_norm, dual)
    file = {prefix + name: tensor for name, tensor in state.items()}
    if prefix:
        file["first_stage_model.encoder.conv_in.weight"] = torch.zeros(1)
    options = mmdit_options(file)
    assert options == {
        "shape": (4, 12, 12),
        "patch": 2,
        "width": WIDTH,
        "depth": 2,
        "heads": 1,
        "context_width": 12,
        "pooled_width": 10,
        "channels_out": 4,
        "qk_norm": "rms" if qk_norm else None,
        "dual_blocks": dual,
        "positions": 6,
        "expansion": 4.0,
    }
    network = MMDiT(**options)
    load_sd3(network, file)
    found = network.state_dict()
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)


def test_heads_are_read_from_their_normalisation() -> None:
    network = MMDiT((4, 4, 4), width=24, depth=2, heads=3, context_width=7, pooled_width=5)
    assert mmdit_options(network.state_dict())["heads"] == 3


@torch.no_grad()
def test_half_precision_weights_take_the_precision_of_the_network() -> None:
    """SD3 is published in float16; the network decides what it computes in."""
    source, network = random_weights(_dit()), _dit().double()
    load_dit(network, {name: tensor.half() for name, tensor in source.state_dict().items()})
    x, t = torch.randn(2, 4, 4, 4).double(), torch.rand(2).double()
    torch.testing.assert_close(network(x, t), source(x, t), atol=0.05, rtol=0.05)
    assert network.pos_embed.dtype == torch.float64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks.1.mlp.fc2.bias": None}, "the DiT weights lack blocks.1.mlp.fc2.bias, .*dit.preset"),
        (
            {"blocks.2.attn.qkv.weight": torch.zeros(1)},
            "have blocks.2.attn.qkv.weight, which this network lacks",
        ),
        (
            {"x_embedder.proj.weight": torch.zeros(16, 3, 2, 2)},
            r"x_embedder.proj.weight of shape \(16, 3, 2, 2\), and this network of \(16, 4, 2, 2\)",
        ),
    ],
)
def test_the_first_disagreement_is_named_and_nothing_is_loaded(change: dict, message: str) -> None:
    network, before = _dit(), {name: t.clone() for name, t in _dit_file().items()}
    load_dit(network, before)
    state = {name: tensor + 1 for name, tensor in before.items()} | change
    with pytest.raises(ValueError, match=message):
        load_dit(network, {name: tensor for name, tensor in state.items() if tensor is not None})
    assert all(torch.equal(t, before[name]) for name, t in network.state_dict().items())


def test_wrong_sd3_files_get_one_sentence() -> None:
    state = _sd3_file(True, 1)
    with pytest.raises(
        ValueError, match=r"lack x_embedder\.proj\.weight: they are not those of a published SD3"
    ):
        mmdit_options({"conv_in.weight": torch.zeros(1)})
    with pytest.raises(
        ValueError, match=r"of shape \(1, 36, 64\), and this network of \(1, 4, 64\).*mmdit_options"
    ):
        load_sd3(MMDiT(**{**mmdit_options(state), "shape": (4, 4, 4), "positions": 2}), state)
    broken = {name: t for name, t in state.items() if "joint_blocks.0.x_block.attn2" not in name}
    broken["joint_blocks.1.x_block.attn2.qkv.weight"] = torch.zeros(1)
    with pytest.raises(ValueError, match=r"blocks \[1\] .* with a gap"):
        mmdit_options(broken)


def test_only_safetensors_are_opened(tmp_path: Path) -> None:
    """A pickle is refused by name, before a byte of it is read; so are missing and damaged files."""
    pickled, damaged = tmp_path / "DiT-XL-2-256x256.pt", tmp_path / "a.safetensors"
    torch.save({"a": torch.zeros(1)}, pickled)
    with pytest.raises(ValueError, match=r"DiT-XL-2-256x256.pt is no safetensors file.*save_file"):
        load_file(pickled)
    with pytest.raises(ValueError, match="there is no file"):
        load_file(tmp_path / "b.safetensors")
    damaged.write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}")
    with pytest.raises(ValueError, match="is damaged"):
        load_file(damaged)
