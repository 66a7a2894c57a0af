"""Downloads from a faulty server, and safe unpacking of archives."""

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

TNBC = Dataset("tnbc", download=Download("1175282", "TNBC.zip"), homepage="https://example.org")
FILES = {"TNBC/Slide_01/01_1.png": b"one" * 999, "TNBC/GT_01/01_1.png": b"two", "TNBC/é 1.txt": b""}
NOISE = np.random.default_rng(0).bytes(300_000)


def zipped(files: dict[str, bytes] = FILES) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as bundle:
        bundle.mkdir("TNBC")
        for name, content in files.items():
            bundle.writestr(name, content)
    return file.getvalue()


@dataclass
class Hub:
    """A local hosting service with configurable faults."""

    content: bytes = b""
    name: str = "TNBC.zip"
    checksum: str = ""
    size: int | None = None
    cut_at: list[int] = field(default_factory=list)  # bytes sent before each cut
    ranges: bool = True
    shift: int = 0  # resumes at another byte than was asked for
    reply: bytes | None = None  # instead of the record
    link: str = ""
    asked: list[str] = field(default_factory=list)  # the Range of each request for the file
    port: int = 0

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    def record(self) -> bytes:
        if self.reply is not None:
            return self.reply
        entry = {
            "key": self.name,
            "size": len(self.content) if self.size is None else self.size,
            "checksum": self.checksum or "md5:" + hashlib.md5(self.content).hexdigest(),
            "links": {"self": self.link or f"{self.api}/records/1175282/files/{self.name}/content"},
        }
        return json.dumps({"files": [entry]}).encode()


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub(content=zipped())

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/api/records/1175282":
                self._send(200, hub.record())
            elif self.path.endswith("/content"):
                self._send_file()
            else:
                self.send_error(404)

        def _send(self, status: int, body: bytes, **headers: str) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            cut = hub.cut_at.pop(0) if hub.cut_at and "content" in self.path else len(body)
            self.wfile.write(body[:cut])

        def _send_file(self) -> None:
            asked = self.headers.get("Range", "")
            hub.asked.append(asked)
            if not asked or not hub.ranges:
                self._send(200, hub.content)
                return
            start = int(asked.removeprefix("bytes=").rstrip("-")) + hub.shift
            stretch = f"bytes {start}-{len(hub.content) - 1}/{len(hub.content)}"
            self._send(206, hub.content[start:], Content_Range=stretch)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield hub
    server.shutdown()
    server.server_close()
    thread.join()


def unpacked(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file()
    }


# ---- download --------------------------------------------------------------------------------


def test_a_release_is_downloaded_verified_and_unpacked(hub: Hub, tmp_path: Path):
    steps: list[tuple[str, int, int]] = []
    root = download.download(TNBC, tmp_path, api=hub.api, progress=lambda *step: steps.append(step))
    assert unpacked(root) == FILES
    assert ("download", len(hub.content), len(hub.content)) in steps
    assert ("unpack", 3, 3) in steps
    assert not list(tmp_path.glob("*.part"))


def test_a_complete_archive_is_not_downloaded_again(hub: Hub, tmp_path: Path):
    download.download(TNBC, tmp_path, api=hub.api)
    download.download(TNBC, tmp_path, api=hub.api)
    assert len(hub.asked) == 1


@pytest.mark.parametrize("cut", [0, 1, 100, 299_999])
@pytest.mark.fault(28)
def test_an_interrupted_download_resumes(hub: Hub, tmp_path: Path, cut: int):
    hub.content = zipped({"a": NOISE})
    hub.cut_at = [cut]
    assert unpacked(download.download(TNBC, tmp_path, api=hub.api)) == {"a": NOISE}
    assert hub.asked == ["", f"bytes={cut}-" if cut else ""]


