"""Compare the numbers of the product with the stored numbers of tests/golden.json.

The runs are tiny: crops (128 px) of 4 training and 4 test images of the built-in data set, written
to a folder once because the built-in images are slow to render, at an input of 64 px. The scores
mean nothing; the test checks that they do not change. Three kinds of numbers are compared:

- planned trials (tags, training ids, test ids, seeds) and image ids: exactly;
- counts of every image, losses, augmented images: within RELATIVE or ABSOLUTE, whichever is larger
  (counts within OTHER_CPU if the CPU has other vector instructions than the one that wrote them);
- results of the statistics and scores from fixed counts: to six digits.

`BENCH_GOLDEN=exact pytest tests/test_golden.py` also compares the hash of the unrounded numbers,
which agrees only on the machine and with the library versions that wrote it.
`python tests/test_golden.py [FILE]` writes the numbers of today to tests/golden.json, or to FILE.
Names of the library are used in the adapter below and nowhere else.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bench.api.record import NUMERICS_VERSION

GOLDEN = Path(__file__).parent / "golden.json"
RELATIVE, ABSOLUTE = 1e-3, 1e-3  # the second is for counts and losses near zero
OTHER_CPU = 0.1, 4.0  # convolutions round differently with other vector instructions: pixels flip
DIGITS, SIX_DIGITS = 6, 1e-6
CHANGED = (
    "The numbers of the product changed. If that is intended, raise NUMERICS_VERSION "
    "(bench.api.record.NUMERICS_VERSION) and regenerate with `python tests/test_golden.py`."
)

# ---- adapter: everything that names a part of the library ------------------------------------


def command(*words: str) -> None:
    """Run the command line in this process, on one CPU thread.

    Raises:
        AssertionError: the exit code is not 0; the message is what the command printed.
    """
    from bench.cli.main import main

    arguments, sys.argv = sys.argv, ["bench", *words]
    out, err = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(err):
            main()
        code: object = 0
    except SystemExit as stop:
        code = stop.code or 0
    finally:
        sys.argv = arguments
    assert code == 0, f"bench {' '.join(words)}\n{out.getvalue()}\n{err.getvalue()}"


def label_of(record: Mapping[str, Any]) -> str:
    """Name a run among the runs of one command."""
    spec = record["spec"]
    protocol = dict(spec["protocol"])
    words = [spec["backbone"]["name"], spec["head"]["name"], protocol["name"]]
    words += [f"{name}={protocol[name]}" for name in ("fraction", "shots") if name in protocol]
    words.append(f"px={spec['view']['px']}")
    words += [spec["scored"]["shift"]] if spec["scored"]["shift"] else []
    words += ["adapted"] if spec["ttt"] else []
    return " ".join(words)


def trials_of(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the trials of a record: tags, train, images, loss and counts of each."""
    return record["trials"]


def built_in_images() -> list[tuple[str, str, np.ndarray, np.ndarray]]:
    """Return split, patient, image and instances of four training and four test images."""
    from bench import registry

    samples = registry.get("datasets", "synthetic").generate()
    first = [each for each in samples if each.id.endswith("_1")]
    chosen = [each for each in first if each.split == "train"][:4]
    chosen += [each for each in first if each.split == "test"][:4]
    return [(each.split, each.patient, *each.read()) for each in chosen]


def plan_of(protocol: str, options: Mapping[str, Any], patients: str) -> list[dict[str, Any]]:
    """Plan the trials of a protocol on the built-in data set."""
    from bench import registry
    from bench.api import PlanOptions

    samples = registry.get("datasets", "synthetic").generate()
    if patients == "uneven":  # five patients of 2 to 10 images
        samples = [replace(each, patient=UNEVEN[each.patient]) for each in samples]
    trials = registry.get("protocols", protocol).plan(samples, PlanOptions(**options))
    return [
        {
            "tags": dict(trial.tags),
            "train": list(trial.train),
            "test": list(trial.test),
            "seed": trial.seed,
        }
        for trial in trials
    ]


