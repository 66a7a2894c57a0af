"""Uploads contain the trained weights, no names of images, and never a token.

The real `huggingface_hub` talks to a local server. Only its newer transfer of large files (xet, a
compiled client) is disabled.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from hub_server import served
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from bench.errors import BenchError
from bench.pretrain.export import _without_paths, command
from bench.pretrain.hub_upload import describe, publish, refuse_unless_allowed

# Of the client's own HTTP library, when it sends a file as git-LFS does.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

TOKEN = "hf_secretSECRETsecret"
REPO = "jane/nuclei"
ORGS = [{"name": "lab", "roleInOrg": "write"}, {"name": "guests", "roleInOrg": "read"}]


@dataclass
class Hub:
    """The state of the server.

    Attributes:
        token: its description of the token.
        broken: HTTP status to answer with, by part of the path.
    """

    token: dict[str, Any] = field(default_factory=lambda: {"role": "write"})
    broken: dict[str, int] = field(default_factory=dict)
    repos: dict[str, str] = field(default_factory=dict)  # visibility, by name
    files: dict[str, bytes] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)  # by sha256
    commits: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def answer(self, path: str, body: bytes, address: str) -> tuple[int, object]:
        self.requests.append(path)
        for part, status in self.broken.items():
            if part in path:
                return status, {"error": f"refused {TOKEN}"}
        if path == "/api/whoami-v2":
            return 200, {"name": "jane", "orgs": ORGS, "auth": {"accessToken": self.token}}
        if path == "/api/repos/create":
            return self._create(json.loads(body), address)
        if path == "/api/validate-yaml":
            return self._validate(json.loads(body)["content"])
        if path.endswith("/preupload/main"):
            names = [file["path"] for file in json.loads(body)["files"]]
            return 200, {"files": [_preupload(name) for name in names]}
        if path.endswith("/info/lfs/objects/batch"):
            return 200, {
                "objects": [_upload(entry, address) for entry in json.loads(body)["objects"]]
            }
        if path.startswith("/large/"):
            self.large[path.removeprefix("/large/")] = body
            return 200, {}
        assert path.endswith("/commit/main"), path
        page = path.replace("/api/models", address).replace("/main", f"/{'1' * 40}")
        return self._commit([json.loads(line) for line in body.splitlines()], page)

    def _create(self, request: dict[str, str], address: str) -> tuple[int, object]:
        name = f"{request['organization']}/{request['name']}"
        exists = name in self.repos
        self.repos.setdefault(name, request.get("visibility", "public"))
        return (409 if exists else 200), {"url": f"{address}/{name}"}

    def _validate(self, content: str) -> tuple[int, object]:
        assert content.startswith("---\n")
        errors = [{"message": "no such license"}] if "license: made-up" in content else []
        return (400 if errors else 200), {"errors": errors, "warnings": []}

    def _commit(self, lines: list[dict[str, Any]], page: str) -> tuple[int, object]:
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.commits.append(value["summary"])
            elif line["key"] == "lfsFile":
                self.files[value["path"]] = self.large[value["oid"]]
            else:
                self.files[value["path"]] = base64.b64decode(value["content"])
        return 200, {"commitUrl": page, "commitOid": "1" * 40}


def _preupload(name: str) -> dict[str, object]:
    mode = "lfs" if name.endswith(".safetensors") else "regular"
    return {"path": name, "uploadMode": mode, "shouldIgnore": False}


def _upload(entry: dict[str, Any], address: str) -> dict[str, object]:
    return {**entry, "actions": {"upload": {"href": f"{address}/large/{entry['oid']}"}}}


class Handler(BaseHTTPRequestHandler):
    hub: Hub

    def _respond(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.command != "PUT" and self.headers["authorization"] != f"Bearer {TOKEN}":
            status, answer = 401, {"error": f"what is {self.headers['authorization']}?"}
        else:
            host, port = "127.0.0.1", self.connection.getsockname()[1]
            status, answer = self.hub.answer(self.path, body, f"http://{host}:{port}")
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = _respond  # noqa: N815 - the names that http.server calls

    def log_message(self, format: str, *_: object) -> None: ...


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    state = Hub()
    home = tmp_path_factory.mktemp("home")
    with served(type("HubHandler", (Handler,), {"hub": state}), home, monkeypatch):
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield state


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


def test_weights_card_and_model_card_are_uploaded_in_one_commit(
    hub: Hub, out: Path, tmp_path: Path
) -> None:
    address = publish(out, REPO, license="cc-by-nc-4.0")
    assert address == f"{constants.ENDPOINT}/{REPO}"
    assert hub.commits == ["cmd-tiny after 500 steps"]
    assert hub.repos == {REPO: "private"}
    assert hub.files.keys() == {"model.safetensors", "card.json", "README.md"}
    assert hub.files["model.safetensors"] == (out / "model.safetensors").read_bytes()
    (tmp_path / "fetched.safetensors").write_bytes(hub.files["model.safetensors"])
    assert load_file(tmp_path / "fetched.safetensors")["stem.weight"].sum() == 15
    page = hub.files["README.md"].decode()
    assert page.startswith("---\nlicense: cc-by-nc-4.0\ntags:\n- pathology\n")
    assert "bench run --backbone cmd-tiny --checkpoint nuclei\n" in page
    assert "8,218,307 parameters, 500 steps, 1,200 images" in page


def test_names_of_images_and_folders_are_not_uploaded(hub: Hub, out: Path) -> None:
    publish(out, REPO)
    assert not any(b"Miller" in content for content in hub.files.values())
    shared = json.loads(hub.files["card.json"])
    assert shared["images"] == {
        "trained_on": 1200, "held_out": 16, "list_sha256": "ab" * 32, "refused": 1,
    }  # fmt: skip
    assert b"Miller" in (out / "card.json").read_bytes()


def test_an_existing_repository_is_updated_and_keeps_its_visibility(hub: Hub, out: Path) -> None:
    publish(out, REPO, private=False)
    publish(out, REPO, license="mit")
    assert hub.repos == {REPO: "public"}
    assert len(hub.commits) == 2
    assert b"license: mit" in hub.files["README.md"]


def test_a_model_card_omits_licence_and_validation_if_there_are_none(out: Path) -> None:
    card = json.loads((out / "card.json").read_text())
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


@pytest.mark.parametrize("repo", ["nuclei", "jane/a/b", "jane/a b"])
def test_an_invalid_repository_name_raises_without_a_request(hub: Hub, repo: str) -> None:
    with pytest.raises(BenchError, match="OWNER/NAME"):
        refuse_unless_allowed(repo)
    assert not hub.requests


@pytest.mark.fault(23)
@pytest.mark.parametrize("repo", [f"https://jane:{TOKEN}@hf.co/jane/a", f"jane:{TOKEN}@a/b", TOKEN])
def test_a_name_that_may_hold_a_secret_is_not_repeated(hub: Hub, repo: str) -> None:
    with pytest.raises(BenchError, match="OWNER/NAME") as caught:
        refuse_unless_allowed(repo)
    assert "SECRET" not in str(caught.value)
    assert not hub.requests


@pytest.mark.parametrize("license", ["MIT License", "mit\ntags: []"])
def test_an_invalid_licence_raises_without_a_request(hub: Hub, license: str) -> None:
    with pytest.raises(BenchError, match="licence"):
        refuse_unless_allowed(REPO, license)
    assert not hub.requests


def test_a_missing_token_raises_with_the_login_command(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(BenchError, match=r"hf auth login.*HF_TOKEN"):
        refuse_unless_allowed(REPO)
    assert not hub.requests


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
    ],
)
def test_missing_write_permission_raises_before_training(
    hub: Hub, repo: str, token: dict[str, Any], message: str
) -> None:
    hub.token = token
    with pytest.raises(BenchError, match=message):
        refuse_unless_allowed(repo)
    assert not hub.repos


@pytest.mark.parametrize(
    ("repo", "token"),
    [
        (REPO, {"role": "write"}),
        ("lab/nuclei", {"role": "write"}),
        (REPO, _fine("jane", "repo.write")),
        ("lab/nuclei", _fine("lab/nuclei", "repo.write")),
    ],
)
def test_write_permission_passes_and_no_repository_is_created_yet(
    hub: Hub, repo: str, token: dict[str, Any]
) -> None:
    hub.token = token
    refuse_unless_allowed(repo, "mit")
    assert (hub.requests, hub.repos) == (["/api/whoami-v2"], {})


def test_an_expired_token_raises_without_showing_it(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_oldOLDold")
    with pytest.raises(BenchError, match="invalid or expired") as caught:
        refuse_unless_allowed(REPO)
    assert "hf_old" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_an_unreachable_hub_and_offline_mode_raise(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
        with pytest.raises(BenchError, match=r"cannot be reached \(\w+\): check the network"):
            refuse_unless_allowed(REPO)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(BenchError, match="HF_HUB_OFFLINE is set"):
        refuse_unless_allowed(REPO)


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/api/repos/create", 403, "does not let you write"),
        ("/preupload/", 404, "does not exist or you have no access"),
        ("/commit/", 403, "does not let you write"),
        ("/commit/", 422, "the hub answered 422"),
    ],
)
def test_a_failed_upload_raises_with_the_reason_and_the_saved_weights(
    hub: Hub, out: Path, path: str, status: int, message: str
) -> None:
    hub.broken = {path: status}
    with pytest.raises(BenchError, match=message) as caught:
        publish(out, REPO)
    assert f"saved in {out}" in str(caught.value)
    assert TOKEN not in str(caught.value)
    assert caught.value.__suppress_context__
    assert not hub.files


def test_a_licence_that_the_hub_rejects_raises(hub: Hub, out: Path) -> None:
    with pytest.raises(BenchError, match=r"'made-up' is one of .*repositories-licenses"):
        publish(out, REPO, license="made-up")
    assert not hub.files


def test_weights_without_their_card_are_not_uploaded(hub: Hub, out: Path) -> None:
    save_file({"stem.weight": torch.zeros(1)}, out / "model.safetensors")
    with pytest.raises(BenchError, match=r"not the card of .*model\.safetensors"):
        publish(out, REPO)
    (out / "card.json").unlink()
    with pytest.raises(BenchError, match=r"no .*card\.json to upload"):
        publish(out, REPO)
    assert not hub.requests
