"""What a run whose features are all kept saves by not loading its backbone: time and memory.

    OMP_NUM_THREADS=1 python benchmarks/opening.py --backbone dinov2-l

A file of random weights is written. Processes then open the backbone from it in turn (A B, B A),
loaded or as the outline that names a run: its weights found and hashed, none read. Both must give
the same identity. Time is without imports, memory the peak of the process, with them.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from versus import Out, keep, machine, median, show

OPEN = """
import json, resource, sys, time
from pathlib import Path
import timm, torch
from bench.models.load import identify_backbone, open_backbone
name, file, way = sys.argv[1:]
began = time.perf_counter()
open_it = identify_backbone if way == "outline" else open_backbone
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
save_file({name: each.contiguous() for name, each in inner.state_dict().items()}, sys.argv[2])
"""


def _told(script: str, *words: str) -> str:
    command = [sys.executable, "-c", script, *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def main(
    backbone: Annotated[str, typer.Option(help="Its weights are random.")] = "dinov2-l",
    repeats: Annotated[int, typer.Option(help="Of each way.")] = 4,
    to: Out = None,
) -> None:
    """Time both ways in turn, and tell the medians."""
    before = machine()
    runs: dict[str, list[dict[str, Any]]] = {"loaded": [], "outline": []}
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "weights.safetensors"
        _told(WRITE, backbone, str(file))
        size = file.stat().st_size / 2**20
        for repeat in range(repeats):
            for way in list(runs)[:: 1 if repeat % 2 == 0 else -1]:
                runs[way].append(json.loads(_told(OPEN, backbone, str(file), way)))
    identities = {run.pop("identity") for each in runs.values() for run in each}
    assert len(identities) == 1, f"the two ways name other weights: {identities}"
    rows = [
        {"opened": way, "s": median(each, "seconds"), "peak MiB": median(each, "mib")}
        for way, each in runs.items()
    ]
    show(f"{backbone}, {size:.0f} MiB of weights", rows)
    keep(f"opening-{backbone}", {"machine": before, "rows": rows, "runs": runs}, to)


if __name__ == "__main__":
    typer.run(main)