def scores_of(counts: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """Compute every score of images from their counts."""
    from bench import registry

    arrays = {name: np.array(values, dtype=float) for name, values in counts.items()}
    return {
        name: score(arrays).tolist()
        for metric in registry.names("metrics")
        for name, score in registry.get("metrics", metric).scores.items()
    }


def statistics() -> dict[str, Any]:
    """Compute intervals, paired differences and ranks of fixed scores."""
    from bench.stats.bootstrap import summarise
    from bench.stats.decisions import ScoreMatrix, pairwise_p, rank_intervals, standings
    from bench.stats.paired import holm, paired_difference
    from bench.stats.rank_correlation import concordance, kendall, spearman

    def bounds(interval: Any) -> list[float]:
        return [interval.low, interval.high]

    def interval(scores: np.ndarray, method: str = "expanded") -> list[float]:
        return bounds(summarise(scores, patients, method=method, **text).interval)

    rng = np.random.default_rng(0)
    patients = [f"p{i // 2}" for i in range(24)]  # twelve patients of two images
    quality = np.array([0.8, 0.795, 0.74, 0.735, 0.6])[:, None]
    scores = quality + rng.normal(0, 0.05, 24) + rng.normal(0, 0.02, (5, 24))  # (models, images)
    many = [f"q{i}" for i in range(40)]  # too many patients for the exact sign-flip test
    few_shot = rng.uniform(0.4, 0.9, (5, 24))  # (draws, images)
    wide = rng.normal(0.01, 0.04, (2, 40))
    text: dict[str, Any] = {"seed_text": "golden"}
    contest = ScoreMatrix(scores, patients, "golden")
    p = pairwise_p(contest)
    exact = paired_difference(scores[0], scores[2], patients, **text)
    sampled = paired_difference(wide[0], wide[1], many, **text)
    rows = standings(contest, p, 0)
    ranks, bounds_of_ranks = [row.rank for row in rows], rank_intervals(contest, resamples=2000)
    assert bounds_of_ranks is not None
    ranked = {
        how.__name__: concordance(how, (scores, scores[::-1]), patients, **text)
        for how in (spearman, kendall)
    }
    return {
        **{
            f"interval, {method}": interval(scores[0], method)
            for method in ("expanded", "percentile", "bca")
        },
        "interval, few-shot": interval(few_shot),
        "difference, exact": [exact.mean, *bounds(exact.interval), exact.p],
        "difference, sampled": [sampled.mean, *bounds(sampled.interval), sampled.p],
        "holm": holm([0.01, 0.04, 0.03, 0.005, 0.5]),
        "pairwise p": p.tolist(),
        "ranks": [
            [rank, *bounds, ranks.count(rank) > 1]
            for rank, bounds in zip(ranks, bounds_of_ranks.tolist(), strict=True)
        ],
        "adjusted p": [row.holm_p for row in rows],
        **{name: [each.value, *bounds(each.interval)] for name, each in ranked.items()},
    }


def augmented(name: str) -> dict[str, list[float]]:
    """Augment two fixed images: mean and deviation of the images, foreground of the targets."""
    from bench.training.augment import augmentation

    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.random((2, 3, 32, 32), dtype=np.float32))
    targets = torch.from_numpy(rng.integers(0, 2, (2, 32, 32)))
    values = []
    for seed in range(8):  # so that each branch of a policy is taken
        generator = torch.Generator().manual_seed(seed)
        changed, target = augmentation(name)(images, targets, generator)
        values += [float(changed.mean()), float(changed.std()), float(target.float().mean())]
        values.append(float(changed[0, 0, 0, 0]))
    return {"statistics": values}


# ---- what is run -----------------------------------------------------------------------------

BOTH = "rgb,cmd-tiny@random"
CMD = "--backbone cmd-tiny@random"
SMALL = "--dataset {tissue} --input-px 64 --view whole --folds 0 --resamples 100 --device cpu"
BY_EPOCHS = "--epochs 2 --batch-size 2 --lr 0.001"  # of cases whose head is not solved

