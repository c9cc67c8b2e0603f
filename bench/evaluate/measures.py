"""What can be measured of generated images, by name; each measure says what it needs and gives its numbers.

Shapes: n images, d feature dimensions, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from bench.metrics.estimate import Estimate
from bench.metrics.moments import Moments
from models.names import unknown

Need = Literal["real images", "logits", "held out", "clip"]


@dataclass(frozen=True)
class Number:
    """A value, its 95 % interval or none, the images it rests on, and how it was made."""

    value: float
    low: float | None
    high: float | None
    n: int
    protocol: str


Named = tuple[str, Number | Estimate]
"""A metric's name and its number."""


@dataclass(frozen=True)
class Measured:
    """What measures are computed from.

    metric         what a Fréchet distance in this feature space is called
    rows           features (n, d) of the generated images
    real           those of the real images, or their moments alone
    logits         (n, K) of the generated images, where the network classifies
    held_out       features of real images that were not trained on
    seed           of what draws at random
    """

    metric: str
    rows: np.ndarray
    real: np.ndarray | Moments
    logits: np.ndarray | None = None
    held_out: np.ndarray | None = None
    seed: int = 0

    @property
    def real_rows(self) -> np.ndarray:
        """Features of the real images one by one, which `needs` has asked for."""
        assert not isinstance(self.real, Moments)
        return self.real


@dataclass(frozen=True)
class Measure:
    """One entry of the table below.

    needs  beyond features of the generated images; told in the error where it is missing
    """

    says: str
    compute: Callable[[Measured], Iterator[Named]]
    needs: frozenset[Need] = frozenset()


def _frechet(of: Measured) -> Iterator[Named]:
    from bench.metrics.frechet import frechet_distance
    from bench.metrics.frechet_error import frechet_with_error

    n, d = of.rows.shape
    least = min(n, of.real.n if isinstance(of.real, Moments) else len(of.real))
    if least <= d:
        real = of.real if isinstance(of.real, Moments) else Moments.of(of.real)
        one = frechet_distance(Moments.of(of.rows), real)
        why = f"no interval: that needs more than {d} images of both sets"
        yield of.metric, Number(one.value, None, None, n, f"{of.metric}@{n} [{one.method}, {why}]")
        return
    found = frechet_with_error(of.rows, of.real)
    protocol = f"{of.metric}@{n} [{found.estimand}, delta method, {found.method}]"
    yield of.metric, Number(found.value, found.low, found.high, n, protocol)


def _debiased(of: Measured) -> Iterator[Named]:
    from bench.metrics.frechet_debiased import debiased_frechet

    found = debiased_frechet(of.rows, of.real, seed=of.seed)
    protocol = f"{of.metric} without the bias of n={found.n} [{found.method}]"
    yield f"{of.metric} debiased", Number(found.value, found.low, found.high, found.n, protocol)


def _kid(of: Measured) -> Iterator[Named]:
    from bench.metrics.mmd import kid

    yield of.metric.replace("FID", "KID").replace("FD-", "KD-"), kid(of.rows, of.real_rows)


def _cmmd(of: Measured) -> Iterator[Named]:
    from bench.metrics.mmd import cmmd

    yield "CMMD", cmmd(of.rows, of.real_rows)


def _manifolds(of: Measured) -> Iterator[Named]:
    from bench.metrics.manifolds import density_coverage, precision_recall

    first, second = precision_recall(of.rows, of.real_rows), density_coverage(of.rows, of.real_rows)
    yield from (("precision", first.precision), ("recall", first.recall))
    yield from (("density", second.density), ("coverage", second.coverage))


def _score(of: Measured) -> Iterator[Named]:
    from bench.metrics.inception_score import inception_score

    yield (
        "IS" if of.metric == "FID" else f"IS-{of.metric.removeprefix('FD-')}",
        inception_score(logits=of.logits),
    )


def _sliced(of: Measured) -> Iterator[Named]:
    from bench.metrics.sliced_wasserstein import sliced_wasserstein

    yield "sliced Wasserstein²", sliced_wasserstein(of.rows, of.real_rows, seed=of.seed)


def _memorisation(of: Measured) -> Iterator[Named]:
    from bench.metrics.data_copying import data_copying
    from bench.metrics.memorisation import authenticity

    found = authenticity(of.rows, of.real_rows, of.held_out)
    yield from (("authenticity", found), ("authenticity of held-out images", found.held_out))
    yield "C_T", data_copying(of.rows, of.real_rows, of.held_out, seed=of.seed)


REAL: frozenset[Need] = frozenset({"real images"})

MEASURES: dict[str, Measure] = {
    "fid": Measure("Fréchet distance at this n, with its standard error", _frechet),
    "fid-debiased": Measure("Fréchet distance without the bias of few images", _debiased),
    "kid": Measure("kernel distance, exact over all pairs, cubic kernel", _kid, REAL),
    "cmmd": Measure("kernel distance of CLIP embeddings, Gaussian kernel", _cmmd, REAL | {"clip"}),
    "prdc": Measure("precision, recall, density, coverage by nearest neighbours", _manifolds, REAL),
    "is": Measure("Inception score: of the generated images alone", _score, frozenset({"logits"})),
    "sw": Measure("sliced Wasserstein distance, squared", _sliced, REAL),
    "memorisation": Measure(
        "authenticity and copying test against training and held-out images",
        _memorisation,
        REAL | {"held out"},
    ),
}


def names() -> tuple[str, ...]:
    """All measures."""
    return tuple(MEASURES)


def chosen(wanted: Sequence[str]) -> Mapping[str, Measure]:
    """The measures of some names; ValueError with the nearest for one that is unknown."""
    for name in wanted:
        if name not in MEASURES:
            raise ValueError(unknown("metric", name, MEASURES))
    return {name: MEASURES[name] for name in dict.fromkeys(wanted)}


def check_needs(name: str, measure: Measure, features: str, has: frozenset[Need]) -> None:
    """ValueError in one sentence for what a measure needs and there is not."""
    remedies: dict[Need, str] = {
        "logits": f"a network that classifies, and {features} does not: take --features inception-v3-tf",
        "held out": "real images that were not trained on: name them with --held-out",
        "clip": f"CLIP embeddings, and {features} is none: take --features clip-vit-l14-336",
        "real images": "the real images themselves, and statistics hold moments alone: take fid",
    }
    for need in sorted(measure.needs - has):
        raise ValueError(f"{name} needs {remedies[need]}.")
