"""Upload pretrained weights, their card and a model card to a repository on the Hugging Face hub.

As in `bench.models.hub`, messages depend on the kind of error only: the text of a library's error
may contain a token, so it is never repeated.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.models.checkpoints import sha256_of
from bench.models.hub import LOG_IN, chain_of, status_of
from bench.models.load import FILE_OF_A_FOLDER
from bench.pretrain.export import CARD, command

WRITE_ROLES = ("write", "contributor", "admin")  # in an organisation
TOKENS = "https://huggingface.co/settings/tokens"
LICENSES = "https://huggingface.co/docs/hub/repositories-licenses"

ERRORS: dict[int | str, str] = {  # by HTTP status, or by the check that failed
    "name": "--push-to-hub: {repo} is not the name of a repository: write OWNER/NAME, in letters, "
    "digits, '-', '_' and '.'.",
    "license": "the licence {license!r} is not an identifier of the hub: write apache-2.0 or "
    f"cc-by-nc-4.0, for example; see {LICENSES}.",
    "no token": f"--push-to-hub {{repo}}: there is no token; {LOG_IN}.",
    "owner": "--push-to-hub {repo}: you are {user!r} on the hub, and not a member of {owner!r}. "
    "Name a repository of yours, {user}/..., or log in with another account.",
    "role": "--push-to-hub {repo}: your role in {owner!r} is {role!r}, which may not write. "
    "Ask its administrator, or name a repository of yours.",
    "scope": "--push-to-hub {repo}: your token may not write there. Create one that may at "
    f"{TOKENS}, and {LOG_IN}.",
    "offline": "HF_HUB_OFFLINE is set, so {url} cannot be written to: unset it.",
    "network": "{url} cannot be reached ({reason}): check the network.",
    "status": "the hub answered {status} for {url}: try again later.",
    400: "the hub refused the model card of {url}: check that the licence {license!r} is one of "
    f"{LICENSES}.",
    401: f"the hub refused your token as invalid or expired: {LOG_IN} ({{url}}).",
    403: f"the hub does not let you write to {{url}}: create a token that may write at {TOKENS}, "
    "and check that your storage is not full.",
    404: f"{{url}} does not exist or you have no access: check its name, or {LOG_IN}.",
}


def refuse_unless_allowed(repo: str, license: str = "") -> None:
    """Check, before a training starts, that its weights could be uploaded when it ends.

    Args:
        repo: "owner/name"; it need not exist yet.
        license: identifier on the hub ("cc-by-nc-4.0"); "" for none.

    Raises:
        BenchError: the name, the licence or the token is wrong, the account may not write to the
            owner's repositories, or the hub cannot be reached.
    """
    import huggingface_hub as hub
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
        is_valid = repo.count("/") == 1
    except HFValidationError:
        is_valid = False
    if not is_valid:
        may_be_secret = any(part in repo for part in ("@", "://", "hf_"))  # a password or a token
        raise _error("name", repo="the value" if may_be_secret else repr(repo))
    if not re.fullmatch(r"(?:[a-z0-9][a-z0-9.-]*)?", license):
        raise _error("license", license=license)
    if hub.get_token() is None:
        raise _error("no token", repo=repo)
    try:
        account = hub.HfApi().whoami()
    except Exception as error:  # the hub's errors and those of its HTTP library
        raise BenchError(_explain(error, repo)) from None
    _check_account(account, repo)


def publish(out: Path, repo: str, *, license: str = "", private: bool = True) -> str:
    """Upload weights, card and model card in one commit; create the repository if needed.

    The uploaded card lacks the names of images and of their folders, which may identify patients.

    Args:
        out: the folder that `bench.pretrain.export.export` wrote.
        license: identifier on the hub; "" for none.
        private: visibility of a new repository; that of an existing one does not change.

    Returns:
        The URL of the repository.

    Raises:
        BenchError: the folder has no complete export, or the upload fails.
    """
    import huggingface_hub as hub

    card = _read_card(out)
    images = {key: value for key, value in card["images"].items() if key != "sources"}
    images["refused"] = len(images["refused"])
    public_card = json.dumps({**card, "images": images}, indent=2) + "\n"
    operations = [
        hub.CommitOperationAdd(FILE_OF_A_FOLDER, out / FILE_OF_A_FOLDER),
        hub.CommitOperationAdd(CARD, public_card.encode()),
        hub.CommitOperationAdd("README.md", describe(card, repo, license).encode()),
    ]
    message = f"{card['architecture']} after {card['steps']} steps"
    try:
        api = hub.HfApi()
        url = api.create_repo(repo, private=private, exist_ok=True)
        api.create_commit(repo, operations, commit_message=message)
    except Exception as error:  # the hub's errors and those of its HTTP library
        retry = f"The weights are saved in {out}: run the same command again to upload them."
        raise BenchError(f"{_explain(error, repo, license)} {retry}") from None
    return str(url)


def _read_card(out: Path) -> dict[str, Any]:
    weights, path = out / FILE_OF_A_FOLDER, out / CARD
    for file in (weights, path):
        if not file.is_file():
            raise BenchError(f"there is no {file} to upload: finish the training first.")
    card = json.loads(path.read_text())
    if sha256_of(weights) != card["weights_sha256"]:
        raise BenchError(f"{path} is not the card of {weights}: run the training's command again.")
    return card


def _check_account(account: Mapping[str, Any], repo: str) -> None:
    """Raise a BenchError if the account or its token may not write to the repository."""
    owner, user = repo.split("/")[0], account.get("name")
    roles = {org.get("name"): org.get("roleInOrg") for org in account.get("orgs", ())}
    if owner not in (user, *roles):
        raise _error("owner", repo=repo, user=user, owner=owner)
    role = roles.get(owner)
    if role is not None and role not in WRITE_ROLES:
        raise _error("role", repo=repo, owner=owner, role=role)
    token = account.get("auth", {}).get("accessToken", {})
    may_write = token.get("role") != "read"
    if token.get("role") == "fineGrained":
        scopes = token.get("fineGrained", {}).get("scoped", ())
        may_write = any(
            scope.get("entity", {}).get("name") in (owner, repo)
            and "repo.write" in scope.get("permissions", ())
            for scope in scopes
        )
    if not may_write:
        raise _error("scope", repo=repo)


def _error(key: int | str, **values: object) -> BenchError:
    return BenchError(ERRORS[key].format(**values))


def _explain(error: BaseException, repo: str, license: str = "") -> str:
    """Return why the repository could not be written to, and how to fix it."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    chain = chain_of(error)
    status = next(filter(None, map(status_of, chain)), None)
    if any(isinstance(cause, OfflineModeIsEnabled) for cause in chain):
        key = "offline"
    elif status is None:
        key = "network"
    elif status in ERRORS and (status != 400 or license):
        key = status
    else:
        key = "status"
    return ERRORS[key].format(
        url=f"https://huggingface.co/{repo}",
        license=license,
        status=status,
        reason=type(chain[-1]).__name__,
    )


