"""Our samplers beside those of diffusers, k-diffusion and flow_matching.

Results are compared on a mixture of Gaussians whose network is exact, in float32, from the same start and
with the same noise on the noise levels that the peer really uses. Cost is measured with a small network on a
batch of 64 in one thread: what happens outside of it, per evaluation, with ours, theirs and a hand-written
loop taking turns.

Shapes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import torch
from torch import Tensor

from bench.data.mixture import anisotropic
from bench.peers import Row
from bench.peers.bare import LOOPS
from bench.peers.metering import Counter, Metered, Spread, Timed, overheads, single_thread
from bench.peers.networks import IMAGE, small_network
from bench.peers.pairing import Network, Pairing, Peer
from models.denoiser import Denoiser
from models.samplers import sampler
from models.samplers.catalogue import describe

PACKAGES = ("diffusers_samplers", "k_diffusion_samplers", "flow_matching_samplers")
"""Modules of this package, one a peer, each with its `pairings`."""

MODULES = {
    "diffusers": "diffusers",
    "k-diffusion": "k_diffusion.sampling",
    "flow_matching": "flow_matching.solver",
}
"""What is imported of each package."""

INSTALL = "pip install 'noisebench[peers]'"

EXTRA_STEPS = {"k-diffusion": " && pip install --no-deps k-diffusion dctorch"}
"""What no extra can ask for: dctorch wants numpy below 2, though it runs with 2."""

TOLERANCE = 2e-4
"""Results in float32 of states of order 1 at the end are the same within this."""

SEED = 7


@dataclass(frozen=True)
class SamplerRow(Row):
    """One pair of samplers.

    steps                     N of the peer
    largest, rms              distance of the end points; None where the peer ends in no number
    evaluations_*             calls of the network, counted there
    microseconds_*            of this thread outside the network per evaluation; `bare` a hand-written loop
    reads_*, operations_*     per evaluation: values read by the host, operations on whole states
    """

    steps: int | None = None
    largest: float | None = None
    rms: float | None = None
    evaluations_ours: int | None = None
    evaluations_theirs: int | None = None
    microseconds_ours: Spread | None = None
    microseconds_theirs: Spread | None = None
    microseconds_bare: Spread | None = None
    reads_ours: float | None = None
    reads_theirs: float | None = None
    operations_ours: float | None = None
    operations_theirs: float | None = None
    operations_bare: float | None = None


def rows(
    steps: int = 50, repeats: int = 40, batch: int = 64, pairs: Iterable[Pairing] | None = None
) -> Iterator[SamplerRow]:
    """A row a pair.

    steps    of every sampler, except where a peer is wrong for certain numbers only
    repeats  of each timing
    """
    for pairing in all_pairings() if pairs is None else pairs:
        with single_thread(), torch.no_grad():
            found = row(pairing, steps, repeats, batch)
        yield found


def all_pairings() -> tuple[Pairing, ...]:
    """Of all packages, installed or not."""
    modules = [importlib.import_module(f"bench.peers.{name}") for name in PACKAGES]
    return tuple(pairing for module in modules for pairing in module.pairings())


def row(pairing: Pairing, steps: int, repeats: int, batch: int) -> SamplerRow:
    """One pair, compared and measured."""
    steps = pairing.steps or steps
    options = describe(pairing.ours, pairing.options)
    ours = f"{pairing.ours} {options}".strip()
    missing = why_missing(pairing.package)
    version = "" if missing else metadata.version(pairing.package)
    found = SamplerRow(pairing.package, version, pairing.theirs, ours, "ok", pairing.note, steps)
    if missing:
        return dataclasses.replace(found, status="skipped", note=missing)
    try:
        peer = pairing.build(steps)
        found = dataclasses.replace(found, **compared(pairing, peer, batch))
        if not pairing.defect:
            found = dataclasses.replace(found, **measured(pairing, peer, repeats, batch))
    except Exception as error:  # another's code may fail in any way, and the other rows are still wanted
        return dataclasses.replace(found, status="failed", note=f"{type(error).__name__}: {error}")
    return dataclasses.replace(found, note=_note(pairing, found))


def why_missing(package: str) -> str:
    """Why a package cannot be used, with the remedy, or nothing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(MODULES[package])
    except ModuleNotFoundError as error:
        missing = error.name or ""
        own = missing.partition(".")[0] == MODULES[package].partition(".")[0]
        what = "is not installed" if own else f"needs {missing}, which is not installed"
        return f"{package} {what}: {INSTALL}{EXTRA_STEPS.get(package, '')}."
    except Exception as error:
        return f"{package} cannot be imported: {type(error).__name__}: {error}"
    return ""


