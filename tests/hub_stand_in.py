"""A local stand-in for the Hugging Face hub: serves folders as repositories, over real HTTP.

It speaks the part of the hub's protocol that `datasets` and `huggingface_hub` use to find and fetch files. Set
HF_ENDPOINT to its address.
"""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


class HubStandIn(ThreadingHTTPServer):
    """Repositories are folders: ROOT/datasets/OWNER/NAME and ROOT/models/OWNER/NAME."""

    daemon_threads = True

    def __init__(self, root: Path, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.root = root
        self.overloaded: dict[str, int] = {}  # path -> how many requests for it are still answered with 503
        self.damaged = 0  # how many weights are still sent with a flipped bit
        self.requests: list[str] = []

    def close(self) -> None:
        """From now on connections are refused."""
        self.shutdown()
        self.server_close()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def commit(self, repository: Path) -> str:
        """The commit of a repository: the hash of its files."""
        digest = hashlib.sha1(usedforsecurity=False)
        for path in self.files(repository):
            digest.update(str(path.relative_to(repository)).encode() + path.read_bytes())
        return digest.hexdigest()

    def files(self, repository: Path) -> list[Path]:
        return sorted(path for path in repository.rglob("*") if path.is_file())


@contextmanager
def reserved_port() -> Iterator[int]:
    """A port for a stand-in that comes and goes: nobody else gets it while no stand-in listens there."""
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))
        yield reserved.getsockname()[1]


@contextmanager
def serving(root: Path, port: int = 0) -> Iterator[HubStandIn]:
    """A stand-in that answers until it is closed."""
    server = HubStandIn(root, port)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        server.close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: HubStandIn
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer()

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        self.server.requests.append(f"{self.command} {path}")
        if self.server.overloaded.get(path, 0) > 0:
            self.server.overloaded[path] -= 1
            self._send(503, b"overloaded")
            return
        match path.split("/"):
            case ["api", ("datasets" | "models") as kind, owner, name, *rest]:
                self._api(self.server.root / kind / owner / name, rest)
            case ["datasets", owner, name, "resolve", revision, *file]:
                self._file(self.server.root / "datasets" / owner / name, revision, "/".join(file))
            case [owner, name, "resolve", revision, *file]:
                self._file(self.server.root / "models" / owner / name, revision, "/".join(file))
            case _:
                self._send(404, b"")

    def _api(self, repository: Path, rest: list[str]) -> None:
        if not repository.is_dir():
            self._missing("RepoNotFound")
            return
        commit = self.server.commit(repository)
        files = self.server.files(repository)
        entries = [
            {
                "type": "file",
                "path": str(path.relative_to(repository)),
                "size": path.stat().st_size,
                "oid": commit,
            }
            for path in files
        ]
        match rest:
            case [] | ["revision", _]:
                if rest and rest[1] not in ("main", commit):
                    self._missing("RevisionNotFound")
                    return
                owner, name = repository.parts[-2:]
                siblings = [{"rfilename": entry["path"]} for entry in entries]
                self._json(
                    {
                        "id": f"{owner}/{name}",
                        "sha": commit,
                        "siblings": siblings,
                        "private": False,
                        "tags": [],
                        "downloads": 0,
                        "likes": 0,
                    }
                )
            case ["tree", _, *folder]:
                prefix = "".join(f"{part}/" for part in folder)
                inside = [entry for entry in entries if str(entry["path"]).startswith(prefix)]
                if folder and not inside:
                    self._missing("EntryNotFound")
                    return
                self._json(inside)
            case ["paths-info", _]:
                self._json(entries)
            case _:
                self._send(404, b"")

    def _file(self, repository: Path, revision: str, name: str) -> None:
        if not repository.is_dir():
            self._missing("RepoNotFound")
            return
        commit = self.server.commit(repository)
        if revision not in ("main", commit):
            self._missing("RevisionNotFound")
            return
        path = repository / name
        if not path.is_file():
            self._missing("EntryNotFound", commit)
            return
        content = path.read_bytes()
        is_large = path.suffix in (
            ".pth",
            ".safetensors",
        )  # the hub hashes large files otherwise than git does
        etag = (hashlib.sha256 if is_large else hashlib.sha1)(content).hexdigest()
        if is_large and self.command == "GET" and self.server.damaged:
            self.server.damaged -= 1
            content = content[:-1] + bytes([content[-1] ^ 1])
        self._send(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"})

    def _missing(self, code: str, commit: str | None = None) -> None:
        headers = {"X-Error-Code": code} | ({"X-Repo-Commit": commit} if commit else {})
        self._send(404, b"", headers)

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
