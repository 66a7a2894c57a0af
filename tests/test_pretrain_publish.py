"""Uploads contain the trained weights, no names of images, and never a token."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock, create_autospec

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from safetensors.torch import load, save_file

from bench.errors import BenchError
from bench.pretrain.export import _without_paths, command
from bench.pretrain.hub_upload import describe, publish, refuse_unless_allowed

TOKEN = "hf_secretSECRETsecret"
REPO = "jane/nuclei"
ORGS = [{"name": "lab", "roleInOrg": "write"}, {"name": "guests", "roleInOrg": "read"}]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The client of the hub; its calls are recorded and not sent."""
    client = create_autospec(huggingface_hub.HfApi, instance=True)
    client.whoami.return_value = _account({"role": "write"})
    client.create_repo.return_value = f"https://huggingface.co/{REPO}"
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: client)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: TOKEN)
    return client


def _account(token: dict[str, Any]) -> dict[str, Any]:
    return {"name": "jane", "orgs": ORGS, "auth": {"accessToken": token}}


def _uploaded(hub: Any) -> dict[str, bytes]:
    """Return the files of the only commit, by name."""
    ((repo, operations), options) = hub.create_commit.call_args
    assert (repo, options) == (REPO, {"commit_message": "cmd-tiny after 500 steps"})
    files = {}
    for operation in operations:
        with operation.as_file() as file:
            files[operation.path_in_repo] = file.read()
    return files


def _http_error(status: int) -> HfHubHTTPError:
    return HfHubHTTPError(f"refused {TOKEN}", response=Mock(status_code=status, headers={}))


CARD: dict[str, Any] = {
    "architecture": "cmd-tiny",
    "parameters": 8_218_307,
    "cond_dim": None,
    "condition": "none",
    "weights": "exponential moving average, decay 0.9999",
    "steps": 500,
    "loss": 0.1234,
    "held_out": {"l1": 0.1, "psnr": 20.0, "ssim": 0.5},
    "images": {
        "trained_on": 1200,
        "held_out": 16,
        "sources": {"patient-Miller": 1216},
        "list_sha256": "ab" * 32,
        "refused": ["patient-Miller/broken.png"],
    },
    "settings": {"backbone": "cmd-tiny", "batch_size": 32},
    "bench": "0.1.0",
    "torch": "2.15.0",
}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """The output folder of a training."""
    file = tmp_path / "model.safetensors"
    save_file({"stem.weight": torch.arange(6.0).view(2, 3)}, file)
    card = {**CARD, "weights_sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    (tmp_path / "card.json").write_text(json.dumps(card))
    return tmp_path


# ---- uploads ----------------------------------------------------------------------------


def test_weights_card_and_model_card_are_uploaded_without_names_of_images(
    hub: Any, out: Path
) -> None:
    assert publish(out, REPO, license="cc-by-nc-4.0") == f"https://huggingface.co/{REPO}"
    hub.create_repo.assert_called_once_with(REPO, private=True, exist_ok=True)
    files = _uploaded(hub)
    assert files.keys() == {"model.safetensors", "card.json", "README.md"}
    assert load(files["model.safetensors"])["stem.weight"].sum() == 15
    assert json.loads(files["card.json"])["images"] == {
        "trained_on": 1200, "held_out": 16, "list_sha256": "ab" * 32, "refused": 1,
    }  # fmt: skip
    assert not any(b"Miller" in content for content in files.values())
    assert b"Miller" in (out / "card.json").read_bytes()
    page = files["README.md"].decode()
    assert page.startswith("---\nlicense: cc-by-nc-4.0\ntags:\n- pathology\n")
    assert "bench run --backbone cmd-tiny --checkpoint nuclei\n" in page
    assert "8,218,307 parameters, 500 steps, 1,200 images" in page


def test_a_model_card_omits_licence_and_validation_if_there_are_none() -> None:
    card = CARD | {"weights_sha256": "0"}
    assert "\nlicense: mit\n" in describe(card, REPO, "mit")
    page = describe(card | {"held_out": None, "loss": None}, REPO)
    assert "license" not in page
    assert "Held-out" not in page
    assert "| unknown |" in page


@pytest.mark.parametrize(
    ("changed", "options"),
    [
        ({}, ""),
        ({"condition": "uni", "condition_weights": "sha256:1"}, " --condition uni"),
        (
            {"condition": "random-vit-s", "condition_weights": "random:0"},
            " --condition random-vit-s@random",
        ),
        (
            {"condition": "random-vit-s", "condition_weights": "random:10"},
            " --condition random-vit-s@random:10",
        ),
        ({"settings": {"arch": "dit", "space": "pixel"}}, " --option arch=dit"),
        (
            {"settings": {"arch": "convnext", "space": "latent", "vae": "sd-vae"}},
            " --option space=latent",
        ),
        (
            {"settings": {"space": "latent-hires", "vae": "other", "crop_px": 256}},
            " --option space=latent --option vae=other --input-px 512",
        ),
    ],
)
def test_the_command_loads_the_weights_as_they_were_trained(
    changed: dict[str, Any], options: str
) -> None:
    expected = f"bench run --backbone cmd-tiny --checkpoint 'my folder'{options}"
    assert command(CARD | changed, "my folder") == expected


def test_the_card_contains_no_path() -> None:
    settings = {"condition": "uni@/home/jane/uni.bin", "vae": "/tmp/vae", "init": "", "lr": 3e-5}
    expected = {"condition": "uni", "vae": "vae", "init": ""}
    assert _without_paths(settings) == expected
    assert _without_paths(settings | {"init": "/home/jane/run"}) == expected | {"init": "run"}


# ---- errors -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("repo", "license", "message"),
    [
        ("nuclei", "", "OWNER/NAME"),
        ("jane/a/b", "", "OWNER/NAME"),
        ("jane/a b", "", "OWNER/NAME"),
        (REPO, "MIT License", "licence"),
        (REPO, "mit\ntags: []", "licence"),
    ],
)
def test_an_invalid_name_or_licence_raises_without_a_request(
    hub: Any, repo: str, license: str, message: str
) -> None:
    with pytest.raises(BenchError, match=message):
        refuse_unless_allowed(repo, license)
    assert not hub.mock_calls


