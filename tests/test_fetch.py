"""Downloads from a local server, and safe unpacking of archives."""

from __future__ import annotations

import hashlib
import io
import json
import stat
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from bench.api import Dataset, Download
from bench.data import download
from bench.errors import BenchError
from bench.store import files

TNBC = Dataset("tnbc", download=Download("1175282", "TNBC.zip"), homepage="https://example.org")
CONTENTS = {"TNBC/Slide_01/01_1.png": b"one" * 999, "TNBC/GT_01/01_1.png": b"", "TNBC/é 1": b"2"}


def zipped(contents: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("TNBC")
        for name, content in contents.items():
            archive.writestr(name, content)
    return file.getvalue()


@dataclass
class Server:
    """A local hosting service with configurable faults."""

    content: bytes = field(default_factory=lambda: zipped(CONTENTS))
    name: str = "TNBC.zip"
    checksum: str = ""
    cut_at: int | None = None  # bytes sent before the connection is closed
    reply: bytes | None = None  # instead of the record
    downloads: int = 0
    port: int = 0

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    def record(self) -> bytes:
        entry = {
            "key": self.name,
            "checksum": self.checksum or "md5:" + hashlib.md5(self.content).hexdigest(),
            "links": {"self": f"{self.api}/records/1175282/files/archive/content"},
        }
        return json.dumps({"files": [entry]}).encode() if self.reply is None else self.reply


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_record = self.path == "/api/records/1175282"
            body = state.record() if is_record else state.content
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body if is_record else body[: state.cut_at])
            state.downloads += not is_record

        def log_message(self, format: str, *args: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.port = http.server_address[1]
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield state
    http.shutdown()
    http.server_close()
    thread.join()


def unpacked(root: Path) -> dict[str, bytes]:
    paths = [path for path in root.rglob("*") if path.is_file()]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def test_a_release_is_downloaded_once_verified_and_unpacked(server: Server, tmp_path: Path):
    steps: list[tuple[str, int, int]] = []
    for _ in range(2):
        root = download.download(
            TNBC, tmp_path, api=server.api, progress=lambda *step: steps.append(step)
        )
        assert unpacked(root) == CONTENTS
    assert server.downloads == 1
    assert ("download", len(server.content), len(server.content)) in steps
    assert ("unpack", 3, 3) in steps
    (tmp_path / "TNBC.zip").write_bytes(b"damaged")
    assert unpacked(download.download(TNBC, tmp_path, api=server.api)) == CONTENTS
    assert server.downloads == 2


@pytest.mark.fault(28)
@pytest.mark.parametrize("fault", [{"cut_at": 100}, {"checksum": "md5:" + "0" * 32}])
def test_an_incomplete_or_changed_download_is_deleted_and_can_be_repeated(
    server: Server, tmp_path: Path, fault: dict
):
    for name, value in fault.items():
        setattr(server, name, value)
    with pytest.raises(BenchError, match=r"datasets prepare tnbc --from"):
        download.download(TNBC, tmp_path, api=server.api)
    assert list(tmp_path.iterdir()) == []
    server.cut_at, server.checksum = None, ""
    assert unpacked(download.download(TNBC, tmp_path, api=server.api)) == CONTENTS


def test_the_only_archive_of_a_record_is_used(server: Server, tmp_path: Path):
    server.name = "TNBC_v2.zip"
    assert download.download(TNBC, tmp_path, api=server.api).name == "TNBC_v2"
    server.name = "readme.pdf"
    with pytest.raises(BenchError, match=r"no such file; it has readme\.pdf"):
        download.download(TNBC, tmp_path, api=server.api)


@pytest.mark.parametrize(
    "reply", [b"", b"<html>", b"[]", b"{}", b'{"files": [{"key": "a.zip"}]}', b'{"files": 3}']
)
def test_an_invalid_reply_is_refused(server: Server, tmp_path: Path, reply: bytes):
    server.reply = reply
    with pytest.raises(BenchError, match="cannot download"):
        download.download(TNBC, tmp_path, api=server.api)


@pytest.mark.fault(21)
@pytest.mark.parametrize("name", ["../evil.zip", "/evil.zip", "a\\evil.zip", ".zip"])
def test_an_unsafe_file_name_of_a_record_is_refused(server: Server, tmp_path: Path, name: str):
    server.name = name
    with pytest.raises(BenchError, match="cannot download"):
        download.download(TNBC, tmp_path / "out", api=server.api)
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.fault(28)
def test_the_error_without_a_network_describes_the_manual_download(tmp_path: Path):
    with pytest.raises(BenchError, match=r"zenodo\.org/records/1175282, .* tnbc --from"):
        download.download(TNBC, tmp_path, api="http://127.0.0.1:9/api")
    with pytest.raises(BenchError, match=r"not openly hosted.*example\.org"):
        download.download(replace(TNBC, download=None), tmp_path)


# ---- unpacking -------------------------------------------------------------------------------


def _entry(name: str, mode: int = 0) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo("placeholder")
    entry.filename = name
    entry.external_attr = mode << 16
    return entry


UNSAFE = {
    "parent": [_entry("a/../../evil")],
    "absolute": [_entry("/etc/evil")],
    "backslash": [_entry("..\\evil")],
    "drive": [_entry("C:evil")],
    "link": [_entry("a", mode=stat.S_IFLNK | 0o777)],
    "device": [_entry("a", mode=stat.S_IFCHR)],
    "duplicate": [_entry("a"), _entry("a")],
    "duplicate with dots": [_entry("b/a"), _entry("b/./a")],
    "control character": [_entry("a\nb")],
    "no name": [_entry(".")],
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.fault(21)
@pytest.mark.parametrize("kind", UNSAFE)
def test_an_unsafe_archive_is_refused_before_anything_is_written(tmp_path: Path, kind: str):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("harmless", b"x")
        for entry in UNSAFE[kind]:
            archive.writestr(entry, b"target")
    with pytest.raises(BenchError, match="nothing was written"):
        download.unzip(tmp_path / "a.zip", tmp_path / "in" / "out")
    assert [path.name for path in tmp_path.rglob("*")] == ["a.zip"]


@pytest.mark.fault(21)
def test_a_name_with_a_zero_byte_and_a_zip_bomb_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    archive = tmp_path / "a.zip"
    archive.write_bytes(zipped({"safeXevil": b"x"}).replace(b"safeXevil", b"safe\0evil"))
    with pytest.raises(BenchError):
        download.unzip(archive, tmp_path / "out")
    monkeypatch.setattr(files, "MAX_ZIP_BYTES", 1 << 20)
    archive.write_bytes(zipped({"a": bytes(5 << 20)}))
    with pytest.raises(BenchError, match="the limit is"):
        download.unzip(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.fault(21)
def test_a_damaged_archive_is_refused(tmp_path: Path):
    noise = np.random.default_rng(0).bytes(300_000)
    intact, archive = zipped({"a": noise}), tmp_path / "a.zip"
    for position in range(50, len(intact), len(intact) // 25):
        damaged = bytearray(intact)
        damaged[position] ^= 0xFF
        archive.write_bytes(damaged)
        out = tmp_path / str(position)
        try:
            download.unzip(archive, out)
        except BenchError:
            assert not out.exists()
        else:
            assert list(unpacked(out).values()) == [noise]  # this byte is not part of the content
    for content in (intact[:-30], b"", b"not a zip"):
        archive.write_bytes(content)
        with pytest.raises(BenchError):
            download.unzip(archive, tmp_path / "out")
