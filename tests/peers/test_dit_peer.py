"""Our DiT and MM-DiT against those of diffusers, on the same random weights.

diffusers renames parameters, cuts qkv into three and swaps scale and shift of some modulations; the map
below and `bench.peers.dit_weights` undo this. Shapes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bench.peers.dit_weights import joined, published_names
from models.networks.dit import DiT
from models.networks.mmdit import MMDiT
from models.published_weights import load_dit, load_sd3, mmdit_options

diffusers = pytest.importorskip("diffusers")

State = dict[str, Tensor]


def _random(network: nn.Module) -> State:
    torch.manual_seed(0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    return dict(network.eval().state_dict())


def _swapped(scale_shift: Tensor) -> Tensor:
    scale, shift = scale_shift.chunk(2)
    return torch.cat([shift, scale])


def _sd3_state(theirs: State, depth: int) -> State:
    """Published names of SD3, with QK norm and dual attention where theirs has them."""
    ours: State = {"pos_embed": theirs["pos_embed.pos_embed"]}
    for part in ("weight", "bias"):
        for mine, other in (("t_embedder", "timestep_embedder"), ("y_embedder", "text_embedder")):
            for i in (1, 2):
                ours[f"{mine}.mlp.{2 * i - 2}.{part}"] = theirs[f"time_text_embed.{other}.linear_{i}.{part}"]
        ours[f"x_embedder.proj.{part}"] = theirs[f"pos_embed.proj.{part}"]
        ours[f"context_embedder.{part}"] = theirs[f"context_embedder.{part}"]
        ours[f"final_layer.adaLN_modulation.1.{part}"] = _swapped(theirs[f"norm_out.linear.{part}"])
        ours[f"final_layer.linear.{part}"] = theirs[f"proj_out.{part}"]
        for i in range(depth):
            ours |= _joint_block(theirs, i, part, last=i == depth - 1)
    return ours


def _joint_block(theirs: State, i: int, part: str, last: bool) -> State:
    a, b, ours = f"transformer_blocks.{i}", f"joint_blocks.{i}", {}
    streams = {
        f"{b}.x_block.attn": ("attn", ("to_q", "to_k", "to_v"), "to_out.0", "norm_"),
        f"{b}.x_block.attn2": ("attn2", ("to_q", "to_k", "to_v"), "to_out.0", "norm_"),
        f"{b}.context_block.attn": (
            "attn",
            ("add_q_proj", "add_k_proj", "add_v_proj"),
            "to_add_out",
            "norm_added_",
        ),
    }
    for mine, (attention, qkv, out, norm) in streams.items():
        if f"{a}.{attention}.{qkv[0]}.{part}" not in theirs:
            continue
        q, k, v = (f"{a}.{attention}.{name}" for name in qkv)
        ours[f"{mine}.qkv.{part}"] = joined(theirs, (q, k, v), part)
        if f"{a}.{attention}.{out}.{part}" in theirs:
            ours[f"{mine}.proj.{part}"] = theirs[f"{a}.{attention}.{out}.{part}"]
        for letter in ("q", "k"):
            if f"{a}.{attention}.{norm}{letter}.{part}" in theirs:
                ours[f"{mine}.ln_{letter}.{part}"] = theirs[f"{a}.{attention}.{norm}{letter}.{part}"]
    ours[f"{b}.x_block.adaLN_modulation.1.{part}"] = theirs[f"{a}.norm1.linear.{part}"]
    context = theirs[f"{a}.norm1_context.linear.{part}"]
    ours[f"{b}.context_block.adaLN_modulation.1.{part}"] = _swapped(context) if last else context
    for side, ff in (("x_block", "ff"), ("context_block", "ff_context")):
        if f"{a}.{ff}.net.2.{part}" in theirs:
            ours[f"{b}.{side}.mlp.fc1.{part}"] = theirs[f"{a}.{ff}.net.0.proj.{part}"]
            ours[f"{b}.{side}.mlp.fc2.{part}"] = theirs[f"{a}.{ff}.net.2.{part}"]
    return ours


@torch.no_grad()
def test_dit_equals_the_peer_at_time_0() -> None:
    """diffusers spaces the frequencies of DiT's time by 1/127 and not 1/128; at t = 0 they play no part."""
    peer = diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=5,
        norm_eps=1e-6,
    )
    peer.transformer_blocks[1].norm1.emb = peer.transformer_blocks[0].norm1.emb
    network = DiT((4, 8, 8), 2, 32, 2, 2, channels_out=8, classes=5)
    positions = {"pos_embed": network.pos_embed}
    load_dit(network, published_names(_random(peer), 2) | positions)
    x, label = torch.randn(3, 4, 8, 8), torch.tensor([0, 3, 5])
    time = torch.zeros(3, dtype=torch.int64)
    wanted = peer(x, timestep=time, class_labels=label, return_dict=False)[0]
    torch.testing.assert_close(network(x, time.float(), label), wanted, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(("qk_norm", "dual"), [(None, ()), ("rms_norm", ()), ("rms_norm", (0, 1))])
def test_mmdit_equals_the_peer(qk_norm: str | None, dual: tuple[int, ...]) -> None:
    """SD3-medium, SD3.5-large and SD3.5-medium in small, on a non-square image with cropped positions."""
    peer = diffusers.SD3Transformer2DModel(
        sample_size=12,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=3,
        attention_head_dim=64,
        num_attention_heads=1,
        caption_projection_dim=64,
        joint_attention_dim=12,
        pooled_projection_dim=10,
        pos_embed_max_size=6,
        qk_norm=qk_norm,
        dual_attention_layers=dual,
    )
    state = _sd3_state(_random(peer), 3)
    network = MMDiT(**mmdit_options(state))
    torch.testing.assert_close(network.pos_embed, state["pos_embed"])
    load_sd3(network, state)
    x, t = torch.randn(2, 4, 8, 12), torch.tensor([0.25, 0.875])
    context, pooled = torch.randn(2, 5, 12), torch.randn(2, 10)
    wanted = peer(x, context, pooled, 1000 * t, return_dict=False)[0]
    torch.testing.assert_close(network(x, t, context, pooled), wanted, atol=1e-4, rtol=1e-4)
