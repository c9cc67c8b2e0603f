"""From words to what MM-DiT is told: tokens (the context) and one vector (pooled).

Shapes: B captions, L tokens, E embedding, T size of a context token, V size of the pooled vector.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.networks.transformer import CausalTransformer


class SmallTextEncoder(nn.Module):
    """A causal transformer over words, trained together with the network it serves.

    Like CLIP's text encoder (Radford et al. 2021, 2103.00020) it reads from left to right, so padding at the
    end can change nothing. A learned start token comes first: it is all that the empty caption, L zeros,
    consists of, and thus the null of guidance. The pooled vector is the mean over it and the words, which
    says from the first step on which words there are; CLIP's last word has to learn to look back first.
    Padding has one learned vector.

    vocabulary    words, of which word 0 is the padding
    length        most words of a caption
    width, depth  E and the number of blocks      heads  attention heads, divide E
    dropout       while training                  backend  attention backend, see `kernels.attention`
    """

    def __init__(
        self,
        vocabulary: int,
        length: int,
        width: int = 64,
        depth: int = 2,
        heads: int = 4,
        *,
        dropout: float = 0.0,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        if vocabulary < 2 or length < 1:
            raise ValueError(f"captions need two words and one token or more: got {vocabulary} and {length}")
        if width % heads:
            raise ValueError(f"a text encoder of width {width} is not divisible by {heads} heads: change it")
        self.length = length
        self.words = nn.Embedding(vocabulary, width)
        self.start = nn.Parameter(torch.empty(width))
        self.padding = nn.Parameter(torch.empty(width))
        self.positions = nn.Parameter(torch.empty(length + 1, width))
        self.transformer = CausalTransformer(width, depth, heads, dropout=dropout, backend=backend)
        # Words stand out from their places at first: what is asked for matters before its order.
        for parameter, std in (
            (self.words.weight, 1.0),
            (self.start, 1.0),
            (self.padding, 1.0),
            (self.positions, 0.5),
        ):
            nn.init.normal_(parameter, std=std)

    def forward(self, tokens_BL: Tensor) -> tuple[Tensor, Tensor]:
        """int64 (B, L ≤ length) to the context (B, L, E) and the pooled vector (B, E)."""
        B, L = tokens_BL.shape
        if self.length < L:
            raise ValueError(f"captions have up to {self.length} tokens here: got {L}; shorten them")
        x = torch.cat([self.start.expand(B, 1, -1), self.words(tokens_BL)], 1) + self.positions[: L + 1]
        x = self.transformer(x)
        place_L = torch.arange(1, L + 1, device=tokens_BL.device)
        last_B = (place_L * (tokens_BL != 0)).amax(1)
        is_word_BL1 = (place_L <= last_B[:, None])[:, :, None]
        pooled_BE = (x[:, 0] + (x[:, 1:] * is_word_BL1).sum(1)) / (1 + last_B[:, None])
        return torch.where(is_word_BL1, x[:, 1:], self.padding), pooled_BE


class PretrainedTextEncoders(nn.Module):
    """CLIP-L, CLIP-G and T5, joined as in Stable Diffusion 3 (Esser et al. 2024, 2403.03206, §4).

        context  [CLIP-L's and CLIP-G's last hidden states but one, side by side and padded with zeros to T;
                  then T5's tokens]
        pooled   [CLIP-L's pooled projection, CLIP-G's]

    clip_l, clip_g  transformers' CLIPTextModelWithProjection
    t5              its T5EncoderModel; None: zeros, as SD3 without T5
    tokenisers      three functions of captions to token numbers (B, L), for `encode`
    width           T
    """

    def __init__(
        self,
        clip_l: nn.Module,
        clip_g: nn.Module,
        t5: nn.Module | None = None,
        tokenisers: Sequence[Callable[[list[str]], Tensor]] = (),
        width: int = 4096,
    ) -> None:
        super().__init__()
        self.clip_l, self.clip_g, self.t5 = clip_l, clip_g, t5
        self.tokenisers, self.width = tuple(tokenisers), width
        self.requires_grad_(False).eval()

    @classmethod
    def from_pretrained(
        cls, name: str, *, with_t5: bool = True, t5_length: int = 256, **options: Any
    ) -> PretrainedTextEncoders:
        """The encoders and tokenisers of an SD3 folder or hub name, in the layout of diffusers.

        options  handed to transformers, e.g. dtype
        """
        transformers = _transformers()
        clip, t5 = transformers.CLIPTextModelWithProjection, transformers.T5EncoderModel
        clip_l, clip_g = (
            clip.from_pretrained(name, subfolder=folder, use_safetensors=True, **options)
            for folder in ("text_encoder", "text_encoder_2")
        )
        parts = [("tokenizer", 77), ("tokenizer_2", 77)]
        third = None
        if with_t5:
            third = t5.from_pretrained(name, subfolder="text_encoder_3", use_safetensors=True, **options)
            parts.append(("tokenizer_3", t5_length))
        tokenisers = [
            _tokeniser(transformers.AutoTokenizer.from_pretrained(name, subfolder=folder), length)
            for folder, length in parts
        ]
        return cls(clip_l, clip_g, third, tokenisers)

    @torch.no_grad()
    def forward(
        self, tokens_l: Tensor, tokens_g: Tensor, tokens_t5: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Token numbers of each encoder, (B, L) each, to the context (B, L + L', T) and pooled (B, V)."""
        states_l, pooled_l = self._clip(self.clip_l, tokens_l)
        states_g, pooled_g = self._clip(self.clip_g, tokens_g)
        clip_BLT = torch.cat([states_l, states_g], 2)
        if clip_BLT.shape[2] > self.width:
            raise ValueError(
                f"the CLIP encoders give {clip_BLT.shape[2]} channels, more than {self.width}: set width"
            )
        clip_BLT = F.pad(clip_BLT, (0, self.width - clip_BLT.shape[2]))
        return torch.cat([clip_BLT, self._third(clip_BLT, tokens_t5)], 1), torch.cat([pooled_l, pooled_g], 1)

    def encode(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Captions to context and pooled; the empty caption is the null of guidance."""
        if len(self.tokenisers) != (2 if self.t5 is None else 3):
            raise ValueError("these encoders have no tokenisers: build them with from_pretrained")
        device = next(self.parameters()).device
        context, pooled = self(*(tokenise(list(captions)).to(device) for tokenise in self.tokenisers))
        return context, pooled

    def _clip(self, encoder: nn.Module, tokens_BL: Tensor) -> tuple[Tensor, Tensor]:
        found = encoder(input_ids=tokens_BL, output_hidden_states=True)
        return found.hidden_states[-2], found.text_embeds

    def _third(self, clip_BLT: Tensor, tokens_BL: Tensor | None) -> Tensor:
        if self.t5 is None:
            return torch.zeros_like(clip_BLT)
        if tokens_BL is None:
            raise ValueError("T5 needs token numbers of its own: give three tensors")
        states: Tensor = self.t5(input_ids=tokens_BL).last_hidden_state
        if states.shape[2] != self.width:
            raise ValueError(
                f"T5 gives {states.shape[2]} channels and the context has {self.width}: set width"
            )
        return states.to(clip_BLT.dtype)


def _transformers() -> Any:
    """The optional library."""
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise ImportError(
            "Pretrained text encoders need transformers: pip install noisebench[diffusers]"
        ) from error


def _tokeniser(tokenise: Any, length: int) -> Callable[[list[str]], Tensor]:
    """Captions to exactly `length` token numbers, cut or padded."""

    def numbers(captions: list[str]) -> Tensor:
        found: Tensor = tokenise(
            captions, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        ).input_ids
        return found

    return numbers
