"""The HTML pages of `bench report`."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from tiny import altered, bench, commit, named, request, run, squares, worse

from bench.report.privacy import without_folders

CANARY = "<script>alert(1)</script>\"'&"
SECRET = "/home/somebody/secret place/weights.pt"
VOID = {"meta", "input", "img", "br", "link"}


class Page(HTMLParser):
    """A parsed page: its elements and visible text; checks that elements are closed in order."""

    def __init__(self, text: str, path: Path = Path()) -> None:
        super().__init__()
        self.source, self.path = text, path
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.words.append(data)

    def having(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


@pytest.fixture(scope="module")
def home(tmp_path_factory, full, few) -> Path:
    """A store with a few-shot curve, two heads, a shift, and a run with markup and a path in it."""
    home = tmp_path_factory.mktemp("home")
    hostile = worse(named(full, CANARY), 0.3)
    facts = {
        **hostile.facts,
        "weights_source": f"file {SECRET}",
        "asked_options": {"x": f"y@{SECRET}"},
    }
    patients = {f"{CANARY}{image}": f"\x1b{patient}" for image, patient in hostile.patients.items()}
    (trial,) = hostile.trials
    trials = (replace(trial, images=tuple(f"{CANARY}{image}" for image in trial.images)),)
    poor = worse(named(full, "poor"), 0.6)
    controls = [  # two seeds of an untrained control
        altered(
            replace(worse(full, 0.1 * seed), flags=("untrained",)),
            backbone={"name": "control", "weights": f"random:{seed}"},
        )
        for seed in (1, 2)
    ]
    one_shot = replace(few, trials=tuple(replace(t, train=t.train[:1]) for t in few.trials))
    for record in (
        full,
        poor,
        *(altered(record, head={"name": "other"}) for record in (full, poor)),
        altered(worse(full, 0.4), scored={"shift": "blur-1"}),
        few,
        altered(worse(one_shot, 0.2), protocol={"shots": 1}),
        replace(hostile, facts=facts, patients=patients, trials=trials),
        *controls,
    ):
        commit(record, home)
    return home


@pytest.fixture(scope="module")
def report(home) -> Path:
    write_report(home / "results", home / "out")
    return home / "out"


def write_report(results: Path, out: Path, *words: object) -> None:
    result = bench("report", "--results", results, "--out", out, *words)
    assert result.code == 0, result.err


@pytest.fixture(scope="module")
def pages(report) -> dict[str, Page]:
    return {path.name: Page(path.read_text(), path) for path in report.rglob("*.html")}


def test_every_page_is_well_formed_and_its_links_are_valid(pages) -> None:
    assert len(pages) == 11
    for page in pages.values():
        assert page.open == []
        assert page.having("html") == [{"lang": "en"}]
        assert len(page.having("h1")) == 1
        levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
        assert all(below <= above + 1 for above, below in pairwise(levels))
        for link in page.having("a"):
            target = str(link["href"])
            if target[0] == "#":
                assert target[1:] in {attributes.get("id") for _, attributes in page.elements}
            else:
                assert (page.path.parent / target).is_file()
        outside = Page(re.sub(r"<svg.*?</svg>", "", page.source, flags=re.DOTALL))
        ids = [attributes["id"] for _, attributes in outside.elements if "id" in attributes]
        assert len(ids) == len(set(ids))


def test_pages_load_no_external_resources(pages) -> None:
    for page in pages.values():
        (policy,) = [meta for meta in page.having("meta") if meta.get("http-equiv")]
        assert str(policy["content"]).startswith("default-src 'none'; script-src 'sha256-")
        assert "unsafe" not in str(policy["content"])
        assert not page.having("link")
        for _, attributes in page.elements:
            assert "style" not in attributes
            assert not str(attributes.get("src") or "data:").startswith(("http", "//", "/"))
            assert not [name for name in attributes if name.startswith("on")]


@pytest.mark.fault(24)
def test_markup_in_names_is_escaped(pages) -> None:
    for page in pages.values():
        scripts = re.findall(r"<script[^>]*>(.*?)</script>", page.source, flags=re.DOTALL)
        hashes = [base64.b64encode(hashlib.sha256(code.encode()).digest()) for code in scripts]
        (policy,) = [meta for meta in page.having("meta") if meta.get("http-equiv")]
        allowed = " ".join(f"'sha256-{sha256.decode()}'" for sha256 in hashes)
        assert f"script-src {allowed};" in str(policy["content"])
        assert len(page.having("script")) == len(scripts) == 2
    assert CANARY in pages["index.html"].text
    assert any(CANARY in page.text for name, page in pages.items() if name != "index.html")
    assert all("\x1b" not in page.source for page in pages.values())
    assert any(r"\x1b" in page.text for page in pages.values())


def test_pages_contain_no_local_folders(pages, home) -> None:
    for page in pages.values():
        assert "somebody" not in page.source
        assert "secret place" not in page.source
        assert str(home) not in page.source
    assert any("file weights.pt" in page.text for page in pages.values())


def test_only_absolute_folders_are_removed() -> None:
    for text, expected in [
        ("file /a/b c/d.pt", "file d.pt"),
        (r"at C:\Users\me\w.pt", "at w.pt"),
        ("condition=dinov2-s@/root/w.pt", "condition=dinov2-s@w.pt"),
        ("~/w/x.pt", "x.pt"),
        ("https://huggingface.co/a/b", "https://huggingface.co/a/b"),
        ("timm/vit, and/or 3/4 / 5", "timm/vit, and/or 3/4 / 5"),
    ]:
        assert without_folders(text) == expected


def test_figures_are_well_formed_with_title_and_description(pages) -> None:
    without = re.sub(r"<script.*?</script>", "", pages["index.html"].source, flags=re.DOTALL)
    figures = re.findall(r"<svg.*?</svg>", without, flags=re.DOTALL)
    assert len(figures) >= 8
    for figure in figures:
        root = ElementTree.fromstring(figure)
        assert root.get("role") == "img"
        assert all(element.text for element in root if element.tag in ("title", "desc"))
        assert {element.tag for element in root} >= {"title", "desc"}


def test_the_index_shows_boards_with_intervals_and_series(pages, full) -> None:
    text = pages["index.html"].text
    for words in (
        *("all background", "pairs of"),
        *("dice against training images", "Kendall's tau", "dice under shifts"),
    ):
        assert words in text
    assert re.search(r"0\.\d{3} \[0\.\d{3}, 0\.\d{3}\]", text)
    assert f"runs/{full.run_id}.html" in pages["index.html"].source


def test_run_pages_show_the_interval_of_the_rank_and_the_other_seeds(pages, full) -> None:
    assert "95 % interval" not in pages["index.html"].text.split("Legend")[0].split("Figures")[0]
    text = pages[f"{full.run_id}.html"].text
    assert re.search(
        r"rank 1 of 3 \(95 % interval over resamples of patients: 1 to \d\); best", text
    )
    assert "control (random, 2 seeds)" in pages["index.html"].text
    seeds = [page for page in pages.values() if "One of 2 seeds of this untrained" in page.text]
    titles = [re.search(r"control \(random:\d\)", page.text) for page in seeds]
    assert sorted(title[0] for title in titles if title) == [
        f"control (random:{seed})" for seed in (1, 2)
    ]


def test_a_run_without_masks_shows_the_command_that_saves_them(pages, full) -> None:
    text = pages[f"{full.run_id}.html"].text
    assert "--save-masks" in text
    assert all(image in text for image in full.images)


def test_reports_of_the_same_store_are_identical(home, report, tmp_path) -> None:
    write_report(home / "results", tmp_path)
    for path in report.rglob("*.html"):
        assert (tmp_path / path.relative_to(report)).read_bytes() == path.read_bytes()


def test_saved_masks_are_drawn_over_the_worst_images(tmp_path) -> None:
    record = run(request(squares(tmp_path / "squares")), tmp_path, save_masks=True).record
    write_report(tmp_path / "results", tmp_path / "out", "--data", str(tmp_path / "squares"))
    page = Page((tmp_path / "out" / "runs" / f"{record.run_id}.html").read_text())
    images = page.having("img")
    assert len(images) == 8
    assert all(str(img["src"]).startswith("data:image/jpeg;base64,/9j/") for img in images)
    assert all(img["alt"] for img in images)


def test_run_pages_have_no_sorting_script_for_many_runs(home, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("bench.report.pages.SORTED_RUNS", 1)
    write_report(home / "results", tmp_path)
    sizes = [path.stat().st_size for path in (tmp_path / "runs").iterdir()]
    assert max(sizes) < 100_000 < (tmp_path / "index.html").stat().st_size


def test_the_error_for_an_empty_store_contains_a_command(tmp_path) -> None:
    out = tmp_path / "out"
    result = bench("report", "--results", tmp_path, "--out", out, "--json")
    assert result.code == 2
    assert "bench run" in result.json["error"]
    assert not out.exists()


def test_other_files_in_the_folder_are_left_unchanged(home, tmp_path) -> None:
    words = ("report", "--results", home / "results", "--out", tmp_path, "--json")
    (tmp_path / "index.html").write_text("<p>mine")
    assert bench(*words).code == 2
    assert (tmp_path / "index.html").read_text() == "<p>mine"
    (tmp_path / "index.html").unlink()
    (tmp_path / "notes.txt").write_text("mine")
    result = bench(*words, "--dataset", "squares")
    assert result.code == 0
    assert result.json["pages"] == result.json["runs"] + 1
    assert (tmp_path / "notes.txt").read_text() == "mine"
