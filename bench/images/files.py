"""Image files in a folder, a zip or a parquet file, decoded by threads in a fixed order."""

from __future__ import annotations

import os
import zipfile
from abc import abstractmethod
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from bench.images.decode import ENDINGS, Unreadable, decode
from bench.images.source import Damaged, DamagedImages, ImageSource
from models.names import shown

AHEAD = 256
"""Images that are read and decoded ahead of their use, at most."""

LARGEST = 2**28
"""Bytes of the largest file that is read; a zip may say otherwise of its members."""


class ImageFiles(ImageSource):
    """Files of images by name."""

    def __init__(self, where: Path, n: int | None, skip_damaged: bool) -> None:
        super().__init__()
        self.where, self.name, self.skip_damaged = where, where.name or str(where), skip_damaged
        self.members = self.find()
        if not self.members:
            raise ValueError(f"{where} holds no images ({', '.join(ENDINGS)}).")
        if n is not None and not 1 <= n <= len(self.members):
            raise ValueError(f"{where} holds {len(self.members)} images, and {n} are asked for.")
        self.members = self.members[:n]

    @abstractmethod
    def find(self) -> list[Any]:
        """The members, sorted."""

    @abstractmethod
    def read(self, member: Any) -> bytes:
        """The bytes of one."""

    def __len__(self) -> int:
        return len(self.members)

    @abstractmethod
    def size(self, member: Any) -> int:
        """Bytes of a member."""

    def label(self, member: Any) -> str:
        """Class of a member: the folder that it lies in below the whole; empty where it lies in none."""
        first, _, rest = str(member).partition("/")
        return first if rest else ""

    def images(self) -> Iterator[np.ndarray]:
        """Decoded images in order, some ahead; the first damaged one ends it unless they are skipped."""
        labels = []
        with ThreadPoolExecutor(max(2, os.cpu_count() or 1)) as pool:
            members = iter(self.members)
            waiting = [(member, pool.submit(self._decoded, member)) for member in islice(members, AHEAD)]
            while waiting:
                member, future = waiting.pop(0)
                waiting += [(m, pool.submit(self._decoded, m)) for m in islice(members, 1)]
                found = future.result()
                if isinstance(found, str):
                    self._damaged(str(member), found)
                else:
                    labels.append(self.label(member))
                    yield found
        self.labels = labels if all(labels) else []

    def _decoded(self, member: Any) -> np.ndarray | str:
        """The pixels, or why there are none."""
        try:
            if self.size(member) > LARGEST:
                return f"has more than {LARGEST} bytes"
            return decode(self.read(member))
        except Unreadable as reason:
            return str(reason)
        except Exception as error:  # an archive raises whatever its decompressors do
            return f"cannot be read ({shown(error) or type(error).__name__})"

    def _damaged(self, name: str, reason: str) -> None:
        self.damaged.append(Damaged(name, reason))
        if not self.skip_damaged:
            raise DamagedImages(self.damaged, len(self))


class Folder(ImageFiles):
    """A folder and its folders, by path. Links that lead out of it are damaged images, not followed."""

    def find(self) -> list[Any]:
        """Paths relative to the folder, sorted as text."""
        found = (path for path in self.where.rglob("*") if path.suffix.lower() in ENDINGS)
        files = (path for path in found if path.is_symlink() or path.is_file())
        return sorted(path.relative_to(self.where).as_posix() for path in files)

    def size(self, member: str) -> int:
        """Bytes; 0 for a link to nothing."""
        path = self.where / member
        return path.stat().st_size if path.exists() else 0

    def read(self, member: str) -> bytes:
        """The bytes of a file that lies in the folder."""
        path = self.where / member
        if not path.resolve().is_relative_to(self.where.resolve()):
            raise Unreadable("is a link out of the folder")
        return path.read_bytes()


class Zip(ImageFiles):
    """A zip archive; nothing is unpacked to disk."""

    def __init__(self, where: Path, n: int | None, skip_damaged: bool) -> None:
        try:
            self.archive = zipfile.ZipFile(where)
        except Exception as error:  # whatever a damaged directory of members raises
            raise ValueError(f"{where} is no zip archive ({shown(error)}).") from None
        super().__init__(where, n, skip_damaged)

    def find(self) -> list[Any]:
        """Names of members that end as images do, sorted."""
        names = (info.filename for info in self.archive.infolist() if not info.is_dir())
        return sorted(name for name in names if PurePosixPath(name).suffix.lower() in ENDINGS)

    def size(self, member: str) -> int:
        """Bytes when unpacked, as the archive says."""
        return self.archive.getinfo(member).file_size

    def read(self, member: str) -> bytes:
        """The bytes of a member, as many as the archive says at most."""
        with self.archive.open(member) as file:
            return file.read(min(self.size(member), LARGEST))


class NoColumn(ValueError):
    """A table has no column of images, or several."""


class Parquet(ImageFiles):
    """A parquet file with a column of encoded images: bytes, or structs of `bytes` and `path` as on hubs."""

    def __init__(self, where: Path, n: int | None, skip_damaged: bool, column: str = "") -> None:
        import pyarrow.parquet

        try:
            schema = pyarrow.parquet.read_schema(where)
            columns = [_column(schema, column, where), *(["label"] if "label" in schema.names else [])]
            table = pyarrow.parquet.read_table(where, columns=columns)
            cells = table.column(0).to_pylist()
            told = table.column("label").to_pylist() if "label" in table.column_names else []
        except NoColumn:
            raise
        except Exception as error:  # Arrow's own, and those of what its values are turned into
            raise ValueError(f"{where} is no parquet file ({shown(error)}).") from None
        self.cells = [cell.get("bytes") if isinstance(cell, dict) else cell for cell in cells]
        self.told = ["" if label is None else str(label) for label in told]
        super().__init__(where, n, skip_damaged)

    def label(self, member: int) -> str:
        """What the column `label` says."""
        return self.told[member] if self.told else ""

    def find(self) -> list[Any]:
        """Row numbers."""
        return list(range(len(self.cells)))

    def size(self, member: int) -> int:
        """Bytes of a row's image."""
        return len(self.cells[member] or b"")

    def read(self, member: int) -> bytes:
        """The bytes of a row's image."""
        return self.cells[member] or b""


def _column(schema: Any, wanted: str, where: Path) -> str:
    """The column asked for, or the only one that may hold images."""
    import pyarrow

    def holds_images(kind: Any) -> bool:
        if pyarrow.types.is_struct(kind):
            return kind.get_field_index("bytes") >= 0
        return bool(pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind))

    fitting = [field.name for field in schema if holds_images(field.type)]
    if wanted in fitting or (not wanted and len(fitting) == 1):
        return wanted or fitting[0]
    listed = ", ".join(fitting) or "none"
    asked = f"no column {wanted!r} of images" if wanted else "not exactly one column of images"
    raise NoColumn(f"{where} has {asked}: those with encoded images are: {shown(listed, 400)}.")
