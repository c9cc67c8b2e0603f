"""Whole sampling beside diffusers: the same weights, grid and start, from noise to the end, network included.

Theirs is the loop of its pipelines (`scale_model_input`, network, `step`) round its own network; ours is our
network of the same weights in our sampler. The small MLP is one network for both.

Their DiT spaces the frequencies of time by 1/127 of an exponent, and the published one by 1/128; every block
has an embedding of its own, which in published weights are all the same one. Here theirs is given the
published frequencies and one embedding, so that both networks are the same function.

Shapes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from bench.peers.diffusers_samplers import VP, Scheduler, make
from bench.peers.dit_weights import published_names
from bench.peers.networks import IMAGE, small_network
from bench.peers.work import Side, Work, WorkRow, rows_of, seeded
from models.denoiser import Denoiser
from models.networks.dit import DiT
from models.published_weights import load_dit
from models.samplers import sampler

INSTALL = "pip install 'noisebench[peers]'"
STEPS, BATCH, CLASSES = 20, 16, 10
SHAPE = (1, 16, 16)
SIZES = ((64, 3), (192, 6))
"""Widths and depths of the transformers."""


def _sides(ours: Any, theirs: Any, scheduler: str, name: str, shape: tuple[int, ...]) -> tuple[Side, Side]:
    """Both from one start on the scheduler's own grid."""
    peer, x = Scheduler(make(scheduler), VP, {"num_inference_steps": STEPS}), seeded(BATCH, *shape)
    times = peer.times if peer.times[-1] == 0.0 else (*peer.times, 0.0)
    chosen, denoiser = sampler(name, len(times) - 1), Denoiser(ours, VP, "epsilon")

    def run_ours() -> Tensor:
        with torch.inference_mode():
            return chosen(denoiser, x, times, noise=torch.randn_like)

    def run_theirs() -> Tensor:
        with torch.inference_mode():
            peer.reset(x, 0)
            return peer(theirs, x)

    return run_ours, run_theirs


def _mlp(scheduler: str, name: str) -> tuple[Side, Side]:
    network = small_network()
    return _sides(network, network, scheduler, name, IMAGE)


def transformers(width: int, depth: int, heads: int) -> tuple[nn.Module, nn.Module]:
    """Our DiT and diffusers' of the same random weights."""
    from diffusers import DiTTransformer2DModel

    theirs: Any = DiTTransformer2DModel(
        num_attention_heads=heads,
        attention_head_dim=width // heads,
        in_channels=SHAPE[0],
        out_channels=SHAPE[0],
        num_layers=depth,
        sample_size=SHAPE[1],
        patch_size=2,
        num_embeds_ada_norm=CLASSES,
        norm_type="ada_norm_zero",
    )
    generator = torch.Generator().manual_seed(0)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.05, generator=generator)
    embedding = theirs.transformer_blocks[0].norm1.emb.state_dict()
    for block in theirs.transformer_blocks:
        block.norm1.emb.load_state_dict(embedding)
        block.norm1.emb.time_proj.downscale_freq_shift = 0
    ours = DiT(SHAPE, patch=2, width=width, depth=depth, heads=heads, classes=CLASSES)
    places = {"pos_embed": ours.state_dict()["pos_embed"]}  # both compute the same ones
    load_dit(ours, published_names(theirs.state_dict(), depth) | places)
    return ours.eval().requires_grad_(False), theirs.eval().requires_grad_(False)


def _dit(width: int, depth: int, heads: int, scheduler: str, name: str) -> tuple[Side, Side]:
    ours, theirs = transformers(width, depth, heads)
    labels = torch.arange(BATCH) % CLASSES

    def mine(x: Tensor, t_B: Tensor) -> Tensor:
        found: Tensor = ours(x, t_B, labels)
        return found

    def other(x: Tensor, t_B: Tensor) -> Tensor:
        found: Tensor = theirs(x, timestep=1000.0 * t_B, class_labels=labels).sample
        return found

    return _sides(mine, other, scheduler, name, SHAPE)


def works(sizes: Iterable[tuple[int, int]] = SIZES) -> Iterator[Work]:
    """DDIM and DPM-Solver++ on a small MLP and on two transformers."""
    for scheduler, name in (("DDIMScheduler", "ddim"), ("DPMSolverMultistepScheduler", "dpmpp-2m")):
        said = f"{STEPS} steps, batch {BATCH}"
        yield Work(
            "diffusers",
            scheduler.removesuffix("Scheduler"),
            name,
            f"MLP of 115 264 weights, {said}",
            functools.partial(_mlp, scheduler, name),
        )
        for width, depth in sizes:
            yield Work(
                "diffusers",
                f"{scheduler.removesuffix('Scheduler')}, DiT",
                f"{name}, DiT",
                f"DiT {width}×{depth} on 16×16, {said}",
                functools.partial(_dit, width, depth, 4, scheduler, name),
                note="with the published frequencies of time",
            )


def rows(repeats: int = 9, sizes: Iterable[tuple[int, int]] = SIZES) -> Iterator[WorkRow]:
    """A row a work; sizes are those of the transformers."""
    return rows_of(works(tuple(sizes)), repeats, INSTALL)
