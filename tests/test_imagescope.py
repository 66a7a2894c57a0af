"""Kumar and MoNuSeg: ImageScope annotations are drawn as nuclei, or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from skimage.draw import ellipse, polygon2mask
from test_datasets import read, save

from bench.api import Sample
from bench.api.experiment import PlanOptions
from bench.data import folder
from bench.data.download import prepare
from bench.datasets import kumar, monuseg
from bench.datasets._imagescope import draw, read_annotation
from bench.errors import BenchError
from bench.protocols.full import plan

RNG = np.random.default_rng(0)
SHAPE = (60, 80)
SQUARE = [(3.0, 2.0), (10.0, 2.0), (10.0, 8.0), (3.0, 8.0)]
DIAMOND = [(70.0, 40.0), (75.0, 45.0), (70.0, 50.0), (65.0, 45.0)]
FRAME = [(0.0, 0.0), (80.0, 0.0), (80.0, 60.0), (0.0, 60.0)]
Outline = list[tuple[float, float]]
Drawn = tuple[np.ndarray, dict[str, int]]


def region(outline: Outline, attributes: str = "") -> str:
    vertices = "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in outline)
    return f"<Region {attributes}><Attributes/><Vertices>{vertices}</Vertices></Region>"


def annotation(*layers: str, head: str = "") -> str:
    parts = "".join(
        f"<Annotation><Regions><RegionAttributeHeaders/>{layer}</Regions></Annotation>"
        for layer in layers
    )
    return f'<?xml version="1.0"?>{head}<Annotations MicronsPerPixel="0.25">{parts}</Annotations>'


def drawn(path: Path, *layers: str) -> Drawn:
    path.write_text(annotation(*layers))
    instances, left_out = draw(read_annotation(path), SHAPE)
    return instances, dict(left_out)


def scattered(scale: float = 1.0, shift: float = 0.0) -> str:
    """Return 12 nuclei that are spread over the image."""
    corners = [(5 + 18 * column, 5 + 20 * row) for row in range(3) for column in range(4)]
    offsets = ((0, 0), (6, 1), (5, 6), (1, 5))
    return "".join(
        region([((x + dx) * scale + shift, (y + dy) * scale + shift) for dx, dy in offsets])
        for x, y in corners
    )


# ---- nuclei, holes, ellipses, frames ---------------------------------------------------------


def test_outlines_are_filled_as_by_scikit_image(tmp_path: Path):
    for _ in range(20):
        turn = np.sort(RNG.uniform(0, 2 * np.pi, 15))
        radius = RNG.uniform(3, 11, 15)
        x, y = 40.3 + radius * np.cos(turn), 30.2 + radius * np.sin(turn)
        instances, _ = drawn(tmp_path / "a.xml", region(list(zip(x, y, strict=True))))
        # pixel centres of skimage are at whole numbers
        expected = polygon2mask(SHAPE, np.stack([y - 0.5, x - 0.5], axis=1))
        assert (instances.astype(bool) != expected).sum() <= 2


def test_overlapping_clipped_and_missing_outlines_are_counted(tmp_path: Path):
    shifted = [(x + 3, y) for x, y in SQUARE]
    instances, left_out = drawn(tmp_path / "a.xml", region(SQUARE) + region(shifted))
    assert (instances == 1).sum() == 42  # the earlier outline has priority
    assert (instances == 2).sum() == 18
    assert left_out == {}
    arrow, outside = [(1.0, 1.0), (9.0, 9.0)], [(x + 100, y) for x, y in SQUARE]
    clipped = [(x - 6, y) for x, y in SQUARE]
    layer = "".join(map(region, ([], arrow, outside, DIAMOND, clipped, DIAMOND)))
    instances, left_out = drawn(tmp_path / "a.xml", layer)
    assert np.unique(instances).tolist() == [0, 2, 3]
    assert (instances == 3).sum() == 4 * 6
    assert left_out == {
        "regions with fewer than three vertices": 2,
        "nuclei outside of the image": 1,
        "nuclei without a visible pixel": 1,
    }


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_holes_are_cut_out_of_the_nucleus_that_contains_them(tmp_path: Path, order: tuple[int]):
    outer = region([(20, 20), (40, 20), (39, 40), (20, 40)])
    hole = region([(24, 24), (36, 24), (36, 36), (24, 36)], 'NegativeROA="1"')
    inner = region([(28, 28), (32, 28), (32, 32), (28, 32)])
    parts = [outer, hole, inner]
    instances, _ = drawn(tmp_path / "a.xml", "".join(parts[index] for index in order))
    is_inner = instances[30, 30]
    assert (instances == is_inner).sum() == 16
    assert (instances[25:27, 25:35] == 0).all()
    assert instances[22, 30] not in (0, is_inner)


def test_a_hole_that_no_nucleus_contains_is_background(tmp_path: Path):
    hole = region([(0, 0), (20, 0), (20, 5), (0, 5)], 'NegativeROA="1"')
    instances, _ = drawn(tmp_path / "a.xml", hole + region(SQUARE), region(DIAMOND))
    assert (instances[:5] == 0).all()
    assert (instances == 1).sum() == 7 * 3
    assert (instances == 2).any()


@pytest.mark.parametrize(
    "vertices",
    [[(30, 10), (50, 24)], [(50, 24), (30, 10)], [(30, 10), (50, 10), (50, 24), (30, 24)]],
)
def test_ellipses_are_drawn_from_the_corners_of_their_box(tmp_path: Path, vertices: Outline):
    instances, _ = drawn(tmp_path / "a.xml", region(vertices, 'Type="2"') + region(DIAMOND))
    expected = np.zeros(SHAPE, bool)
    expected[ellipse(16.5, 39.5, 7, 10, SHAPE)] = True
    assert ((instances == 1) != expected).sum() <= 4


@pytest.mark.parametrize(
    "frame",
    [
        region(FRAME, 'Type="1"'),
        region([*FRAME, FRAME[0]]),
        region([(-2, -2), (90, 70)], 'Type="1"'),  # two corners
        region([(1, 1), (79, 59)], 'Type="2"'),
        region([(3, 3), (14, 3), (14, 13), (3, 13)]),  # around a single nucleus
        region([(1, 1), (50, 1), (50, 20), (20, 30), (1, 20)]),  # freehand, not around all
    ],
)
def test_frames_are_left_out_in_any_layer_and_order(tmp_path: Path, frame: str):
    expected, _ = drawn(tmp_path / "a.xml", scattered())
    for layers in ((frame, scattered()), (frame + scattered(),), (scattered() + frame,)):
        instances, left_out = drawn(tmp_path / "a.xml", *layers)
        assert left_out == {"frames around nuclei": 1}
        np.testing.assert_array_equal(instances, expected)


def test_a_nucleus_around_two_outlines_and_a_rectangular_nucleus_are_no_frames(tmp_path: Path):
    around = region([(1, 1), (45, 1), (45, 12), (20, 14), (1, 12)])  # two of `scattered`
    box = region([(70, 50), (78, 50), (78, 58), (70, 58)], 'Type="1"')
    instances, left_out = drawn(tmp_path / "a.xml", around + scattered() + box)
    assert left_out == {"nuclei without a visible pixel": 2}
    assert (instances == 14).sum() == 64


@pytest.mark.parametrize(
    ("scale", "shift", "problem"),
    [
        (0.25, 0, "all of its 12 nuclei are in the upper left corner"),  # micrometres
        (0.5, 0, "all of its 12 nuclei are in the upper left corner"),
        (2, 0, "of its 12 nuclei are outside"),
        (4, 0, "of its 12 nuclei are outside"),
        (1, 5000, "12 of its 12 nuclei are outside"),  # px of the slide
    ],
)
def test_coordinates_of_another_scale_are_refused(
    tmp_path: Path, scale: float, shift: float, problem: str
):
    with pytest.raises(BenchError, match=rf"a\.xml does not fit its image: .*{problem}"):
        drawn(tmp_path / "a.xml", scattered(scale, shift))
    drawn(tmp_path / "a.xml", scattered(0.97))


# ---- malformed files -------------------------------------------------------------------------

ENTITY_EXPANSION = '<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]>'
EXTERNAL_ENTITY = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>'


@pytest.mark.fault(21)
def test_an_annotation_with_a_document_type_is_refused(tmp_path: Path):
    path = tmp_path / "a.xml"
    for head in (ENTITY_EXPANSION, EXTERNAL_ENTITY):
        for encoding in ("utf-8", "utf-16"):
            text = annotation(region(SQUARE), head=head)
            text = text.replace("?>", f' encoding="{encoding}"?>', 1)
            path.write_bytes(text.encode(encoding))
            with pytest.raises(BenchError, match="document type"):
                read_annotation(path)


def test_a_malformed_annotation_is_named(tmp_path: Path):
    path = tmp_path / "a.xml"
    valid = annotation(region(SQUARE))
    malformed = [valid.replace('X="3.0"', f'X="{value}"') for value in ("three", "nan")]
    arrows = annotation(region(SQUARE[:2]))
    for text in ("", "<a", "<a/>", *malformed, arrows, "<Vertex X='1' Y='1'/>"):
        path.write_text(text)
        with pytest.raises(BenchError, match=r"a\.xml is not an ImageScope annotation"):
            read_annotation(path)


# ---- Kumar -----------------------------------------------------------------------------------


def put(folder_: Path, name: str, text: str, endings: tuple[str, str] = (".tif", ".xml")) -> None:
    pixels = RNG.integers(100, 256, (*SHAPE, 3), dtype=np.uint8)
    image = save(folder_ / f"{name}.tif", pixels)
    image.rename(image.with_suffix(endings[0]))
    (folder_ / f"{name}{endings[1]}").write_text(text)


@pytest.mark.parametrize(
    "endings", [(".tif", ".xml"), (".TIF", ".XML"), (".Tif", ".Xml"), (".tiff", ".xml")]
)
def test_kumar_is_read_with_patients_organs_and_the_split_of_the_paper(
    tmp_path: Path, endings: tuple[str, str]
):
    names = ["TCGA-18-5592-01Z-00-DX1", "TCGA-AY-A8YK-01A-01-TS1", "TCGA-55-1594-01Z-00-DX1"]
    for name in names:
        put(tmp_path, name, annotation(region(SQUARE), region(FRAME)), endings)
    save(tmp_path / "__MACOSX" / "._TCGA-18-5592-01Z-00-DX1.tif", np.zeros((9, 9), np.uint8))
    samples, notes = read(kumar.kumar, tmp_path)
    assert list(samples) == names[:2]
    train, test = samples.values()
    assert (train.split, train.patient, train.organ) == ("train", "tcga-18-5592", "liver")
    assert (test.split, test.patient, test.organ) == ("test", "tcga-ay-a8yk", "colon")
    assert (train.instances == 1).sum() == 42
    assert train.magnification == "40x"
    assert "1 image left out, not of the 30: TCGA-55-1594-01Z-00-DX1" in notes[0]
    assert "28 of the 30" in notes[1]
    assert notes[2] == "left out of the annotations: 2 frames around nuclei"


def test_the_tables_of_kumar_agree_with_the_real_data(data_dir: Path):
    samples = folder.read(data_dir / "kumar")
    for sample in samples:
        table = kumar.TRAIN if sample.split == "train" else kumar.TEST
        organ = table[sample.id[5:12]]
        assert sample.organ in (organ, "unknown")
        assert sample.patient == sample.id[:12].lower()
    assert (len(kumar.TRAIN), len(kumar.TEST)) == (16, 14)


def test_missing_annotations_and_duplicate_images_are_named(tmp_path: Path):
    put(tmp_path, "TCGA-18-5592-01Z-00-DX1", annotation(region(SQUARE)))
    save(tmp_path / "TCGA-21-5784-01Z-00-DX1.tif", np.zeros((*SHAPE, 3), np.uint8))
    with pytest.raises(BenchError, match=r"1 of the 2 images .* TCGA-21-5784-01Z-00-DX1\.xml"):
        read(kumar.kumar, tmp_path)
    put(tmp_path / "copy", "TCGA-18-5592-01Z-00-DX1", annotation(region(SQUARE)))
    with pytest.raises(BenchError, match=r"copy.*TCGA-18-5592.* have the same name"):
        read(kumar.kumar, tmp_path)


# ---- MoNuSeg ---------------------------------------------------------------------------------


def test_monuseg_has_14_test_images_and_those_of_kumar_to_train():
    assert (len(monuseg.TEST), len(monuseg.SPLITS)) == (14, 44)
    assert not set(monuseg.TEST) & set(kumar.ORGANS)


def test_monuseg_is_prepared_with_and_without_training_images(tmp_path: Path):
    raw = tmp_path / "raw"
    for patient in monuseg.TEST:
        put(raw / "MoNuSegTestData", f"TCGA-{patient}-01A-01-TS1", annotation(region(SQUARE)))
    done = prepare(monuseg.monuseg, raw, tmp_path / "out")
    assert (done.images, len(done.notes)) == (14, 1)
    assert "no training images" in done.notes[0]
    samples: list[Sample] = folder.read(tmp_path / "out")
    assert {sample.split for sample in samples} == {"test"}
    scored = [image for trial in plan(samples, PlanOptions(folds=5)) for image in trial.test]
    assert sorted(scored) == [sample.id for sample in samples]
    for patient in list(kumar.ORGANS)[:2]:
        put(raw / "MoNuSeg 2018 Training Data", f"TCGA-{patient}-01Z", annotation(region(SQUARE)))
    both, notes = read(monuseg.monuseg, raw)
    assert [sample.split for sample in both.values()].count("train") == 2
    assert "28 of the 30 training images are missing" in notes[0]
