"""The command as a user meets it: run, found again, listed, and every complaint with its cure."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from tiny import CommandResult

from bench.api import Labelled
from bench.cli.main import main
from bench.data.folder import write


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def data(home) -> Path:
    """A data directory with one small set of bright squares, named after a known data set."""
    write(_squares(), home / "data" / "tnbc", about="squares")
    return home / "data"


def _squares() -> list[Labelled]:
    rng = np.random.default_rng(0)
    samples = []
    for number in range(12):
        instances = np.zeros((48, 56), np.uint16)
        for label, (y, x) in enumerate(rng.integers(2, 38, (4, 2)), start=1):
            instances[y : y + 8, x : x + 8] = label
        image = rng.integers(150, 220, (48, 56, 3)).astype(np.uint8)
        image[instances > 0] -= 100
        split = "train" if number < 6 else "test"
        samples.append(Labelled(f"i{number:02}", image, instances, split, f"p{number}"))
    return samples


@pytest.fixture
def bench(home, data, monkeypatch):
    """Call the command as a shell does, without the seconds that a new process takes."""

    def call(*words: str, **environment: str) -> CommandResult:
        for name, value in {**_environment(home, data), **environment}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["bench", *words])
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as stop:
            main()
        return CommandResult(int(stop.value.code or 0), out.getvalue(), err.getvalue())

    return call


def _environment(home: Path, data: Path) -> dict[str, str]:
    return {
        "BENCH_DATA": str(data),
        "BENCH_CACHE": str(home / "cache"),
        "BENCH_RESULTS": str(home / "results"),
        "HF_HUB_OFFLINE": "1",
    }


def _child(words: tuple[str, ...], environment: dict[str, str]) -> CommandResult:
    """Call the command in a process of its own."""
    command = [sys.executable, "-m", "bench", *words]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | environment, check=False
    )
    return CommandResult(done.returncode, done.stdout, done.stderr)


RGB = ("run", "--backbone", "rgb", "--dataset", "tnbc", "--folds", "0")
RGB += ("--epochs", "30", "--lr", "0.1")


@pytest.fixture
def probed(bench) -> CommandResult:
    """The run that most tests look at; after the first time it is found, not made."""
    return bench(*RGB, "--input-px", "48", "--save-masks", "--json")


def test_a_run_scores_every_test_image_and_says_where_the_record_lies(probed, home):
    assert probed.code == 0, probed.err
    told = probed.run
    dice = told["scores"]["dice"]
    assert dice["mean"] > 0.9
    assert dice["ci_low"] <= dice["mean"] <= dice["ci_high"]
    assert (dice["n_images"], dice["n_patients"]) == (6, 6)
    run_id = told["run_id"]
    assert (home / "results" / "runs" / run_id[:2] / run_id / "record.json").is_file()


def test_saved_masks_recount_to_the_same_dice(probed, home, data):
    run_id = probed.run["run_id"]
    masks = home / "results" / "runs" / run_id[:2] / run_id / "masks"
    dice = []
    for path in sorted(masks.glob("*.png")):
        found = np.asarray(Image.open(path))
        truth = np.asarray(Image.open(data / "tnbc" / "labels" / path.name)) > 0
        assert set(np.unique(found)) <= {0, 255}
        assert found.shape == truth.shape
        found = found > 0
        dice.append(2 * (found & truth).sum() / (found.sum() + truth.sum()))
    assert len(dice) == 6
    assert np.mean(dice) == pytest.approx(probed.run["scores"]["dice"]["mean"], abs=1e-12)


def test_the_same_command_finds_the_run_and_force_makes_another_beside_it(bench, probed, home):
    again = bench(*RGB, "--input-px", "48", "--json").run
    assert again["run_id"] == probed.run["run_id"]
    assert again["context"] == probed.run["context"]
    forced = bench(*RGB, "--input-px", "48", "--force", "--json").run
    assert forced["run_id"] != probed.run["run_id"]
    assert forced["scores"] == probed.run["scores"]
    records = list((home / "results").glob("runs/*/*/record.json"))
    assert {forced["run_id"], probed.run["run_id"]} <= {path.parent.name for path in records}


def test_a_run_takes_its_options_from_a_file_and_the_command_line_overrides_them(
    bench, probed, tmp_path
):
    path = tmp_path / "run.toml"
    path.write_text(
        'backbone = "rgb"\ndataset = "tnbc"\nfolds = 0\nepochs = 2\nlr = 0.1\ninput-px = 48\n'
    )
    words = ("--config", str(path), "--epochs", "30", "--json")
    assert bench("run", *words).run["run_id"] == probed.run["run_id"]
    path.write_text('shots = "two"\n')
    assert "shots = 'two' is not an integer" in bench("run", "--config", str(path)).err


def test_the_document_of_a_run_names_what_was_run(probed):
    run = probed.run
    assert (run["backbone"], run["dataset"], run["protocol"]) == ("rgb", "tnbc", "linear-probe")
    assert {"run_id", "scores"} <= run.keys()


def test_quiet_is_valid_before_and_after_the_command(bench, probed):
    command = (*RGB, "--input-px", "48")
    before, after = bench("-q", *command), bench(*command, "-q")
    assert (before.code, after.code) == (0, 0)
    assert before.out == after.out
    assert bench(*command, "-q", "-v").code == 2


def test_short_help_and_the_version(bench):
    for words in ((), ("run",), ("datasets",), ("datasets", "check")):
        assert "Usage" in bench(*words, "-h").out
    assert bench("--version").out == "bench 0.1.0\n"


@pytest.mark.fault(31)
def test_two_processes_write_the_same_record_to_the_byte(home, data):
    command = ("run", "--backbone", "random-vit-s", "--dataset", "tnbc", "--epochs", "2")
    command += ("--head", "light", "--protocol", "full", "--input-px", "48", "--json")
    command += ("--folds", "0")
    for name in ("one", "two"):
        own = _environment(home, data) | {"BENCH_RESULTS": str(home / name)}
        told = _child(command, own)
        assert told.code == 0, told.err
    files = [next((home / name).glob("runs/*/*/record.json")) for name in ("one", "two")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_few_shot_run_keeps_its_support_sets_and_shares_them_between_backbones(bench):
    shared = ("--dataset", "tnbc", "--protocol", "fewshot", "--shots", "2", "--draws", "3")
    shared += ("--folds", "0")
    shared += ("--epochs", "3", "--head", "linear", "--json")
    told = [
        bench("run", "--backbone", name, "--input-px", "48", *shared).run
        for name in ("rgb", "random-vit-s")
    ]
    supports = [[trial["train"] for trial in each["trials"]] for each in told]
    assert supports[0] == supports[1]
    assert [len(each) for each in supports[0]] == [2, 2, 2]
    assert told[0]["scores"]["dice"]["spread_over_draws"] is not None


def test_folds_score_every_image(bench):
    told = bench(*RGB, "--input-px", "48", "--folds", "3", "--json").run
    assert told["scores"]["dice"]["n_images"] == 12
    assert told["spec"]["protocol"]["folds"] == 3


def test_the_tiles_view_scores_at_native_size(bench):
    command = (*RGB, "--input-px", "32", "--view", "tiles", "--json")
    told = bench(*command)
    assert told.code == 0, told.err
    assert told.run["scores"]["dice"]["mean"] > 0.9


def test_cached_features_give_the_run_of_fresh_ones(bench, home):
    command = ("run", "--backbone", "cmd-tiny", "--weights", "random", "--dataset", "tnbc")
    command += ("--input-px", "32", "--epochs", "2", "--json")
    told = [
        bench(*command, *more, BENCH_RESULTS=str(home / name)).run
        for name, more in (("a", ()), ("b", ()), ("c", ("--no-cache",)))
    ]
    assert told[0]["scores"] == told[1]["scores"] == told[2]["scores"]
    assert "untrained" in told[0]["flags"]


def test_the_board_shows_committed_runs_best_first_and_no_smoke(bench, probed):
    bench(*RGB, "--input-px", "48", "--limit", "2", "--json")
    bench(*RGB[:-1], "0.0001", "--input-px", "48", "--json")
    board = bench("leaderboard", "--dataset", "tnbc", "--protocol", "linear-probe", "--json").json
    official = [group for group in board["groups"] if group["protocol"]["folds"] == 0]
    rows = [row for group in official for row in group["rows"]]
    means = [row["scores"]["dice"]["mean"] for row in rows]
    assert means == sorted(means, reverse=True)
    assert all("smoke" not in row["flags"] for row in rows)
    shown = bench("leaderboard")
    assert shown.code == 0
    assert "rgb" in shown.out


def test_rows_say_how_their_training_differs(bench, tmp_path):
    for epochs in ("2", "150"):
        own = ("--input-px", "48", "--epochs", epochs, "--lr", "0.001")
        bench(*RGB, *own, "--results", str(tmp_path))
    told = bench("leaderboard", "--results", str(tmp_path), COLUMNS="200")
    assert told.out.count("recipe paper · ") == 1
    assert told.out.count("recipe paper, epochs 2 · ") == 1


def test_a_known_set_named_by_its_path_is_the_known_set(bench, data, tmp_path):
    own = ("--epochs", "1", "--results", str(tmp_path), "--json")
    named = bench(*RGB, *own).run
    by_path = bench(*RGB[:3], "--dataset", str(data / "tnbc"), *RGB[5:], *own).run
    assert named["run_id"] == by_path["run_id"]
    assert named["spec"]["view"]["px"] == 512


@pytest.mark.fault(30)
def test_an_empty_store_says_what_to_do(bench, tmp_path):
    told = bench("leaderboard", "--results", str(tmp_path))
    assert told.code == 0
    assert "`bench run` creates one" in " ".join(told.out.split())


@pytest.mark.parametrize("kind", ["backbones", "heads", "datasets", "protocols", "metrics"])
def test_list_names_every_plug_in(bench, kind):
    told = bench("list", kind, "--json").json
    assert {row["name"] for row in told[kind]}
    assert told["broken"] == []


def test_describe_counts_without_weights(bench):
    told = bench("describe", "cmd-l", "--cond-dim", "1024", "--head", "light", "--json").json
    assert told["parameters"] == 516_706_819
    assert told["head_parameters"] == 7_147_266
    wanted = "backbone parameters trainable_parameters head head_parameters channels strides"
    wanted += " input_size mean std license weights gated trained_on"
    assert list(told) == wanted.split()


@pytest.mark.fault(23)
def test_doctor_reports_and_never_shows_the_token(bench):
    told = bench("doctor", "--json", HF_TOKEN="hf_canaryCanaryCanary")
    assert "canary" not in told.out + told.err
    findings = {check["name"]: check for check in json.loads(told.out)}
    assert findings["hub token"]["result"] == "present"
    assert findings["data set tnbc"]["ok"]


COMPLAINTS = {
    "unknown backbone": (("run", "--backbone", "cmd-tinny"), "cmd-tiny"),
    "unknown data set": (("run", "--dataset", "tnbcc"), "tnbc"),
    "unknown protocol": (("run", "--protocol", "few-shot"), "fewshot"),
    "unknown head": (("run", "--protocol", "full", "--head", "liner"), "linear"),
    "head against protocol": (("run", "--head", "light"), "--protocol full"),
    "no weights": (("run", "--backbone", "cmd-l"), "--weights random"),
    "no checkpoint there": (("run", "--checkpoint", "nowhere.safetensors"), "nowhere"),
    "too many shots": ((*RGB, "--protocol", "fewshot", "--shots", "7"), "at most 6"),
    "shots of no use": (("run", "--shots", "3"), "--shots"),
    "a learning rate without end": (("run", "--lr", "inf"), "--lr"),
    "no width": (("run", "--option", "cond_dim=0"), "cond_dim"),
    "no such board": (("leaderboard", "--board", "best"), "leaderboards"),
    "no such data here": (("run", "--dataset", "kumar"), "--data"),
    "side does not fit": (("run", "--input-px", "42"), "--input-px 40"),
    "a bad number": (("run", "--epochs", "0"), "--epochs"),
    "a bad view": (("run", "--view", "half"), "whole"),
    "a bad option": (("run", "--option", "t"), "KEY=VALUE"),
    "an unknown option": (("run", "--option", "timestop=3"), "timestep"),
    "an unknown device": (("run", "--device", "tpu"), "auto, cpu, cuda, cuda:N, mps"),
    "no such cuda device": (("run", "--device", "cuda:99"), "--device cuda:99"),
    "unknown metric": (("leaderboard", "--metric", "dicee"), "dice"),
    "unknown interval": ((*RGB, "--input-px", "48", "--ci", "wald"), "expanded"),
    "unknown kind": (("list", "backbone"), "backbones"),
}


@pytest.mark.parametrize("case", COMPLAINTS)
def test_a_wrong_request_ends_with_2_and_names_the_cure(bench, case):
    words, cure = COMPLAINTS[case]
    told = bench(*words)
    assert told.code == 2
    assert cure in told.err
    assert json.loads(bench(*words, "--json").out)["error"]


def test_missing_weights_name_the_three_cures(bench):
    told = bench("run", "--backbone", "cmd-l")
    for cure in ("--checkpoint", "bench pretrain --backbone cmd-l", "--weights random"):
        assert cure in told.err


@pytest.mark.fault(9)
def test_results_that_cannot_be_written_are_refused_before_any_work(bench, tmp_path):
    (tmp_path / "taken").write_text("")
    told = bench(*RGB, "--results", str(tmp_path / "taken"))
    assert told.code == 2
    assert "cannot write" in told.err


def _damage(data: Path, folder: Path) -> Path:
    shutil.copytree(data / "tnbc", folder / "set")
    return folder / "set"


@pytest.mark.fault(13)
def test_a_truncated_image_is_refused_by_name(bench, data, tmp_path):
    folder = _damage(data, tmp_path)
    image = folder / "images" / "i07.png"
    image.write_bytes(image.read_bytes()[:200])
    told = bench("run", "--backbone", "rgb", "--dataset", str(folder))
    assert told.code == 2
    assert "i07.png" in told.err
    assert bench("datasets", "check", str(folder)).code == 2


@pytest.mark.fault(14)
def test_a_mask_of_another_size_and_a_missing_label_are_refused_by_name(bench, data, tmp_path):
    folder = _damage(data, tmp_path)
    Image.fromarray(np.zeros((10, 10), np.uint16)).save(folder / "labels" / "i03.png")
    (folder / "labels" / "i04.png").unlink()
    told = bench("run", "--backbone", "rgb", "--dataset", str(folder))
    assert told.code == 2
    assert "i03.png" in told.err or "i04.png" in told.err
    problems = bench("datasets", "check", str(folder), "--json").json["problems"]
    assert any("i03" in each for each in problems)
    assert any("i04" in each for each in problems)


def test_a_data_set_is_checked_by_its_name(bench, data, tmp_path):
    told = bench("datasets", "check", "tnbc")
    assert told.code == 0
    assert "0 problems in" in told.out
    assert bench("datasets", "check", "tnbc", "--data", str(data)).code == 0
    assert "--data" in bench("datasets", "check", "tnbc", BENCH_DATA=str(tmp_path)).err
    assert "built in" in bench("datasets", "check", "synthetic").err
    (_damage(data, tmp_path) / "labels" / "i04.png").unlink()
    told = bench("datasets", "check", str(tmp_path / "set"))
    assert told.code == 2
    assert "1 problem in" in told.out


def test_an_option_of_another_protocol_names_that_protocol(bench):
    told = bench("run", "--backbone", "rgb", "--shots", "5")
    assert told.code == 2
    assert "'linear-probe' takes no --shots; --protocol fewshot does" in told.err


def test_a_package_that_is_not_installed_is_told(bench, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert bench("init", "backbone", "my_fm").code == 0
    for name in ("my_fm", "my-fm"):
        told = bench("run", "--backbone", name)
        assert told.code == 2
        assert "pip install -e ./bench-my-fm" in " ".join(told.err.split())
    assert bench("run", "--backbone", "x" * 400).code == 2


def test_a_misspelt_head_is_told_as_that_and_not_as_the_wrong_protocol(bench):
    told = bench("run", "--backbone", "rgb", "--head", "lineer", "--limit", "1")
    assert told.code == 2
    assert "unknown head 'lineer'. Did you mean linear?" in " ".join(told.err.split())


def test_weights_that_come_with_a_package_are_described_as_that(bench):
    told = json.loads(bench("describe", "cmd-tiny", "--json").out)
    assert told["weights"] == "cmd-tiny.safetensors, part of the package bench.backbones.cmd"


def test_an_empty_data_folder_is_a_clear_error(bench, tmp_path):
    told = bench("run", "--backbone", "rgb", "--dataset", str(tmp_path))
    assert told.code == 2
    assert "is empty" in told.err


@pytest.mark.fault(12)
def test_a_loss_that_is_not_finite_fails_the_run_and_the_board_tells(bench, tmp_path):
    told = bench(*RGB[:-1], "1e30", "--input-px", "48", "--results", str(tmp_path))
    assert told.code == 1
    assert "step" in told.err
    assert not list(tmp_path.glob("runs/*/*/record.json"))
    assert "failed run" in bench("leaderboard", "--results", str(tmp_path)).err


@pytest.mark.fault(25)
def test_help_and_the_leaderboard_import_no_torch(home):
    code = (
        "import sys; from bench.cli.main import app; app(['leaderboard'], standalone_mode=False); "
    )
    code += "assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=home, check=False)
    assert done.returncode == 0, done.stderr


def test_a_backbone_is_checked_and_a_broken_one_ends_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from bench import testing
    from bench.cli import main as cli_main

    cli_main.app(["check", "rgb"], standalone_mode=False)
    assert capsys.readouterr().out == "rgb: ok\n"
    monkeypatch.setattr(testing, "check_backbone", lambda name: [f"{name} gives no maps"])
    with pytest.raises(typer.Exit) as ended:
        cli_main.check("rgb", as_json=True)
    assert ended.value.exit_code == 1
    assert json.loads(capsys.readouterr().out)["problems"] == ["rgb gives no maps"]
