"""Time and memory that a run saves if it does not load its backbone, as all features are cached.

    OMP_NUM_THREADS=1 python benchmarks/opening.py --backbone dinov2-l

Processes open the backbone from a file of random weights alternately: loaded, or only identified
by the hash of its weights. The time excludes imports; the memory is the peak of the process.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from versus import Out, interleaved, machine, median, save, show

OPEN = """
import json, resource, sys, time
from pathlib import Path
import timm, torch
from bench.models.load import identify_backbone, open_backbone
name, file, way = sys.argv[1:]
began = time.perf_counter()
open_it = open_backbone if way == "loaded" else identify_backbone
opened = open_it(name, checkpoint=Path(file))
seconds = time.perf_counter() - began
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"seconds": seconds, "mib": peak, "identity": opened.identity}))
"""
WRITE = """
import sys
from safetensors.torch import save_file
from bench.models.load import open_backbone
extractor = open_backbone(sys.argv[1], random=True).extractor
inner = getattr(extractor, "model", None) or getattr(extractor, "network", extractor)
save_file({name: weight.contiguous() for name, weight in inner.state_dict().items()}, sys.argv[2])
"""


def _output(script: str, *words: str) -> str:
    command = [sys.executable, "-c", script, *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def main(
    backbone: Annotated[str, typer.Option(help="Its weights are random.")] = "dinov2-l",
    repeats: Annotated[int, typer.Option(help="Runs of each way.")] = 4,
    to: Out = None,
) -> None:
    """Time both ways alternately, and show the medians."""
    before = machine()
    runs: dict[str, list[dict[str, Any]]] = {"loaded": [], "identified": []}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "weights.safetensors"
        _output(WRITE, backbone, str(file))
        size = file.stat().st_size / 2**20
        for way in interleaved(list(runs), repeats):
            runs[way].append(json.loads(_output(OPEN, backbone, str(file), way)))
    assert len({run["identity"] for results in runs.values() for run in results}) == 1
    rows = [
        {"backbone": way, "s": median(results, "seconds"), "peak MiB": median(results, "mib")}
        for way, results in runs.items()
    ]
    show(f"{backbone}, {size:.0f} MiB of weights", rows)
    save(f"opening-{backbone}", {"machine": before, "rows": rows, "runs": runs}, to)


if __name__ == "__main__":
    typer.run(main)