@pytest.mark.fault(23)
@pytest.mark.parametrize("repo", [f"https://jane:{TOKEN}@hf.co/jane/a", f"jane:{TOKEN}@a/b", TOKEN])
def test_a_name_that_may_hold_a_secret_is_not_repeated(hub: Any, repo: str) -> None:
    with pytest.raises(BenchError, match="OWNER/NAME") as error:
        refuse_unless_allowed(repo)
    assert "SECRET" not in str(error.value)
    assert not hub.mock_calls


def test_a_missing_token_raises_with_the_login_command(
    hub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(BenchError, match=r"hf auth login.*HF_TOKEN"):
        refuse_unless_allowed(REPO)
    assert not hub.mock_calls


def _fine(entity: str, *permissions: str) -> dict[str, Any]:
    scope = {"entity": {"name": entity}, "permissions": ["repo.content.read", *permissions]}
    return {"role": "fineGrained", "fineGrained": {"scoped": [scope]}}


@pytest.mark.parametrize(
    ("repo", "token", "message"),
    [
        (REPO, {"role": "read"}, "your token may not write there"),
        (REPO, _fine("jane"), "your token may not write there"),
        (REPO, _fine("lab", "repo.write"), "your token may not write there"),
        ("john/nuclei", {"role": "write"}, "not a member of 'john'"),
        ("guests/nuclei", {"role": "write"}, "your role in 'guests' is 'read'"),
        (REPO, {"role": "write"}, ""),
        ("lab/nuclei", {"role": "write"}, ""),
        (REPO, _fine("jane", "repo.write"), ""),
        ("lab/nuclei", _fine("lab/nuclei", "repo.write"), ""),
    ],
)
def test_write_permission_is_checked_before_training(
    hub: Any, repo: str, token: dict[str, Any], message: str
) -> None:
    hub.whoami.return_value = _account(token)
    if message:
        with pytest.raises(BenchError, match=message):
            refuse_unless_allowed(repo)
    else:
        refuse_unless_allowed(repo, "mit")
    assert [name for name, *_ in hub.mock_calls] == ["whoami"]  # nothing is created yet


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (_http_error(401), "invalid or expired"),
        (ConnectionError(TOKEN), r"cannot be reached \(ConnectionError\): check the network"),
        (OfflineModeIsEnabled(TOKEN), "HF_HUB_OFFLINE is set"),
    ],
)
def test_an_error_of_the_hub_before_training_is_explained_without_the_token(
    hub: Any, error: Exception, message: str
) -> None:
    hub.whoami.side_effect = error
    with pytest.raises(BenchError, match=message) as caught:
        refuse_unless_allowed(REPO)
    assert TOKEN not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("call", "status", "message"),
    [
        ("create_repo", 403, "does not let you write"),
        ("create_commit", 404, "does not exist or you have no access"),
        ("create_commit", 400, r"'made-up' is one of .*repositories-licenses"),
        ("create_commit", 422, "the hub answered 422"),
    ],
)
def test_a_failed_upload_raises_with_the_reason_and_the_saved_weights(
    hub: Any, out: Path, call: str, status: int, message: str
) -> None:
    getattr(hub, call).side_effect = _http_error(status)
    with pytest.raises(BenchError, match=message) as caught:
        publish(out, REPO, license="made-up")
    assert f"saved in {out}" in str(caught.value)
    assert TOKEN not in str(caught.value)
    assert caught.value.__suppress_context__


def test_weights_without_their_card_are_not_uploaded(hub: Any, out: Path) -> None:
    save_file({"stem.weight": torch.zeros(1)}, out / "model.safetensors")
    with pytest.raises(BenchError, match=r"not the card of .*model\.safetensors"):
        publish(out, REPO)
    (out / "card.json").unlink()
    with pytest.raises(BenchError, match=r"no .*card\.json to upload"):
        publish(out, REPO)
    assert not hub.mock_calls
