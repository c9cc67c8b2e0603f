"""Published weights of feature networks: found in a folder, or fetched on request, and checked by SHA-256.

Nothing is downloaded unasked. A file is stored whole or not at all: fetched beside its place, hashed, moved.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import tempfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from bench.identity import file_sha256

VARIABLE = "NOISEBENCH_WEIGHTS"
"""Environment variable with the folder of weights."""

DOWNLOAD = "download"
"""What `--weights` says to fetch the published file."""

CHUNK = 2**20


@dataclass(frozen=True)
class Published:
    """A file of weights: its name, where it is published, its SHA-256 or how that begins, and its size."""

    file: str
    url: str
    sha256: str
    bytes: int

    def is_it(self, sha256: str) -> bool:
        """Whether a file's hash is that of this file, as far as its publisher tells it."""
        return sha256.startswith(self.sha256)


def folder() -> Path:
    """Where weights are looked for."""
    return Path(os.environ.get(VARIABLE) or Path.home() / ".cache" / "noisebench" / "weights")


def find(network: str, published: Published, given: Path | str | None = None) -> Path:
    """The file of weights of a network: as given, from the folder, or with `download` fetched into it.

    Raises ValueError in one sentence with file, hash and place where there is none, and for a file in the
    folder that is not the published one. A file that is given may be any other; its hash stands in the
    network's identity.
    """
    place = folder() / published.file
    if given is not None and str(given) != DOWNLOAD:
        if not Path(given).is_file():
            raise ValueError(f"There is no file {given}: name the weights of {network} with --weights.")
        return Path(given)
    if place.is_file():
        found = file_sha256(place)
        if not published.is_it(found):
            raise ValueError(
                f"{place} has SHA-256 {found[:12]}… instead of {published.sha256[:12]}…: remove it and put "
                "the published file there."
            )
        return place
    if str(given) == DOWNLOAD:
        fetch(published.url, place, published)
        return place
    raise ValueError(
        f"{network} needs the file {published.file} ({published.bytes / 1e6:.1f} MB, SHA-256 "
        f"{published.sha256}): put it into "
        f"{place.parent}, name it with --weights FILE, or fetch it from {published.url} with "
        f"--weights {DOWNLOAD}."
    )


def fetch(url: str, place: Path, published: Published) -> None:
    """Download to `place`; a transfer that breaks off or another file leaves nothing behind."""
    place.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{place.name}-", dir=place.parent)
    try:
        with os.fdopen(handle, "wb") as file, urllib.request.urlopen(url, timeout=60) as answer:
            wanted, digest, size = answer.headers.get("Content-Length"), hashlib.sha256(), 0
            while chunk := answer.read(CHUNK):
                file.write(chunk)
                digest.update(chunk)
                size += len(chunk)
            file.flush()
            os.fsync(file.fileno())
        if wanted is not None and size != int(wanted):
            raise ValueError(f"{url} broke off after {size} of {wanted} bytes: try again.")
        if not published.is_it(digest.hexdigest()):
            raise ValueError(
                f"{url} gave a file with SHA-256 {digest.hexdigest()[:12]}… instead of "
                f"{published.sha256[:12]}…: nothing was stored."
            )
        os.chmod(name, 0o644)
        os.replace(name, place)
    except (OSError, http.client.HTTPException) as error:
        raise ValueError(
            f"{url} cannot be fetched ({error}): fetch it elsewhere and put it into {place.parent}."
        ) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
