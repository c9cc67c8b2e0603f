"""What can be measured of generated images, by name; each measure says what it needs and gives its numbers.

Shapes: n images, d feature dimensions, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from bench.metrics.estimate import Estimate
from bench.metrics.moments import Moments
from models.names import unknown

Need = Literal["real images", "logits", "held out", "clip", "labels", "real labels"]


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
    labels         class or caption of each generated image, real_labels that of each real one
    """

    metric: str
    rows: np.ndarray
    real: np.ndarray | Moments
    logits: np.ndarray | None = None
    held_out: np.ndarray | None = None
    seed: int = 0
    labels: np.ndarray | None = None
    real_labels: np.ndarray | None = None

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


def _frechet_of(rows: np.ndarray, real: np.ndarray) -> Any:
    """With its error where there are more images than dimensions."""
    from bench.metrics.frechet import frechet_distance
    from bench.metrics.frechet_error import frechet_with_error

    if min(len(rows), len(real)) > rows.shape[1]:
        return frechet_with_error(rows, real)
    return frechet_distance(Moments.of(rows), Moments.of(real))


def _by_class(metric: str, distance: Callable[[Any, Any], Any], of: Measured) -> Iterator[Named]:
    from bench.metrics.by_class import by_class

    found = by_class(distance, of.rows, of.labels, of.real_rows, of.real_labels)
    protocol = f"{metric}, {found.protocol}; largest in class {found.largest}"
    yield f"{metric} by class", Number(found.value, found.low, found.high, found.n, protocol)


def _frechet_by_class(of: Measured) -> Iterator[Named]:
    yield from _by_class(of.metric, _frechet_of, of)


def _kid_by_class(of: Measured) -> Iterator[Named]:
    from bench.metrics.mmd import kid

    yield from _by_class(of.metric.replace("FID", "KID").replace("FD-", "KD-"), kid, of)


def _diversity(of: Measured) -> Iterator[Named]:
    from bench.metrics.diversity import prompt_diversity

    found = prompt_diversity(of.rows, of.labels)
    yield "distance within labels", found.distance
    yield "Vendi score within labels", found.vendi


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
    "fid-by-class": Measure(
        "Fréchet distance class by class, their mean", _frechet_by_class, REAL | {"labels", "real labels"}
    ),
    "kid-by-class": Measure(
        "kernel distance class by class, their mean", _kid_by_class, REAL | {"labels", "real labels"}
    ),
    "diversity": Measure(
        "how different the images of one label or caption are", _diversity, frozenset({"labels"})
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


def check_needs(
    name: str, measure: Measure, features: str, has: frozenset[Need], labels: bool = False
) -> None:
    """ValueError in one sentence for what a measure needs and there is not; `labels` once they are known."""
    remedies: dict[Need, str] = {
        "logits": f"a network that classifies, and {features} does not: take --features inception-v3-tf",
        "held out": "real images that were not trained on: name them with --held-out",
        "clip": f"CLIP embeddings, and {features} is none: take --features clip-vit-l14-336",
        "labels": "a label for each generated image: a folder for each class, a column `label`, an array "
        "`labels` of an .npz, or --labels or --prompts of a pipeline",
        "real labels": "a label for each real image: a dataset, a folder for each class, or a column `label`",
        "real images": "the real images themselves, and statistics hold moments alone: take fid",
    }
    missing = measure.needs - has - (frozenset() if labels else frozenset({"labels", "real labels"}))
    for need in sorted(missing):
        raise ValueError(f"{name} needs {remedies[need]}.")
