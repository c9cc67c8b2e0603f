"""What to do when memory runs out: fewer images at a time, and say so."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from bench.store import Part

T = TypeVar("T")
NARROWED = "narrowed to"
"""In a part: images at a time, where fewer than asked for."""

REFUSALS = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory")
"""What PyTorch's allocators say beside their own exception, in lower case."""


def is_exhausted(error: BaseException) -> bool:
    """Whether an exception means that memory ran out, of a GPU or of the machine."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in REFUSALS)


def halving(batch: int, work: Callable[[int], T]) -> tuple[T, int]:
    """`work` with the largest of batch, batch/2, … that memory is enough for, and which that was.

    What `work` does must begin anew each time; where one image is too much, its error is passed on.
    """
    while True:
        try:
            return work(batch), batch
        except Exception as error:
            if batch == 1 or not is_exhausted(error):
                raise
        # Outside the handler, where the error holds the frames and with them what they allocated.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        batch //= 2


def narrowed(used: int, asked: int) -> dict[str, int]:
    """What a part's info tells of it."""
    return {NARROWED: used} if used < asked else {}


def said(parts: Sequence[Part], asked: int) -> str:
    """What a protocol tells of it; empty where memory was enough."""
    used = [part.info[NARROWED] for part in parts if NARROWED in part.info]
    if not used:
        return ""
    return (
        f", {min(used)} images at a time in {len(used)} of {len(parts)} shards, where memory ended at {asked}"
    )
