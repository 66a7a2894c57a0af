"""Create the images of the README and the docs.

`python docs/make_pictures.py` creates the image that needs no data. With `--data DIR --dinov2 FILE`
(the real data sets, and the weights of a DINOv2 ViT-S/14) it also creates the figures of
docs/figures.md and two screenshots of the report, which need playwright and a Chromium. Missing
runs are run first and stored in `--results`.
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
IMAGES = ("p01_1", "p03_1", "p05_1", "p07_1", "p09_1", "p11_1")
GAP_PX = 6
COLOURS = 256  # per figure, for small files
WITH_LEGEND = ("figure-masks.png",)  # the rare colours of a legend must be preserved
RUNS = [
    f"run --backbone {name} --dataset tnbc --data DIR --results RESULTS --save-masks"
    for name in ("cmd-tiny", "dinov2-s@FILE", "rgb")
]
REPORT_RUN = "run --backbone rgb,random-vit-s,cmd-tiny,dinov2-s@FILE --dataset kumar --data DIR"
REPORT_RUNS = [
    f"{REPORT_RUN} --head linear --results RESULTS/report {protocol}"
    for protocol in ("", "--protocol fewshot --shots 1")
]
SCREENS = {"report-desktop.png": (1280, 1100), "report-phone.png": (390, 844)}  # px
FIGURES = {  # the commands of docs/figures.md
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


def synthetic_images() -> Image.Image:
    """Return one image of each of six patients, above the same image with its exact labels."""
    samples = {sample.id: sample for sample in find("synthetic").samples}
    columns = []
    for name in IMAGES:
        image, instances = samples[name].read()
        gap = np.full((GAP_PX, image.shape[1], 3), 255, np.uint8)
        columns.append(np.concatenate([image, gap, outlined(image, instances)]))
    gap = np.full((columns[0].shape[0], GAP_PX, 3), 255, np.uint8)
    row = [part for column in columns for part in (column, gap)][:-1]
    return Image.fromarray(np.concatenate(row, axis=1))


def bench(command: str, paths: dict[str, Path], *arguments: str) -> None:
    """Run a command of bench, with DIR, FILE and RESULTS replaced by the paths."""
    for word, path in paths.items():
        command = command.replace(word, shlex.quote(str(path)))
    subprocess.run([sys.executable, "-m", "bench", *shlex.split(command), *arguments], check=True)


def reduce_colours(path: Path) -> None:
    """Reduce a PNG file to a palette of COLOURS colours."""
    method, steps = Image.Quantize.MEDIANCUT, 1
    if path.name in WITH_LEGEND:
        method, steps = Image.Quantize.MAXCOVERAGE, 3
    with Image.open(path) as image:
        reduced = image.convert("RGB").quantize(COLOURS, method, steps, dither=Image.Dither.NONE)
    reduced.save(path, optimize=True)


def take_screenshots(page: Path) -> None:
    """Save a screenshot of an HTML page for each screen size."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        chromium = shutil.which("chromium") or shutil.which("chromium-browser")
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for name, (width, height) in SCREENS.items():
            screen = browser.new_page(viewport={"width": width, "height": height})
            screen.goto(page.as_uri())
            screen.screenshot(path=HERE / name)
            reduce_colours(HERE / name)


def main() -> None:
    """Parse the arguments and create the images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of the real data sets")
    parser.add_argument("--dinov2", type=Path, help="weights of a DINOv2 ViT-S/14")
    parser.add_argument("--results", type=Path, help="folder of the runs; default: a temporary one")
    args = parser.parse_args()
    synthetic_images().save(HERE / "synthetic.jpg", quality=88)
    if args.data is None or args.dinov2 is None:
        print("the figures of docs/figures.md need --data and --dinov2: they were not changed")
        return
    with tempfile.TemporaryDirectory() as folder:
        results = args.results or Path(folder)
        paths = {"DIR": args.data, "FILE": args.dinov2, "RESULTS": results}
        for command in (*RUNS, *REPORT_RUNS):
            bench(command, paths)
        bench("report --results RESULTS/report --data DIR --out RESULTS/pages", paths)
        take_screenshots((results / "pages" / "index.html").resolve())
        for name, command in FIGURES.items():
            bench(f"show {command}", paths, "--out", str(HERE / name))
            reduce_colours(HERE / name)


if __name__ == "__main__":
    main()
