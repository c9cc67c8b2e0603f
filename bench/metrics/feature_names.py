"""Which feature networks there are, and whose weights they use: what planning needs, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources

from models.names import unknown


@dataclass(frozen=True)
class FeatureName:
    """A feature network.

    metric   what its distance is called
    weights  file that comes with the package, and its sha256; empty where there is none
    resize   policy, see `bench.metrics.resize`
    layer    what is read of it
    scale    how levels become the input of an Inception network
    hub      where weights are published by name
    """

    name: str
    metric: str
    weights: str = ""
    sha256: str = ""
    resize: str = "none"
    layer: str = "features"
    scale: str = "tf"
    hub: str = ""

    @property
    def external(self) -> bool:
        """Whether its weights come from elsewhere, so that its identity is known only with them."""
        return self.metric.startswith("FID") or bool(self.hub)

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


def _inception(resize: str, layer: str) -> FeatureName:
    name = "-".join(["inception-v3", resize.partition("-")[0], *([layer] if layer != "2048" else [])])
    metric = "FID" if layer == "2048" else f"FID-{layer}"
    scale = "unit" if resize == "pytorch-bilinear" else "tf"
    return FeatureName(name, metric, resize=resize, layer=layer, scale=scale)


def _transformer(name: str, metric: str, hub: str) -> FeatureName:
    return FeatureName(name, metric, resize="clean-bicubic", layer="embedding", hub=hub)


_EXTERNAL = (
    *(_inception("tf-bilinear", layer) for layer in ("2048", "768", "192", "64")),
    _inception("clean-bicubic", "2048"),
    _inception("pytorch-bilinear", "2048"),
    _transformer("dinov2-vits14", "FD-DINOv2-S", "facebook/dinov2-small"),
    _transformer("dinov2-vitb14", "FD-DINOv2-B", "facebook/dinov2-base"),
    _transformer("dinov2-vitl14", "FD-DINOv2", "facebook/dinov2-large"),
    _transformer("clip-vit-b32", "FD-CLIP-B32", "openai/clip-vit-base-patch32"),
    _transformer("clip-vit-l14-336", "FD-CLIP", "openai/clip-vit-large-patch14-336"),
)

NAMES = {
    "digits-features": FeatureName(
        "digits-features",
        "FD-digits",
        "digits-features.safetensors",
        "87dfed130e493c06d44df9f8437fd1fb7795a61d2b67ef6908907220873db536",
    ),
    "mnist-features": FeatureName(
        "mnist-features",
        "FD-mnist",
        "mnist-features.safetensors",
        "31be0aaa6bf7be17944844d1c340c880eeb52a085601365e47d09b90964a9819",
    ),
    "cifar10-features": FeatureName(
        "cifar10-features",
        "FD-cifar10",
        "cifar10-features.safetensors",
        "cdbd50fb741db816c1a74b873c8eccae8dd163d3ed70404c3aa7ec6dbb448ea4",
    ),
    "pooled-pixels": FeatureName("pooled-pixels", "FD-pixels"),
    **{one.name: one for one in _EXTERNAL},
}


def find(name: str) -> FeatureName:
    """The feature network of a name; ValueError with the nearest name if there is none."""
    if name not in NAMES:
        raise ValueError(unknown("feature network", name, NAMES))
    return NAMES[name]