def _note(pairing: Pairing, found: SamplerRow) -> str:
    same = found.largest is not None and found.largest <= TOLERANCE
    if pairing.defect:
        return "no longer wrong as it was" if same else f"theirs is wrong: {pairing.defect}"
    if found.largest is None:
        return "theirs ends in no number"
    return pairing.note if same else "; ".join(filter(None, (pairing.note, "the two differ")))


Loop = Callable[[], Tensor]
"""One run from a start, ready to go."""

Side = Callable[[Metered, Tensor], Loop]
"""Makes a run of one side ready, which is not timed, with a network and from a start."""


def _ours(pairing: Pairing, peer: Peer) -> Side:
    """On the peer's grid; where that does not end at 0 the state at its end is what counts."""
    ends = peer.times[-1] == 0.0
    times = peer.times if ends else (*peer.times, 0.0)
    chosen, last = sampler(pairing.ours, len(times) - 1, **pairing.options), len(peer.times) - 2

    def ready(network: Metered, x: Tensor) -> Loop:
        denoiser = Denoiser(network, pairing.path, pairing.prediction)  # type: ignore[arg-type]
        generator = torch.Generator().manual_seed(SEED)
        kept: list[Tensor] = []

        def noise(x: Tensor) -> Tensor:
            return torch.randn(x.shape, generator=generator, dtype=x.dtype)

        def keep(step: int, time: float, x: Tensor) -> None:
            if step == last:
                kept.append(x)

        def run() -> Tensor:
            found = chosen(denoiser, x, times, noise=noise, callback=None if ends else keep)
            return found if ends else kept[0]

        return run

    return ready


def _theirs(peer: Peer) -> Side:
    def ready(network: Metered, x: Tensor) -> Loop:
        peer.reset(x, SEED)
        return lambda: peer(network, x)

    return ready


def _bare(pairing: Pairing, peer: Peer, batch: int) -> Side:
    loop = LOOPS[pairing.bare](pairing.path, pairing.prediction, peer.times, batch)
    return lambda network, x: lambda: loop(network, x)


def _start(pairing: Pairing, peer: Peer, shape: tuple[int, ...]) -> Tensor:
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(SEED + 1))
    return pairing.path.sigma(peer.times[0]) * noise


def compared(pairing: Pairing, peer: Peer, batch: int) -> dict[str, Any]:
    """End points and evaluations, with the exact network."""
    mixture = anisotropic()
    x = _start(pairing, peer, (batch, 1, 1, mixture.dims))
    own = mixture.network(pairing.path, pairing.prediction)
    their = own if pairing.their_network is None else mixture.network(*pairing.their_network)
    networks = Metered(own), Metered(pairing.adapt(their))
    sides = _ours(pairing, peer), _theirs(peer)
    ends = [side(network, x)().double() for side, network in zip(sides, networks, strict=True)]
    difference = ends[0] - ends[1]
    finite = bool(difference.isfinite().all())
    return {
        "largest": float(difference.abs().max()) if finite else None,
        "rms": math.sqrt(float(difference.square().mean())) if finite else None,
        "evaluations_ours": networks[0].evaluations,
        "evaluations_theirs": networks[1].evaluations,
    }


def measured(pairing: Pairing, peer: Peer, repeats: int, batch: int) -> dict[str, Any]:
    """Time and counts outside the network, with the small network."""
    x, inner = _start(pairing, peer, (batch, *IMAGE)), small_network()
    adapted = pairing.adapt(inner)
    sides: dict[str, tuple[Side, Network]] = {
        "ours": (_ours(pairing, peer), inner),
        "theirs": (_theirs(peer), adapted),
    }
    if pairing.bare:
        sides["bare"] = _bare(pairing, peer, batch), inner

    def timed(side: Side, network: Network) -> Timed:
        def start() -> tuple[Loop, Metered]:
            metered = Metered(network)
            return side(metered, x), metered

        return start

    spreads = overheads([timed(*given) for given in sides.values()], repeats)
    found: dict[str, Any] = {f"microseconds_{k}": spread for k, spread in zip(sides, spreads, strict=True)}
    for name, (side, network) in sides.items():
        metered = Metered(network)
        run = side(metered, x)
        with Counter(metered, x) as counter:
            run()
        found[f"operations_{name}"] = counter.operations / metered.evaluations
        if name != "bare":
            found[f"reads_{name}"] = counter.reads / metered.evaluations
    return found
