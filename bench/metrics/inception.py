"""Features of Inception-v3 of 2015, the network of FID, with the resize that is in the name.

The modules are torch-fidelity's, with the weights of the original TensorFlow graph (Szegedy et al. 2016,
1512.00567; Heusel et al. 2017, 1706.08500). A file with other weights works too, and then nothing is called
FID: the distance bears the file's hash.

Files are .safetensors, or .pth state dicts of which tensors alone are read: no pickled object is loaded.

Shapes: n images, C channels, H height, W width, d feature dimensions.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.identity import file_sha256
from bench.metrics import weights_store
from bench.metrics.arithmetic import Arithmetic
from bench.metrics.feature_names import FeatureName
from bench.metrics.features import FeatureNetwork, check_pixels
from bench.metrics.resize import policy

SIDE, CLASSES = 299, 1008
SINGLE = Arithmetic()

BATCH = 8
"""Images are always extracted this many at a time, padded, so that a feature never depends on its batch."""

STAGES = {
    "64": ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "MaxPool_1"),
    "192": ("Conv2d_3b_1x1", "Conv2d_4a_3x3", "MaxPool_2"),
    "768": ("Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"),
    "2048": ("Mixed_7a", "Mixed_7b", "Mixed_7c"),
}
"""Modules in order, up to the layers that features are read from; a layer is called by its dimensions."""


SCALES: dict[str, Callable[[Tensor], Tensor]] = {
    "tf": lambda levels: (levels - 128.0) / 128.0,
    "unit": lambda levels: 2.0 * (levels / 255.0) - 1.0,
}
"""From levels 0…255 to what the first layer takes: as the graph of 2015 does it, or as pytorch-fid does."""

SHA256, BYTES = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2", 95_628_359
"""Of the file with the weights of 2015 as torch-fidelity and pytorch-fid publish it."""


def published() -> weights_store.Published:
    """The file with the weights of 2015."""
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    return weights_store.Published(URL_INCEPTION_V3.rsplit("/", 1)[-1], URL_INCEPTION_V3, SHA256, BYTES)


class InceptionFeatures(FeatureNetwork):
    """Mean of a layer over places; `classify` gives 1 008 logits, without the bias as scores have them.

    Images of one channel are repeated to three. Pixels are levels 0…255.
    """

    def __init__(
        self, name: FeatureName, weights: Path | str | None = None, arithmetic: Arithmetic = SINGLE
    ) -> None:
        known = published()
        path = weights_store.find(name.name, known, weights)
        digest = file_sha256(path)
        self.name, self.resize, self.layer = name.name, name.resize, name.layer
        self.identity, self.dtype = (
            f"{name.name} {digest[:12]}{arithmetic}",
            f"{arithmetic}".strip() or "float32",
        )
        self.metric = name.metric if known.is_it(digest) else f"FD-inception-{digest[:8]}"
        self.dims, self.classes = int(name.layer), CLASSES
        self._resized, self._scaled = policy(name.resize), SCALES[name.scale]
        self.network = _network(path)
        self._arithmetic, self._body = arithmetic, arithmetic.applied(self._up_to)

    @torch.inference_mode()
    def extract(self, pixels_nCHW: Tensor) -> Tensor:
        """Features (n, d) float32."""
        return self._in_batches(pixels_nCHW, self.layer)

    @torch.inference_mode()
    def classify(self, pixels_nCHW: Tensor) -> Tensor:
        """Logits (n, 1008) without bias."""
        return self._in_batches(pixels_nCHW, "2048") @ self.network.fc.weight.T

    def _in_batches(self, pixels_nCHW: Tensor, layer: str) -> Tensor:
        check_pixels(self.name, pixels_nCHW)
        rows = []
        for batch in pixels_nCHW.cpu().split(BATCH):
            padded = F.pad(batch, (0, 0, 0, 0, 0, 0, 0, BATCH - len(batch)))
            x = self._resized(padded.expand(-1, 3, -1, -1), SIDE)
            with self._arithmetic.context():
                rows.append(self._body(layer, self._scaled(x))[: len(batch)].float())
        return torch.cat(rows) if rows else torch.zeros(0, int(layer))

    def _up_to(self, layer: str, x_nCHW: Tensor) -> Tensor:
        """Mean over places of the activations of a layer."""
        for stage, modules in STAGES.items():
            for module in modules:
                x_nCHW = getattr(self.network, module)(x_nCHW)
            if stage == layer:
                break
        return F.adaptive_avg_pool2d(x_nCHW, 1).flatten(1)


def _network(path: Path) -> Any:
    """torch-fidelity's modules with the tensors of a file."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    tensors = io.BytesIO()
    # Its constructor unpickles a file: it is given one of nothing but the tensors that were read here.
    torch.save(read_tensors(path), tensors)
    tensors.seek(0)
    try:
        return FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=tensors)
    except RuntimeError as error:
        raise ValueError(
            f"{path} holds no weights of this Inception-v3: {str(error).splitlines()[0]}"
        ) from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors or of a state dict; ValueError for anything else in it."""
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} is no safetensors file ({error}).") from None
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a file that is none makes of it
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{path} holds no plain tensors ({first}).") from None
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise ValueError(f"{path} is no state dict of tensors.")
    return found
