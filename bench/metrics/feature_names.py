"""Which feature networks there are, and whose weights they use: what planning needs, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources

from models.names import unknown


@dataclass(frozen=True)
class FeatureName:
    """A feature network: what its distance is called, its weights' file and their SHA-256, if it has any."""

    name: str
    metric: str
    weights: str = ""
    sha256: str = ""

    @property
    def identity(self) -> str:
        """Name and weights, as it stands in keys and protocols."""
        return f"{self.name} {self.sha256[:12]}".strip()

    def read(self) -> bytes:
        """The weights that come with the package, refused if they are not the ones named here."""
        import hashlib

        file = resources.files("bench") / "metrics" / "weights" / self.weights
        data = file.read_bytes()
        found = hashlib.sha256(data).hexdigest()
        if found != self.sha256:
            raise ValueError(
                f"{self.weights} has SHA-256 {found[:12]}… instead of {self.sha256[:12]}…: "
                "install noisebench again."
            )
        return data


NAMES = {
    "digits-features": FeatureName(
        "digits-features",
        "FD-digits",
        "digits-features.safetensors",
        "87dfed130e493c06d44df9f8437fd1fb7795a61d2b67ef6908907220873db536",
    ),
    "pooled-pixels": FeatureName("pooled-pixels", "FD-pixels"),
}


def find(name: str) -> FeatureName:
    """The feature network of a name; ValueError with the nearest name if there is none."""
    if name not in NAMES:
        raise ValueError(unknown("feature network", name, NAMES))
    return NAMES[name]
