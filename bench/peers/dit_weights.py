"""Weights of diffusers' DiT under the published names, which our networks carry.

diffusers cuts qkv into three and repeats the embedding of time and label in every block; this undoes both.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def published_names(theirs: Mapping[str, Tensor], depth: int) -> dict[str, Tensor]:
    """Published names; the embedding of time and label, which every block of theirs repeats, from block 0."""
    ours: dict[str, Tensor] = {}
    embedding = "transformer_blocks.0.norm1.emb"
    ours["y_embedder.embedding_table.weight"] = theirs[f"{embedding}.class_embedder.embedding_table.weight"]
    for part in ("weight", "bias"):
        for i in (1, 2):
            linear = theirs[f"{embedding}.timestep_embedder.linear_{i}.{part}"]
            ours[f"t_embedder.mlp.{2 * i - 2}.{part}"] = linear
        ours[f"x_embedder.proj.{part}"] = theirs[f"pos_embed.proj.{part}"]
        ours[f"final_layer.adaLN_modulation.1.{part}"] = theirs[f"proj_out_1.{part}"]
        ours[f"final_layer.linear.{part}"] = theirs[f"proj_out_2.{part}"]
        for i in range(depth):
            a, b = f"transformer_blocks.{i}", f"blocks.{i}"
            qkv = (f"{a}.attn1.to_q", f"{a}.attn1.to_k", f"{a}.attn1.to_v")
            ours[f"{b}.attn.qkv.{part}"] = joined(theirs, qkv, part)
            ours[f"{b}.attn.proj.{part}"] = theirs[f"{a}.attn1.to_out.0.{part}"]
            ours[f"{b}.mlp.fc1.{part}"] = theirs[f"{a}.ff.net.0.proj.{part}"]
            ours[f"{b}.mlp.fc2.{part}"] = theirs[f"{a}.ff.net.2.{part}"]
            ours[f"{b}.adaLN_modulation.1.{part}"] = theirs[f"{a}.norm1.linear.{part}"]
    return ours


def joined(theirs: Mapping[str, Tensor], names: tuple[str, str, str], part: str) -> Tensor:
    """Parameters of several layers as one layer that does what all of them do."""
    return torch.cat([theirs[f"{name}.{part}"] for name in names])
