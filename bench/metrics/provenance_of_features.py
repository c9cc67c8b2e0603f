"""Where the features behind a statistic come from, and whether two of them belong together.

Two statistics may be compared where features mean the same (network, layer, weights, resize, quantiser,
dtype, dimensions), and merged where they are also of the same data set and split.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib import metadata
from typing import Any


@dataclass(frozen=True)
class FeatureProvenance:
    """What the numbers depend on besides the images.

    extractor       name of the feature network
    layer           what is read of it
    weights_sha256  of its weights file; "none" for one without weights
    resize          policy by name: tf-bilinear, clean-bicubic, none
    quantiser       how floats become levels, `round` or `none`
    dtype           of the network's arithmetic
    data_set, split of the images; a generator's name and its seed for generated ones
    versions        of the packages that computed them: recorded, no cause of refusal
    """

    extractor: str
    layer: str
    weights_sha256: str
    resize: str
    quantiser: str
    dtype: str
    data_set: str = ""
    split: str = ""
    versions: Mapping[str, str] = field(default_factory=lambda: versions())

    def __post_init__(self) -> None:
        for name in COMPARED:
            if not getattr(self, name):
                raise ValueError(f"Feature statistics need to know their {WORDS[name]}: give {name}.")

    def as_json(self) -> dict[str, Any]:
        """Plain values for a file's header."""
        return asdict(self) | {"versions": dict(self.versions)}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> FeatureProvenance:
        """What `as_json` made; what a later release adds is left out."""
        return cls(**{each.name: found[each.name] for each in fields(cls)})


COMPARED = ("extractor", "layer", "weights_sha256", "resize", "quantiser", "dtype")
"""Fields that must agree for two statistics to be of the same features."""

MERGED = (*COMPARED, "data_set", "split")
"""Fields that must agree for two statistics to be parts of one."""

WORDS = {
    "extractor": "feature network",
    "layer": "layer",
    "weights_sha256": "SHA-256 of the weights",
    "resize": "resize policy",
    "quantiser": "quantiser",
    "dtype": "dtype of the network",
    "data_set": "data set",
    "split": "split",
}

REMEDY = {
    "compare": "compute the features of both sides alike",
    "merge": "merge only parts of one data set, computed alike",
}


def check_alike(a: FeatureProvenance, b: FeatureProvenance, purpose: str) -> None:
    """Refuse two statistics to `compare` or to `merge`, by the first field that differs."""
    for name in COMPARED if purpose == "compare" else MERGED:
        ours, theirs = getattr(a, name), getattr(b, name)
        if ours != theirs:
            raise ValueError(
                f"Statistics differ in {name}, the {WORDS[name]}: {ours!r} and {theirs!r}; {REMEDY[purpose]}."
            )


def versions() -> dict[str, str]:
    """Python and the packages that features and moments depend on, without importing them."""
    found = {"python": platform.python_version()}
    for name in ("noisebench", "torch", "torchvision", "numpy", "pillow", "torch-fidelity", "transformers"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    return found
