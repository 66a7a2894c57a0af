"""The client of the Hugging Face hub against a local server: downloads, errors and licences."""

from __future__ import annotations

import hashlib
import io
import logging
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hub_server import COMMIT, FileHub, file_hub
from huggingface_hub import constants, file_download
from safetensors.torch import save
from tiny import SPEC, Colours, changed_spec

from bench import registry
from bench.api import Backbone, Weights
from bench.api.record import Record
from bench.api.run_config import RunConfig
from bench.errors import BenchError
from bench.models import hub as models_hub
from bench.models.conditioner import Conditioner
from bench.models.load import open_backbone
from bench.render import runs
from bench.runs.resolve import resolve

REPO = "lab/toy"
PAGE = f"https://huggingface.co/{REPO}"
TOKEN = "hf_secretSECRETsecret"
STATE = {"conv.weight": torch.full((4, 3, 1, 1), 0.5), "conv.bias": torch.zeros(4)}
FILE = save(STATE)


class Conditioned(Colours):
    """A backbone that opens `toy` while it is built."""

    def __init__(self) -> None:
        super().__init__(4)
        self.conditioner = Conditioner("toy")

    def load(self, state: object) -> None: ...


TOY = Backbone(
    name="toy",
    build=lambda: Colours(4),
    weights=Weights(repo=REPO, file="model.safetensors", revision=COMMIT),
    license="CC-BY-NC-4.0",
)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileHub]:
    """A hub with the weights of `toy`, and an empty cache."""
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    with file_hub(tmp_path, monkeypatch) as served:
        served.files[REPO] = {"model.safetensors": FILE}
        yield served


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that registers `toy` with some fields changed."""

    original_get = registry.get

    def put(*, weights: dict[str, object] | None = None, **fields: object) -> None:
        fields["weights"] = replace(TOY.weights, **(weights or {}))
        known = {"toy": replace(TOY, **fields)}  # type: ignore[arg-type]
        known["other"] = Backbone("other", Conditioned, Weights(needed=False))

        def get(kind: str, name: str) -> Any:
            return known[name] if name in known else original_get(kind, name)

        monkeypatch.setattr(registry, "get", get)

    put()
    return put


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """The log: the client's at level DEBUG, all others at INFO."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    wanted = {
        logging.getLogger(): logging.INFO,
        logging.getLogger("huggingface_hub"): logging.DEBUG,
    }
    before = {logger: logger.level for logger in wanted}
    for logger, level in wanted.items():
        logger.addHandler(handler)
        logger.setLevel(level)
    yield text
    for logger, level in before.items():
        logger.removeHandler(handler)
        logger.setLevel(level)


def refusal() -> str:
    """Open `toy` and return the error message, which must not show its cause or the token."""
    with pytest.raises(BenchError) as caught:
        open_backbone("toy")
    assert "".join(traceback.format_exception(caught.value)).count("Traceback") <= 2
    assert TOKEN not in "".join(traceback.format_exception(caught.value))
    return str(caught.value)


pytestmark = pytest.mark.usefixtures("hub", "register")


# ---- downloads -------------------------------------------------------------------------------


