"""A local server that acts as the Hugging Face hub for downloads."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

COMMIT = "c0ffee" * 6 + "c0ff"
Answer = tuple[int, dict[str, str], bytes]


@dataclass
class FileHub:
    """The state of the server: its files, its access rules and its faults.

    Attributes:
        files: by "OWNER/NAME", then by name.
        revisions: of every repository.
        gated: repositories whose licence must be accepted.
        tokens: valid ones, and whether their account has access to gated repositories.
        broken: status of every answer; 0 if the server works.
        forbidden: whether tokens may not read gated repositories.
        damaged: whether files are sent reversed, with the hash of the original.
        promised: bytes by which the announced length exceeds the content.
        requests: method and path of every request.
    """

    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    revisions: tuple[str, ...] = ("main", COMMIT)
    gated: set[str] = field(default_factory=set)
    tokens: dict[str, bool] = field(default_factory=dict)
    broken: int = 0
    forbidden: bool = False
    damaged: bool = False
    promised: int = 0
    requests: list[tuple[str, str]] = field(default_factory=list)

    def answer(self, path: str, headers: Mapping[str, str]) -> Answer:
        """Answer a request for a file."""
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if self.broken or match is None:
            return self.broken or 404, {}, b""
        repo, revision, name = match.groups()
        if refusal := self._refusal(repo, headers.get("authorization", "")):
            return refusal
        if revision not in self.revisions:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        commit = {"X-Repo-Commit": COMMIT}
        if name not in self.files[repo]:
            return 404, commit | {"X-Error-Code": "EntryNotFound"}, b""
        content = self.files[repo][name]
        fields = commit | {"ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
        if self.damaged:
            content = content[::-1]
        return 200, fields, content

    def _refusal(self, repo: str, authorization: str) -> Answer | None:
        token = authorization.removeprefix("Bearer ")
        if token and token not in self.tokens:
            message = "Invalid credentials in Authorization header"
            return 401, {"X-Error-Message": message}, token.encode()
        if repo not in self.files:  # its existence is hidden without a token
            return (404 if token else 401), {"X-Error-Code": "RepoNotFound"}, b""
        if repo not in self.gated or self.tokens.get(token):
            return None
        if self.forbidden:
            return 403, {"X-Error-Message": f"enable access for {token}"}, b""
        return (403 if token else 401), {"X-Error-Code": "GatedRepo"}, token.encode()


class FileHandler(BaseHTTPRequestHandler):
    """Answer for the `FileHub` of a subclass."""

    hub: FileHub

    def do_HEAD(self) -> None:
        self._respond(promised=self.hub.promised)

    def do_GET(self) -> None:
        self._respond()

    def _respond(self, promised: int = 0) -> None:
        self.hub.requests.append((self.command, self.path))
        status, fields, content = self.hub.answer(self.path, self.headers)  # type: ignore[arg-type]
        self.send_response(status)
        for name, value in fields.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content) + promised))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, format: str, *_: object) -> None: ...


@contextmanager
def file_hub(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileHub]:
    """Serve files in place of the hub; the client's cache and token are under `home`."""
    hub = FileHub()
    handler = type("HubHandler", (FileHandler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}"
        settings = {
            "ENDPOINT": address,
            "HUGGINGFACE_CO_URL_TEMPLATE": address + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(home / "hub"),
            "HF_TOKEN_PATH": str(home / "token"),
            "HF_HUB_DISABLE_XET": True,  # the newer transfer of large files, a compiled client
            "HF_HUB_DISABLE_TELEMETRY": True,
            "HF_HUB_OFFLINE": False,
        }
        for name, value in settings.items():
            monkeypatch.setattr(constants, name, value)
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        yield hub
        huggingface_hub.close_session()
        server.shutdown()
        thread.join()
