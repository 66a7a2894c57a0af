"""What keeping features saves: a frozen ViT and the decoder head, kept maps against fresh ones.

    python benchmarks/cached_decoder.py

An epoch on kept maps and one that runs the ViT again are timed in turn, and the extraction once a
repeat. The time of 150 epochs is 150 times that of one (and one extraction): every epoch does the
same work. It is told as scaled.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from cache_build import Asked, pictures
from versus import Out, keep, machine, show

from bench import registry
from bench.api import Recipe
from bench.data import folder
from bench.features.bank import FeatureBank
from bench.features.forward import ExtractorRunner
from bench.features.views import View
from bench.models.load import open_backbone
from bench.training.fit import TrainingSet, fit
from bench.training.malloc import keep_freed_memory

EPOCHS = 150


class Afresh(FeatureBank):
    """A bank that keeps nothing: every use runs the extractor."""

    def maps(self, patches):  # type: ignore[no-untyped-def]
        with torch.no_grad():
            return self.fresh(patches)


def epoch_s(bank: FeatureBank, head_name: str, batch_size: int) -> tuple[float, float]:
    """Train a new head for two epochs: the seconds of the second, and its loss."""
    samples = list(bank.samples.values())
    extractor, view = bank.runner.extractor, bank.runner.view
    torch.manual_seed(0)
    head = registry.get("heads", head_name).build(extractor.channels, extractor.strides, 2)
    targets = [view.cut_target(sample.read()[1])[0] for sample in samples]
    lesson = TrainingSet(bank, [(sample.id, 0) for sample in samples], targets)
    ends: list[float] = []
    recipe = Recipe(epochs=2, batch_size=batch_size)
    loss = fit(head, lesson, recipe, 0, lambda *_: ends.append(time.perf_counter()))
    return ends[1] - ends[0], loss


def main(
    backbone: Annotated[str, typer.Option(help="Frozen.")] = "timm:vit_small_patch16_224",
    head: Annotated[str, typer.Option(help="Trained.")] = "decoder",
    px: Annotated[int, typer.Option(help="Side of the images.")] = 224,
    count: Annotated[int, typer.Option(help="Images.")] = 8,
    batch_size: Annotated[int, typer.Option(help="Images a step.")] = 4,
    repeats: Annotated[int, typer.Option(help="Of each.")] = 4,
    to: Out = None,
) -> None:
    """Time both in turn; refuse where the losses differ."""
    keep_freed_memory()
    before = machine()
    seconds: dict[str, list[float]] = {"extraction": [], "kept": [], "afresh": []}
    with tempfile.TemporaryDirectory() as name:
        pictures(Path(name) / "s", Asked("", px, count, 0, "", 0))
        samples = folder.read(Path(name) / "s")
        extractor = open_backbone(backbone, random=True).extractor
        runner = ExtractorRunner(extractor, View("whole", px), torch.device("cpu"))
        losses = set()
        for repeat in range(repeats):
            kept = FeatureBank(runner, samples, Path(name) / f"cache-{repeat}")
            began = time.perf_counter()
            kept.prepare([sample.id for sample in samples], lambda *_: None)
            seconds["extraction"].append(time.perf_counter() - began)
            banks = {"kept": kept, "afresh": Afresh(runner, samples, None)}
            for way in list(banks)[:: 1 if repeat % 2 == 0 else -1]:
                took, loss = epoch_s(banks[way], head, batch_size)
                seconds[way].append(took)
                losses.add(round(loss, 2))
    assert len(losses) == 1, f"the two ways train differently: {losses}"
    middle = {way: statistics.median(each) for way, each in seconds.items()}
    whole = {
        "kept": middle["extraction"] + EPOCHS * middle["kept"],
        "afresh": EPOCHS * middle["afresh"],
    }
    rows = [
        {
            "features": way,
            "s an epoch": middle[way],
            f"s for {EPOCHS} epochs (scaled)": whole[way],
            "takes, of kept": whole[way] / whole["kept"],
        }
        for way in whole
    ]
    show(f"{backbone}, {head}, {count} images of {px} px", rows)
    asked = {"backbone": backbone, "head": head, "px": px, "count": count, "batch": batch_size}
    keep("cached_decoder", {"asked": asked, "machine": before, "rows": rows, "s": seconds}, to)


if __name__ == "__main__":
    typer.run(main)