RUNS = {  # words after `bench run`, SMALL and BY_EPOCHS; a later word overrides an earlier one
    "converged": f"--backbone {BOTH} --protocol linear-probe",
    "converged, few-shot": "--backbone rgb --protocol fewshot --head linear --shots 2 --draws 2",
    "converged, tiles": f"{CMD} --protocol full --head linear --view tiles --folds 2",
    "built-in data set": "--backbone rgb --dataset synthetic --limit 2",
    "linear-probe": f"--backbone {BOTH} --protocol linear-probe",
    "linear-probe, seed 1": "--backbone rgb --protocol linear-probe --seed 1",
    "linear-probe, folds": "--backbone rgb --protocol linear-probe --folds 3",
    "full, light": f"{CMD} --protocol full --head light --epochs 1",
    "full, decoder": f"{CMD} --protocol full --head decoder --epochs 1",
    "full, decoder-cup": f"{CMD} --protocol full --head decoder-cup",
    "full, deep-supervision": f"{CMD} --protocol full --head deep-supervision",
    "full, upernet": "--backbone random-vit-s --protocol full --head upernet --epochs 1",
    "full, trained backbone": "--backbone cnn-adapter:random-vit-s --protocol full --epochs 1",
    "full, tiles": "--backbone rgb --protocol full --head light --view tiles",
    "full, bf16": f"{CMD} --protocol full --head linear --precision bf16",
    "full, test-time training": f"{CMD} --protocol full --head linear --ttt --ttt-option steps=2 "
    "--ttt-option views=2",
    "full, pretrained weights": "--backbone cmd-tiny --checkpoint {training} --head linear",
    "fewshot, images": f"--backbone {BOTH} --protocol fewshot --head linear --shots 2 --draws 3",
    "fewshot, nuclei": "--backbone rgb --protocol fewshot --shots-unit nuclei --shots 30 --draws 2 "
    "--head linear",
    "labels": "--backbone rgb --protocol labels --fractions 0.5 --draws 2 --head linear",
    "zero-shot": "--backbone all-background,all-foreground --protocol zero-shot --head logits",
    "robustness": "--backbone rgb --protocol robustness --head linear",
    "transfer": "--backbone rgb --protocol transfer --head linear --target-dataset {squares}",
    "heads": f"--backbone {BOTH} --protocol heads --input-px 32 --epochs 1",
    "scaling, labels": "--backbone rgb --protocol scaling --scale-over labels "
    "--fractions 0.25,0.75 --draws 1 --head linear",
    "scaling, resolution": "--backbone rgb --protocol scaling --scale-over resolution "
    "--input-px 32,64 --head linear",
    "scaling, capacity": "--protocol scaling --scale-over capacity --head linear "
    "--backbone cmd-tiny@random,random-vit-s",
    "scaling, steps": "--backbone cmd-tiny --protocol scaling --scale-over steps "
    "--checkpoints {training} --head linear",
}

PLANS: dict[str, tuple[str, dict[str, Any], str]] = {
    "linear-probe": ("linear-probe", {}, ""),
    "linear-probe, seed 3": ("linear-probe", {"seed": 3}, ""),
    "full, 3 folds": ("full", {"folds": 3}, ""),
    "full, 5 uneven folds": ("full", {"folds": 5}, "uneven"),
    "full, 3 uneven folds": ("full", {"folds": 3, "seed": 7}, "uneven"),
    "fewshot, images": ("fewshot", {"shots": 3, "draws": 3}, ""),
    "fewshot, images, seed 1": ("fewshot", {"shots": 2, "draws": 2, "seed": 1}, ""),
    "fewshot, images, folds": ("fewshot", {"shots": 1, "draws": 2, "folds": 2}, ""),
    "fewshot, nuclei": ("fewshot", {"shots": 90, "draws": 2, "by": "nuclei"}, ""),
    "labels": ("labels", {"fraction": 0.25, "draws": 2}, ""),
    "labels, folds": ("labels", {"fraction": 0.5, "draws": 1, "folds": 2}, "uneven"),
    "zero-shot": ("zero-shot", {}, ""),
    "zero-shot, folds": ("zero-shot", {"folds": 4}, ""),
}
UNEVEN = {f"p{i:02}": f"q{min(i, 5) if i < 8 else i % 5 + 1}" for i in range(1, 13)}

