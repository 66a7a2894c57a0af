"""Whether several few-shot draws are better trained at once: one problem of D draws, or D problems.

    OMP_NUM_THREADS=1 python benchmarks/draws.py --backbone cmd-tiny

The linear head is trained on cached features of a data set's support sets: draw after draw by
`bench.training.fit.fit`, as `bench run` does, and all together as one head of D weights, whose
products are batched. Both take the same batches in the same order, turn about (A B, B A). It
reports whether the weights are equal to the byte.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import typer
from torch import Tensor
from versus import Out, keep, machine, show

from bench.api import PlanOptions, Recipe
from bench.api.experiment import Request
from bench.heads._linear import LinearHead, enlarge  # pyright: ignore[reportMissingImports]
from bench.runs.resolve import resolve
from bench.runs.trials import TrialRunner
from bench.store.results import Store
from bench.training.fit import TrainingSet, fit
from bench.training.malloc import keep_freed_memory
from bench.training.optim import schedule


def one_after_another(lessons: Sequence[TrainingSet], recipe: Recipe) -> Tensor:
    """Train every draw by itself; give the differences of the two classes' weights, (D, C)."""
    weights = []
    for seed, lesson in enumerate(lessons):
        head = LinearHead(lesson.bank.runner.extractor.channels, 2)
        fit(head, lesson, recipe, seed, lambda *_: None)
        weights.append(head.classify.weight.detach().clone())
    return torch.stack(weights)  # (D, 2, C)


def at_once(lessons: Sequence[TrainingSet], recipe: Recipe) -> Tensor:
    """Train all draws as one problem; a support set is one batch."""
    channels = list(lessons[0].bank.runner.extractor.channels)
    heads = [LinearHead(channels, 2) for _ in lessons]
    for head, lesson in zip(heads, lessons, strict=True):
        with torch.no_grad():
            head.observe(lesson.bank.maps([patch]) for patch in lesson.patches)
    mean = torch.stack([head.mean for head in heads])  # (D, C)
    deviation = torch.stack([head.deviation for head in heads])  # (D, C)
    weight = torch.zeros(len(heads), 2, sum(channels), requires_grad=True)  # (D, 2, C)
    bias = torch.zeros(len(heads), 2, requires_grad=True)  # (D, 2)
    adam = torch.optim.AdamW([weight, bias], lr=recipe.lr, weight_decay=recipe.weight_decay)
    rate = torch.optim.lr_scheduler.LambdaLR(adam, schedule(recipe, recipe.epochs))
    generators = [torch.Generator().manual_seed(seed) for seed in range(len(lessons))]
    for _ in range(recipe.epochs):
        maps, target = _batches(lessons, generators)
        adam.zero_grad(set_to_none=True)
        scaled = (weight[:, 1] - weight[:, 0]) / deviation  # (D, C)
        shift = bias[:, 1] - bias[:, 0] - (scaled * mean).sum(1)  # (D,)
        margin = shift[:, None, None, None].expand(target.shape)  # (D, N, S, S)
        for level, own in zip(maps, scaled.split(channels, dim=1), strict=True):
            projected = torch.einsum("dc,dnchw->dnhw", own, level)  # (D, N, h, w)
            margin = margin + enlarge(projected, (target.shape[-2], target.shape[-1]))
        _losses(margin, target).sum().backward()
        adam.step()
        rate.step()
    return weight.detach()


def _batches(
    lessons: Sequence[TrainingSet], generators: Sequence[torch.Generator]
) -> tuple[list[Tensor], Tensor]:
    """Give the maps of all draws, [(D, N, C_i, h_i, w_i), ...], and targets, (D, N, S, S)."""
    pyramids, targets = [], []
    for lesson, generator in zip(lessons, generators, strict=True):
        order = torch.randperm(len(lesson.patches), generator=generator).tolist()
        pyramids.append(lesson.bank.maps([lesson.patches[i] for i in order]))
        targets.append(torch.stack([lesson.targets[i] for i in order]))
    return [torch.stack(level) for level in zip(*pyramids, strict=True)], torch.stack(targets)


def _losses(margin: Tensor, target: Tensor) -> Tensor:
    """Give the loss of `bench.api.nn.Head` of each draw, (D,)."""
    wanted, pixels = target.float(), target[0].numel()
    found, axes = margin.sigmoid(), (1, 2, 3)
    overlap, total = (found * wanted).sum(axes), found.sum(axes) + wanted.sum(axes)
    foreground = (2 * overlap + 1) / (total + 1)
    background = (2 * (pixels - total + overlap) + 1) / (2 * pixels - total + 1)
    crossed = F.binary_cross_entropy_with_logits(margin, wanted, reduction="none").mean(axes)
    return crossed + 1 - (foreground + background) / 2


def main(
    backbone: Annotated[str, typer.Option(help="NAME, NAME@FILE or NAME@random.")] = "cmd-tiny",
    dataset: Annotated[str, typer.Option(help="A name or a folder.")] = "synthetic",
    px: Annotated[int, typer.Option(help="Side of the images.")] = 224,
    draws: Annotated[int, typer.Option(help="Support sets.")] = 5,
    shots: Annotated[int, typer.Option(help="Images in each; at most a batch of 8.")] = 5,
    epochs: Annotated[int, typer.Option(help="Steps of each draw.")] = 40,
    repeats: Annotated[int, typer.Option(help="Of each way.")] = 4,
    to: Out = None,
) -> None:
    """Time both ways in turn, and compare what they learned."""
    keep_freed_memory()
    plan, before = PlanOptions(shots=shots, draws=draws), machine()
    asked = Request(backbone, dataset, "fewshot", plan=plan, input_px=px)
    with tempfile.TemporaryDirectory() as name:
        execution = TrialRunner(resolve(asked, None), Store(Path(name)), "x", Path(name) / "cache")
        lessons = [execution._lesson(trial) for trial in execution.job.trials]
        wanted = {image for trial in execution.job.trials for image in trial.train}
        execution.bank.prepare(sorted(wanted), lambda *_: None)
        document = _compared(lessons, Recipe(epochs=epochs), repeats)
    title = f"{backbone}, {draws} draws of {shots} images of {px} px, {before['threads']} threads"
    show(title, document["rows"])
    keep(f"draws-{backbone.partition('@')[0]}", {"asked": title, "machine": before, **document}, to)


def _compared(lessons: Sequence[TrainingSet], recipe: Recipe, repeats: int) -> dict[str, Any]:
    ways = {"one after another": one_after_another, "at once": at_once}
    learned = {name: way(lessons, recipe) for name, way in ways.items()}  # and warm up
    alone, together = learned.values()
    gap = float((alone - together).abs().max() / alone.abs().max())
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats):
        for name in list(ways)[:: 1 if repeat % 2 == 0 else -1]:
            began = time.perf_counter()
            ways[name](lessons, recipe)
            seconds[name].append(time.perf_counter() - began)
    middle = {name: statistics.median(each) for name, each in seconds.items()}
    rows = [
        {
            "way": name,
            "ms a step of all draws": 1000 * middle[name] / recipe.epochs,
            "times as fast": middle["one after another"] / middle[name],
            "same bytes": torch.equal(alone, learned[name]),
            "largest difference": 0.0 if name == "one after another" else gap,
        }
        for name in ways
    ]
    return {"rows": rows, "seconds": seconds}


if __name__ == "__main__":
    typer.run(main)
