"""Local servers for the client of the Hugging Face hub.

`served` points the client at a server. `FileHub` is the state of a server that acts as the hub.
"""

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


@contextmanager
def served(
    handler: type[BaseHTTPRequestHandler], home: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """Serve with a handler, point the client at it with an empty home, and yield the address."""
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
        yield address
        huggingface_hub.close_session()
        server.shutdown()
        thread.join()


@dataclass
class FileHub:
    """The state of the server: its files, its access rules and its faults.

    Attributes:
        files: by "OWNER/NAME", then by name.
        revisions: that every repository has, besides its one commit.
        gated: repositories that ask for their terms to be accepted.
        tokens: that it knows, and whether the account of each is on the list of the gated ones.
        broken: the status that it answers everything with.
        forbidden: whether it refuses a token that is not allowed to read gated repositories.
        damaged: whether it sends other bytes than those whose hash it tells.
        promised: bytes by which the header of the first request exceeds the content.
        cut: how many bytes of the first answers it sends before it hangs up, one an answer.
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
    cut: list[int] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)

    def answer(self, path: str, headers: Mapping[str, str]) -> Answer:
        """Answer a question for a file; the body is empty where it is refused."""
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
        start = int((headers.get("range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        if start:
            fields["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        return (206 if start else 200), fields, content[start:]

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
    """Answer for one `FileHub`, which a subclass names."""

    hub: FileHub

    def do_HEAD(self) -> None:
        self._respond(sent=0, promised=self.hub.promised)

    def do_GET(self) -> None:
        self._respond(sent=self.hub.cut.pop(0) if self.hub.cut else None)

    def _respond(self, sent: int | None, promised: int = 0) -> None:
        self.hub.requests.append((self.command, self.path))
        status, fields, content = self.hub.answer(self.path, self.headers)  # type: ignore[arg-type]
        self.send_response(status)
        for name, value in fields.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content) + promised))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content[:sent])

    def log_message(self, format: str, *_: object) -> None: ...


@contextmanager
def file_hub(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileHub]:
    """Serve files in place of the hub; the client's cache and token lie under `home`."""
    hub = FileHub()
    with served(type("Own", (FileHandler,), {"hub": hub}), home, monkeypatch):
        yield hub
