"""Scaled dot-product attention with its backend named, and the plain-PyTorch twin of all of them.

Shapes: B batch, H heads, L queries, S keys, D size of a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from kernels.attention_op import (
    DTYPES,
    LARGEST_HEAD,
    attention_forward,
    scores,
    seen_keys,
)
from kernels.launch import require_triton

SDPA_BACKENDS = {
    "math": SDPBackend.MATH,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}
BACKENDS = ("auto", "reference", "triton", *SDPA_BACKENDS)

_process = {"auto": "auto"}


def choose_backend(backend: str) -> None:
    """From now on, `auto` in this process is `backend`: one switch for every network.

    Raises ValueError where the backend is unknown.
    """
    _check_backend(backend)
    _process["auto"] = backend


@contextmanager
def using_backend(backend: str) -> Iterator[None]:
    """The same for a while."""
    before = _process["auto"]
    choose_backend(backend)
    try:
        yield
    finally:
        _process["auto"] = before


def chosen_backend(backend: str) -> str:
    """What runs where `backend` is asked for: itself, or, for `auto`, what the process has chosen."""
    return _process["auto"] if backend == "auto" else backend


def attention(
    q_BHLD: Tensor,
    k_BHSD: Tensor,
    v_BHSD: Tensor,
    *,
    causal: bool = False,
    key_lengths_B: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """softmax(q·kᵀ/√D)·v, shape (B, H, L, D) (Vaswani et al. 2017, equation 1).

    causal       query i sees keys 0…i; needs as many queries as keys
    key_lengths  keys of each sample, integers from 0 to S: later ones are not seen; a query that sees no
                 key gives zeros
    backend      `auto` (PyTorch's choice, or that of `choose_backend`), `reference` (the twin), `triton` (the
                 kernel of this project), or exactly one of `math`, `flash`, `efficient`, `cudnn`: another one
                 is never put in its place

    Raises ValueError where shapes disagree, or the backend is unknown or cannot run these tensors.
    """
    _check_shapes(q_BHLD, k_BHSD, v_BHSD, causal, key_lengths_B)
    _check_backend(backend)
    backend = chosen_backend(backend)
    if backend == "reference":
        return reference_attention(q_BHLD, k_BHSD, v_BHSD, causal=causal, key_lengths_B=key_lengths_B)
    if backend == "triton":
        return _fused(q_BHLD, k_BHSD, v_BHSD, key_lengths_B, causal)
    if backend == "auto":
        return _by_pytorch(q_BHLD, k_BHSD, v_BHSD, key_lengths_B, causal)
    try:
        with sdpa_kernel(SDPA_BACKENDS[backend]):
            return _by_pytorch(q_BHLD, k_BHSD, v_BHSD, key_lengths_B, causal)
    except RuntimeError as error:
        if not _is_refusal(error):
            raise
        masked = "" if key_lengths_B is None else " and key lengths"
        what = f"{q_BHLD.dtype} tensors with heads of {q_BHLD.shape[-1]}{masked} on {q_BHLD.device.type}"
        raise ValueError(
            f"attention backend {backend!r} cannot run {what}: use auto, math or reference"
        ) from error


def reference_attention(
    q_BHLD: Tensor,
    k_BHSD: Tensor,
    v_BHSD: Tensor,
    *,
    causal: bool = False,
    key_lengths_B: Tensor | None = None,
) -> Tensor:
    """The definition, written out: scores and softmax in float32 (float64 stays float64), output as q."""
    none_B111 = None if key_lengths_B is None else (key_lengths_B == 0)[:, None, None, None]
    # Where nothing is seen, softmax of all keys: its gradient is finite, and its result not used.
    p_BHLS = scores(q_BHLD, k_BHSD, key_lengths_B, causal, none_B111).softmax(-1)
    if none_B111 is not None:
        p_BHLS = p_BHLS.masked_fill(none_B111, 0.0)
    return (p_BHLS @ v_BHSD.to(p_BHLS.dtype)).to(q_BHLD.dtype)


def _by_pytorch(
    q_BHLD: Tensor, k_BHSD: Tensor, v_BHSD: Tensor, key_lengths_B: Tensor | None, causal: bool
) -> Tensor:
    if key_lengths_B is None:
        return F.scaled_dot_product_attention(q_BHLD, k_BHSD, v_BHSD, is_causal=causal)
    L, S = q_BHLD.shape[2], k_BHSD.shape[2]
    seen = seen_keys(L, S, key_lengths_B, causal, q_BHLD.device)
    assert seen is not None
    # Backends differ in what they give where nothing is seen.
    none_B111 = (key_lengths_B == 0)[:, None, None, None]
    y_BHLD = F.scaled_dot_product_attention(q_BHLD, k_BHSD, v_BHSD, attn_mask=seen | none_B111)
    return y_BHLD.masked_fill(none_B111, 0.0)


def _fused(
    q_BHLD: Tensor, k_BHSD: Tensor, v_BHSD: Tensor, key_lengths_B: Tensor | None, causal: bool
) -> Tensor:
    require_triton(q_BHLD, "attention")
    if q_BHLD.dtype not in DTYPES or q_BHLD.shape[-1] > LARGEST_HEAD:
        raise ValueError(
            f"attention by triton takes float16, bfloat16, float32 and heads of at most {LARGEST_HEAD}: got "
            f"{q_BHLD.dtype} and heads of {q_BHLD.shape[-1]}; use auto or math"
        )
    return attention_forward(q_BHLD, k_BHSD, v_BHSD, key_lengths_B, causal)[0]


def _check_shapes(
    q_BHLD: Tensor, k_BHSD: Tensor, v_BHSD: Tensor, causal: bool, key_lengths_B: Tensor | None
) -> None:
    q, k, v = tuple(q_BHLD.shape), tuple(k_BHSD.shape), tuple(v_BHSD.shape)
    if len(q) != 4 or k != v or len(k) != 4 or q[:2] != k[:2] or q[3] != k[3]:
        raise ValueError(f"attention needs q (B, H, L, D) and k, v (B, H, S, D): got {q}, {k} and {v}")
    if not q_BHLD.dtype == k_BHSD.dtype == v_BHSD.dtype:
        dtypes = f"{q_BHLD.dtype}, {k_BHSD.dtype} and {v_BHSD.dtype}"
        raise ValueError(f"attention needs q, k and v of one dtype: got {dtypes}")
    if causal and q[2] != k[2]:
        raise ValueError(f"causal attention needs as many queries as keys: got {q[2]} and {k[2]}")
    if key_lengths_B is not None and (
        key_lengths_B.shape != q[:1] or key_lengths_B.is_floating_point() or key_lengths_B.is_complex()
    ):
        got = f"{key_lengths_B.dtype} of shape {tuple(key_lengths_B.shape)}"
        raise ValueError(f"key_lengths_B are integers, one for each of the {q[0]} samples: got {got}")


def _check_backend(backend: str) -> None:
    if backend not in BACKENDS:
        raise ValueError(f"attention backend {backend!r} is unknown: use one of {', '.join(BACKENDS)}")


def _is_refusal(error: RuntimeError) -> bool:
    """Whether PyTorch said that no enabled backend fits, as opposed to any other failure."""
    text = str(error).lower()
    return "no viable backend" in text or "no available kernel" in text
