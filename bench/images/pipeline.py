"""Images of a diffusers pipeline, by our samplers on its network or by its own scheduler.

    diffusers:PATH          a folder that `save_pretrained` wrote, or a name on the hub

Only safetensors are read, and no code that comes with weights.

Shapes: n images, C channels, H height, W width.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.images.adapters import adapted
from bench.images.source import ImageSource
from models.samplers import sampler as sampler_of
from models.seeds import Seeds, derive_seed

PREFIX = "diffusers:"
OWN = "own"
"""Name of the pipeline's own scheduler among samplers."""

CALL = 16
"""Images that are sampled together; part of the protocol, since networks round differently by batch."""


class PipelineImages(ImageSource):
    """n images of a pipeline; image i from noise of its own, seeded by (seed, i)."""

    def __init__(
        self,
        where: str,
        n: int | None,
        seed: int = 0,
        *,
        sampler: str = OWN,
        steps: int = 50,
        guidance: float = 1.0,
        told: Sequence[Any] = (),
    ) -> None:
        super().__init__()
        if n is None or n < 1:
            raise ValueError(f"{where} makes images: say how many with --n.")
        self.where, self.n, self.seed, self.steps = where.removeprefix(PREFIX), n, seed, steps
        self.sampler = None if sampler == OWN else sampler_of(sampler, steps)
        self.adapter = adapted(opened(self.where), guidance, told)
        scheduler = type(self.adapter.pipeline.scheduler).__name__
        how = f"{sampler} {steps} steps" if self.sampler else f"{scheduler} {steps} steps"
        guided = f" w={guidance:g}" if guidance != 1.0 else ""
        self.labels = [str(told[i % len(told)]) for i in range(n)] if told else []
        self.name = f"{Path(self.where).name} ({how}{guided}, batch {CALL}, seed {seed})"

    def __len__(self) -> int:
        return self.n

    def images(self) -> Iterator[np.ndarray]:
        """Each image, `CALL` sampled together."""
        for start in range(0, self.n, CALL):
            indices = range(start, min(start + CALL, self.n))
            with torch.inference_mode():
                pixels = self._ours(indices) if self.sampler else self._own(indices)
            yield from pixels

    def _ours(self, indices: range) -> np.ndarray:
        assert self.sampler is not None
        times, seeds = self.adapter.times(self.steps), Seeds(self.seed, indices)
        x_T = self.adapter.path.sigma(times[0]) * seeds.per_image(self.adapter.shape)
        denoiser = self.adapter.denoiser(indices)
        x_0 = self.sampler(denoiser, x_T, times, noise=seeds.noise_like)
        found = self.adapter.decode(x_0)
        finite = torch.isfinite(found).flatten(1).all(1)
        if not bool(finite.all()):
            raise ValueError(f"{self.name}: image {indices[int((~finite).nonzero()[0])]} is not finite.")
        return np.asarray((127.5 * (found.clamp(-1.0, 1.0) + 1.0)).round().to(torch.uint8).numpy())

    def _own(self, indices: range) -> np.ndarray:
        generators = [torch.Generator().manual_seed(derive_seed("image", self.seed, i)) for i in indices]
        found = self.adapter.own(indices, self.steps, generators)
        if not np.isfinite(found).all():
            bad = int(np.flatnonzero(~np.isfinite(found).reshape(len(found), -1).all(1))[0])
            raise ValueError(f"{self.name}: image {indices[bad]} is not finite.")
        return np.rint(255.0 * np.clip(found, 0.0, 1.0)).astype(np.uint8).transpose(0, 3, 1, 2)


def opened(where: str) -> Any:
    """The pipeline of a folder or of a name on the hub; only safetensors, no code."""
    try:
        import diffusers
    except ImportError:
        raise ValueError("Pipelines need diffusers: pip install 'noisebench[diffusers]'.") from None
    try:
        local = Path(where).exists()
        pipeline = diffusers.DiffusionPipeline.from_pretrained(
            where, use_safetensors=True, local_files_only=local, **_left_out(Path(where))
        )
    except (OSError, ValueError, ImportError, AttributeError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"{where} cannot be opened as a diffusers pipeline with safetensors: {first}"
        ) from None
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _left_out(folder: Path) -> dict[str, None]:
    """Parts that a pipeline was saved without, such as a third text encoder: diffusers wants them said."""
    index = folder / "model_index.json"
    if not index.is_file():
        return {}
    parts = json.loads(index.read_text())
    return {name: None for name, part in parts.items() if part == [None, None]}
