"""`bench study`: the arms, the printed numbers, and a study from end to end."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator, Mapping
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
import torch
from small_pretraining import write_tiles
from tiny import bench
from torch import Tensor, nn

from bench import registry
from bench.api import Backbone, Labelled
from bench.api.nn import FeatureExtractor
from bench.api.run_config import RunConfig
from bench.data.folder import write
from bench.models.conditioner import Conditioner
from bench.paper.config import StudyConfig
from bench.paper.published import printed
from bench.paper.study import PAPER_SETS, SCALES, TABLES, Study, study_of
from bench.pretrain.step import Learner
from bench.runs import trials


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
    varied = {
        name for name in all_settings[0] if len({settings[name] for settings in all_settings}) > 1
    }
    assert varied == {1: {"arch"}, 2: {"space"}, 3: {"condition"}}[table.number]
    assert len({study.pretraining(arm).out for arm in table.arms}) == len(table.arms)
    assert table.reference in table.arms


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
    sides = {config.input_px for config in requests if config != two["High-res VAE latent"]}
    assert (sides, two["High-res VAE latent"].input_px) == ({None}, 512)
    assert {config.protocol for config in requests} == {"linear-probe"}


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


# ---- the printed numbers ---------------------------------------------------------------------


def test_printed_numbers_match_the_paper() -> None:
    one, two, three = (printed("cmd_paper", number) for number in (1, 2, 3))
    transcribed = {
        (63.25, 59.34, 67.16): three["CMD w/ PFM", "CPM-15", "Dice"],
        (5.15, 3.36, 7.34): one["DiT", "Janowczyk", "BF1"],
        (22.43, 19.24, 24.80): two["High-res VAE latent", "TNBC", "BF1"],
    }
    for percents, cell in transcribed.items():
        assert astuple(cell) == pytest.approx([percent / 100 for percent in percents])


@pytest.mark.parametrize("table", TABLES, ids=lambda table: f"table {table.number}")
def test_every_cell_of_a_table_is_present_and_inside_its_interval(table) -> None:
    cells = printed("cmd_paper", table.number)
    rows = {(arm.name, name) for arm in table.arms for name in PAPER_SETS.values()}
    assert set(cells) == {(*row, score) for row in rows for score in ("Dice", "BF1")}
    assert all(0 < cell.low <= cell.mean <= cell.high < 1 for cell in cells.values())


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


@pytest.fixture(scope="module", autouse=True)
def _painter() -> Iterator[None]:
    """Register a backbone that trains quickly."""
    painter = Backbone("painter", _extractor, network=_network, input_px=32)
    with pytest.MonkeyPatch.context() as patch:
        found = registry.catalogue("backbones").found
        patch.setitem(found, "painter", [registry.LoadedPlugin(painter, "this test")])
        yield


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
        result = bench(*_command(images, data, out))
    assert result.code == 0, result.err
    return out, result.out, result.err


def test_a_study_shows_both_scores_in_120_columns(done: tuple[Path, str, str]) -> None:
    _, out, err = done
    rows = out.splitlines()
    assert max(map(len, rows)) <= 120
    (row,) = (row for row in rows if "73.51 [68.28, 80.45]" in row)
    assert "75.63 [66.74, 86.52]" in row
    assert row.count("[") == 4
    assert "CPM-15, CPM-17, Janowczyk, Kumar" in err
    text = " ".join(out.split())
    assert "every arm is painter after 2 steps of 2 crops from the same 5 images" in text
    assert "little about the paper's results" in text


def test_a_study_is_saved_as_json_and_markdown(done: tuple[Path, str, str]) -> None:
    out, _, _ = done
    body = json.loads((out / "table-3.json").read_text())
    arms = body["arms"]
    assert [arm["name"] for arm in arms] == ["CMD w/o PFM", "CMD w/ PFM"]
    assert [arm["parameters"] for arm in arms] == [112 + 15, 112 + 15 + 4 * (3 + 1)]
    assert [arm["condition"] for arm in arms] == ["none", "rgb"]
    for arm in arms:
        assert (out / arm["folder"] / "model.safetensors").is_file()
        assert set(arm["held_out"]) == {"l1", "psnr", "ssim"}
    assert body["cells"][1]["scores"]["dice_macro"]["paper"]["mean"] == 0.7351
    assert body["cells"][1]["scores"]["bf1"]["ours"]["n_patients"] == 6
    page = (out / "table-3.md").read_text()
    assert page.count("| TNBC | CMD w/ PFM | 73.51 [68.28, 80.45] |") == 1
    assert not (out / "cache").exists()


def test_a_comparison_is_the_difference_of_two_means(done: tuple[Path, str, str]) -> None:
    body = json.loads((done[0] / "table-3.json").read_text())
    without, with_pfm = (cell["scores"] for cell in body["cells"])
    assert [comparison["score"] for comparison in body["comparisons"]] == ["dice_macro", "bf1"]
    for comparison in body["comparisons"]:
        means = [scores[comparison["score"]]["ours"]["mean"] for scores in (without, with_pfm)]
        assert comparison["mean"] == pytest.approx(means[0] - means[1])
        assert comparison["p"] <= comparison["holm_p"] <= 2 * comparison["p"]


def test_a_repeated_study_trains_nothing_and_returns_the_same_results(
    done: tuple[Path, str, str], images: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, _, _ = done
    before = (out / "table-3.json").read_bytes()

    def refuse(*_: object) -> None:
        raise AssertionError("this step was complete")

    monkeypatch.setattr(Learner, "step", refuse)
    monkeypatch.setattr(trials.TrialRunner, "_trial", refuse)
    result = bench(*_command(images, data, out, "--json", "--datasets", "tnbc"))
    assert result.code == 0, result.err
    second, first = result.json, json.loads(before)
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
    result = bench(*command, "--json")
    assert result.code == 143, result.err
    assert result.json == {"finished": False, "trained": [], "arms": ["CMD w/o PFM", "CMD w/ PFM"]}
    result = bench(*command)
    assert result.code == 143, result.err
    assert "stopped with 1 of 2 arms trained; repeat the command to resume" in result.out
    monkeypatch.setattr(Learner, "step", steps)
    result = bench(*command, "--json")
    assert result.code == 0, result.err
    assert [arm["steps"] for arm in result.json["arms"]] == [4, 4]


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
    result = bench(*_command(images, data, tmp_path / "out"), *options, "--json")
    assert result.code == 2
    assert message in " ".join(result.err.split())
    assert result.json["error"]
    assert not list((tmp_path / "out").rglob("*.*"))
