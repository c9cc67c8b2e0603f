"""Attention over an image's and a text's tokens together, as in MM-DiT (Esser et al. 2024, arXiv 2403.03206).

    q̂, k̂, v̂ = prepare(image, text)     y = softmax(q̂·k̂ᵀ/√D)·v̂     image's rows and text's rows of y

The preparation is an operator of its own (`kernels.prepare`), usable before any attention: the norms and the
rotation are not made again for every tile of queries, and Hopper's copy engine can read the joined keys.

Shapes: B batch, N image tokens, L text tokens, A heads, D size of a head.
"""

from __future__ import annotations

from torch import Tensor

from kernels.attention import attention
from kernels.prepare import Weights, prepare


def joint_attention(
    image_BN3AD: Tensor,
    text_BL3AD: Tensor,
    *,
    weights: Weights | None = None,
    rotation: tuple[Tensor, Tensor] | None = None,
    order: str = "image-first",
    eps: float = 1e-6,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """What attention gives to the image, (B, A, N, D), and to the text, (B, A, L, D): views of one tensor.

    Arguments as of `kernels.prepare.prepare`; `backend` is that of the attention too, and with `triton` both
    are kernels of this project. Raises ValueError as the two do.
    """
    q, k, v = prepare(
        image_BN3AD, text_BL3AD, weights=weights, rotation=rotation, order=order, eps=eps, backend=backend
    )
    y_BAJD = attention(q, k, v, backend=backend)
    N, L = image_BN3AD.shape[1], text_BL3AD.shape[1]
    if order == "image-first":
        image_BAND, text_BALD = y_BAJD.split([N, L], 2)
    else:
        text_BALD, image_BAND = y_BAJD.split([L, N], 2)
    return image_BAND, text_BALD
