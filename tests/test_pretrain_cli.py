"""`bench pretrain` on the command line: train, stop, resume, evaluate the weights; errors."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from small_pretraining import newest, write_tiles

from bench.api.options import options
from bench.models.checkpoints import read_container
from bench.models.load import open_backbone
from bench.pretrain.config import PretrainConfig
from bench.pretrain.masking import SCHEDULES
from bench.pretrain.probe import Probe

Pretrain = Callable[..., tuple[int, str, str]]  # exit code, standard output, standard error
SMALL = ("--crop-px", 32, "--batch-size", 2, "--held-out", 1, "--ema", 0.5, "--lr", 1e-3)
SMALL += ("--precision", "fp32")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiles")
    for name in ("open", "closed"):
        write_tiles(folder / name, count=3)
    return folder


def _words(images: Path, out: Path, steps: int, *more: object) -> list[str]:
    words = ("pretrain", "--images", images, "--out", out, "--steps", steps, *SMALL, *more)
    return [str(word) for word in words]


@pytest.fixture
def pretrain(command: Callable[..., tuple[int, str, str]], images: Path) -> Pretrain:
    return lambda out, steps, *more: command(*_words(images, out, steps, *more))


def test_trained_weights_can_be_evaluated(
    pretrain: Pretrain, command: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    code, out, err = pretrain(tmp_path / "out", 2)
    assert code == 0, err
    assert "step 2: loss " in out
    assert "1 held-out images: L1 " in out
    assert f"bench run --backbone cmd-tiny --checkpoint {tmp_path / 'out'}" in out
    run = ("run", "--backbone", "cmd-tiny", "--checkpoint", str(tmp_path / "out"), "--limit", "2")
    run += ("--input-px", "32", "--epochs", "1", "--results", str(tmp_path / "results"))
    code, out, err = command(*run, "--no-cache", "--json")
    assert code == 0, err
    (record,) = json.loads(out)["runs"]
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert record["spec"]["backbone"]["weights"] == f"sha256:{card['weights_sha256']}"
    assert "untrained" not in record["flags"]


def test_the_same_command_resumes_and_prints_one_json_document(
    pretrain: Pretrain, tmp_path: Path
) -> None:
    code, out, _ = pretrain(tmp_path, 1, "--only", "open", "--json")
    assert code == 0
    first = json.loads(out)
    assert first["card"]["images"]["sources"] == {"open": 3}
    code, out, _ = pretrain(tmp_path, 2, "--only", "open", "--json")
    second = json.loads(out)
    assert (code, second["step"], second["finished"]) == (0, 2, True)
    assert second["held_out"] == second["card"]["held_out"] != first["held_out"]
    code, _, err = pretrain(tmp_path, 2)
    assert code == 2
    assert "only was ['open'], now []" in err


LOCK = """
import sys
from pathlib import Path
from bench.store.locks import locked
with locked(Path(sys.argv[1]) / "in-use.lock", lambda: None):
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.mark.fault(4)
def test_two_processes_cannot_train_into_one_folder(pretrain: Pretrain, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", LOCK, str(out)], **pipes) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        code, stdout, _ = pretrain(out, 1, "--json")
        assert code == 2
        assert "another process is training into" in json.loads(stdout)["error"]
        assert [path.name for path in out.iterdir()] == ["in-use.lock"]
        holder.kill()  # which releases the lock
    code, _, err = pretrain(out, 1)
    assert code == 0, err


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)],
)
def test_a_signal_saves_a_checkpoint_and_the_same_command_resumes(
    pretrain: Pretrain, images: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    out = tmp_path / "out"
    words = _words(images, out, 100_000, "--keep", 1, "--save-every", 2)
    child = subprocess.Popen(
        [sys.executable, "-m", "bench", *words],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    while not list(out.glob("checkpoints/step-*.pt")) and child.poll() is None:
        signal.sigtimedwait([], 0.1)
    child.send_signal(number)
    stdout, _ = child.communicate(timeout=60)
    assert child.returncode == code
    step = int(newest(out).stem[5:])
    assert f"stopped after step {step}; the same command resumes" in stdout
    assert len((out / "log.csv").read_text().splitlines()) == step + 1
    status, stdout, err = pretrain(out, step + 1, "--json")
    assert status == 0, err
    assert json.loads(stdout)["step"] == step + 1
    assert f"all {step + 1} steps were done before" in pretrain(out, step + 1)[1]


@pytest.mark.parametrize(
    ("words", "flags"),
    [
        ("--objective ddpm-epsilon --recompute", ""),
        ("--arch dit", " --option arch=dit"),
        pytest.param(
            "--arch attention-unet", " --option arch=attention-unet", marks=pytest.mark.slow
        ),
    ],
)
def test_a_variant_is_trained_and_its_next_command_loads_it(
    pretrain: Pretrain, tmp_path: Path, words: str, flags: str
) -> None:
    code, out, err = pretrain(tmp_path, 2, *words.split(), "--export", "bf16")
    assert code == 0, err
    assert out.splitlines()[-1].endswith(f"--checkpoint {tmp_path}{flags}")
    options = dict(word.split("=") for word in flags.split() if "=" in word)
    extractor = open_backbone("cmd-tiny", checkpoint=tmp_path, options=options).extractor
    state = load_file(tmp_path / "model.safetensors")
    assert {weight.dtype for weight in state.values()} == {torch.bfloat16}
    assert sum(map(torch.numel, state.values())) == sum(map(torch.numel, extractor.parameters()))


def test_a_conditioned_training_saves_no_weights_of_its_condition(
    pretrain: Pretrain, tmp_path: Path
) -> None:
    code, out, err = pretrain(tmp_path, 1, "--condition", "random-vit-s", "--json")
    assert code == 0, err
    card = json.loads(out)["card"]
    assert (card["condition"], card["cond_dim"]) == ("random-vit-s", 384)
    saved = read_container(newest(tmp_path))
    assert isinstance(saved, dict)
    assert any(".feature." in name for name in saved["model"])
    assert not any("vit" in name or "conditioner" in name for name in saved["network"])


def test_a_linear_probe_is_scored_at_its_interval_and_at_the_end(
    pretrain: Pretrain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score = SimpleNamespace(summary=SimpleNamespace(mean=0.25))
    monkeypatch.setattr(Probe, "__call__", lambda self, weights, progress: score)
    code, out, err = pretrain(tmp_path, 3, "--probe", "synthetic", "--probe-every", 2)
    assert code == 0, err
    assert "linear probe on synthetic: dice 0.250" in out
    with (tmp_path / "log.csv").open() as file:
        assert [row["probe_dice"] for row in csv.DictReader(file)] == ["", "0.25", "0.25"]
    card = json.loads((tmp_path / "card.json").read_text())
    assert card["probe"] == {"dataset": "synthetic", "protocol": "linear-probe", "dice": 0.25}


# ---- errors ----------------------------------------------------------------------------------


def test_the_choices_of_schedule_are_those_of_the_masking() -> None:
    assert options(PretrainConfig)["schedule"].choices == tuple(SCHEDULES)


ERRORS = {
    "another backbone": (("--backbone", "dinov2-s"), "cmd-b, cmd-l, cmd-s, cmd-tiny"),
    "no folder": (("--images", "nowhere"), "there is no folder nowhere"),
    "no such source": (("--only", "shut"), "closed, open"),
    "batch": (("--accumulate", 3), "a divisor of --batch-size 2"),
    "decay": (("--ema", 1), "from 0 to below 1"),
    "precision": (("--precision", "fp16"), "not one of fp32, bf16"),
    "patches": (("--crop-px", 36), "multiple of 8"),
    "network": (("--crop-px", 40), "divisible by 32"),
    "architecture": (("--arch", "vit"), "convnext, dit"),
    "ignored schedule": (("--objective", "ddpm", "--schedule", "t/T"), "--schedule has no effect"),
    "ignored vae": (("--vae", "random"), "--vae has no effect with --space pixel"),
    "one process": (("--shard",), "start them with torchrun"),
    "probe": (("--probe", "nosuchset"), "nosuchset"),
    "upload": (("--push-to-hub", "no-owner"), "OWNER/NAME"),
    "held out": (("--held-out", 6), "leaves none of 6 images"),
    "condition": (("--condition", "cmd-s"), "there are no weights for cmd-s"),
    "steps": (("--steps", 0), "--steps 0: it must be 1 or more"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_an_invalid_option_ends_with_2_and_leaves_no_folder(
    pretrain: Pretrain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    words, message = ERRORS[case]
    code, out, err = pretrain(tmp_path / "new" / "out", 1, *words, "--json")
    assert code == 2
    assert message in " ".join(err.split())
    assert json.loads(out)["error"]
    assert not (tmp_path / "new").exists()


def test_an_existing_folder_is_left_and_one_that_cannot_be_written_to_raises(
    pretrain: Pretrain, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    code, _, err = pretrain(tmp_path / "file", 1)
    assert code == 2
    assert "cannot write" in err
    (tmp_path / "existing").mkdir()
    assert pretrain(tmp_path / "existing", 1, "--arch", "vit")[0] == 2
    assert (tmp_path / "existing").exists()


def test_a_loss_that_is_not_finite_ends_with_1(pretrain: Pretrain, tmp_path: Path) -> None:
    code, out, err = pretrain(tmp_path, 30, "--lr", "1e30", "--save-every", 1, "--json")
    assert code == 1
    assert "the run failed: at step 2 " in err
    assert "step-00000001.pt" in json.loads(out)["error"]
