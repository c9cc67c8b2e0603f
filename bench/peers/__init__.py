"""Ours beside other people's packages, in one run: the same network, the same noise, the same grid.

    for row in compare("samplers"): ...

A row is one number of theirs against one of ours. Peers are an extra; what is not installed is a row that is
`skipped` and says why. A kind of comparison is one entry of `KINDS` and a module with a generator of rows.

Nothing here imports torch or a peer before rows are asked for.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bench.errors import UsageError, unknown

KINDS = {
    "samplers": "bench.peers.samplers:rows",
    "frechet": "bench.peers.frechet:rows",
    "likelihood": "bench.peers.likelihood:rows",
    "flows": "bench.peers.flows:rows",
    "pipelines": "bench.peers.pipelines:rows",
}
"""Kinds of comparison and the generator of each one's rows."""


@dataclass(frozen=True)
class Row:
    """What every comparison says of itself.

    peer    the package as its users install it, with the version that ran
    theirs  what was run of it, in its own words
    ours    the same here
    status  ok, or skipped where the peer is missing or failed where it could not be run
    note    why it was skipped or failed; where the peer is known to be wrong, how
    """

    peer: str
    version: str
    theirs: str
    ours: str
    status: str
    note: str


def compare(kind: str, **options: Any) -> Iterator[Row]:
    """The rows of one kind, each as soon as it is known; `options` are those of its generator."""
    if kind not in KINDS:
        raise unknown("comparison", kind, KINDS)
    module, _, function = KINDS[kind].partition(":")
    generator = getattr(importlib.import_module(module), function)
    for name in options:
        if name not in inspect.signature(generator).parameters:
            raise UsageError(f"The comparison of {kind} takes no --{name}: leave it out.")
    rows: Iterator[Row] = generator(**options)
    return rows