def test_weights_are_downloaded_once(hub: FileHub, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_backbone("toy")
    assert opened.source == f"hub {REPO}/model.safetensors"
    assert opened.identity == f"sha256:{hashlib.sha256(FILE).hexdigest()}"
    assert (opened.extractor.state_dict()["conv.weight"] == 0.5).all()
    assert {path for _, path in hub.requests if "resolve" in path} == {
        f"/{REPO}/resolve/{COMMIT}/model.safetensors"
    }
    hub.requests.clear()
    assert open_backbone("toy").identity == opened.identity
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert open_backbone("toy").identity == opened.identity
    assert not hub.requests


@pytest.mark.parametrize("revision", [None, COMMIT])
def test_a_pickled_file_is_the_fallback_for_safetensors_without_a_known_hash(
    hub: FileHub, register: Callable[..., None], revision: str | None
) -> None:
    pickled = io.BytesIO()
    torch.save(STATE, pickled)
    hub.files[REPO] = {"pytorch_model.bin": pickled.getvalue()}
    register(weights={"revision": revision, "sha256": hashlib.sha256(FILE).hexdigest()})
    assert "has no file 'model.safetensors'" in refusal()
    register(weights={"revision": revision})
    assert open_backbone("toy").source == f"hub {REPO}/pytorch_model.bin"
    hub.broken = 503
    assert open_backbone("toy").source == f"hub {REPO}/pytorch_model.bin"


def test_a_gated_file_is_downloaded_with_an_accepted_token(
    hub: FileHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.gated.add(REPO)
    message = refusal()
    assert f"is gated: accept its licence (CC-BY-NC-4.0) at {PAGE}" in message
    for remedy in ("`hf auth login`", "run the same command again", "--checkpoint FILE"):
        assert remedy in message
    hub.tokens[TOKEN] = True
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert open_backbone("toy").source == f"hub {REPO}/model.safetensors"


# ---- errors ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"tokens": {}}, "refused your token as invalid or expired: log in with `hf auth login`"),
        ({"gated": {REPO}, "forbidden": True}, "allow a fine-grained token"),
        ({"gated": {REPO}}, "your account does not have access yet"),
        ({"files": {}}, f"{PAGE} does not exist, or is private"),
        ({"revisions": ("main",)}, f"{PAGE} no longer has the revision '{COMMIT}'"),
        ({"files": {REPO: {}}}, f"{PAGE} has no file 'model.safetensors'"),
        ({"broken": 503}, f"the hub answered 503 for {PAGE}: try again later"),
    ],
)
@pytest.mark.fault(23)
def test_errors_of_the_hub_are_explained_without_the_token(
    hub: FileHub,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    log: io.StringIO,
    state: dict[str, object],
    message: str,
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.tokens[TOKEN] = False
    for name, value in state.items():
        setattr(hub, name, value)
    assert message in refusal()
    output = capfd.readouterr()
    assert TOKEN not in log.getvalue() + output.out + output.err


@pytest.mark.fault(28)
def test_a_missing_file_is_named_offline(
    register: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    terms = f"is gated: accept its licence (CC-BY-NC-4.0) at {PAGE}"
    assert f"HF_HUB_OFFLINE is set, and {PAGE} is not cached" in refusal()
    assert terms not in refusal()
    register(gated=True)
    assert terms in refusal()


@pytest.mark.parametrize("revision", [None, COMMIT])
@pytest.mark.fault(28)
def test_an_unreachable_hub_matters_only_for_missing_files(
    register: Callable[..., None], monkeypatch: pytest.MonkeyPatch, revision: str | None
) -> None:
    register(weights={"revision": revision})
    address = constants.HUGGINGFACE_CO_URL_TEMPLATE
    nowhere = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", nowhere)
    assert f"{PAGE} cannot be reached" in refusal()
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address)
    open_backbone("toy")
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", nowhere)
    assert open_backbone("toy").source == f"hub {REPO}/model.safetensors"


@pytest.mark.fault(28)
def test_an_incomplete_download_is_refused_and_deleted(
    hub: FileHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(**vars(time) | {"sleep": lambda _: None})
    monkeypatch.setattr(file_download, "time", clock)  # no wait between attempts
    hub.promised = 10
    message = refusal()
    assert f"model.safetensors of {PAGE} could not be downloaded" in message
    assert "run the same command again" in message
    blobs = (tmp_path / "hub").glob("*/blobs/*")
    assert not [blob for blob in blobs if blob.stat().st_size]
    hub.promised = 0
    assert open_backbone("toy").source == f"hub {REPO}/model.safetensors"


@pytest.mark.fault(19)
def test_a_file_with_another_hash_is_refused_until_it_is_deleted(
    hub: FileHub, register: Callable[..., None]
) -> None:
    known, received = (hashlib.sha256(content).hexdigest() for content in (FILE, FILE[::-1]))
    register(weights={"sha256": known})
    hub.damaged = True
    message = refusal()
    assert f"its sha256 is {received}, not {known}" in message
    assert refusal() == message
    hub.damaged = False
    Path(message.partition("Delete ")[2].partition(",")[0]).unlink()
    assert open_backbone("toy").identity == f"sha256:{known}"


# ---- licences --------------------------------------------------------------------------------


def test_weights_of_unknown_licence_need_acceptance(
    hub: FileHub, register: Callable[..., None]
) -> None:
    register(license="unknown")
    message = refusal()
    assert not hub.requests
    for part in (PAGE, "--accept-license", f"hf download {REPO} model.safetensors", "--checkpoint"):
        assert part in message
    accepted = open_backbone("toy", accept_license=True)
    assert accepted.source == f"hub {REPO}/model.safetensors"
    assert open_backbone("toy").identity == accepted.identity  # it is here now


def test_an_unknown_licence_does_not_matter_for_local_files(
    hub: FileHub, register: Callable[..., None], tmp_path: Path
) -> None:
    register(license="unknown")
    file = tmp_path / "mine.safetensors"
    file.write_bytes(FILE)
    assert open_backbone("toy", checkpoint=file).source == f"file {file}"
    assert open_backbone("toy", random=True).untrained
    assert not hub.requests


def test_acceptance_covers_the_condition_backbone(
    register: Callable[..., None],
) -> None:
    register(license="unknown")
    with pytest.raises(BenchError, match="--accept-license"):
        open_backbone("other")
    open_backbone("other", accept_license=True)


def test_acceptance_is_not_part_of_the_identity_of_a_run(register: Callable[..., None]) -> None:
    register(license="unknown")
    request = RunConfig(backbone="toy", folds=0, limit=1)
    with pytest.raises(BenchError, match="--accept-license"):
        resolve(request, None)
    accepted = resolve(replace(request, accept_license=True), None)
    assert accepted.spec == resolve(request, None).spec


def _notes(name: str, weights: str, **facts: object) -> list[str]:
    spec = changed_spec(SPEC, backbone={"name": name, "weights": weights})
    record = Record(spec=spec, facts=facts, patients={}, flags=(), trials=())
    return [line for line in runs.weight_notes(record) if line.startswith("licence")]


def test_a_run_names_the_licence_of_its_weights() -> None:
    assert _notes("toy", "sha256:0") == [f"licence of the weights: CC-BY-NC-4.0 ({PAGE})"]
    assert _notes("cmd-tiny", "sha256:0") == ["licence of the weights: Apache-2.0"]
    assert _notes("cmd-tiny", "sha256:0", condition="toy", condition_weights="sha256:0") == [
        "licence of the weights: Apache-2.0",
        f"licence of the condition's weights: CC-BY-NC-4.0 ({PAGE})",
    ]
    (line,) = _notes("toy", "sha256:0", own_checkpoint=True)
    assert line.startswith("licence of the released weights (")
    assert line.endswith(f": CC-BY-NC-4.0 ({PAGE})")
    assert _notes("cmd-l", "sha256:0", own_checkpoint=True) == []
    assert _notes("toy", "random:0") == _notes("rgb", "none") == _notes("gone", "sha256:0") == []


# ---- cached files ----------------------------------------------------------------------------


def test_weights_are_located_without_a_network(
    hub: FileHub, register: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert models_hub.location(TOY) == "no"
    open_backbone("toy")
    hub.requests.clear()
    assert models_hub.location(TOY) == "hub"
    assert models_hub.cached(TOY.weights) is not None
    cached = models_hub.users_file(TOY)
    cached.parent.mkdir(parents=True)
    cached.touch()
    assert models_hub.location(TOY) == "cache"
    for weights, location in (
        (Weights(package="bench", file="errors.py"), "package"),
        (Weights(package="bench", file="x"), "no"),
        (Weights(package="gone", file="x"), "no"),
        (Weights(), "no"),
        (Weights(needed=False), "none needed"),
    ):
        assert models_hub.location(replace(TOY, name="p", weights=weights)) == location
    assert not hub.requests
