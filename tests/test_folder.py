"""The folder format of data sets: reading, writing, and the errors for invalid folders."""

from __future__ import annotations

import csv
import hashlib
import io
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.api import Labelled
from bench.data import folder
from bench.data.manifest import COLUMNS, read_rows
from bench.errors import BenchError


def labelled(
    name: str = "a", *, split: str = "train", patient: str = "p1", seed: int = 0
) -> Labelled:
    rng = np.random.default_rng(seed)
    instances = np.zeros((20, 30), np.int64)
    instances[2:6, 3:9], instances[10:15, 20:28] = 7, 400
    image = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    return Labelled(name, image, instances, split, patient, "breast", "20x")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A valid folder of two images."""
    where = tmp_path / "set"
    two = [labelled("b", split="test", patient="p2", seed=1), labelled("a")]
    folder.write(two, where, about="# Two images")
    return where


def rows(root: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((root / "manifest.csv").read_text())))


def rewrite(root: Path, change: Callable[[list[dict[str, str]]], object], columns=COLUMNS) -> None:
    """Change the rows of a manifest."""
    entries = rows(root)
    change(entries)
    with (root / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(entries)


def put(root: Path, content: bytes, column: str = "image") -> None:
    """Replace the first image or label, and update its sha256 in the manifest."""
    (root / rows(root)[0][column]).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    rewrite(root, lambda entries: entries[0].update({f"{column}_sha256": digest}))


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def assert_refused(root: Path, message: str) -> str:
    """Check that reading and checking a folder report a problem; return the error."""
    with pytest.raises(BenchError, match=message) as caught:
        [sample.read() for sample in folder.read(root)]
    assert any(re.search(message, problem) for problem in folder.check(root))
    return str(caught.value)


def test_a_written_folder_is_read_back(root: Path):
    a, b = folder.read(root)
    assert (a.id, a.split, a.patient, a.organ, a.mpp) == ("a", "train", "p1", "breast", 0.5)
    assert (b.id, b.split, b.patient) == ("b", "test", "p2")
    image, instances = a.read()
    np.testing.assert_array_equal(image, labelled().image)
    np.testing.assert_array_equal(instances > 0, labelled().instances > 0)
    assert instances.dtype == np.int32
    assert np.unique(instances).tolist() == [0, 1, 2]  # renumbered from 7 and 400
    assert folder.check(root) == []
    folder.verify(read_rows(root))
    first = rows(root)[0]
    assert (first["width"], first["height"], first["nuclei"]) == ("30", "20", "2")
    assert float(first["foreground"]) == pytest.approx((24 + 40) / 600, abs=1e-4)


def test_reading_a_manifest_opens_no_image(root: Path):
    for path in root.glob("*/*.png"):
        path.write_bytes(b"not an image")
    assert len(folder.read(root)) == 2


@pytest.mark.fault(15, 17)
def test_the_identity_depends_on_content_and_split_but_not_on_order_or_organ(root: Path):
    identity = folder.manifest_sha256(read_rows(root))
    rewrite(root, lambda entries: entries.reverse(), columns=tuple(reversed(COLUMNS)))
    rewrite(root, lambda entries: entries[0].update(organ="colon"))
    assert folder.manifest_sha256(read_rows(root)) == identity
    fingerprints = [sample.fingerprint for sample in folder.read(root)]
    for column, value in [("split", "val"), ("patient", "p9"), ("label_sha256", "0" * 64)]:
        rewrite(root, lambda entries, c=column, v=value: entries[0].update({c: v}))
        changed = folder.manifest_sha256(read_rows(root))
        assert changed != identity
        identity = changed
    changed_fingerprints = [sample.fingerprint for sample in folder.read(root)]
    assert changed_fingerprints[0] == fingerprints[0]
    assert changed_fingerprints[1] != fingerprints[1]  # of the image whose label changed


@pytest.mark.fault(15)
def test_an_edited_file_is_refused_but_a_touched_one_is_not(root: Path):
    path = root / rows(root)[0]["image"]
    path.touch()
    folder.verify(read_rows(root))
    path.write_bytes(encoded(Image.new("RGB", (30, 20), "red")))
    with pytest.raises(BenchError, match="differs from the manifest"):
        folder.verify(read_rows(root))
    assert_refused(root, "differs from the manifest|sha256")


@pytest.mark.fault(32)
def test_unusual_names_can_be_written_and_read(tmp_path: Path):
    names = ["Präparat 12 (links)", "切片_01", "näkymä'1", "x" * 200, "a,b;c", "=1+1", "50 % & b"]
    samples = [labelled(name, seed=seed) for seed, name in enumerate(names)]
    folder.write(samples, tmp_path / "my däta", about="x")
    assert sorted(sample.id for sample in folder.read(tmp_path / "my däta")) == sorted(names)
    assert folder.check(tmp_path / "my däta") == []


CONTROL = "not printable text of at most 200 bytes"
BAD_NAMES = [
    *(
        ("id", name, "cannot be a file name")
        for name in ("", " ", "../a", "a/b", "a\\b", "C:x", ".hidden", "a\nb", "x" * 201, "é" * 101)
    ),
    ("id", "Pra\u0308parat", "Unicode form NFC"),
    ("patient", "Mu\u0308ller", "Unicode form NFC"),
    ("organ", "sa\u0308n", "Unicode form NFC"),
    ("patient", "\x1b[31mred", CONTROL),
    ("patient", "two\nlines", CONTROL),
    ("organ", "a\x07", CONTROL),
    ("organ", "o" * 201, CONTROL),
    ("patient", "é" * 101, CONTROL),
    ("patient", " p", "begins or ends with whitespace"),
]


@pytest.mark.fault(16, 24, 32)
def test_invalid_names_are_refused(tmp_path: Path, root: Path):
    manifest = (root / "manifest.csv").read_bytes()
    for column, name, message in BAD_NAMES:
        changed = replace(labelled(), **{column: name})
        with pytest.raises(BenchError, match=message):
            folder.write([changed], tmp_path / "out", about="x")
        rewrite(root, lambda entries, c=column, n=name: entries[0].update({c: n}))
        error = assert_refused(root, message)
        assert "\n" not in error
        assert "\x1b" not in error
        assert len(error) < 1000
        (root / "manifest.csv").write_bytes(manifest)


@pytest.mark.parametrize(("one", "other"), [("A", "a"), ("Étude", "étude"), ("straße", "STRASSE")])
@pytest.mark.fault(32)
def test_ids_that_differ_only_in_case_are_refused(root: Path, one: str, other: str):
    rewrite(root, lambda entries: (entries[0].update(id=one), entries[1].update(id=other)))
    assert_refused(root, f"duplicate id '{other}' as '{one}'")


@pytest.mark.fault(21, 24)
def test_paths_must_stay_inside_the_folder_and_be_printable(root: Path):
    manifest = (root / "manifest.csv").read_bytes()
    for column in ("image", "label"):
        for path in ("../set/images/a.png", "/etc/passwd", "images/../../a.png", "C:\\a.png", ""):
            rewrite(root, lambda entries, c=column, p=path: entries[0].update({c: p}))
            assert_refused(root, "is outside of the folder")
            (root / "manifest.csv").write_bytes(manifest)
    (root / "images" / "a.png").rename(root / "images" / "\x1b[2J.png")
    rewrite(root, lambda entries: entries[0].update(image="images/\x1b[2J.png"))
    assert "\x1b" not in assert_refused(root, "not printable")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda entries: entries[0].update(image="images/none.png"), "does not exist"),
        (lambda entries: entries[0].update(label="labels/none.png"), "does not exist"),
        (lambda entries: entries[0].update(split="training"), "not one of train, val, test"),
        (lambda entries: entries[0].update(patient=""), "patient is empty"),
        (lambda entries: entries[0].update(magnification="60x"), "not 20x, 40x"),
        (lambda entries: entries[0].update(nuclei="many"), "not a number"),
        (lambda entries: entries.append(dict(entries[0])), "ids must be unique"),
        (lambda entries: entries.clear(), "has no rows"),
    ],
)
def test_an_invalid_row_is_refused(root: Path, change, message: str):
    rewrite(root, change)
    assert_refused(root, message)


def test_an_invalid_table_or_a_missing_folder_is_refused(root: Path, tmp_path: Path):
    path = root / "manifest.csv"
    text = path.read_text()
    first, *lines = text.splitlines()
    path.write_text("\n".join([f"{first},split", *(f"{line},train" for line in lines), ""]))
    assert_refused(root, r"manifest\.csv has two columns split")
    path.write_text(text)
    rewrite(root, lambda _: None, columns=COLUMNS[:-1])
    assert_refused(root, "has no columns label_sha256")
    path.write_bytes(b"\xff\xfe\x00id")
    assert_refused(root, "UTF-8")
    path.write_text(text + "c,images/a.png\n" + ",".join("d" * 20) + "\n")
    assert len(folder.check(root)) == 2  # too few values, and too many
    path.unlink()
    with pytest.raises(BenchError, match=r"has no manifest\.csv"):
        folder.read(root)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BenchError, match="is empty"):
        folder.read(tmp_path / "empty")
    with pytest.raises(BenchError, match="no folder"):
        folder.read(tmp_path / "nowhere")


def exif(orientation: int = 3) -> Image.Exif:
    """Return EXIF data with an orientation; 3 is a rotation by 180 degrees."""
    data = Image.Exif()
    data[0x0112] = orientation
    return data


def rotated(mode: str, kind: str, orientation: int = 3, **options) -> bytes:
    return encoded(Image.new(mode, (30, 20)), kind, exif=exif(orientation), **options)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def with_chunk(content: bytes, before: bytes, kind: bytes, body: bytes) -> bytes:
    """Insert a chunk into a PNG file before another chunk."""
    place = content.index(before) - 4
    return content[:place] + chunk(kind, body) + content[place:]


def png(width: int, height: int, bits: int, lines: bytes) -> bytes:
    """Return an RGB PNG file of any size and bit depth, which Pillow cannot write."""
    header = struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))
HEX_EXIF = b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n 10\nzzzz")  # ImageMagick's form
BOMB = png(60000, 60000, 8, b"\0")
BAD_IMAGES = {
    "grey": (encoded(Image.new("L", (30, 20))), "grey"),
    "rgba": (encoded(Image.new("RGBA", (30, 20))), "RGBA"),
    "palette": (encoded(Image.new("P", (30, 20))), "palette"),
    "16-bit grey": (encoded(Image.new("I;16", (30, 20))), "I;16"),
    "16-bit RGB": (png(30, 20, 16, (b"\0" + b"\x12\x34" * 90) * 20), "16-bit RGB"),
    "transparent": (
        encoded(Image.new("RGB", (30, 20)), transparency=(0, 0, 0)),
        "transparency",
    ),
    "rotated JPEG": (rotated("RGB", "JPEG", 6), "EXIF orientation 6"),
    "rotated PNG": (rotated("RGB", "PNG"), "EXIF orientation 3"),
    "rotated PNG, EXIF last": (
        with_chunk(encoded(NOISE), b"IEND", b"eXIf", exif().tobytes()[6:]),
        "EXIF orientation 3",
    ),
    "rotated TIFF": (rotated("RGB", "TIFF"), "EXIF orientation 3"),
    "rotated and compressed TIFF": (
        rotated("RGB", "TIFF", 2, compression="tiff_lzw"),
        "EXIF orientation 2",
    ),
    "invalid EXIF": (encoded(NOISE, exif=b"Exif\0\0XXXXXXXXXXXX"), "unreadable EXIF"),
    "EXIF without digits": (
        with_chunk(encoded(NOISE), b"IDAT", b"zTXt", HEX_EXIF),
        "unreadable EXIF",
    ),
    "truncated PNG": (encoded(NOISE)[:700], "truncated|damaged"),
    "truncated JPEG": (encoded(NOISE, "JPEG")[:-200], "truncated|damaged"),
    "no image": (b"hello", "damaged"),
    "another format": (encoded(NOISE, "GIF"), "damaged or not one of"),
    "bomb": (BOMB, "The limit is"),
    "small bomb": (png(10001, 10000, 8, b"\0"), "The limit is"),
    "pages": (encoded(NOISE, "TIFF", save_all=True, append_images=[NOISE]), "2 images"),
    "other size": (encoded(Image.new("RGB", (20, 30))), "same width and height"),
}


@pytest.mark.parametrize("kind", BAD_IMAGES)
@pytest.mark.fault(13, 22)
def test_an_image_that_is_not_8_bit_rgb_is_refused(root: Path, kind: str):
    content, message = BAD_IMAGES[kind]
    put(root, content)
    assert str(root) in assert_refused(root, message)


def labels(dtype: type) -> Image.Image:
    return Image.fromarray((np.arange(600).reshape(20, 30) % 3).astype(dtype))


BAD_LABELS = {
    "rgb": (encoded(Image.new("RGB", (30, 20))), "ndimage.label"),
    "black and white": (encoded(Image.new("1", (30, 20))), "ndimage.label"),
    "0 and 255": (
        encoded(Image.fromarray((np.arange(600).reshape(20, 30) % 2 * 255).astype("u1"))),
        "0 and 255",
    ),
    "float": (encoded(labels(np.float32), "TIFF"), "not one channel of labels"),
    "negative": (encoded(Image.fromarray(np.full((20, 30), -1, np.int32)), "TIFF"), "from -1"),
    "too many": (encoded(Image.fromarray(np.full((20, 30), 70000, np.int32)), "TIFF"), "0..65535"),
    "jpeg": (encoded(Image.new("L", (30, 20)), "JPEG"), "damaged or not one of"),
    "rotated PNG": (rotated("L", "PNG"), "EXIF orientation 3"),
    "other size": (encoded(Image.new("L", (31, 20))), "same width and height"),
    "bomb": (BOMB, "The limit is"),
}


@pytest.mark.parametrize("kind", BAD_LABELS)
@pytest.mark.fault(14, 22)
def test_a_label_that_is_not_one_channel_of_integers_is_refused(root: Path, kind: str):
    content, message = BAD_LABELS[kind]
    put(root, content, "label")
    assert_refused(root, message)


@pytest.mark.fault(13, 14)
def test_every_file_format_and_bit_depth_is_read(root: Path):
    for kind in ("PNG", "TIFF", "JPEG"):
        put(root, encoded(NOISE, kind))
        assert folder.read(root)[0].read()[0].shape == (20, 30, 3)
    for dtype, kind in ((np.uint8, "PNG"), (np.uint16, "PNG"), (np.int32, "TIFF")):
        put(root, encoded(labels(dtype), kind), "label")
        instances = folder.read(root)[0].read()[1]
        np.testing.assert_array_equal(instances, np.arange(600).reshape(20, 30) % 3)


def test_check_reports_all_problems(root: Path):
    put(root, b"hello")
    rewrite(root, lambda entries: entries[1].update(nuclei="5", width="31", foreground="0.5"))
    rewrite(root, lambda entries: entries[1].update(patient="p1", label_sha256="0" * 64))
    problems = "\n".join(folder.check(root))
    counts = ("nuclei is 5", "width is 31", "foreground is 0.5")
    for part in ("damaged", *counts, "patient 'p1'", "sha256"):
        assert part in problems


@pytest.mark.fault(16)
def test_check_finds_equal_images_in_two_splits(root: Path):
    a, b = rows(root)
    with Image.open(root / a["image"]) as pixels:
        content = encoded(pixels, compress_level=0)
    (root / b["image"]).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    rewrite(root, lambda entries: entries[1].update(image_sha256=digest))
    (problem,) = folder.check(root)
    assert "same image" in problem
    assert "a (train) and b (test)" in problem


@pytest.mark.fault(14)
def test_check_detects_a_mask_stored_as_one_nucleus(root: Path):
    mask = np.zeros((20, 30), np.uint8)
    mask[::5, ::5] = 1
    put(root, encoded(Image.fromarray(mask)), "label")
    rewrite(root, lambda entries: entries[0].update(nuclei="1", foreground=f"{mask.mean():.4f}"))
    (problem,) = folder.check(root)
    assert "24 connected components" in problem


def test_check_and_write_report_their_progress(root: Path, tmp_path: Path):
    steps: list[tuple[str, int, int]] = []
    folder.check(root, lambda *step: steps.append(step))
    folder.write([labelled()], tmp_path / "x", about="", progress=lambda *step: steps.append(step))
    assert steps == [("check", 1, 2), ("check", 2, 2), ("write", 1, 0)]


@pytest.mark.fault(1)
def test_the_manifest_is_written_last_and_a_data_set_is_not_replaced(tmp_path: Path):
    def one_then_none():
        yield labelled()
        raise BenchError("the release ends early")

    with pytest.raises(BenchError, match="ends early"):
        folder.write(one_then_none(), tmp_path, about="x")
    assert not (tmp_path / "manifest.csv").exists()
    assert folder.write([labelled()], tmp_path, about="x") == 1
    with pytest.raises(BenchError, match="already contains a data set"):
        folder.write([labelled("c")], tmp_path, about="x")


@pytest.mark.fault(1)
def test_the_readme_lists_corrections(tmp_path: Path):
    corrections: list[str] = []

    def samples():
        yield labelled()
        corrections.append("two masks were exchanged")

    folder.write(samples(), tmp_path, about="x", corrections=corrections)
    readme, manifest = tmp_path / "README.md", tmp_path / "manifest.csv"
    assert readme.stat().st_mtime_ns <= manifest.stat().st_mtime_ns  # the manifest comes last
    text = readme.read_text()
    assert text == "x\n\nCorrections to the release:\n- two masks were exchanged\n"


@pytest.mark.fault(14)
def test_write_refuses_invalid_samples(tmp_path: Path):
    good = labelled()
    many = np.arange(300 * 300).reshape(300, 300)
    cases = [
        ([good, replace(good, id="A")], "ids must be unique"),
        ([], "nothing to write"),
        ([replace(good, split="dev")], "is invalid"),
        ([replace(good, patient="")], "patient is empty"),
        ([replace(good, magnification="10x")], "is invalid"),
        ([replace(good, image=good.image[:10])], "must be uint8"),
        ([replace(good, image=good.image.astype(float))], "must be uint8"),
        ([replace(good, image=np.zeros((300, 300, 3), np.uint8), instances=many)], "at most 65535"),
    ]
    for number, (samples, message) in enumerate(cases):
        with pytest.raises(BenchError, match=message):
            folder.write(samples, tmp_path / str(number), about="x")


def test_the_number_of_nuclei_is_limited(tmp_path: Path):
    instances = np.arange(256 * 256).reshape(256, 256) * 3
    image = np.zeros((256, 256, 3), np.uint8)
    folder.write([Labelled("a", image, instances, "train", "p")], tmp_path, about="x")
    assert folder.read(tmp_path)[0].read()[1].max() == 65535
