"""A sampler of a peer and ours that should do the same: how each is run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from models.gaussian_path import GaussianPath

Network = Callable[..., Tensor]


class Peer(Protocol):
    """The peer's own code on its own grid, ready to run.

    times  of that grid on our path, t_0 > … > t_N; 0 is added where the peer stops before it
    """

    times: tuple[float, ...]

    def reset(self, x: Tensor, seed: int) -> None:
        """Untimed: a fresh state for a start like x, and its noise by a seed."""

    def __call__(self, network: Network, x: Tensor) -> Tensor:
        """From the start to where it ends."""


@dataclass(frozen=True)
class Pairing:
    """One row of the comparison.

    package         what its users install; `theirs` what is run of it
    build           imports the package and makes its side for a number of steps
    ours, options   our sampler
    path            of our side; states of both sides are those of this path
    prediction      of our network
    their_network   path and prediction of the network that the peer asks, where they differ
    adapt           from that network to how the peer asks it
    bare            the hand-written loop that is the floor, if there is one
    defect          where the peer is known to be wrong, how: it is run to see whether it still is, untimed
    note            what else to know
    steps           where it has to be a certain number
    """

    package: str
    theirs: str
    build: Callable[[int], Peer]
    ours: str
    path: GaussianPath
    prediction: str
    options: Mapping[str, Any] = field(default_factory=dict)
    their_network: tuple[GaussianPath, str] | None = None
    adapt: Callable[[Network], Network] = lambda network: network
    bare: str = ""
    defect: str = ""
    note: str = ""
    steps: int | None = None
