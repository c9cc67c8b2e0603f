"""Features of DINOv2 and CLIP through transformers: networks that were not trained on ImageNet's classes.

    dinov2-…  the class token after the last norm          (Oquab et al. 2023, 2304.07193)
    clip-…    the projected image embedding                (Radford et al. 2021, 2103.00020), for CMMD

FD-DINOv2 follows Stein et al. 2023 (2306.04675): bicubic resize with antialiasing to 224, ImageNet's mean and
deviation. CLIP images are resized the same way to the network's own size, with CLIP's mean and deviation.

Weights are a folder that `save_pretrained` wrote (`--weights FOLDER`), or with `--weights download` the
published ones by name from the hub; only safetensors are read. The published names, FD-DINOv2 and FD-CLIP,
are given to a download alone; weights from a folder put their hash into the name. No digest of the published
files is known here, so the SHA-256 of what came stands in the identity, and two numbers agree only where it
does.

Shapes: n images, C channels, H height, W width, d feature dimensions.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.metrics import weights_store
from bench.metrics.arithmetic import Arithmetic
from bench.metrics.feature_names import FeatureName
from bench.metrics.features import FeatureNetwork, check_pixels
from bench.metrics.resize import policy

BATCH = 16
"""Images are always extracted this many at a time, padded, so that a feature never depends on its batch."""

SINGLE = Arithmetic()

STATISTICS = {
    "dinov2": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}
"""Mean and deviation of each channel in [0, 1], by kind."""


class TransformerFeatures(FeatureNetwork):
    """A vision transformer; images of one channel are repeated to three."""

    def __init__(
        self, name: FeatureName, weights: Path | str | None = None, arithmetic: Arithmetic = SINGLE
    ) -> None:
        self.name, self.resize, self.layer = name.name, name.resize, name.layer
        self.kind = name.name.partition("-")[0]
        self.network, digest = _opened(name, self.kind, weights)
        self.identity, self.dtype = (
            f"{name.name} {digest[:12]}{arithmetic}",
            f"{arithmetic}".strip() or "float32",
        )
        self._arithmetic, self._body = arithmetic, arithmetic.applied(self.network)
        # Made weights are told from published ones by where they came from.
        published = str(weights) == weights_store.DOWNLOAD
        self.metric = name.metric if published else f"FD-{self.kind}-{digest[:8]}"
        config = self.network.config
        self.side = config.image_size if self.kind == "clip" else 224 // config.patch_size * config.patch_size
        self.dims = config.projection_dim if self.kind == "clip" else config.hidden_size
        self._resized = policy(name.resize)
        mean, deviation = (torch.tensor(value).view(3, 1, 1) for value in STATISTICS[self.kind])
        self._mean, self._deviation = mean, deviation

    @torch.inference_mode()
    def extract(self, pixels_nCHW: Tensor) -> Tensor:
        """Features (n, d) float32."""
        check_pixels(self.name, pixels_nCHW)
        rows = []
        for batch in pixels_nCHW.cpu().split(BATCH):
            padded = F.pad(batch, (0, 0, 0, 0, 0, 0, 0, BATCH - len(batch)))
            x = self._resized(padded.expand(-1, 3, -1, -1), self.side).clamp(0.0, 255.0) / 255.0
            with self._arithmetic.context():
                found = self._body(pixel_values=(x - self._mean) / self._deviation)
            rows.append((found.image_embeds if self.kind == "clip" else found.pooler_output)[: len(batch)])
        return torch.cat(rows).float() if rows else torch.zeros(0, self.dims)


def _opened(name: FeatureName, kind: str, weights: Path | str | None) -> tuple[Any, str]:
    """The network of a folder or of the hub, and the SHA-256 of its weights."""
    try:
        import transformers
    except ImportError:
        raise ValueError(f"{name.name} needs transformers: pip install 'noisebench[diffusers]'.") from None
    where = name.hub if str(weights) == weights_store.DOWNLOAD else weights
    if str(weights) == weights_store.DOWNLOAD and Path(name.hub).exists():
        raise ValueError(
            f"a folder {name.hub} lies here and would be taken for the download: run elsewhere, or name it "
            f"with --weights {name.hub}, and the distance then carries its hash."
        )
    if where is None:
        raise ValueError(
            f"{name.name} needs weights: name a folder that save_pretrained wrote with --weights FOLDER, or "
            f"fetch {name.hub} with --weights {weights_store.DOWNLOAD}."
        )
    made: Any = transformers.CLIPVisionModelWithProjection if kind == "clip" else transformers.Dinov2Model
    try:
        network = made.from_pretrained(where, use_safetensors=True, local_files_only=Path(where).exists())
    except (OSError, ValueError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0]
        raise ValueError(f"{name.name} cannot be opened from {where} with safetensors: {first}") from None
    return network.eval(), _digest(network)


def _digest(network: Any) -> str:
    """Of the tensors, which are the same however they are stored."""
    digest = hashlib.sha256()
    for key, value in sorted(network.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().float().numpy().tobytes())
    return digest.hexdigest()