TAGS = ["pathology", "histopathology", "masked-diffusion", "feature-extraction", "cmd-bench"]

TEMPLATE = """\
---
{metadata}
---
# {name}

{architecture}, pretrained by masked diffusion (arXiv 2605.08276) with `bench pretrain` of \
cmd-bench {bench}: {parameters:,} parameters, {steps:,} steps, {images[trained_on]:,} images.

## Use
```
hf download {repo} --local-dir {name}
{command}
```
{condition_note}
## Training
| | |
|---|---|
| weights | {weights} |
| sha256 of the weights | `{weights_sha256}` |
| condition | {condition} |
| loss, mean of the last steps | {loss_text} |
| images trained on | {images[trained_on]} |
| images held out | {images[held_out]} |
| sha256 of the list of images | `{images[list_sha256]}` |
{scores_row}
All settings are in `{card_file}`.
"""

HELD_OUT_NOTE = """
Held-out images are other images, not other patients: their scores show how training went, and do \
not compare networks that were trained on other images.
"""


def describe(card: Mapping[str, Any], repo: str, license: str = "") -> str:
    """Return the model card in Markdown, with the metadata that the hub reads.

    Args:
        card: the card that `bench.pretrain.export.export` wrote.
        repo: "owner/name".
        license: identifier on the hub; omitted from the metadata if empty.
    """
    from huggingface_hub import ModelCardData

    name = repo.partition("/")[2]
    condition_note = scores_row = ""
    if card["condition"] != "none":
        condition_note = (
            f"The condition is {card['condition']}, whose weights are not in this repository.\n"
        )
    scores = card["held_out"]
    if scores is not None:
        scores_row = (
            f"| reconstruction of held-out images | L1 {scores['l1']:.4f}, "
            f"PSNR {scores['psnr']:.2f} dB, SSIM {scores['ssim']:.4f} |\n"
        )
    loss = card["loss"]
    content = TEMPLATE.format(
        **card,
        repo=repo,
        name=name,
        metadata=ModelCardData(license=license or None, tags=TAGS).to_yaml(),
        command=command(card, name),
        condition_note=condition_note,
        loss_text="unknown" if loss is None else f"{loss:.4f}",
        scores_row=scores_row,
        card_file=CARD,
    )
    return content if scores is None else content + HELD_OUT_NOTE
