"""A Stable Diffusion 3 pipeline of random weights, small enough to be made in a test."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch

WORDS = ["a</w>", "red</w>", "blue</w>", "square</w>", "circle</w>"]


def made(vae: Any) -> Any:
    """MM-DiT of two layers on 4×4 latents."""
    import diffusers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer = diffusers.SD3Transformer2DModel(
            sample_size=4,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            caption_projection_dim=16,
            joint_attention_dim=32,
            pooled_projection_dim=32,
            pos_embed_max_size=8,
        )
        first, second = _clip(), _clip()
        return diffusers.StableDiffusion3Pipeline(
            transformer=transformer,
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
            vae=vae,
            text_encoder=first[0],
            tokenizer=first[1],
            text_encoder_2=second[0],
            tokenizer_2=second[1],
            text_encoder_3=None,
            tokenizer_3=None,
        )


def _clip() -> tuple[Any, Any]:
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

    vocabulary = {word: index for index, word in enumerate([*WORDS, "<|startoftext|>", "<|endoftext|>"])}
    config = CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=16,
        eos_token_id=vocabulary["<|endoftext|>"],
        bos_token_id=vocabulary["<|startoftext|>"],
        pad_token_id=vocabulary["<|endoftext|>"],
    )
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "vocab.json").write_text(json.dumps(vocabulary))
        (Path(folder) / "merges.txt").write_text("#version: 0.2\n")
        tokenizer = CLIPTokenizer(f"{folder}/vocab.json", f"{folder}/merges.txt", model_max_length=16)
    return CLIPTextModelWithProjection(config).eval(), tokenizer
