"""A model hub of one's own on 127.0.0.1: folders served through the API that `huggingface_hub` speaks.

Of a repository it knows one commit, `main`, and files with their sizes and hashes; it counts the bytes it gave, goes on in the
middle of a file (Range), and can break off.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import torch
from cgddi.diffusion.weights import to_bytes
from cgddi.plan.config import Config
from cgddi.plan.models import named_models
from cgddi.watch.fetch import repository

ROOT = Path(__file__).resolve().parents[1]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Repositories by id, each a dictionary of file names and bytes. Use as a context manager.

    Args:
        repositories: id -> file -> content.
    """

    def __init__(self, repositories: dict[str, dict[str, bytes]]):
        self.repositories = repositories
        self.requests: list[str] = []
        self.given = 0
        """Bytes of files that were sent."""
        self.break_after: int | None = None
        """Bytes of a file after which the connection is cut, once."""

    def __enter__(self) -> Hub:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_HEAD(self):
                hub.answer(self, body=False)

            def do_GET(self):
                hub.answer(self, body=True)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    @classmethod
    def of_folders(cls, folders: dict[str, Path]) -> Hub:
        """A hub that gives folders' files."""
        return cls(
            {
                name: {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
                for name, folder in folders.items()
            }
        )

    @classmethod
    def of_config(cls, config: Config) -> Hub:
        """A hub that has what a config names: the toy's model for each pipeline, small weights for each backbone."""
        toy = cls.of_folders({"toy": ROOT / "config/toy/model"}).repositories["toy"]
        backbone = {"config.json": b"{}", "model.safetensors": to_bytes({"weight": torch.zeros(2)})}
        models = list(named_models(config))
        return cls({repository(m)[0]: toy if m.kind in ("pipeline", "text encoder") else backbone for m in models})

    def environment(self, home: str | Path) -> dict[str, str]:
        """Variables with which a process fetches from here into a home of its own."""
        return {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}

    # ---- answers

    def answer(self, request: BaseHTTPRequestHandler, body: bool) -> None:
        path = request.path.partition("?")[0]
        self.requests.append(f"{request.command} {path}")
        if match := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)(?:/revision/(.+))?", path):
            self._about(request, *match.groups())
        elif match := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)/tree/(.+)", path):
            self._tree(request, *match.groups())
        elif match := re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", path):
            self._file(request, match[1], match[2], match[3], body)
        else:
            self._refuse(request, "EntryNotFound")

    def _about(self, request: BaseHTTPRequestHandler, name: str, revision: str | None) -> None:
        if name not in self.repositories:
            return self._refuse(request, "RepoNotFound")
        if revision not in (None, "main", COMMIT):
            return self._refuse(request, "RevisionNotFound")
        siblings = [
            {"rfilename": file, "size": len(data), "blobId": hashlib.sha1(data).hexdigest()}
            for file, data in self.repositories[name].items()
        ]
        text = json.dumps(
            {"id": name, "modelId": name, "sha": COMMIT, "siblings": siblings, "tags": [], "private": False}
        )
        self._send(request, text.encode(), {"Content-Type": "application/json"}, True)

    def _tree(self, request: BaseHTTPRequestHandler, name: str, revision: str) -> None:
        if revision not in ("main", COMMIT):
            return self._refuse(request, "RevisionNotFound")
        files = [
            {"type": "file", "path": file, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            for file, data in self.repositories.get(name, {}).items()
        ]
        self._send(request, json.dumps(files).encode(), {"Content-Type": "application/json"}, True)

    def _file(self, request: BaseHTTPRequestHandler, name: str, revision: str, file: str, body: bool) -> None:
        data = self.repositories.get(name, {}).get(file)
        if data is None or revision not in ("main", COMMIT):
            return self._refuse(request, "EntryNotFound")
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        start = int(re.match(r"bytes=(\d+)-", request.headers.get("Range", "bytes=0-"))[1])
        self._send(request, data[start:], headers, body, 206 if start else 200, start, len(data))

    def _refuse(self, request: BaseHTTPRequestHandler, code: str) -> None:
        self._send(request, b"{}", {"X-Error-Code": code}, True, 404)

    def _send(self, request, data, headers, body, status=200, start=0, whole=None) -> None:
        request.send_response(status)
        for key, value in headers.items():
            request.send_header(key, value)
        if status == 206:
            request.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        if not body:
            return
        if whole is not None and self.break_after is not None and len(data) > self.break_after:
            request.wfile.write(data[: self.break_after])
            self.given += self.break_after
            self.break_after = None
            request.close_connection = True
            request.connection.close()
            return
        request.wfile.write(data)
        self.given += len(data) if whole is not None else 0
