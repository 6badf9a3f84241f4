"""A server that answers as the Hugging Face hub does for one data set, and counts what it sends."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Iterator
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "zoo/pictures"


class FakeHub(ThreadingHTTPServer):
    """The hub with the files of a folder as the data set `NAME`.

    Attributes:
        ranges: the file, the first byte and the end of each range that was fetched.
        down: whether the data files are gone.
        busy: whether ranges that begin at an odd byte cannot be had now, for which Hugging Face's
            library waits half a minute.
        cut: the number of answers from now on that have but half of the bytes.
        commit: the hash of the commit that has the files.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.ranges: list[tuple[str, int, int]] = []
        self.down = False
        self.busy = False
        self.cut = 0
        self.commit = COMMIT

    @property
    def url(self) -> str:
        """The address of the hub."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def sent(self) -> int:
        """The number of bytes of data files that were sent."""
        return sum(end - first for _, first, end in self.ranges)

    def tree(self, below: str) -> list[dict[str, object]]:
        """Return the entries below a folder, as the hub lists them."""
        return [
            {
                "type": "directory" if path.is_dir() else "file",
                "oid": "0" * 40 if path.is_dir() else sha1(path.read_bytes()).hexdigest(),
                "size": 0 if path.is_dir() else path.stat().st_size,
                "path": path.relative_to(self.folder).as_posix(),
            }
            for path in sorted((self.folder / below).rglob("*"))
        ]


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        """Print nothing."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        api, hub = f"/api/datasets/{NAME}", self.server
        if path == api or path.startswith(f"{api}/revision/"):
            siblings = [{"rfilename": entry["path"]} for entry in hub.tree("")]
            found = {"_id": "0", "id": NAME, "sha": hub.commit, "siblings": siblings, "tags": []}
            self._send(200, json.dumps(found).encode())
        elif match := re.fullmatch(rf"{api}/tree/[^/]+/?(.*)", path):
            self._send(200, json.dumps(hub.tree(match[1])).encode())
        elif match := re.fullmatch(rf"/datasets/{NAME}/resolve/[^/]+/(.+)", path):
            self._send_file(match[1])
        else:
            self._send(404, b"{}")

    def _send_file(self, name: str) -> None:
        file = self.server.folder / name
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if wanted and self.server.busy and int(wanted[1]) % 2:
            self._send(503, b"")
            return
        if not file.is_file() or (wanted and self.server.down):
            self._send(404, b"{}")
            return
        content, status = file.read_bytes(), 200
        if wanted:
            first, end = int(wanted[1]), int(wanted[2]) + 1
            content, status = content[first:end], 206
            self.server.ranges.append((name, first, end))
            if self.server.cut:
                self.server.cut -= 1
                content = content[: len(content) // 2]
        self._send(status, content)

    def _send(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Repo-Commit", self.server.commit)
        self.send_header("ETag", f'"{self.server.commit}"')
        if status == 404:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextlib.contextmanager
def serving(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """Serve a folder as the data set `NAME`, which Hugging Face's libraries find here meanwhile."""
    from huggingface_hub import HfFileSystem

    hub = FakeHub(folder)
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    resolved = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", resolved)
    monkeypatch.setattr("datasets.config.HF_ENDPOINT", hub.url)
    HfFileSystem.clear_instance_cache()
    try:
        yield hub
    finally:
        HfFileSystem.clear_instance_cache()
        hub.shutdown()
        hub.server_close()
