"""DiT and MM-DiT from the formulas and the published parameter names alone: what our networks must equal.

Written with einsum and an explicit softmax on plain dictionaries of tensors, sharing no code with the
networks. Shapes: B batch, C channels, H height, W width, p patch, N tokens, E embedding, A heads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

State = Mapping[str, Tensor]


def random_weights(network: nn.Module, std: float = 0.15) -> nn.Module:
    """float64 and no zeros anywhere, so that no term can hide behind a gate that starts at 0."""
    generator = torch.Generator().manual_seed(0)
    for parameter in network.double().parameters():
        nn.init.normal_(parameter, std=std, generator=generator)
    return network.eval()


def dit(s: State, x: Tensor, t: Tensor, label: Tensor | None, heads: int, patch: int) -> Tensor:
    """Peebles & Xie 2023, 2212.09748, adaLN-Zero."""
    c = _mlp(s, "t_embedder.mlp", _time(1000 * t), (0, 2), _silu)
    if label is not None:
        c = c + s["y_embedder.embedding_table.weight"][label]
    h = _patches(s, x, patch) + s["pos_embed"]
    for i in range(_count(s, "blocks.{}.attn.qkv.weight")):
        b = f"blocks.{i}"
        m = _modulation(s, b, c, 6)
        q, k, v = _qkv(s, f"{b}.attn", _modulated(h, m[0], m[1]), heads)
        h = h + m[2] * _linear(s, f"{b}.attn.proj", _attend(q, k, v))
        h = h + m[5] * _mlp(s, f"{b}.mlp", _modulated(h, m[3], m[4]), ("fc1", "fc2"), _gelu)
    return _image(s, h, c, x.shape, patch)


def mmdit(
    s: State, x: Tensor, t: Tensor, context: Tensor, pooled: Tensor, heads: int, patch: int, crop: Tensor
) -> Tensor:
    """Esser et al. 2024, 2403.03206; `crop` indexes the rows of the table of positions."""
    c = _mlp(s, "t_embedder.mlp", _time(1000 * t), (0, 2), _silu)
    c = c + _mlp(s, "y_embedder.mlp", pooled, (0, 2), _silu)
    h, text = _patches(s, x, patch) + s["pos_embed"][:, crop], _linear(s, "context_embedder", context)
    for i in range(_count(s, "joint_blocks.{}.x_block.attn.qkv.weight")):
        b, a = f"joint_blocks.{i}.x_block", f"joint_blocks.{i}.context_block"
        dual, last = f"{b}.attn2.qkv.weight" in s, f"{a}.mlp.fc1.weight" not in s
        m, n = _modulation(s, b, c, 9 if dual else 6), _modulation(s, a, c, 2 if last else 6)
        own = _qkv(s, f"{b}.attn", _modulated(h, m[0], m[1]), heads)
        theirs = _qkv(s, f"{a}.attn", _modulated(text, n[0], n[1]), heads)
        mixed = _attend(*(torch.cat([theirs[j], own[j]], 1) for j in range(3)))
        L = text.shape[1]
        out = h + m[2] * _linear(s, f"{b}.attn.proj", mixed[:, L:])
        if dual:
            alone = _attend(*_qkv(s, f"{b}.attn2", _modulated(h, m[6], m[7]), heads))
            out = out + m[8] * _linear(s, f"{b}.attn2.proj", alone)
        h = out + m[5] * _mlp(s, f"{b}.mlp", _modulated(out, m[3], m[4]), ("fc1", "fc2"), _gelu)
        if not last:
            text = text + n[2] * _linear(s, f"{a}.attn.proj", mixed[:, :L])
            text = text + n[5] * _mlp(s, f"{a}.mlp", _modulated(text, n[3], n[4]), ("fc1", "fc2"), _gelu)
    return _image(s, h, c, x.shape, patch)


def _count(s: State, pattern: str) -> int:
    return next(i for i in range(100) if pattern.format(i) not in s)


def _linear(s: State, name: str, x: Tensor) -> Tensor:
    return torch.einsum("...i,oi->...o", x, s[f"{name}.weight"]) + s[f"{name}.bias"]


def _silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def _gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _mlp(s: State, name: str, x: Tensor, layers: tuple, activation) -> Tensor:  # type: ignore[no-untyped-def]
    return _linear(s, f"{name}.{layers[1]}", activation(_linear(s, f"{name}.{layers[0]}", x)))


def _time(t: Tensor) -> Tensor:
    angles = torch.stack([t * math.exp(-math.log(10000) * i / 128) for i in range(128)], 1)
    return torch.cat([torch.cos(angles), torch.sin(angles)], 1)


def _modulation(s: State, name: str, c: Tensor, parts: int) -> list[Tensor]:
    all_parts = _linear(s, f"{name}.adaLN_modulation.1", _silu(c))
    E = all_parts.shape[1] // parts
    return [all_parts[:, i * E : (i + 1) * E].unsqueeze(1) for i in range(parts)]


def _modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    variance, mean = torch.var_mean(x, -1, correction=0, keepdim=True)
    return (x - mean) / torch.sqrt(variance + 1e-6) * (1 + scale) + shift


def _qkv(s: State, name: str, x: Tensor, heads: int) -> list[Tensor]:
    """Three (B, N, A, D): thirds of the projection, each cut into heads; queries and keys normalised."""
    thirds = _linear(s, f"{name}.qkv", x).chunk(3, -1)
    q, k, v = (third.unflatten(-1, (heads, -1)) for third in thirds)
    if f"{name}.ln_q.weight" in s:
        q, k = (
            z / torch.sqrt((z * z).mean(-1, keepdim=True) + 1e-6) * s[f"{name}.{norm}.weight"]
            for z, norm in ((q, "ln_q"), (k, "ln_k"))
        )
    return [q, k, v]


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = torch.exp(torch.einsum("bnad,bmad->banm", q, k) / math.sqrt(q.shape[-1]))
    return torch.einsum("banm,bmad->bnad", scores / scores.sum(-1, keepdim=True), v).flatten(2)


def _patches(s: State, x: Tensor, p: int) -> Tensor:
    cut = x.unfold(2, p, p).unfold(3, p, p)
    tokens = torch.einsum("bchwij,ecij->bhwe", cut, s["x_embedder.proj.weight"]) + s["x_embedder.proj.bias"]
    return tokens.flatten(1, 2)


def _image(s: State, h: Tensor, c: Tensor, shape: torch.Size, p: int) -> Tensor:
    m = _modulation(s, "final_layer", c, 2)
    tokens = _linear(s, "final_layer.linear", _modulated(h, m[0], m[1]))
    rows, columns, channels = shape[2] // p, shape[3] // p, tokens.shape[2] // p**2
    image = torch.empty(shape[0], channels, shape[2], shape[3], dtype=h.dtype)
    for n in range(rows * columns):
        i, j = (n // columns) * p, (n % columns) * p
        image[:, :, i : i + p, j : j + p] = tokens[:, n].view(-1, p, p, channels).permute(0, 3, 1, 2)
    return image