PRETRAIN = (
    "--steps 3 --save-every 1 --validate-every 3 --crop-px 32 --batch-size 2 --held-out 1 "
    "--ema 0.5 --lr 1e-3 --precision fp32 --device cpu"
)
AUGMENTATIONS = ("none", "turns", "photometric", "nnunet")


Image4 = tuple[str, str, np.ndarray, np.ndarray]  # split, patient, image, instances


class Product:
    """Run the product in a temporary folder; what several cases need is computed once."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def run(self, case: str) -> dict[str, Any]:
        """Return the trials of each run of a case, by the name of the run."""
        recipe = "" if case.startswith("converged") else BY_EPOCHS
        words = f"{SMALL} {recipe} {RUNS[case]}"
        for name in ("tissue", "squares", "training"):
            if f"{{{name}}}" in words:
                words = words.replace(f"{{{name}}}", str(getattr(self, name)()))
        results = self.home / "results" / case.replace(" ", "")
        command("run", *words.split(), "--results", str(results))
        records = [json.loads(path.read_text()) for path in results.rglob("record.json")]
        by_label: dict[str, list[list[dict[str, Any]]]] = {}
        for record in records:
            by_label.setdefault(label_of(record), []).append(trials_of(record))
        runs = {}
        for label, several in sorted(by_label.items()):  # several: checkpoints of a pretraining
            for number, trials in enumerate(sorted(several, key=lambda each: each[0]["loss"])):
                runs[f"{label} #{number + 1}" if len(several) > 1 else label] = trials
        return runs

    def tissue(self) -> Path:
        """Write crops of images of the built-in data set, four of each split."""
        return self._labelled("tissue", lambda: [_cropped(*each) for each in built_in_images()])

    def squares(self) -> Path:
        """Write images of dark squares, four of each split."""
        return self._labelled("squares", _squares)

    def _labelled(self, name: str, images: Callable[[], Sequence[Image4]]) -> Path:
        root = self.home / name
        if not root.exists():
            _write_labelled(root, images())
        return root

    def training(self) -> Path:
        """Pretrain the small model for three steps on six tiles."""
        out, tiles = self.home / "training", self.home / "tiles"
        if not out.exists():
            tiles.mkdir()
            rng = np.random.default_rng(0)
            for number in range(6):
                pixels = rng.integers(0, 255, (4, 4, 3)).astype(np.uint8).repeat(9, 0).repeat(9, 1)
                Image.fromarray(pixels).save(tiles / f"{number}.png")
            command("pretrain", "--images", str(tiles), "--out", str(out), *PRETRAIN.split())
        return out

    def learning_curve(self) -> dict[str, list[float]]:
        """Return the loss and the norm of the gradient in each step of the pretraining."""
        with (self.training() / "log.csv").open(newline="") as table:
            rows = list(csv.DictReader(table))
        return {
            "loss": [float(row["loss"]) for row in rows],
            "gradient norm": [float(row["gradient_norm"]) for row in rows],
        }


def _cropped(split: str, patient: str, image: np.ndarray, instances: np.ndarray) -> Image4:
    return split, patient, image[64:192, 64:192], instances[64:192, 64:192].astype(np.uint16)


def _squares() -> list[Image4]:
    rng = np.random.default_rng(0)
    images = []
    for number in range(8):
        instances = np.zeros((48, 56), np.uint16)
        for instance in (1, 2, 3):
            y, x = 2 + 16 * (instance - 1), rng.integers(1, 40)
            instances[y : y + 10, x : x + 10] = instance
        image = rng.integers(140, 220, (48, 56, 3)).astype(np.uint8)
        image[instances > 0] -= 90
        images.append(("train" if number < 4 else "test", f"s{number}", image, instances))
    return images


def _write_labelled(root: Path, images: Sequence[Image4]) -> None:
    """Write a labelled data set: images, labels and a manifest."""
    rows = []
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    for split, patient, image, instances in images:
        paths = [f"images/{patient}.png", f"labels/{patient}.png"]
        for path, pixels in zip(paths, (image, instances), strict=True):
            Image.fromarray(pixels).save(root / path)
        rows.append(
            {
                "id": f"i_{patient}",
                "image": paths[0],
                "label": paths[1],
                "split": split,
                "patient": patient,
                "organ": "",
                "magnification": "40x",
                "width": image.shape[1],
                "height": image.shape[0],
                "nuclei": len(np.unique(instances)) - 1,
                "foreground": f"{np.count_nonzero(instances) / instances.size:.4f}",
                "image_sha256": hashlib.sha256((root / paths[0]).read_bytes()).hexdigest(),
                "label_sha256": hashlib.sha256((root / paths[1]).read_bytes()).hexdigest(),
            }
        )
    with (root / "manifest.csv").open("w", newline="") as table:
        writer = csv.DictWriter(table, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    (root / "README.md").write_text("Images for a test.\n")


# ---- what is stored --------------------------------------------------------------------------


def packed_run(trials: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Shorten the trials of a run for storage, and add the hash of their unrounded numbers."""
    names = sorted(trials[0]["counts"])
    return {
        "counts": " ".join(names),
        "trials": [
            {
                "tags": trial["tags"],
                "train": " ".join(trial["train"]),
                "images": " ".join(trial["images"]),
                "loss": rounded(trial["loss"]),
                "counts": [rounded(trial["counts"][name]) for name in names],
            }
            for trial in trials
        ],
        "sha256": digest([[trial["loss"], trial["counts"]] for trial in trials]),
    }


