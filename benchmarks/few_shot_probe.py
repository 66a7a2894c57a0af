"""The linear probe on few images: fixed lambda and threshold, or chosen by leaving one image out.

    python benchmarks/few_shot_probe.py --data DIR --draws 8

For random support sets of 1 to 10 images, the mean Dice of sampled pixels of the images of all
other patients, for every lambda and threshold. "chosen on others": the pair that is best on the
other data sets, so that no data set decides on its own values.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from versus import show

from bench.api.run_config import RunConfig
from bench.features.bank import FeatureBank
from bench.runs.resolve import resolve
from bench.runs.session import Session
from bench.training import pixel_sample, probe
from bench.training.fit import TrainingSet

SIZES = (1, 3, 5, 10)
MOST_IMAGES = 40  # of a data set, random ones
PIXELS = 2_000  # per image
FIXED = probe.LAMBDAS.index(probe.FIXED_LAMBDA), probe.THRESHOLDS.index(probe.FIXED_THRESHOLD)

Curves = dict[tuple[str, int], list[np.ndarray]]  # by data set and size: (L, T) each


def main(
    data: Annotated[Path, typer.Option(help="Folder of the data sets.")],
    backbones: str = "rgb,random-vit-s,cmd-tiny",
    datasets: str = "cpm15,kumar,tnbc",
    draws: int = 8,
    checkpoint: Annotated[list[str] | None, typer.Option(help="NAME=FILE of weights.")] = None,
) -> None:
    """Evaluate all support sets, and show one row per data set and size."""
    pixel_sample.PIXELS = PIXELS
    files = dict(pair.split("=", 1) for pair in checkpoint or [])
    curves: Curves = defaultdict(list)
    left_out: dict[tuple[str, int], list[float]] = defaultdict(list)
    for dataset in datasets.split(","):
        for name in backbones.split(","):
            file = Path(files[name]) if name in files else None
            blocks, patients = _blocks(
                RunConfig(name, dataset, view="whole", checkpoint=file), data
            )
            for draw in range(draws):
                order = np.random.default_rng([7, draw]).permutation(len(blocks))
                for size in SIZES:
                    curve, chosen = _evaluate(blocks, patients, order[:size])
                    curves[dataset, size].append(curve)
                    if chosen is not None:
                        left_out[dataset, size].append(curve[chosen])
    show("Mean Dice by data set and number of images", _rows(curves, left_out))


def _blocks(config: RunConfig, data: Path) -> tuple[list[pixel_sample.Block], list[str]]:
    """Sample pixels of each image; return a block per image, not standardised, and its patient."""
    run = resolve(config, Session(data))
    bank = FeatureBank(run.runner, list(run.samples.values()), None)
    ids = sorted(run.samples)
    order = np.random.default_rng(0).permutation(len(ids))[:MOST_IMAGES]
    chosen = [ids[i] for i in order]
    bank.prepare(chosen, lambda *_: None)
    blocks = []
    for image in chosen:
        target = run.runner.view.cut_target(run.samples[image].read()[1])[0]
        lesson = TrainingSet(bank, [(image, 0)], [target])
        (block,), mean, deviation = pixel_sample.sampled_blocks(lesson, {image: 0}, 0)
        features = block.features * deviation.float() + mean.float()
        blocks.append(pixel_sample.Block([pixel_sample.Level(features)], block.target, block.sizes))
    return blocks, [run.samples[image].patient for image in chosen]


def _evaluate(
    blocks: list[pixel_sample.Block], patients: list[str], support: np.ndarray
) -> tuple[np.ndarray, tuple[int, int] | None]:
    """Return the Dice of other patients, (L, T), and the pair that leave-one-out chooses."""
    together = torch.cat([blocks[i].features for i in support]).double()
    mean, deviation = together.mean(0).float(), together.std(0).float()
    deviation[deviation == 0] = 1.0

    def standardised(block: pixel_sample.Block) -> pixel_sample.Block:
        level = pixel_sample.Level((block.features - mean) / deviation)
        return pixel_sample.Block([level], block.target, block.sizes)

    train = [standardised(blocks[i]) for i in support]
    minima = probe.solve(train, probe.LAMBDAS, lambda *_: None)
    excluded = {patients[i] for i in support}
    dice = []
    for block, patient in zip(blocks, patients, strict=True):
        if patient not in excluded:
            other = standardised(block)
            margins = [other.margin(each.weight.float()) + each.bias.float() for each in minima]
            dice.append(probe.dice_of_thresholds(torch.stack(margins), other.target))
    choice = probe.cross_validate(train, lambda *_: None) if len(support) >= 3 else None
    pair = choice and (
        probe.LAMBDAS.index(choice.penalty),
        probe.THRESHOLDS.index(choice.threshold),
    )
    return np.mean(dice, axis=0), pair


def _rows(curves: Curves, left_out: dict[tuple[str, int], list[float]]) -> list[dict[str, object]]:
    means = {key: np.mean(several, axis=0) for key, several in curves.items()}
    rows = []
    for (dataset, size), curve in means.items():
        others = [other for (name, n), other in means.items() if name != dataset and n == size]
        mean = np.mean(others, axis=0) if others else curve
        i, j = np.unravel_index(int(mean.argmax()), mean.shape)
        chosen = f"{curve[i, j]:.3f} ({probe.LAMBDAS[i]:g}, {probe.THRESHOLDS[j]})"
        row: dict[str, object] = {"data set": dataset, "images": size}
        row |= {"fixed": f"{curve[FIXED]:.3f}", "chosen on others": chosen}
        row["leave one out"] = f"{np.mean(left_out[dataset, size]):.3f}" if size >= 3 else "-"
        row["best"] = f"{curve.max():.3f}"
        rows.append(row)
    return rows


if __name__ == "__main__":
    typer.run(main)