@pytest.mark.fault(28)
def test_a_download_that_fails_repeatedly_is_resumed_by_the_next_command(hub: Hub, tmp_path: Path):
    hub.content = zipped({"a": NOISE})
    hub.cut_at = [1000] * download.ATTEMPTS
    with pytest.raises(BenchError, match="was interrupted after 5000 of"):
        download.download(TNBC, tmp_path, api=hub.api)
    assert (tmp_path / "TNBC.zip.part").stat().st_size == 5000
    assert unpacked(download.download(TNBC, tmp_path, api=hub.api)) == {"a": NOISE}
    assert hub.asked[-1] == "bytes=5000-"


def test_the_download_restarts_if_the_server_cannot_resume(hub: Hub, tmp_path: Path):
    hub.content, hub.cut_at, hub.ranges = zipped({"a": NOISE}), [1000], False
    assert unpacked(download.download(TNBC, tmp_path, api=hub.api)) == {"a": NOISE}


@pytest.mark.fault(28)
def test_a_server_that_resumes_at_another_byte_is_refused(hub: Hub, tmp_path: Path):
    hub.content, hub.cut_at, hub.shift = zipped({"a": NOISE}), [1000], 7
    with pytest.raises(BenchError, match="resumed at a different byte"):
        download.download(TNBC, tmp_path, api=hub.api)


@pytest.mark.parametrize(
    "fault", [{"checksum": "md5:" + "0" * 32}, {"checksum": "sha256:" + "0" * 64}, {"size": 100}]
)
@pytest.mark.fault(28)
def test_a_download_with_a_wrong_checksum_is_deleted(hub: Hub, tmp_path: Path, fault):
    for name, value in fault.items():
        setattr(hub, name, value)
    with pytest.raises(BenchError, match="does not match its size"):
        download.download(TNBC, tmp_path, api=hub.api)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_archive_is_downloaded_again(hub: Hub, tmp_path: Path):
    (tmp_path / "TNBC.zip").write_bytes(bytes(len(hub.content)))
    assert unpacked(download.download(TNBC, tmp_path, api=hub.api)) == FILES


def test_the_only_archive_of_a_record_is_used(hub: Hub, tmp_path: Path):
    hub.name = "TNBC_v2.zip"
    assert download.download(TNBC, tmp_path, api=hub.api).name == "TNBC_v2"
    hub.name = "readme.pdf"
    with pytest.raises(BenchError, match=r"has no file TNBC\.zip; it has readme\.pdf"):
        download.download(TNBC, tmp_path, api=hub.api)


@pytest.mark.parametrize(
    "reply", [b"", b"<html>", b"[]", b"{}", b'{"files": [{"key": "a.zip"}]}', b'{"files": 3}']
)
def test_an_invalid_reply_is_refused(hub: Hub, tmp_path: Path, reply: bytes):
    hub.reply = reply
    with pytest.raises(BenchError, match="did not return a list of files"):
        download.download(TNBC, tmp_path, api=hub.api)


@pytest.mark.parametrize("name", ["../evil.zip", "/evil.zip", "a\\evil.zip", ".zip"])
@pytest.mark.fault(21)
def test_an_unsafe_file_name_of_a_record_is_refused(hub: Hub, tmp_path: Path, name: str):
    hub.name, hub.link = name, f"{hub.api}/content"
    with pytest.raises(BenchError, match="did not return a list of files"):
        download.download(TNBC, tmp_path / "out", api=hub.api)
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize("link", ["file:///etc/passwd", "ftp://127.0.0.1/a", "https://127.0.0.1/a"])
def test_a_url_with_another_scheme_is_refused(hub: Hub, tmp_path: Path, link: str):
    hub.link = link
    with pytest.raises(BenchError, match="which is refused"):
        download.download(TNBC, tmp_path, api=hub.api)


@pytest.mark.fault(28)
def test_the_error_without_a_network_describes_the_manual_download(hub: Hub, tmp_path: Path):
    for api in ("http://127.0.0.1:9/api", "http://no-such-host.invalid/api", f"{hub.api}/nothing"):
        with pytest.raises(BenchError) as caught:
            download.download(TNBC, tmp_path, api=api)
        for part in ("cannot reach", "zenodo.org/records/1175282", "datasets prepare tnbc --from"):
            assert part in str(caught.value)


