"""`bench study`: the arms, the printed numbers, and a study from end to end."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from small_pretraining import write_tiles
from torch import Tensor, nn

from bench import registry
from bench.api import Backbone, Labelled
from bench.api.board import Interval, Score, Summary
from bench.api.nn import FeatureExtractor
from bench.api.report import Table
from bench.api.run_config import RunConfig
from bench.cli.main import main
from bench.data.folder import write
from bench.models.conditioner import Conditioner
from bench.paper import study_report
from bench.paper.config import StudyConfig
from bench.paper.published import printed
from bench.paper.study import PAPER_SETS, SCALES, TABLES, Study, study_of
from bench.pretrain.step import Learner
from bench.render.terminal import rich_table
from bench.runs import trials

Call = Callable[..., tuple[int, str, str]]  # exit code, standard output, standard error


def _study(number: int, scale: str = "mini", **options: object) -> Study:
    config = StudyConfig(
        table=number,
        images=Path("images"),
        out=Path("out"),
        scale=scale,
        datasets=("tnbc",),
        device="cpu",
        **options,  # type: ignore[arg-type]
    )
    return study_of(config)


# ---- the arms --------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("table", TABLES, ids=lambda table: f"table {table.number}")
def test_arms_differ_only_in_the_variable_of_their_table(table, scale: str) -> None:
    study = _study(table.number, scale)
    all_settings = [study.pretraining(arm).weight_settings() for arm in table.arms]
    varied = {name for name in all_settings[0] if len({each[name] for each in all_settings}) > 1}
    assert varied == {1: {"arch"}, 2: {"space"}, 3: {"condition"}}[table.number]
    assert len({study.pretraining(arm).out for arm in table.arms}) == len(table.arms)
    assert table.reference in table.arms


def test_the_arms_of_tables_1_and_2_set_network_and_latents() -> None:
    one, two = _study(1), _study(2)
    settings = {a.name: one.pretraining(a) for a in one.table.arms}
    settings |= {a.name: two.pretraining(a) for a in two.table.arms}
    assert {name: (each.arch, each.space, each.side) for name, each in settings.items()} == {
        "DiT": ("dit", "latent", 256),
        "Attention U-Net": ("attention-unet", "latent", 256),
        "ConvNeXt-UNet": ("convnext", "latent", 256),
        "VAE latent-space": ("convnext", "latent", 256),
        "High-res VAE latent": ("convnext", "latent-hires", 512),
        "Pixel-space": ("convnext", "pixel", 256),
    }
    assert {each.condition for each in settings.values()} == {"dinov2-s"}
    assert {each.objective for each in settings.values()} == {"masked"}


def test_a_request_contains_only_the_options_that_differ_from_the_defaults() -> None:
    def requests_of(study: Study) -> dict[str, RunConfig]:
        return {arm.name: study.request(arm, "tnbc") for arm in study.table.arms}

    one, two, three = (requests_of(_study(number)) for number in (1, 2, 3))
    condition = {"condition": "dinov2-s"}
    assert one["DiT"].backbone_options == {"arch": "dit", "space": "latent", **condition}
    assert one["Attention U-Net"].backbone_options["arch"] == "attention-unet"
    assert one["ConvNeXt-UNet"].backbone_options == {"space": "latent", **condition}
    assert two["High-res VAE latent"].backbone_options == {"space": "latent", **condition}
    assert two["Pixel-space"].backbone_options == three["CMD w/ PFM"].backbone_options == condition
    assert three["CMD w/o PFM"].backbone_options == {}
    requests = [*one.values(), *two.values(), *three.values()]
    sides = {each.input_px for each in requests if each != two["High-res VAE latent"]}
    assert (sides, two["High-res VAE latent"].input_px) == ({None}, 512)
    assert {each.protocol for each in requests} == {"linear-probe"}


def test_the_vae_option_applies_only_to_arms_that_take_latents() -> None:
    study = _study(2, vae="mine")
    latent, _, pixel = study.table.arms
    assert study.request(latent, "tnbc").backbone_options["vae"] == "mine"
    assert study.pretraining(latent).vae == "mine"
    assert "vae" not in study.request(pixel, "tnbc").backbone_options
    assert study.pretraining(pixel).vae == "sd-vae"


def test_tables_with_the_same_arm_share_its_folder() -> None:
    one, two, three = (_study(number, "paper") for number in (1, 2, 3))
    shared = [(one, one.table.reference), (two, two.table.arms[0])]
    shared += [(two, two.table.reference), (three, three.table.reference)]
    latent, also_latent, pixel, also_pixel = (study.pretraining(arm) for study, arm in shared)
    assert latent.out == also_latent.out
    assert pixel == also_pixel


def test_the_paper_scale_matches_its_table_b3() -> None:
    study = _study(3, "paper")
    common = study.pretraining(study.table.reference)
    assert (common.backbone, common.lr, common.ema, common.crop_px) == ("cmd-b", 3e-5, 0.9999, 256)
    assert (common.condition, common.steps, study.epochs) == ("uni", 50_000, 150)


# ---- the printed numbers ---------------------------------------------------------------------


def test_printed_numbers_match_the_paper() -> None:
    one, two, three = (printed("cmd_paper", number) for number in (1, 2, 3))
    transcribed = {
        (63.25, 59.34, 67.16): three["CMD w/ PFM", "CPM-15", "Dice"],
        (5.15, 3.36, 7.34): one["DiT", "Janowczyk", "BF1"],
        (22.43, 19.24, 24.80): two["High-res VAE latent", "TNBC", "BF1"],
    }
    for percents, found in transcribed.items():
        assert astuple(found) == pytest.approx([each / 100 for each in percents])


@pytest.mark.parametrize("table", TABLES, ids=lambda table: f"table {table.number}")
def test_every_cell_of_a_table_is_present_and_inside_its_interval(table) -> None:
    found = printed("cmd_paper", table.number)
    names = {(arm.name, each) for arm in table.arms for each in PAPER_SETS.values()}
    assert set(found) == {(*name, word) for name in names for word in ("Dice", "BF1")}
    assert all(0 < each.low <= each.mean <= each.high < 1 for each in found.values())


# ---- a study from end to end -----------------------------------------------------------------


class Painter(nn.Module):
    """A network with one block: 112 + 15 parameters, and 4 (D + 1) of a condition."""

    channels, strides, default_blocks, multiple, in_channels = (4,), (1,), (0,), 32, 3

    def __init__(self, cond_dim: int | None) -> None:
        super().__init__()
        self.cond_dim = cond_dim
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.image = nn.Conv2d(4, 3, 1)
        self.feature = None if cond_dim is None else nn.Linear(cond_dim, 4)

    def features(self, x: Tensor, t: Tensor, condition: Tensor | None, blocks) -> list[Tensor]:
        y = self.conv(x)  # (N, 4, H, W)
        if self.feature is not None:
            y = y + self.feature(condition)[:, :, None, None]
        return [y]

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        return self.image(self.features(x, t, condition, (0,))[0])


class PainterExtractor(FeatureExtractor):
    """The block of a `Painter`, frozen."""

    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    channels, strides = (4,), (1,)

    def __init__(self, condition: str) -> None:
        super().__init__()
        self.conditioner = None if condition == "none" else Conditioner(condition)
        self.network = Painter(None if self.conditioner is None else self.conditioner.width)
        self.requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        condition = None if self.conditioner is None else self.conditioner(images)
        return self.network.features(2 * images - 1, torch.empty(0), condition, (0,))

    def load(self, state: Mapping[str, Tensor]) -> None:
        self.network.load_state_dict(state)


def _network(*, cond_dim: int | None, arch: str = "convnext", space: str = "pixel") -> nn.Module:
    assert (arch, space) == ("convnext", "pixel")
    return Painter(cond_dim)


def _extractor(*, condition: str = "none") -> FeatureExtractor:
    return PainterExtractor(condition)


PAINTER = Backbone("painter", _extractor, network=_network, input_px=32)


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    """Register a backbone that trains quickly, and use one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        shelf = registry.catalogue("backbones").found
        patch.setitem(shelf, "painter", [registry.LoadedPlugin(PAINTER, "this test")])
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiles(tmp_path_factory.mktemp("tiles"), count=6)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with one of the paper's data sets, with six test patients."""
    rng = np.random.default_rng(0)
    samples = []
    for number in range(10):
        instances = np.zeros((32, 40), np.uint16)
        instances[4 + number : 14 + number, 4:20] = 1
        image = rng.integers(150, 200, (32, 40, 3)).astype(np.uint8)
        image[instances > 0] -= 90
        split = "train" if number < 4 else "test"
        samples.append(Labelled(f"i{number}", image, instances, split, f"p{number}"))
    folder = tmp_path_factory.mktemp("data")
    write(samples, folder / "tnbc", about="squares")
    return folder


