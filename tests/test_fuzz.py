"""Readers of foreign files, fed with damaged and made-up ones: an answer or a BenchError, no more.

Every reader is given files that are mostly right: cut, with bytes changed, and with parts of what
such files are made of put in. `deadline` bounds the time of each, and so finds a reader that hangs.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import zipfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save
from scipy.io import savemat
from small_runs import squares
from test_record_and_store import _record

from bench.api.record import Record, canonical, from_bytes, to_bytes
from bench.data import folder
from bench.data.decode import decode_image, decode_label
from bench.data.download import unzip
from bench.data.manifest import parse
from bench.datasets import cpm15, cpm17, kumar
from bench.errors import BenchError
from bench.models.checkpoints import read_state
from bench.store.results import Store, read_trial

EXAMPLES = int(os.environ.get("BENCH_FUZZ", "100"))  # files for each reader
bounded = settings(
    max_examples=EXAMPLES,
    deadline=timedelta(seconds=5),
    derandomize="BENCH_FUZZ" not in os.environ,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
fault = pytest.mark.fault

Reader = Callable[[Path], object]


def _damaged(whole: bytes, *parts: bytes) -> st.SearchStrategy[bytes]:
    """Draw a file that began as `whole`."""
    place = st.integers(0, max(0, len(whole) - 1))
    change = st.one_of(
        st.tuples(st.just("set"), place, st.binary(min_size=1, max_size=8)),
        st.tuples(st.just("insert"), place, st.sampled_from([*parts, b"\0", b'"', b"\xff"])),
        st.tuples(st.just("cut"), place, st.just(b"")),
        st.tuples(st.just("drop"), place, st.binary(min_size=1, max_size=40)),
    )

    def apply(changes: list[tuple[str, int, bytes]]) -> bytes:
        content = bytearray(whole)
        for kind, at, own in changes:
            if kind == "set":
                content[at : at + len(own)] = own
            elif kind == "insert":
                content[at:at] = own
            else:
                del content[at : at + len(own) if kind == "drop" else None]
        return bytes(content)

    return st.lists(change, max_size=5).map(apply)


def _answers(read: Reader, path: Path, content: bytes) -> object:
    """Give what a reader makes of a file: None where it refuses it in words."""
    path.write_bytes(content)
    told = ""
    try:
        return read(path)
    except BenchError as error:
        told = str(error)
    assert path.name in told  # it says which file
    assert len(told) < 2000
    return None


@pytest.fixture(autouse=True)
def _figure(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> None:
    if hasattr(request.function, "hypothesis"):
        record_property("figure", f"{EXAMPLES} made files")


# ---- records ---------------------------------------------------------------------------------

WHOLE = to_bytes(_record())
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda own: st.lists(own, max_size=4) | st.dictionaries(st.text(max_size=8), own, max_size=4),
    max_leaves=12,
)


@fault(6)
@bounded
@given(content=_damaged(WHOLE, b'"trials":', b"[]", b"1e999", b"[" * 5000))
def test_a_damaged_record_is_refused_or_whole(content: bytes) -> None:
    try:
        assert from_bytes(content, "r") == _record()
    except BenchError:
        assert content != WHOLE


@fault(6)
@bounded
@given(part=st.sampled_from(sorted(json.loads(WHOLE))), value=JSON)
def test_a_made_up_record_with_a_right_hash_is_a_record_or_refused(
    part: str, value: object
) -> None:
    body = json.loads(WHOLE)
    body[part] = value
    body.pop("sha256", None)
    body["sha256"] = hashlib.sha256(canonical(body)).hexdigest()
    told = ""
    try:
        assert isinstance(from_bytes(canonical(body), "r"), Record)
    except BenchError as error:
        told = str(error)
    assert told.startswith("r ") or not told


@fault(6)
@bounded
@given(data=st.data())
def test_a_damaged_trial_is_none_or_whole(tmp_path: Path, data: st.DataObject) -> None:
    trial = _record().trials[0]
    Store(tmp_path).keep_trial("run", 0, trial)
    path = Store(tmp_path).work("run") / "trial-0000.json"
    whole = path.read_bytes()
    assert read_trial(path) == trial
    path.write_bytes(data.draw(_damaged(whole, b"\n", b"[" * 5000)))
    assert read_trial(path) in (None, trial)


# ---- data sets -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return squares(tmp_path_factory.mktemp("fuzz") / "set", count=2)


@pytest.fixture(scope="module")
def manifest(root: Path) -> bytes:
    return (root / "manifest.csv").read_bytes()


@fault(13)
@bounded
@given(data=st.data())
def test_a_damaged_manifest_is_read_or_told(
    root: Path, manifest: bytes, data: st.DataObject
) -> None:
    parts = [b",", b"\n", b'"', b"../", b"nan", b"1e999", b"x" * 5000, b"9" * 5000, b"images/"]
    content = data.draw(_damaged(manifest, *parts))
    (root / "manifest.csv").write_bytes(content)
    try:
        rows, problems = parse(root)
        assert rows or problems
        assert all(isinstance(each, str) for each in folder.check(root))
        for row in rows:
            assert (root / row.image).resolve().is_relative_to(root.resolve())
    finally:
        (root / "manifest.csv").write_bytes(manifest)


def _encoded(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


PIXELS = np.random.default_rng(0).integers(0, 250, (9, 7, 3), dtype=np.uint8)


@fault(13, 22)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
@bounded
@given(data=st.data())
def test_a_damaged_image_is_pixels_or_refused(
    tmp_path: Path, kind: str, data: st.DataObject
) -> None:
    whole = _encoded(Image.fromarray(PIXELS), kind)
    content = data.draw(_damaged(whole, b"IHDR", b"\xff\xff\xff\xff", b"eXIf"))
    found = _answers(lambda path: decode_image(path.read_bytes(), path), tmp_path / "i", content)
    if found is not None:
        assert isinstance(found, np.ndarray)
        assert found.dtype == np.uint8
        assert found.shape[2:] == (3,)


@fault(14, 22)
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@bounded
@given(data=st.data())
def test_a_damaged_label_is_numbers_or_refused(
    tmp_path: Path, kind: str, data: st.DataObject
) -> None:
    whole = _encoded(Image.fromarray(PIXELS[..., 0]), kind)
    content = data.draw(_damaged(whole, b"IHDR", b"\xff\xff\xff\xff"))
    found = _answers(lambda path: decode_label(path.read_bytes(), path), tmp_path / "l", content)
    if found is not None:
        assert isinstance(found, np.ndarray)
        assert found.ndim == 2
        assert 0 <= found.min() <= found.max() <= 65535


# ---- releases --------------------------------------------------------------------------------

XML = b"""<?xml version="1.0"?><Annotations><Annotation><Regions><Region Id="1"><Vertices>
<Vertex X="1.5" Y="2"/><Vertex X="9" Y="2"/><Vertex X="9" Y="8.25"/></Vertices></Region></Regions>
</Annotation></Annotations>"""
XML_PARTS = (
    *(b"<Region>", b"</Region>", b'<Vertex X="1"/>', b'<Vertex X="1e308" Y="-1e308"/>'),
    *(b'<Vertex X="nan" Y="inf"/>', b"<!DOCTYPE a [<!ENTITY b 'c'>]>", b"&lt;", b"&#0;"),
    b"<Vertex/>" * 99,
)


@fault(21)
@bounded
@given(content=_damaged(XML, *XML_PARTS))
def test_a_damaged_annotation_is_outlines_or_refused(tmp_path_factory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.xml"
    found = _answers(kumar.read_outlines, path, content)
    if found is not None:
        labels = kumar.draw(found, (12, 12))  # type: ignore[arg-type]
        assert labels.shape == (12, 12)
        assert 0 <= labels.min() <= labels.max() <= len(found)  # type: ignore[arg-type]


def _mat(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    savemat(file, {"inst_map": values})
    return file.getvalue()


@fault(14)
@pytest.mark.parametrize("dtype", [np.float64, np.int32])
@bounded
@given(data=st.data())
def test_a_damaged_matlab_file_is_labels_or_refused(tmp_path: Path, dtype, data) -> None:
    whole = _mat((np.arange(12).reshape(3, 4) % 3).astype(dtype))
    content = data.draw(_damaged(whole, b"\x7f\xf0\0\0\0\0\0\0", b"\0\0\xf8\x7f", b"inst_map"))
    found = _answers(cpm17.read_labels, tmp_path / "l.mat", content)
    if found is not None:
        assert isinstance(found, np.ndarray)
        assert found.dtype == np.int32
        assert found.ndim == 2
        assert (found >= 0).all()


@fault(14)
@bounded
@given(data=st.data())
def test_a_damaged_ascii_label_is_labels_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    parts = [b"4294967297", b"-1", b"1e3", b" 9" * 99, b"9" * 5000]
    content = data.draw(_damaged(b"3 2\n0 1 1\n0 2 0\n", *parts))
    found = _answers(cpm15.read_mask, tmp_path / "m.txt", content)
    if found is not None:
        assert isinstance(found, np.ndarray)
        told = np.array(content.split(), dtype=np.int64)
        np.testing.assert_array_equal(found.ravel(), told[2:])


def _zipped(method: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as bundle:
        for name in ("a/b.txt", "ä.png"):
            bundle.writestr(name, PIXELS.tobytes())
    return file.getvalue()


@fault(21)
@pytest.mark.parametrize(
    "method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
)
@bounded
@given(data=st.data())
def test_a_damaged_archive_is_unpacked_or_refused(tmp_path_factory, method: int, data) -> None:
    home = tmp_path_factory.mktemp("zip")
    content = data.draw(_damaged(_zipped(method), b"PK\x01\x02", b"PK\x05\x06", b"\xff\xff\xff"))
    _answers(lambda path: unzip(path, home / "out"), home / "a.zip", content)


# ---- weights ---------------------------------------------------------------------------------

STATE = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.int64)}


def _pickled() -> bytes:
    file = io.BytesIO()
    torch.save(STATE, file)
    return file.getvalue()


@fault(19)
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@bounded
@given(data=st.data())
def test_damaged_weights_are_tensors_or_refused(tmp_path: Path, suffix: str, data) -> None:
    whole = save(STATE) if suffix == ".safetensors" else _pickled()
    content = data.draw(
        _damaged(whole, b'"dtype":"F8"', b"[0,999]", b"PK\x03\x04", b"cos\nsystem\n")
    )
    found = _answers(read_state, tmp_path / f"w{suffix}", content)
    if found is not None:
        assert all(isinstance(each, torch.Tensor) for each in found.values())  # type: ignore


@fault(19)
@bounded
@given(header=JSON, rest=st.binary(max_size=40), size=st.integers(-9, 9))
def test_a_made_up_safetensors_header_is_refused_or_read(
    tmp_path_factory, header, rest, size
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.safetensors"
    text = json.dumps(header).encode()
    length = struct.pack("<q", max(0, len(text) + size))
    found = _answers(read_state, path, length + text + rest)
    assert found is None or isinstance(found, dict)


# ---- what was found so -----------------------------------------------------------------------


@fault(13)
def test_a_name_that_no_system_bears_is_a_file_that_is_not_there(root: Path) -> None:
    path = root / "manifest.csv"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"images/i_00", b"images/" + b"i" * 5000))
    _, problems = parse(root)
    path.write_bytes(whole)
    assert len(problems) == 1
    assert "does not exist" in problems[0]


@fault(14)
@pytest.mark.parametrize("value", [-1.0, np.nan, 2.0**31, 0.5])
def test_a_matlab_number_that_is_no_label_is_refused(tmp_path: Path, value: float) -> None:
    (tmp_path / "l.mat").write_bytes(_mat(np.array([[0.0, 1.0, value]])))
    with pytest.raises(BenchError, match="inst_map"):
        cpm17.read_labels(tmp_path / "l.mat")


@fault(14)
def test_a_matlab_bomb_is_refused_by_its_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpm17, "MAX_PIXELS", 11)
    (tmp_path / "l.mat").write_bytes(_mat(np.zeros((3, 4))))
    monkeypatch.setattr(cpm17.io, "loadmat", lambda *_, **__: pytest.fail("was read"))
    with pytest.raises(BenchError, match="inst_map is declared as 3x4"):
        cpm17.read_labels(tmp_path / "l.mat")


@fault(14)
@pytest.mark.parametrize("value", ["4294967297", "-1"])
def test_an_ascii_number_that_is_no_label_is_refused(tmp_path: Path, value: str) -> None:
    (tmp_path / "l.txt").write_text(f"2 1\n1 {value}\n")
    with pytest.raises(BenchError, match="not an ASCII label file"):
        cpm15.read_mask(tmp_path / "l.txt")


@fault(19)
def test_weights_that_begin_in_the_middle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(_pickled()[36:])
    with pytest.raises(BenchError, match="damaged"):
        read_state(tmp_path / "w.pt")
