"""Pre-norm causal transformer blocks, with a key-value cache for one token at a time.

Shapes: B batch, L tokens, E embedding, H heads, D = E/H size of a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.attention import attention


class KeyValueCache:
    """Keys and values of the tokens seen so far, for each block; grows by what is appended."""

    def __init__(self) -> None:
        self._blocks: dict[int, tuple[Tensor, Tensor]] = {}

    def append(self, block: int, k_BHLD: Tensor, v_BHLD: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values of `block`, the new ones last."""
        if block in self._blocks:
            k_past, v_past = self._blocks[block]
            k_BHLD, v_BHLD = torch.cat([k_past, k_BHLD], 2), torch.cat([v_past, v_BHLD], 2)
        self._blocks[block] = (k_BHLD, v_BHLD)
        return k_BHLD, v_BHLD


class CausalBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)) (Vaswani et al. 2017; pre-norm: Xiong et al. 2020)."""

    def __init__(self, width: int, heads: int, expansion: int, dropout: float, index: int) -> None:
        super().__init__()
        self.heads, self.index = heads, index
        self.attention_norm = nn.LayerNorm(width)
        self.to_qkv = nn.Linear(width, 3 * width)
        self.from_heads = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp_in = nn.Linear(width, expansion * width)
        self.mlp_out = nn.Linear(expansion * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BLE: Tensor, cache: KeyValueCache | None, backend: str) -> Tensor:
        x_BLE = x_BLE + self.dropout(self._attend(self.attention_norm(x_BLE), cache, backend))
        return x_BLE + self.dropout(self.mlp_out(F.gelu(self.mlp_in(self.mlp_norm(x_BLE)))))

    def _attend(self, x_BLE: Tensor, cache: KeyValueCache | None, backend: str) -> Tensor:
        B, L, E = x_BLE.shape
        qkv_3BHLD = self.to_qkv(x_BLE).view(B, L, 3, self.heads, E // self.heads).permute(2, 0, 3, 1, 4)
        q_BHLD, k_BHLD, v_BHLD = qkv_3BHLD.unbind(0)
        if cache is not None:
            k_BHLD, v_BHLD = cache.append(self.index, k_BHLD, v_BHLD)
        # One cached token is the last of all, so that it may see every key.
        y_BHLD = attention(q_BHLD, k_BHLD, v_BHLD, causal=cache is None, backend=backend)
        return self.from_heads(y_BHLD.transpose(1, 2).reshape(B, L, E))


class CausalTransformer(nn.Module):
    """`depth` causal blocks and a final norm: (B, L, E) to (B, L, E), token i from tokens 0…i alone.

    width      E, divisible by heads
    expansion  width of the hidden layer of a block's MLP, in units of E
    dropout    on what each branch adds to the stream, while training
    backend    attention backend, see `kernels.attention`
    """

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        *,
        expansion: int = 4,
        dropout: float = 0.0,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not divisible by {heads} heads: choose a multiple of {heads}")
        self.backend = backend
        blocks = [CausalBlock(width, heads, expansion, dropout, index) for index in range(depth)]
        # The 2·depth branches start small, so that the variance of the stream does not grow with depth.
        for layer in (layer for block in blocks for layer in (block.from_heads, block.mlp_out)):
            nn.init.normal_(layer.weight, std=0.02 * (2 * depth) ** -0.5)
            nn.init.zeros_(layer.bias)
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(width)

    def forward(self, x_BLE: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """With a `cache`, x holds the one next token and the cache all before it; it is updated."""
        if cache is not None and x_BLE.shape[1] != 1:
            raise ValueError(f"a cached call takes one token at a time: got {x_BLE.shape[1]}")
        for block in self.blocks:
            x_BLE = block(x_BLE, cache, self.backend)
        return self.norm(x_BLE)
