"""Any sample metric class by class: per class, the mean over classes, and what is lost between classes.

A metric of all classes together does not see a model that draws the right images under the wrong labels. The
mean over classes of a within-class metric does, as the intra-FID of Miyato and Koyama 2018 (1802.05637) and
the class-conditional scores of Ravuri and Vinyals 2019 (1905.10887).

Shapes: n generated and m real rows with one label each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.metrics.estimate import Z95
from bench.metrics.rows import check_widths, rows_of


@dataclass(frozen=True)
class ByClass:
    """Mean over classes, all classes equal, with `classes` the result of each class by label.

    The error takes classes as independent: √(Σ error²)/C. It is None where the metric gives none, and then
    so is the interval. `largest` is the label with the largest value. `n` counts all generated rows.
    """

    value: float
    standard_error: float | None
    low: float | None
    high: float | None
    n: int
    protocol: str
    classes: Mapping[Any, Any]
    largest: Any


def by_class(
    metric: Callable[[Any, Any], Any], generated: Any, labels: Any, real: Any, real_labels: Any
) -> ByClass:
    """metric(generated rows of a class, real rows of it) for every class that real images have.

    `metric` returns anything with a `value` and perhaps a `standard_error`: `kid`, or
    `lambda x, y: precision_recall(x, y).recall`, or a Fréchet distance.
    """
    x, y = rows_of(generated, "generated"), rows_of(real, "real")
    check_widths(x, y, ("generated", "real"))
    mine, theirs = _labels(labels, len(x), "generated"), _labels(real_labels, len(y), "real")
    _same_classes(mine, theirs)
    found = {}
    for label in np.unique(theirs).tolist():
        try:
            found[label] = metric(x[mine == label], y[theirs == label])
        except ValueError as refusal:
            raise ValueError(f"class {label}: {refusal}") from refusal
        if not hasattr(found[label], "value"):
            raise TypeError(
                f"{type(found[label]).__name__} holds several values: pass a metric that returns one of "
                "them, such as lambda x, y: precision_recall(x, y).recall."
            )
    values = {label: float(result.value) for label, result in found.items()}
    return _mean(found, values, len(x))


def _mean(found: Mapping[Any, Any], values: Mapping[Any, float], n: int) -> ByClass:
    value = sum(values.values()) / len(values)
    errors = [getattr(result, "standard_error", None) for result in found.values()]
    error: float | None = None
    if None not in errors:
        error = math.sqrt(sum(float(each) ** 2 for each in errors if each is not None)) / len(values)
    first = next(iter(found.values()))
    protocol = getattr(first, "protocol", type(first).__name__)
    return ByClass(
        value=value,
        standard_error=error,
        low=None if error is None else value - Z95 * error,
        high=None if error is None else value + Z95 * error,
        n=n,
        protocol=f"mean over {len(values)} classes, the first: {protocol}",
        classes=found,
        largest=max(values, key=lambda label: values[label]),
    )


def _labels(labels: Any, n: int, name: str) -> np.ndarray:
    if hasattr(labels, "detach"):
        labels = labels.detach().cpu().numpy()
    found = np.asarray(labels)
    if found.shape != (n,):
        raise ValueError(f"{n} {name} rows need one label each, and the labels are {found.shape}.")
    return found


def _same_classes(mine: np.ndarray, theirs: np.ndarray) -> None:
    missing, extra = set(theirs.tolist()) - set(mine.tolist()), set(mine.tolist()) - set(theirs.tolist())
    if missing:
        raise ValueError(
            f"no image was generated of the classes {_few(missing)}: generate some of every class."
        )
    if extra:
        raise ValueError(
            f"there are no real images of the classes {_few(extra)}: leave them out, or add some."
        )


def _few(labels: set[Any]) -> str:
    ordered = sorted(labels)
    return ", ".join(map(str, ordered[:5])) + (f" and {len(ordered) - 5} more" if len(ordered) > 5 else "")
