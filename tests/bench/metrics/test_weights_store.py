"""Protects downloads: checked by length and hash, stored whole or not at all, never unasked."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from bench.metrics.weights_store import Published, find

DATA = bytes(range(256)) * 4096
SHA = hashlib.sha256(DATA).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/missing":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(DATA)))
        self.end_headers()
        self.wfile.write(DATA[: len(DATA) // 2] if self.path == "/short" else DATA)

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    found = HTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=found.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{found.server_address[1]}"
    found.shutdown()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NOISEBENCH_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path / "weights"


def test_a_published_file_is_fetched_once_on_request(server: str, folder: Path) -> None:
    published = Published("net.pth", f"{server}/whole", SHA[:8], 40)
    with pytest.raises(ValueError, match=r"needs the file net\.pth"):
        find("a network", published)
    assert not folder.exists()
    place = find("a network", published, "download")
    assert place.read_bytes() == DATA
    assert [path.name for path in folder.iterdir()] == ["net.pth"]
    gone = Published("net.pth", f"{server}/missing", SHA[:8], 40)
    assert find("a network", gone, "download") == place
    assert find("a network", gone) == place


@pytest.mark.parametrize(
    ("where", "sha256", "words"),
    [
        ("short", SHA[:8], r"broke off after|cannot be fetched"),
        ("whole", "0" * 8, "instead of 00000000…: nothing was stored"),
        ("missing", SHA[:8], "cannot be fetched"),
    ],
)
def test_a_transfer_that_goes_wrong_leaves_nothing(
    server: str, folder: Path, where: str, sha256: str, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        find("a network", Published("net.pth", f"{server}/{where}", sha256, 40), "download")
    assert list(folder.iterdir()) == []


def test_a_file_of_ones_own_is_taken_as_it_is(tmp_path: Path) -> None:
    """Its hash stands in the identity; only the folder's files must be the published ones."""
    (tmp_path / "mine.pth").write_bytes(b"mine")
    published = Published("net.pth", "http://127.0.0.1:9/none", SHA[:8], 40)
    assert find("a network", published, tmp_path / "mine.pth") == tmp_path / "mine.pth"
    with pytest.raises(ValueError, match="There is no file"):
        find("a network", published, tmp_path / "other.pth")