def _bench(*words: object) -> tuple[int, str, str]:
    """Run the command in this process and return (exit code, stdout, stderr)."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["bench", *map(str, words)])
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as stop:
            main()
    return int(stop.value.code or 0), out.getvalue(), err.getvalue()


SMALL = ("--backbone", "painter", "--crop-px", 32, "--batch-size", 2, "--held-out", 1)
SMALL += ("--ema", 0.5, "--steps", 2, "--epochs", 1, "--condition", "rgb", "--device", "cpu")


def _command(images: Path, data: Path, out: Path, *more: object) -> tuple[object, ...]:
    where = ("--images", images, "--data", data, "--out", out)
    return ("study", "--table", 3, *where, *SMALL, *more)


@pytest.fixture(scope="module")
def done(
    images: Path, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str, str]:
    """Run Table 3 and return its folder, standard output and standard error."""
    out = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENCH_CACHE", str(out / "cache"))
        patch.delenv("BENCH_DATA", raising=False)
        code, said, err = _bench(*_command(images, data, out))
    assert code == 0, err
    return out, said, err


def test_a_study_shows_both_scores_in_120_columns(
    done: tuple[Path, str, str],
) -> None:
    _, said, err = done
    rows = said.splitlines()
    assert max(map(len, rows)) <= 120
    (row,) = (each for each in rows if "73.51 [68.28, 80.45]" in each)
    assert "75.63 [66.74, 86.52]" in row
    assert row.count("[") == 4
    assert "CPM-15, CPM-17, Janowczyk, Kumar" in err
    assert "every arm is painter after 2 steps of 2 crops from the same 5 images" in " ".join(
        said.split()
    )
    assert "little about the paper's results" in " ".join(said.split())


def test_a_study_is_saved_as_json_and_markdown(done: tuple[Path, str, str]) -> None:
    out, _, _ = done
    body = json.loads((out / "table-3.json").read_text())
    assert [each["name"] for each in body["arms"]] == ["CMD w/o PFM", "CMD w/ PFM"]
    assert [each["parameters"] for each in body["arms"]] == [112 + 15, 112 + 15 + 4 * (3 + 1)]
    assert [each["condition"] for each in body["arms"]] == ["none", "rgb"]
    for arm in body["arms"]:
        assert (out / arm["folder"] / "model.safetensors").is_file()
        assert set(arm["held_out"]) == {"l1", "psnr", "ssim"}
    assert body["cells"][1]["scores"]["dice_macro"]["paper"]["mean"] == 0.7351
    assert body["cells"][1]["scores"]["bf1"]["ours"]["n_patients"] == 6
    page = (out / "table-3.md").read_text()
    assert page.count("| TNBC | CMD w/ PFM | 73.51 [68.28, 80.45] |") == 1
    assert not (out / "cache").exists()


def test_the_widest_row_of_the_paper_fits_in_120_columns() -> None:
    ours = "76.74 [70.29, 82.39] ?"
    row = ["Janowczyk", "High-res VAE latent", ours[:-2], ours, ours[:-2], ours]
    columns = ["data set", "arm", "Dice, paper", "Dice, ours", "BF1, paper", "BF1, ours"]
    page = Console(width=study_report.WIDTH, file=io.StringIO())
    with page.capture() as capture:
        page.print(rich_table(Table("", columns, [row], grouped=True)))
    (line,) = (each for each in capture.get().splitlines() if "76.74" in each)
    assert line.split() == " ".join(row[1:]).split()


@pytest.mark.parametrize(
    ("low", "note", "shown"),
    [
        (None, "no interval: n = 3, fewer than 5", "41.50"),
        (0.4, "unreliable: n = 6, fewer than 10", "41.50 [40.00, 43.00] ?"),
        (0.4, "", "41.50 [40.00, 43.00]"),
    ],
)
def test_a_score_is_shown_with_its_interval(low: float | None, note: str, shown: str) -> None:
    interval = Interval(low, None if low is None else 0.43, "expanded", note)
    summary = Summary(0.415, interval, None, n_images=3, n_patients=3)
    assert str(study_report.score_cell(Score("bf1", summary, "i0", (), 0))) == shown


def test_a_comparison_is_the_difference_of_two_means(done: tuple[Path, str, str]) -> None:
    body = json.loads((done[0] / "table-3.json").read_text())
    without, with_pfm = (cell["scores"] for cell in body["cells"])
    assert [each["score"] for each in body["comparisons"]] == ["dice_macro", "bf1"]
    for each in body["comparisons"]:
        means = [scores[each["score"]]["ours"]["mean"] for scores in (without, with_pfm)]
        assert each["mean"] == pytest.approx(means[0] - means[1])
        assert each["p"] <= each["holm_p"] <= 2 * each["p"]


def test_a_repeated_study_trains_nothing_and_returns_the_same_results(
    done: tuple[Path, str, str], images: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, _, _ = done
    before = (out / "table-3.json").read_bytes()

    def refuse(*_: object) -> None:
        raise AssertionError("this step was complete")

    monkeypatch.setattr(Learner, "step", refuse)
    monkeypatch.setattr(trials.TrialRunner, "_trial", refuse)
    code, said, err = _bench(*_command(images, data, out, "--json", "--datasets", "tnbc"))
    assert code == 0, err
    second, first = json.loads(said), json.loads(before)
    assert second["cells"] == first["cells"]
    assert second["arms"] == first["arms"]
    assert (second["missing"], first["missing"]) == ([], ["CPM-15", "CPM-17", "Janowczyk", "Kumar"])


def test_a_signal_stops_a_study_and_the_repeated_command_resumes_it(
    images: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = Learner.step

    def stopped_at_the_third_step(self: Learner, batch) -> tuple[float, float]:
        if self.state.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return steps(self, batch)

    monkeypatch.setattr(Learner, "step", stopped_at_the_third_step)
    command = _command(images, data, tmp_path, "--steps", 4, "--datasets", "tnbc")
    code, said, err = _bench(*command, "--json")
    assert code == 143, err
    assert json.loads(said) == {
        "finished": False,
        "trained": [],
        "arms": ["CMD w/o PFM", "CMD w/ PFM"],
    }
    code, said, err = _bench(*command)
    assert code == 143, err
    assert "stopped with 1 of 2 arms trained; repeat the command to resume" in said
    monkeypatch.setattr(Learner, "step", steps)
    code, said, err = _bench(*command, "--json")
    assert code == 0, err
    assert [each["steps"] for each in json.loads(said)["arms"]] == [4, 4]


ERRORS = {
    "table": (("--table", 4), "--table 4: choose one of 1, 2, 3"),
    "scale": (("--scale", "huge"), "--scale 'huge' is not one of mini, paper"),
    "no data set": (("--data", "nowhere"), "none of the paper's data sets"),
    "unknown set": (("--datasets", "tnbc,tnbd"), "unknown dataset 'tnbd'. Did you mean tnbc"),
    "no condition": (("--condition", "none"), "--condition none: the study has conditioned arms"),
    "condition": (("--condition", "cmd-s"), "there are no weights for cmd-s"),
    "vae": (("--vae", "sd-vae"), "all arms of Table 3 take pixels"),
    "crops": (("--crop-px", 36), "multiple of 8"),
    "epochs": (("--epochs", 0), "--epochs: give a positive number"),
    "folds": (("--folds", 99), "Choose a number from 2 to 10"),
    "backbone": (("--backbone", "rgb"), "rgb cannot be pretrained;"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_invalid_options_raise_before_any_training(
    images: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("BENCH_DATA", raising=False)
    options, message = ERRORS[case]
    code, out, err = _bench(*_command(images, data, tmp_path / "out"), *options, "--json")
    assert code == 2
    assert message in " ".join(err.split())
    assert json.loads(out)["error"]
    assert not list((tmp_path / "out").rglob("*.*"))
