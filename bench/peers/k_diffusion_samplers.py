"""Functions of k-diffusion's `sampling`, given a plain denoiser D(x, σ) and noise through `noise_sampler`.

Its states are those of our path `edm`: x = x_0 + σ ε. Wrappers of networks, which search a table of 1000
levels in every call, and the Brownian tree, its default noise, would add to its cost and are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from bench.peers.networks import by_noise
from bench.peers.pairing import Network, Pairing, Peer
from models.paths import ExplodingPath

PATH = ExplodingPath(160.0)


class Function:
    """One of its functions on sigmas as it spaces them; its noise is drawn as ours is."""

    def __init__(self, name: str, sigmas: Tensor, noisy: bool = False, **options: Any) -> None:
        from k_diffusion import sampling

        self._function, self._sigmas, self._noisy = getattr(sampling, name), sigmas, noisy
        self._options = options
        self.times = tuple(float(sigma) / PATH.sigma_max for sigma in sigmas)

    def reset(self, x: Tensor, seed: int) -> None:
        """Noise by seed; the functions keep no state."""
        if self._noisy:
            generator = torch.Generator().manual_seed(seed)
            self._options["noise_sampler"] = lambda *_: torch.randn(
                x.shape, generator=generator, dtype=x.dtype
            )

    def __call__(self, network: Network, x: Tensor) -> Tensor:
        found: Tensor = self._function(network, x, self._sigmas, disable=True, **self._options)
        return found


def karras(steps: int) -> Tensor:
    """Its grid of Karras et al. from 80 to 0.002, then 0."""
    from k_diffusion import sampling

    sigmas: Tensor = sampling.get_sigmas_karras(steps, 0.002, 80.0)
    return sigmas


def pairings() -> tuple[Pairing, ...]:
    """Every function that has a counterpart here; nothing is imported yet."""
    return (
        pairing("sample_euler", "euler", bare="ddim"),
        pairing("sample_euler_ancestral", "euler-ancestral", noisy=True),
        pairing("sample_heun", "edm"),
        pairing("sample_lms", "lms", note="integrates by scipy in every step"),
        pairing("sample_dpmpp_2m", "dpmpp-2m", bare="2m"),
        pairing("sample_dpmpp_2s_ancestral", "dpmpp-2s", said="eta=0", eta=0.0),
        pairing("sample_dpmpp_2m_sde", "dpmpp-2m-sde", noisy=True),
    )


def pairing(
    name: str,
    ours: str,
    *,
    said: str = "",
    noisy: bool = False,
    bare: str = "",
    note: str = "",
    grid: Callable[[int], Tensor] | None = None,
    our_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> Pairing:
    """A function and ours.

    said     the rest of what the row calls it
    noisy    whether it draws noise, by `noise_sampler`
    grid     sigmas of a number of steps, `karras` where not given
    options  of the function
    """

    def build(steps: int) -> Peer:
        return Function(name, (grid or karras)(steps), noisy, **options)

    return Pairing(
        "k-diffusion",
        f"{name} {said}".strip(),
        build,
        ours,
        PATH,
        "x0",
        our_options or {},
        adapt=lambda network: by_noise(network, PATH),
        bare=bare,
        note=note,
    )
