"""Images that people bring: folders, archives, parquet files, arrays and functions, as uint8 pixels.

for batch in open_images("samples/").batches(64): ...
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.images.source import Batch, Damaged, DamagedImages, ImageSource

__all__ = ["Batch", "Damaged", "DamagedImages", "ImageSource", "open_images"]

SUFFIXES = (".zip", ".parquet", ".npz", ".npy")


def open_images(
    where: str | Path,
    *,
    n: int | None = None,
    seed: int = 0,
    column: str = "",
    skip_damaged: bool = False,
    **sampling: Any,
) -> ImageSource:
    """The images of a folder, a zip, a parquet file, an .npz or .npy, of a function or a diffusers pipeline.

    where         a path; `package.module:name`; `diffusers:PATH`
    n             how many to take: the first ones of a file; what a generator is asked for, which needs it
    seed          of a function or pipeline
    column        of a parquet file or name of an array in an .npz, where it holds several
    skip_damaged  go on without images that cannot be read; they are listed in `damaged`
    sampling      of a pipeline: sampler, steps, guidance, told (labels or captions)

    Raises ValueError in one sentence for what is not there or holds no images.
    """
    text, path = str(where), Path(where)
    if text.startswith("diffusers:"):
        from bench.images.pipeline import PipelineImages

        return PipelineImages(text, n, seed, **sampling)
    if sampling:
        raise ValueError(f"{', '.join(sampling)} is for diffusers:PATH, and {text} is none.")
    if path.is_dir():
        from bench.images.files import Folder

        return Folder(path, n, skip_damaged)
    if path.suffix.lower() in SUFFIXES and path.exists():
        return _of_file(path, n, column, skip_damaged)
    if ":" in text and not path.exists():
        from bench.images.function import FunctionImages

        return FunctionImages(text, n, seed)
    if not path.exists():
        raise ValueError(
            f"There are no images at {text}: give a folder, a file that ends in {', '.join(SUFFIXES)}, a "
            "function as package.module:name, or diffusers:PATH."
        )
    raise ValueError(f"{text} is no folder, and no file that ends in {', '.join(SUFFIXES)}.")


def _of_file(path: Path, n: int | None, column: str, skip_damaged: bool) -> ImageSource:
    suffix = path.suffix.lower()
    if suffix == ".zip":
        from bench.images.files import Zip

        return Zip(path, n, skip_damaged)
    if suffix == ".parquet":
        from bench.images.files import Parquet

        return Parquet(path, n, skip_damaged, column)
    from bench.images.arrays import ArrayImages

    return ArrayImages.open(path, n, column)