def packed_plan(trials: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Shorten planned trials for storage."""
    return [
        {**trial, "train": " ".join(trial["train"]), "test": " ".join(trial["test"])}
        for trial in trials
    ]


def rounded(value: Any) -> Any:
    """Round all numbers of a JSON value to DIGITS + 1 significant digits."""
    if isinstance(value, float):
        short = float(f"{value:.{DIGITS + 1}g}")
        return int(short) if short.is_integer() else short
    if isinstance(value, list | tuple):
        return [rounded(each) for each in value]
    if isinstance(value, dict):
        return {name: rounded(each) for name, each in value.items()}
    return value


def digest(value: Any) -> str:
    """Hash a JSON value without rounding."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def measure(product: Product) -> dict[str, Any]:
    """Compute everything that golden.json stores."""
    curve = product.learning_curve()
    runs = {
        case: {name: packed_run(trials) for name, trials in product.run(case).items()}
        for case in RUNS
    }
    return {
        "numerics_version": NUMERICS_VERSION,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "plans": {case: packed_plan(plan_of(*plan)) for case, plan in PLANS.items()},
        "runs": runs,
        "scores": rounded(scores_of(fixed_counts(runs))),
        "statistics": rounded(statistics()),
        "augmentations": {name: rounded(augmented(name)) for name in AUGMENTATIONS},
        "pretraining": {**rounded(curve), "sha256": digest(curve)},
    }


def fixed_counts(runs: Mapping[str, Any]) -> dict[str, list[float]]:
    """Return stored counts, from which scores are computed: those of all images of one run."""
    run = next(iter(runs["linear-probe, folds"].values()))
    columns = zip(*(trial["counts"] for trial in run["trials"]), strict=True)
    return {
        name: [value for part in parts for value in part]
        for name, parts in zip(run["counts"].split(), columns, strict=True)
    }


# ---- tests -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    home = tmp_path_factory.mktemp("golden")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENCH_CACHE", str(home / "cache"))  # runs share features and heads
        yield Product(home)


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    return json.loads(GOLDEN.read_text())


def test_the_stored_numbers_are_those_of_this_version(golden: dict[str, Any]) -> None:
    assert golden["numerics_version"] == NUMERICS_VERSION, CHANGED


def assert_close(new: Any, old: Any, relative: float, absolute: float, where: str) -> None:
    """Compare two JSON values: numbers within a tolerance, everything else exactly."""
    if isinstance(old, dict) and isinstance(new, dict):
        assert sorted(new) == sorted(old), f"{where}: other names. {CHANGED}"
        for name in old:
            assert_close(new[name], old[name], relative, absolute, f"{where}, {name}")
    elif isinstance(old, list) and isinstance(new, list | tuple):
        assert len(new) == len(old), f"{where}: {len(new)} values, {len(old)} before. {CHANGED}"
        for number, pair in enumerate(zip(new, old, strict=True)):
            assert_close(*pair, relative, absolute, f"{where}[{number}]")
    elif _is_number(old) and _is_number(new):
        expected = pytest.approx(old, rel=relative, abs=absolute, nan_ok=True)
        assert new == expected, f"{where}: {new}, {old} before. {CHANGED}"
    else:
        assert new == old, f"{where}: {new!r}, {old!r} before. {CHANGED}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def assert_same_hash(new: str, old: str, where: str) -> None:
    """Compare hashes of unrounded numbers, if BENCH_GOLDEN=exact requests it."""
    if os.environ.get("BENCH_GOLDEN") == "exact":
        assert new == old, f"{where}: close, but not equal to the last digit. {CHANGED}"


@pytest.mark.parametrize("case", PLANS)
def test_a_protocol_plans_the_same_trials_and_seeds(case: str, golden: dict[str, Any]) -> None:
    assert packed_plan(plan_of(*PLANS[case])) == golden["plans"][case], CHANGED


@pytest.mark.parametrize("case", RUNS)
def test_a_run_gives_the_same_counts(case: str, product: Product, golden: dict[str, Any]) -> None:
    stored = golden["runs"][case]
    same_cpu = golden["cpu"] == torch.backends.cpu.get_cpu_capability()
    tolerance = (RELATIVE, ABSOLUTE) if same_cpu else OTHER_CPU
    runs = {name: packed_run(trials) for name, trials in product.run(case).items()}
    assert sorted(runs) == sorted(stored), f"{case}: other runs. {CHANGED}"
    for name, run in runs.items():
        where, old = f"{case}: {name}", stored[name]
        assert run["counts"] == old["counts"], f"{where}: other counts. {CHANGED}"
        names = run["counts"].split()
        for new_trial, old_trial in zip(run["trials"], old["trials"], strict=True):
            for part in ("tags", "train", "images"):
                assert new_trial[part] == old_trial[part], f"{where}, {part}. {CHANGED}"
            new, before = (
                {"loss": trial["loss"], **dict(zip(names, trial["counts"], strict=True))}
                for trial in (new_trial, old_trial)
            )
            assert_close(new, before, *tolerance, f"{where}, {new_trial['tags']}")
        assert_same_hash(run["sha256"], old["sha256"], where)


def test_counts_give_the_same_scores(golden: dict[str, Any]) -> None:
    scores = scores_of(fixed_counts(golden["runs"]))
    assert_close(scores, golden["scores"], SIX_DIGITS, SIX_DIGITS, "scores")


def test_the_statistics_of_fixed_scores_are_the_same(golden: dict[str, Any]) -> None:
    stored = golden["statistics"]
    assert_close(statistics(), stored, SIX_DIGITS, SIX_DIGITS, "statistics")


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_an_augmentation_draws_the_same_changes(name: str, golden: dict[str, Any]) -> None:
    stored = golden["augmentations"][name]
    assert_close(augmented(name), stored, RELATIVE, 1e-5, f"augmentation {name}")


def test_a_pretraining_has_the_same_losses(product: Product, golden: dict[str, Any]) -> None:
    stored, curve = dict(golden["pretraining"]), product.learning_curve()
    sha256 = stored.pop("sha256")
    assert_close(curve, stored, RELATIVE, 0, "pretraining")
    assert_same_hash(digest(curve), sha256, "pretraining")


def write(path: Path) -> None:
    """Compute everything anew and write it, one case a line."""
    torch.set_num_threads(1)
    with TemporaryDirectory() as home:
        os.environ["BENCH_CACHE"] = str(Path(home) / "cache")
        parts = measure(Product(Path(home)))
    lines = []
    for name, part in parts.items():
        if isinstance(part, dict):
            entries = [f"  {json.dumps(key)}: {json.dumps(each)}" for key, each in part.items()]
            lines.append(f" {json.dumps(name)}: {{\n" + ",\n".join(entries) + "\n }")
        else:
            lines.append(f" {json.dumps(name)}: {json.dumps(part)}")
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else GOLDEN)
