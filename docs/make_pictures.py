"""Draw the pictures of the README and the docs, from the checkout.

`python docs/make_pictures.py` draws what needs no data; with `--data DIR --dinov2 FILE`, the real
sets and the weights of a DINOv2 ViT-S/14, also the figures of docs/figures.md, and the report as
two screens show it, for which playwright and a Chromium are needed. Their runs are made first,
where `--results` does not hold them yet.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import grey_dilation, grey_erosion

from bench.data.find import find

HERE = Path(__file__).parent
SHOWN = ("p01_1", "p03_1", "p05_1", "p07_1", "p09_1", "p11_1")
GAP_PX = 6
COLOURS = 256  # of a figure, so that it stays a small file
KEYED = ("figure-masks.png",)  # a few pixels of a key tell what a colour means
RUNS = [
    f"run --backbone {name} --dataset tnbc --data DIR --results RESULTS --save-masks"
    for name in ("cmd-tiny", "dinov2-s@FILE", "rgb")
]
REPORTED = "run --backbone rgb,random-vit-s,cmd-tiny,dinov2-s@FILE --dataset kumar --data DIR"
REPORT_RUNS = [
    f"{REPORTED} --head linear --epochs 30 --results RESULTS/report {protocol}"
    for protocol in ("", "--protocol fewshot --shots 1")
]
SCREENS = {"report-desktop.png": (1280, 1100), "report-phone.png": (390, 844)}  # px
FIGURES = {  # as docs/figures.md tells them
    "figure-masks.png": "masks --backbone cmd-tiny,dinov2-s,rgb --dataset tnbc --data DIR"
    " --results RESULTS --dpi 130",
    "figure-features.png": "features --backbone cmd-tiny,dinov2-s@FILE --dataset tnbc"
    " --image 09_1 --data DIR --dpi 100",
    "figure-corpus.png": "corpus DIR/pretrain DIR/kumar --dpi 150",
    "figure-pretraining.png": "pretraining --backbone cmd-tiny --file DIR/tnbc/images/09_1.jpg"
    " --file DIR/tnbc/images/11_2.jpg --file DIR/tnbc/images/07_1.jpg --crop-px 128 --dpi 130",
}


def outlined(image: np.ndarray, instances: np.ndarray) -> np.ndarray:
    """Draw the border of every instance, (H, W) int, onto (H, W, 3) uint8 RGB."""
    drawn = image.copy()
    edge = grey_dilation(instances, 3) != grey_erosion(instances, 3)
    drawn[edge] = (255, 220, 0)
    return drawn


def synthetic() -> Image.Image:
    """Lay out one image of each of six patients above its exact labels."""
    samples = {sample.id: sample for sample in find("synthetic").samples}
    columns = []
    for name in SHOWN:
        image, instances = samples[name].read()
        gap = np.full((GAP_PX, image.shape[1], 3), 255, np.uint8)
        columns.append(np.concatenate([image, gap, outlined(image, instances)]))
    gap = np.full((columns[0].shape[0], GAP_PX, 3), 255, np.uint8)
    row = [part for column in columns for part in (column, gap)][:-1]
    return Image.fromarray(np.concatenate(row, axis=1))


def bench(command: str, places: dict[str, Path], *more: str) -> None:
    """Run a command of bench, with DIR, FILE and RESULTS replaced by the places."""
    for word, place in places.items():
        command = command.replace(word, shlex.quote(str(place)))
    subprocess.run([sys.executable, "-m", "bench", *shlex.split(command), *more], check=True)


def slim(picture: Path) -> None:
    """Keep the most telling colours of a PNG; where it has keys, their rare colours too."""
    rare, common = Image.Quantize.MAXCOVERAGE, Image.Quantize.MEDIANCUT
    method, steps = (rare, 3) if picture.name in KEYED else (common, 1)
    with Image.open(picture) as full:
        few = full.convert("RGB").quantize(COLOURS, method, steps, dither=Image.Dither.NONE)
    few.save(picture, optimize=True)


def photograph(page: Path) -> None:
    """Keep how a page looks on each of the screens."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        chromium = shutil.which("chromium") or shutil.which("chromium-browser")
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for name, (width, height) in SCREENS.items():
            screen = browser.new_page(viewport={"width": width, "height": height})
            screen.goto(page.as_uri())
            screen.screenshot(path=HERE / name)
            slim(HERE / name)


def main() -> None:
    """Read the places and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="the folder of the real sets")
    parser.add_argument("--dinov2", type=Path, help="weights of a DINOv2 ViT-S/14")
    parser.add_argument("--results", type=Path, help="where the runs are kept")
    given = parser.parse_args()
    synthetic().save(HERE / "synthetic.jpg", quality=88)
    if given.data is None or given.dinov2 is None:
        print("without --data and --dinov2 the figures of docs/figures.md are left as they are")
        return
    with tempfile.TemporaryDirectory() as folder:
        results = given.results or Path(folder)
        places = {"DIR": given.data, "FILE": given.dinov2, "RESULTS": results}
        for command in (*RUNS, *REPORT_RUNS):
            bench(command, places)
        bench("report --results RESULTS/report --data DIR --out RESULTS/pages", places)
        photograph((results / "pages" / "index.html").resolve())
        for name, command in FIGURES.items():
            bench(f"show {command}", places, "--out", str(HERE / name))
            slim(HERE / name)


if __name__ == "__main__":
    main()