def test_the_error_for_a_data_set_that_is_not_hosted_shows_its_homepage(tmp_path: Path):
    with pytest.raises(BenchError, match=r"not openly hosted.*example\.org"):
        download.download(replace(TNBC, download=None), tmp_path)


# ---- unpacking -------------------------------------------------------------------------------


def _entry(name: str, *, mode: int = 0) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo("placeholder")
    entry.filename = name
    entry.external_attr = mode << 16
    return entry


UNSAFE = {
    "parent": ([_entry("../evil")], "outside"),
    "deep parent": ([_entry("a/../../evil")], "outside"),
    "absolute": ([_entry("/etc/evil")], "outside"),
    "backslash": ([_entry("..\\evil")], "outside"),
    "drive": ([_entry("C:evil")], "outside"),
    "drive path": ([_entry("C:/evil")], "outside"),
    "share": ([_entry("//host/share/evil")], "outside"),
    "link": ([_entry("a", mode=stat.S_IFLNK | 0o777)], "link or a device"),
    "device": ([_entry("a", mode=stat.S_IFCHR)], "link or a device"),
    "pipe": ([_entry("a", mode=stat.S_IFIFO)], "link or a device"),
    "folder that leaves": ([_entry("../evil/")], "outside"),
    "twice": ([_entry("a"), _entry("a")], "duplicate name"),
    "twice but for case": ([_entry("a"), _entry("A")], "duplicate name"),
    "twice but for dots": ([_entry("b/a"), _entry("b/./a")], "duplicate name"),
    "file and folder": ([_entry("a"), _entry("a/b")], "duplicate name"),
    "folder and file": ([_entry("a/b"), _entry("a")], "duplicate name"),
    "twice but for its Unicode form": ([_entry("\u00e9"), _entry("e\u0301")], "duplicate name"),
    "control character": ([_entry("a\nb")], "not a file name"),
    "nothing": ([_entry(".")], "not a file name"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", UNSAFE)
@pytest.mark.fault(21)
def test_an_unsafe_archive_is_refused_before_anything_is_written(tmp_path: Path, kind: str):
    entries, message = UNSAFE[kind]
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as bundle:
        bundle.writestr("harmless", b"x")
        for entry in entries:
            bundle.writestr(entry, b"target")
    with pytest.raises(BenchError, match=message):
        download.unzip(archive, tmp_path / "in" / "out")
    assert [path.name for path in tmp_path.rglob("*")] == ["a.zip"]


@pytest.mark.fault(21)
def test_a_name_with_a_zero_byte_is_refused(tmp_path: Path):
    archive = tmp_path / "a.zip"
    archive.write_bytes(zipped({"safeXevil": b"x"}).replace(b"safeXevil", b"safe\0evil"))
    with pytest.raises(BenchError):
        download.unzip(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.fault(21)
def test_a_zip_bomb_is_refused_before_unpacking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(download, "SMALL_BYTES", 1 << 20)
    archive = tmp_path / "a.zip"
    archive.write_bytes(zipped({"a": bytes(5 << 20)}))
    with pytest.raises(BenchError, match="the limit is"):
        download.unzip(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.fault(21)
def test_a_damaged_archive_is_refused(tmp_path: Path):
    sound, archive = zipped({"a": NOISE}), tmp_path / "a.zip"
    for position in range(50, len(sound), len(sound) // 25):
        archive.write_bytes(
            sound[:position] + bytes([sound[position] ^ 0xFF]) + sound[position + 1 :]
        )
        out = tmp_path / str(position)
        try:
            download.unzip(archive, out)
        except BenchError:
            assert not out.exists()
        else:
            assert list(unpacked(out).values()) == [NOISE]  # a byte that does not touch the content
    for content in (sound[:-30], b"", b"not a zip"):
        archive.write_bytes(content)
        with pytest.raises(BenchError):
            download.unzip(archive, tmp_path / "out")
