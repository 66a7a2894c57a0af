"""Readers of external files return a result or raise a BenchError for damaged and random files.

`deadline` bounds the time of each file, so that a reader that hangs is found.
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
from test_record_and_store import _record
from tiny import squares

from bench.api.record import Record, TrialResult, canonical, from_bytes, to_bytes
from bench.data import folder
from bench.data.decode import decode_image, decode_label
from bench.data.download import unzip
from bench.data.manifest import parse
from bench.datasets import _matlab, cpm15
from bench.datasets._imagescope import draw, read_annotation
from bench.errors import BenchError
from bench.models.checkpoints import read_weights
from bench.store.results import Store, read_trial

EXAMPLES = int(os.environ.get("BENCH_FUZZ", "40"))  # files per reader
bounded = settings(
    max_examples=EXAMPLES,
    deadline=timedelta(seconds=5),
    derandomize="BENCH_FUZZ" not in os.environ,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
fault = pytest.mark.fault

Reader = Callable[[Path], object]


def _damaged(original: bytes, *parts: bytes) -> st.SearchStrategy[bytes]:
    """Draw a damaged copy of a file; `parts` are inserted at random positions."""
    position = st.integers(0, max(0, len(original) - 1))
    change = st.one_of(
        st.tuples(st.just("set"), position, st.binary(min_size=1, max_size=8)),
        st.tuples(st.just("insert"), position, st.sampled_from([*parts, b"\0", b'"', b"\xff"])),
        st.tuples(st.just("cut"), position, st.just(b"")),
        st.tuples(st.just("drop"), position, st.binary(min_size=1, max_size=40)),
    )

    def apply(changes: list[tuple[str, int, bytes]]) -> bytes:
        content = bytearray(original)
        for kind, at, part in changes:
            if kind == "set":
                content[at : at + len(part)] = part
            elif kind == "insert":
                content[at:at] = part
            else:
                del content[at : at + len(part) if kind == "drop" else None]
        return bytes(content)

    return st.lists(change, max_size=5).map(apply)


def _read(reader: Reader, path: Path, content: bytes) -> object:
    """Return the result of a reader; None if it refuses the file by name."""
    path.write_bytes(content)
    try:
        return reader(path)
    except BenchError as error:
        message = str(error)
    assert path.name in message
    assert len(message) < 2000
    return None


@pytest.fixture(autouse=True)
def _figure(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> None:
    if hasattr(request.function, "hypothesis"):
        record_property("figure", f"{EXAMPLES} made files")


# ---- records ---------------------------------------------------------------------------------

RECORD = to_bytes(_record())
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda leaf: (
        st.lists(leaf, max_size=4) | st.dictionaries(st.text(max_size=8), leaf, max_size=4)
    ),
    max_leaves=12,
)


@fault(6)
@bounded
@given(content=_damaged(RECORD, b'"trials":', b"[]", b"1e999", b"[" * 5000))
def test_a_damaged_record_is_refused_or_unchanged(content: bytes) -> None:
    try:
        assert from_bytes(content, "r") == _record()
    except BenchError:
        assert content != RECORD


@fault(6)
@bounded
@given(part=st.sampled_from(sorted(json.loads(RECORD))), value=JSON)
def test_a_forged_record_with_a_valid_hash_is_a_record_or_refused(part: str, value: object) -> None:
    body = json.loads(RECORD)
    body[part] = value
    body.pop("sha256", None)
    body["sha256"] = hashlib.sha256(canonical(body)).hexdigest()
    try:
        assert isinstance(from_bytes(canonical(body), "r"), Record)
    except BenchError as error:
        message = str(error)
        assert message.startswith("r ")


@fault(6)
@bounded
@given(data=st.data())
def test_a_damaged_trial_is_none_or_a_trial(tmp_path: Path, data: st.DataObject) -> None:
    trial = _record().trials[0]
    Store(tmp_path).save_trial("run", 0, trial)
    path = Store(tmp_path).work("run") / "trial-0000.json"
    assert read_trial(path) == trial
    path.write_bytes(data.draw(_damaged(path.read_bytes(), b"\n", b"[" * 5000)))
    result = read_trial(path)
    assert result is None or isinstance(result, TrialResult)


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
def test_a_damaged_manifest_is_read_or_has_problems(
    root: Path, manifest: bytes, data: st.DataObject
) -> None:
    parts = [b",", b"\n", b'"', b"../", b"nan", b"1e999", b"x" * 5000, b"9" * 5000, b"images/"]
    (root / "manifest.csv").write_bytes(data.draw(_damaged(manifest, *parts)))
    try:
        rows, problems = parse(root)
        assert rows or problems
        assert all(isinstance(problem, str) for problem in folder.check(root))
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
    original = _encoded(Image.fromarray(PIXELS), kind)
    content = data.draw(_damaged(original, b"IHDR", b"\xff\xff\xff\xff", b"eXIf"))
    pixels = _read(lambda path: decode_image(path.read_bytes(), path), tmp_path / "i", content)
    if pixels is not None:
        assert isinstance(pixels, np.ndarray)
        assert pixels.dtype == np.uint8
        assert pixels.shape[2:] == (3,)


@fault(14, 22)
@bounded
@given(content=_damaged(_encoded(Image.fromarray(PIXELS[..., 0]), "PNG"), b"IHDR", b"\xff" * 4))
def test_a_damaged_label_is_numbers_or_refused(tmp_path_factory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.png"
    labels = _read(lambda path: decode_label(path.read_bytes(), path), path, content)
    if labels is not None:
        assert isinstance(labels, np.ndarray)
        assert labels.ndim == 2
        assert 0 <= labels.min() <= labels.max() <= 65535


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
    drawn = _read(lambda path: draw(read_annotation(path), (12, 12))[0], path, content)
    if drawn is not None:
        assert isinstance(drawn, np.ndarray)
        assert drawn.shape == (12, 12)
        assert 0 <= drawn.min() <= drawn.max() <= content.count(b"<Region")


MATRIX = (np.arange(12).reshape(3, 4) % 3).astype(np.float64)


def _mat(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    savemat(file, {"inst_map": values})
    return file.getvalue()


@fault(14)
def test_a_truncated_matlab_file_is_refused(tmp_path: Path) -> None:
    content = _mat(MATRIX)
    for length in range(len(content)):
        assert _read(_matlab.read_instances, tmp_path / "l.mat", content[:length]) is None


@fault(14)
@bounded
@given(content=_damaged(_mat(MATRIX)[128:], b"\x0f\0\0\0", b"\xff" * 4, b"\0" * 4))
def test_a_damaged_matlab_file_is_labels_or_refused(tmp_path_factory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.mat"
    labels = _read(_matlab.read_instances, path, _mat(MATRIX)[:128] + content)
    if labels is not None:
        assert isinstance(labels, np.ndarray)
        assert labels.dtype == np.int32
        assert labels.ndim == 2


ASCII_PARTS = (b"4294967297", b"-1", b"1e3", b" 9" * 99, b"9" * 5000)


@fault(14)
@bounded
@given(content=_damaged(b"3 2\n0 1 1\n0 2 0\n", *ASCII_PARTS))
def test_a_damaged_ascii_label_is_labels_or_refused(tmp_path_factory, content: bytes) -> None:
    labels = _read(cpm15.read_mask, tmp_path_factory.getbasetemp() / "fuzzed.txt", content)
    if labels is not None:
        assert isinstance(labels, np.ndarray)
        numbers = np.array(content.split(), dtype=np.int64)
        np.testing.assert_array_equal(labels.ravel(), numbers[2:])


def _zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("a/b.txt", "ä.png"):
            archive.writestr(name, PIXELS.tobytes())
    return file.getvalue()


@fault(21)
@bounded
@given(content=_damaged(_zipped(), b"PK\x01\x02", b"PK\x05\x06", b"\xff\xff\xff"))
def test_a_damaged_archive_is_unpacked_or_refused(tmp_path_factory, content: bytes) -> None:
    home = tmp_path_factory.mktemp("zip")
    _read(lambda path: unzip(path, home / "out"), home / "a.zip", content)


# ---- weights ---------------------------------------------------------------------------------

STATE = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.int64)}


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    return dict(read_weights(path).tensors)


def _pickled() -> bytes:
    file = io.BytesIO()
    torch.save(STATE, file)
    return file.getvalue()


@fault(19)
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@bounded
@given(data=st.data())
def test_damaged_weights_are_tensors_or_refused(tmp_path: Path, suffix: str, data) -> None:
    original = save(STATE) if suffix == ".safetensors" else _pickled()
    parts = (b'"dtype":"F8"', b"[0,999]", b"PK\x03\x04", b"cos\nsystem\n")
    state = _read(_tensors, tmp_path / f"w{suffix}", data.draw(_damaged(original, *parts)))
    if state is not None:
        assert all(isinstance(tensor, torch.Tensor) for tensor in state.values())  # type: ignore


@fault(19)
@bounded
@given(header=JSON, rest=st.binary(max_size=40), size=st.integers(-9, 9))
def test_a_random_safetensors_header_is_refused_or_read(
    tmp_path_factory, header, rest, size
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.safetensors"
    text = json.dumps(header).encode()
    length = struct.pack("<q", max(0, len(text) + size))
    state = _read(_tensors, path, length + text + rest)
    assert state is None or isinstance(state, dict)


# ---- files that were found by these tests ----------------------------------------------------


@fault(13)
def test_a_name_that_is_too_long_for_the_system_does_not_exist(root: Path, manifest: bytes) -> None:
    path = root / "manifest.csv"
    path.write_bytes(manifest.replace(b"images/i_00", b"images/" + b"i" * 5000))
    _, problems = parse(root)
    path.write_bytes(manifest)
    assert len(problems) == 1
    assert "does not exist" in problems[0]


@fault(14)
@pytest.mark.parametrize("value", [-1.0, np.nan, 2.0**31, 0.5])
def test_a_matlab_number_that_is_no_label_is_refused(tmp_path: Path, value: float) -> None:
    (tmp_path / "l.mat").write_bytes(_mat(np.array([[0.0, 1.0, value]])))
    with pytest.raises(BenchError, match="inst_map"):
        _matlab.read_instances(tmp_path / "l.mat")


@fault(14)
def test_a_matlab_bomb_is_refused_by_its_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_matlab, "MAX_PIXELS", 11)
    (tmp_path / "l.mat").write_bytes(_mat(np.zeros((3, 4))))
    with pytest.raises(BenchError, match="inst_map is declared as 3x4"):
        _matlab.read_instances(tmp_path / "l.mat")


@fault(14)
@pytest.mark.parametrize("value", ["4294967297", "-1"])
def test_an_ascii_number_that_is_no_label_is_refused(tmp_path: Path, value: str) -> None:
    (tmp_path / "l.txt").write_text(f"2 1\n1 {value}\n")
    with pytest.raises(BenchError, match="not an ASCII label file"):
        cpm15.read_mask(tmp_path / "l.txt")


@fault(19)
def test_weights_without_their_beginning_are_refused(tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(_pickled()[36:])
    with pytest.raises(BenchError, match="damaged"):
        read_weights(tmp_path / "w.pt")
