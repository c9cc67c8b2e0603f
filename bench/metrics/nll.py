"""The likelihood of images under a model, with what it cost, how it was obtained and how sure it is.

Shapes: B batch, n images, M draws of dequantisation or noise, P probes of the divergence.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.cells import SHARD
from bench.errors import CellFailed
from bench.workbench import counted
from models.base import ImageModel, Likelihood
from models.likelihood.chain import ChainLikelihood
from models.seeds import derive_seed

NATS = "nats"
OF_DRAWS, OF_PROBES = "variance of draws", "variance of probes"
VARIANCES = (OF_DRAWS, OF_PROBES)
"""Arrays beside the nats: the variance of each image's mean over its draws, and the probes' share of it."""


def bits_per_dimension(nats: np.ndarray, dims: int) -> tuple[float, float, float]:
    """Mean of per-image nats as bits per dimension, and the ends of its 95 % interval (normal)."""
    bits = np.asarray(nats, np.float64) / (dims * math.log(2.0))
    error = bits.std(ddof=1) / math.sqrt(len(bits)) if len(bits) > 1 else 0.0
    mean = float(bits.mean())
    return mean, mean - 1.96 * error, mean + 1.96 * error


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate_nll` finds.

    arrays        per-image float64: `nats`, the parts they consist of, variances of draws and probes
    kind, how     exact, bound or estimate, and the model's own protocol
    nfe, nfe_max  evaluations of the network for one image: mean, and of the costliest batch
    draws_are     what was drawn more than once: dequantisation, or draws of noise
    terms         of a variational sum: the nats of each image and reverse step (n, T), float32, and the
                  log-SNRs between which the steps go, (T + 1,), from noise to data
    """

    arrays: dict[str, np.ndarray]
    kind: str
    how: str
    dims: int
    nfe: float
    nfe_max: float
    draws_are: str
    settings: str
    terms: tuple[np.ndarray, Sequence[float]] | None = None

    @property
    def nats(self) -> np.ndarray:
        """−ln P of each image."""
        return self.arrays[NATS]

    @property
    def bits(self) -> tuple[float, float, float]:
        """Bits per dimension and its 95 % interval."""
        return bits_per_dimension(self.nats, self.dims)

    @property
    def errors(self) -> dict[str, float]:
        """Standard error in bits per dimension: `total`, and its parts as far as repeats tell them apart."""
        return standard_errors(self.arrays, self.dims, self.draws_are)

    @property
    def protocol(self) -> str:
        """How the number was obtained, in full."""
        n, known = len(self.nats), self.errors
        parts = ", ".join(f"{name} {value:.2g}" for name, value in known.items())
        split = "" if len(known) > 1 else " (one draw an image: not split)"
        cost = f"NFE mean {self.nfe:.4g} max {self.nfe_max:.4g}"
        return f"{self.how}, n={n}, {self.settings}, {cost}, standard error {parts}{split}"


def evaluate_nll(
    model: ImageModel,
    pixels: Tensor,
    condition: Tensor | None = None,
    *,
    seed: int = 0,
    batch: int = 64,
    shard: int = 0,
    repeats: int = 1,
    **options: Any,
) -> Evaluation:
    """−ln P of uint8 pixels (n, C, H, W), whatever the model.

    condition  what a conditional model is told, a row an image; None: nothing
    seed       of all noise; image i has the same in any call that starts at its shard of 256
    shard      index of the first shard
    repeats    of the whole, with other noise; their mean is taken, and their spread known
    options    the protocol of the model's `nll`: estimator, solver, steps, probes …

    Raises CellFailed with the images whose likelihood is not finite or more than can be, and
    LikelihoodUnavailable where there is none; ValueError for options that the model refuses.
    """
    if min(len(pixels), repeats, batch) < 1:
        raise ValueError("A likelihood needs one or more images, repeats and images of a batch.")
    costs: list[tuple[float, int]] = []
    found: list[dict[str, np.ndarray]] = []
    terms: list[np.ndarray] = []
    last: Likelihood | None = None
    for index, start in enumerate(range(0, len(pixels), SHARD), shard):
        rows = slice(start, start + SHARD)
        told = None if condition is None else condition[rows]
        of_repeats: list[list[Likelihood]] = []
        for repeat in range(repeats):
            labels = ("likelihood", seed, index, *([repeat] if repeat else []))
            generator = torch.Generator(pixels.device).manual_seed(derive_seed(*labels))
            of_repeats.append([])
            for likelihood, cost in _batches(model, pixels[rows], told, generator, batch, options):
                of_repeats[-1].append(likelihood)
                costs.append(cost)
        last = of_repeats[0][0]
        found.append(_merged(of_repeats))
        terms += [_terms(part) for part in of_repeats[0] if isinstance(part, ChainLikelihood)]
        _check_finite(found[-1][NATS], index * SHARD)
        check_possible(found[-1][NATS], last.floor, last.kind, index * SHARD)
    assert last is not None
    weights = np.asarray([n for _, n in costs])
    nfe = np.asarray([rows for rows, _ in costs])
    total = repeats * float((nfe * weights).sum() / weights.sum())
    again = f", mean of {repeats} repeats" if repeats > 1 else ""
    return Evaluation(
        {name: np.concatenate([part[name] for part in found]) for name in found[0]},
        last.kind,
        last.protocol + again,
        model.dims,
        total,
        repeats * float(nfe.max()),
        "dequantisation" if getattr(last, "draws", None) is not None else "draws of noise",
        f"seed {seed}, batch {batch}, {next(model.parameters()).dtype}".replace("torch.", ""),
        (np.concatenate(terms), last.log_snr) if isinstance(last, ChainLikelihood) else None,
    )


