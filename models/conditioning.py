"""What a model is conditioned on: nothing, a class label or a caption.

A condition has a null, which stands for "nothing is known": training replaces a share of the conditions
by it, so that one network learns p(x | c) and p(x), which guidance needs (Ho & Salimans 2022, 2207.12598).

Shapes: n images, L tokens of a caption.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class Conditioning:
    """The form of a condition.

    kind    `none`; `label`: (n,) integers 0…size−1, the null being `size`; `text`: (n, L) words
            0…size−1, the null being L zeros, as word 0 is the padding
    size    classes, or words of the vocabulary
    length  L, tokens of a caption
    """

    kind: Literal["none", "label", "text"] = "none"
    size: int = 0
    length: int = 0

    def null(self, n: int, device: torch.device | str = "cpu") -> Tensor:
        """n times "nothing is known", int64."""
        if self.kind == "text":
            return torch.zeros(n, self.length, dtype=torch.int64, device=device)
        return torch.full((n,), self.size, dtype=torch.int64, device=device)

    def given(
        self, condition: Tensor | None, n: int, device: torch.device | str = "cpu", who: str = "This model"
    ) -> Tensor:
        """The condition of n images as int64, checked; the null where it is None."""
        if condition is None:
            return self.null(n, device)
        if self.kind == "none":
            raise ValueError(f"{who} is unconditional: leave the labels out")
        shape = (n,) if self.kind == "label" else (n, self.length)
        if tuple(condition.shape) != shape or condition.is_floating_point():
            what = "class labels" if self.kind == "label" else "captions as token numbers"
            raise ValueError(
                f"{who} takes {what} as integers of shape {shape}, "
                f"and these are {condition.dtype} {tuple(condition.shape)}"
            )
        last = self.size if self.kind == "label" else self.size - 1
        if (
            condition.device.type != "meta"
            and n
            and not 0 <= int(condition.min()) <= int(condition.max()) <= last
        ):
            raise ValueError(
                f"{who} knows conditions 0…{last}, and got {int(condition.min())}…{int(condition.max())}"
            )
        return condition.to(device=device, dtype=torch.int64)

    def dropped(self, condition: Tensor, share: float, generator: torch.Generator | None = None) -> Tensor:
        """Each condition replaced by the null with probability `share`."""
        if self.kind == "none" or share <= 0:
            return condition
        n, device = len(condition), condition.device
        drop = torch.rand(n, generator=generator, device=device) < share
        return torch.where(drop.view(-1, *(1,) * (condition.dim() - 1)), self.null(n, device), condition)


UNCONDITIONAL = Conditioning()


def labels(classes: int) -> Conditioning:
    """Class labels 0…classes−1; of no class, nothing."""
    if classes < 0:
        raise ValueError(f"classes must be 0 (unconditional) or more: got {classes}")
    return Conditioning("label", classes) if classes else UNCONDITIONAL


def text(vocabulary: int, length: int) -> Conditioning:
    """Captions of up to `length` words out of `vocabulary`, the first being the padding."""
    if vocabulary < 2 or length < 1:
        raise ValueError(f"captions need two words and one token or more: got {vocabulary} and {length}")
    return Conditioning("text", vocabulary, length)


def check_share(condition_dropout: float) -> None:
    """ValueError unless it is a share of the conditions, below 1."""
    if not 0 <= condition_dropout < 1:
        raise ValueError(f"condition_dropout is a share from 0 to below 1, and not {condition_dropout!r}")
