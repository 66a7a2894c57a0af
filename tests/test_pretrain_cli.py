"""`bench pretrain` as a user meets it: trained, stopped, gone on with, used, refused."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from bench.cli.main import main
from bench.models.checkpoints import read_container
from bench.models.load import open_backbone
from bench.pretrain.probe import Probe

Call = Callable[..., tuple[int, str, str]]  # exit code, standard output, standard error


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiles")
    rng = np.random.default_rng(0)
    for number in range(6):
        place = folder / ("open" if number < 3 else "closed") / f"{number}.png"
        place.parent.mkdir(exist_ok=True)
        pixels = rng.integers(0, 255, (4, 4, 3)).astype(np.uint8).repeat(9, 0).repeat(9, 1)
        Image.fromarray(pixels).save(place)
    return folder


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Call:
    """Call the command as a shell does, without the seconds that a new process takes."""

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["bench", *map(str, words)])
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as stop:
            main()
        return int(stop.value.code or 0), out.getvalue(), err.getvalue()

    return call


SMALL = ("--crop-px", 32, "--batch-size", 2, "--held-out", 1, "--ema", 0.5, "--lr", 1e-3)
SMALL += ("--precision", "fp32")


def _command(images: Path, out: Path, steps: int, *more: object) -> tuple[object, ...]:
    return ("pretrain", "--images", images, "--out", out, "--steps", steps, *SMALL, *more)


def test_a_training_says_how_it_went_and_its_weights_run(
    bench: Call, images: Path, tmp_path: Path
) -> None:
    code, out, err = bench(*_command(images, tmp_path / "out", 2))
    assert code == 0, err
    assert "of 5 images examined, 5 have a shorter side" not in err  # 36 px are more than 32
    assert "step 2: loss " in out
    assert "1 held-out images: L1 " in out
    assert f"bench run --backbone cmd-tiny --checkpoint {tmp_path / 'out'}" in out
    run = ("run", "--backbone", "cmd-tiny", "--checkpoint", tmp_path / "out", "--limit", 2)
    run += ("--input-px", 32, "--epochs", 1, "--results", tmp_path / "results", "--no-cache")
    code, out, err = bench(*run, "--json")
    assert code == 0, err
    told = json.loads(out)
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert told["spec"]["backbone"]["weights"] == f"sha256:{card['weights_sha256']}"
    assert "untrained" not in told["flags"]


def test_the_same_command_goes_on_and_prints_one_json_document(
    bench: Call, images: Path, tmp_path: Path
) -> None:
    code, out, _ = bench(*_command(images, tmp_path, 1, "--only", "open", "--json"))
    assert code == 0
    first = json.loads(out)
    assert first["card"]["images"]["sources"] == {"open": 3}
    code, out, _ = bench(*_command(images, tmp_path, 2, "--only", "open", "--json"))
    told = json.loads(out)
    assert (code, told["step"], told["finished"]) == (0, 2, True)
    assert told["held_out"] == told["card"]["held_out"] != first["held_out"]
    code, _, err = bench(*_command(images, tmp_path, 2))
    assert code == 2
    assert "only was ['open'], now []" in err


HOLD = """
import sys
from pathlib import Path
from bench.store.locks import locked
with locked(Path(sys.argv[1]) / "in-use.lock", lambda: None):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.fault(4)
def test_two_processes_cannot_train_into_one_folder(
    bench: Call, images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    own = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", HOLD, str(out)], **own) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        code, told, err = bench(*_command(images, out, 1, "--json"))
        assert code == 2
        assert "another process is training into" in json.loads(told)["error"]
        assert "--out" in err
        assert [path.name for path in out.iterdir()] == ["in-use.lock"]
        holder.kill()  # its lock ends with it
    code, _, err = bench(*_command(images, out, 1))
    assert code == 0, err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_a_checkpoint_and_the_same_command_goes_on(
    bench: Call, images: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    out = tmp_path / "out"
    command = _command(images, out, 100_000, "--keep", 1)
    child = subprocess.Popen(
        [sys.executable, "-m", "bench", *map(str, command), "--save-every", "2"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    while not list(out.glob("checkpoints/step-*.pt")) and child.poll() is None:
        signal.sigtimedwait([], 0.1)
    child.send_signal(number)
    told, _ = child.communicate(timeout=60)
    assert child.returncode == code
    stopped = int(next(out.glob("checkpoints/step-*.pt")).stem[5:])
    assert f"stopped after step {stopped}; the same command goes on" in told
    rows = (out / "log.csv").read_text().splitlines()
    assert len(rows) == stopped + 1
    done, said, err = bench(*_command(images, out, stopped + 1, "--json"))
    assert done == 0, err
    assert json.loads(said)["step"] == stopped + 1
    again = bench(*_command(images, out, stopped + 1))[1]
    assert f"all {stopped + 1} steps were done before" in again


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (("--objective", "ddpm"), ""),
        (("--objective", "ddpm-epsilon", "--recompute"), ""),
        (("--arch", "dit"), " --option arch=dit"),
        (("--arch", "attention-unet"), " --option arch=attention-unet"),
    ],
)
def test_an_arm_of_a_study_is_trained_and_the_command_that_reads_it_is_told(
    bench: Call, images: Path, tmp_path: Path, words: tuple[str, ...], option: str
) -> None:
    code, out, err = bench(*_command(images, tmp_path, 2, *words, "--export", "bf16"))
    assert code == 0, err
    assert out.splitlines()[-1].endswith(f"--checkpoint {tmp_path}{option}")
    backbone = open_backbone("cmd-tiny", checkpoint=tmp_path, options=_options(words))
    state = load_file(tmp_path / "model.safetensors")
    assert {each.dtype for each in state.values()} == {torch.bfloat16}
    assert sum(each.numel() for each in state.values()) == sum(
        each.numel() for each in backbone.extractor.parameters()
    )


def _options(words: tuple[str, ...]) -> dict[str, str]:
    return {"arch": words[1]} if words[0] == "--arch" else {}


def test_a_linear_probe_is_made_now_and_then_and_told(
    bench: Call, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Probe, "__call__", lambda self, weights, progress: _score(0.25))
    words = ("--probe", "synthetic", "--probe-every", 2)
    code, out, err = bench(*_command(images, tmp_path, 3, *words))
    assert code == 0, err
    assert "linear probe on synthetic: dice 0.250" in out
    with (tmp_path / "log.csv").open() as file:
        assert [row["probe_dice"] for row in csv.DictReader(file)] == ["", "0.25", "0.25"]
    card = json.loads((tmp_path / "card.json").read_text())
    assert card["probe"] == {"dataset": "synthetic", "protocol": "linear-probe", "dice": 0.25}


def _score(mean: float) -> SimpleNamespace:
    return SimpleNamespace(summary=SimpleNamespace(mean=mean))


COMPLAINTS = {
    "another backbone": (("--backbone", "dinov2-s"), "cmd-b, cmd-l, cmd-s, cmd-tiny"),
    "unknown backbone": (("--backbone", "cmd-tinny"), "cmd-tiny"),
    "no folder": (("--images", "nowhere"), "there is no folder nowhere"),
    "no such source": (("--only", "shut"), "closed, open"),
    "batch": (("--accumulate", 3), "a divisor of --batch-size 2"),
    "decay": (("--ema", 1), "from 0 to below 1"),
    "schedule": (("--schedule", "t"), "t/(T+1) or t/T"),
    "precision": (("--precision", "fp16"), "fp32 or bf16"),
    "patches": (("--crop-px", 36), "multiple of 8"),
    "network": (("--crop-px", 40), "divisible by 32"),
    "form": (("--arch", "vit"), "convnext, dit"),
    "space": (("--space", "frequency"), "pixel, latent, latent-hires"),
    "objective": (("--objective", "gan"), "masked, ddpm, ddpm-epsilon"),
    "ignored schedule": (("--objective", "ddpm", "--schedule", "t/T"), "--schedule has no effect"),
    "ignored similarity": (("--objective", "ddpm", "--ssim-weight", 1), "--ssim-weight has no"),
    "ignored vae": (("--vae", "random"), "--vae has no effect with --space pixel"),
    "one process": (("--shard",), "start them with torchrun"),
    "probe": (("--probe", "nosuchset"), "nosuchset"),
    "upload": (("--push-to-hub", "no-owner"), "OWNER/NAME"),
    "export": (("--export", "fp8"), "fp32 or bf16"),
    "held out": (("--held-out", 6), "leaves none of 6 images"),
    "condition": (("--condition", "cmd-s"), "there are no weights for cmd-s"),
    "steps": (("--steps", 0), "--steps 0: it must be 1 or more"),
    "device": (("--device", "tpu"), "cpu"),
}


@pytest.mark.parametrize("case", COMPLAINTS)
def test_a_wrong_request_ends_with_2_and_names_the_cure(
    bench: Call, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    words, cure = COMPLAINTS[case]
    code, out, err = bench(*_command(images, tmp_path / "out", 1), *words, "--json")
    assert code == 2
    assert cure in " ".join(err.split())
    assert json.loads(out)["error"]


@pytest.mark.parametrize("words", [("--images", "nope"), ("--crop-px", 63), ("--arch", "vit")])
def test_what_is_refused_leaves_no_folder_behind(
    bench: Call, images: Path, tmp_path: Path, words: tuple[str, object]
) -> None:
    assert bench(*_command(images, tmp_path / "new" / "out", 1), *words)[0] == 2
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "own").mkdir()
    assert bench(*_command(images, tmp_path / "own", 1), *words)[0] == 2
    assert list(tmp_path.iterdir()) == [tmp_path / "own"]


def test_a_folder_that_cannot_be_written_is_refused_before_any_work(
    bench: Call, images: Path, tmp_path: Path
) -> None:
    (tmp_path / "taken").write_text("")
    code, _, err = bench(*_command(images, tmp_path / "taken", 1))
    assert code == 2
    assert "cannot write" in err


def test_a_loss_that_is_not_finite_ends_with_1(bench: Call, images: Path, tmp_path: Path) -> None:
    command = _command(images, tmp_path, 30, "--lr", "1e30", "--save-every", 1)
    code, out, err = bench(*command, "--json")
    assert code == 1
    assert "the run failed: at step 2 " in err
    assert "step-00000001.pt" in json.loads(out)["error"]


def test_a_conditioned_training_names_its_condition(
    bench: Call, images: Path, tmp_path: Path
) -> None:
    command = _command(images, tmp_path, 1, "--condition", "random-vit-s", "--json")
    code, out, err = bench(*command)
    assert code == 0, err
    card = json.loads(out)["card"]
    assert (card["condition"], card["cond_dim"]) == ("random-vit-s", 384)
    kept = read_container(next(tmp_path.glob("checkpoints/*.pt")))
    assert isinstance(kept, dict)
    assert any(".feature." in name for name in kept["model"])
    assert not any("vit" in name or "conditioner" in name for name in kept["network"])