def _batches(
    model: ImageModel,
    pixels: Tensor,
    condition: Tensor | None,
    generator: torch.Generator,
    batch: int,
    options: dict[str, Any],
) -> Iterator[tuple[Likelihood, tuple[float, int]]]:
    """The likelihoods of a shard batch by batch, with evaluations an image and images."""
    conditions = [None] * len(pixels.split(batch)) if condition is None else condition.split(batch)
    for some, told in zip(pixels.split(batch), conditions, strict=True):
        with torch.no_grad(), counted(model.network) as evaluations:
            found = model.nll(some, told, generator, **options)
        yield found, (evaluations.rows / len(some), len(some))


def _merged(of_repeats: list[list[Likelihood]]) -> dict[str, np.ndarray]:
    """The arrays of a shard: means over repeats, and variances where there are two draws or more."""

    def mean(parts: list[list[Tensor]]) -> np.ndarray:
        values = torch.stack([torch.cat(batches) for batches in parts])
        return np.asarray(values.double().mean(0).cpu().numpy())

    found = {NATS: mean([[part.nats for part in batches] for batches in of_repeats])}
    for name in of_repeats[0][0].breakdown:
        found[name] = mean([[part.breakdown[name] for part in batches] for batches in of_repeats])
    draws_MPB = torch.cat([torch.cat([_draws(part) for part in batches], 2) for batches in of_repeats])
    M, P = draws_MPB.shape[:2]
    if M > 1:
        found[OF_DRAWS] = (draws_MPB.mean(1).var(0) / M).cpu().numpy()
    if P > 1:
        found[OF_PROBES] = (draws_MPB.var(1).mean(0) / (M * P)).cpu().numpy()
    return found


def _draws(found: Likelihood) -> Tensor:
    draws = getattr(found, "draws", None)
    return (found.nats[None, None] if draws is None else draws).double()


def _check_finite(nats: np.ndarray, first: int) -> None:
    """CellFailed with the images whose likelihood is not a number."""
    bad = np.flatnonzero(~np.isfinite(nats))
    if len(bad):
        some = ", ".join(str(first + int(image)) for image in bad[:5])
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise CellFailed(f"the likelihood is not finite for {len(bad)} of {len(nats)} images: {some}{more}")


def _terms(found: ChainLikelihood) -> np.ndarray:
    return np.asarray(found.terms.diffusion_TB.T.float().cpu().numpy())


def check_possible(nats: np.ndarray, floor: float | None, kind: str, first: int = 0) -> None:
    """CellFailed where images are likelier than anything can be.

    floor  what each image costs at least; None: only the mean cannot be less than 0
    """
    if floor is not None:
        slack = 1e-6 * max(1.0, abs(floor))
        bad = np.flatnonzero(nats < floor - slack)
        if len(bad):
            raise CellFailed(
                f"bug: {len(bad)} of {len(nats)} images cost fewer nats than the {floor:.6g} of a certain "
                f"image, image {first + int(bad[0])} {nats[bad[0]]:.6g}; please report it with the suite"
            )
        return
    error = nats.std(ddof=1) / math.sqrt(len(nats)) if len(nats) > 1 else math.inf
    if nats.mean() + 4.0 * error < 0.0:
        why = "take more steps or smaller tolerances; if that does not help, it is a bug"
        why = why if kind == "estimate" else "bug: please report it with the suite"
        raise CellFailed(f"the images are more than certain, with {nats.mean():.6g} nats in the mean: {why}")


def standard_errors(arrays: dict[str, np.ndarray], dims: int, draws_are: str) -> dict[str, float]:
    """One standard error in bits per dimension: total, and data, draws and probes where they are known.

    With one probe a draw, the probes' share is in that of the draws.
    """
    n, unit = len(arrays[NATS]), dims * math.log(2.0)
    total = arrays[NATS].var(ddof=1) / n if n > 1 else 0.0
    probes = arrays[OF_PROBES].mean() / n if OF_PROBES in arrays else 0.0
    noise = max(arrays[OF_DRAWS].mean() / n if OF_DRAWS in arrays else 0.0, probes)
    squares = {"total": total}
    if noise > 0:
        squares["data"] = total - noise
    if OF_DRAWS in arrays:
        squares[draws_are] = noise - probes
    if OF_PROBES in arrays:
        squares["probes"] = probes
    return {name: math.sqrt(max(0.0, float(value))) / unit for name, value in squares.items()}
