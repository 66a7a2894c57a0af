"""Put pretrained weights, their card and a page about them into a repository on the hub.

As in `bench.hub`, the messages are built from the kind of error alone: what the hub or the network
library said may carry a token, so it is never repeated.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.checkpoints import sha256_of
from bench.errors import BenchError
from bench.hub import LOG_IN, chain_of, status_of, system_reason
from bench.pretrain.export import CARD
from bench.pretrain.page import describe
from bench.weights import FILE_OF_A_FOLDER

MAY_WRITE = ("write", "contributor", "admin")  # roles in an organisation
TOKENS = "https://huggingface.co/settings/tokens"


def refuse_unless_allowed(repo: str, license: str = "") -> None:
    """Refuse, before a training begins, what could not be published when it ends.

    Args:
        repo: "owner/name"; it need not exist yet.
        license: as the hub names it ("cc-by-nc-4.0"); "" where none is given.

    Raises:
        BenchError: the name, the licence or the token is wrong, the owner is somebody else, or the
            hub cannot be reached.
    """
    import huggingface_hub as hub
    from huggingface_hub import errors

    _refuse_odd_names(repo, license)
    if hub.get_token() is None:
        raise BenchError(f"--push-to-hub {repo}: there is no token; {LOG_IN}.")
    try:
        account = hub.HfApi().whoami()
    except (errors.HfHubHTTPError, errors.OfflineModeIsEnabled) as error:
        raise BenchError(_explain(error, repo)) from None
    except Exception:  # of whichever HTTP library the hub uses
        raise BenchError(_explain(ConnectionError(), repo)) from None
    _refuse_a_token_that_may_not_write(account, repo)


def publish(out: Path, repo: str, *, license: str = "", private: bool = True) -> str:
    """Upload weights, card and page in one commit; make the repository where there is none.

    The card goes without the names of images and of their folders, which may tell of patients.

    Args:
        out: the folder that `bench.pretrain.export.export` wrote.
        license: as the hub names it; "" names none.
        private: of a new repository; one that exists stays as it is.

    Returns:
        The address of the repository.

    Raises:
        BenchError: the folder holds no whole export, or the hub refuses it.
    """
    import huggingface_hub as hub

    card = _card_of(out)
    shared = json.dumps(_without_names(card), indent=2) + "\n"
    page = describe(card, repo, license)
    operations = [
        hub.CommitOperationAdd(FILE_OF_A_FOLDER, out / FILE_OF_A_FOLDER),
        hub.CommitOperationAdd(CARD, shared.encode()),
        hub.CommitOperationAdd("README.md", page.encode()),
    ]
    message = f"{card['architecture']} after {card['steps']} steps"
    try:
        api = hub.HfApi()
        address = api.create_repo(repo, private=private, exist_ok=True)
        api.create_commit(repo, operations, commit_message=message)
    except Exception as error:  # the hub's errors and those of whichever HTTP library it uses
        kept = f"The weights are kept in {out}: the same command uploads them again."
        raise BenchError(f"{_explain(error, repo, license)} {kept}") from None
    return str(address)


# ---- what is uploaded ------------------------------------------------------------------------


def _card_of(out: Path) -> dict[str, Any]:
    weights, path = out / FILE_OF_A_FOLDER, out / CARD
    missing = [each for each in (weights, path) if not each.is_file()]
    if missing:
        raise BenchError(f"there is no {missing[0]} to publish: let the training end first.")
    card = json.loads(path.read_text())
    if sha256_of(weights) != card["weights_sha256"]:
        raise BenchError(f"{path} is not the card of {weights}: run the training's command again.")
    return card


def _without_names(card: Mapping[str, Any]) -> dict[str, Any]:
    images = {key: each for key, each in card["images"].items() if key != "sources"}
    images["refused"] = len(images["refused"])
    return {**card, "images": images}


# ---- refusals --------------------------------------------------------------------------------


def _refuse_odd_names(repo: str, license: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError:
        parts = []
    else:
        parts = repo.split("/")
    if len(parts) != 2:
        secret = any(part in repo for part in ("@", "://", "hf_"))  # a password, or a token
        told = "what was given" if secret else repr(repo)
        raise BenchError(
            f"--push-to-hub: {told} does not name a repository: write OWNER/NAME, in letters, "
            "digits, '-', '_' and '.'."
        )
    if not re.fullmatch(r"(?:[a-z0-9][a-z0-9.-]*)?", license):
        raise BenchError(
            f"the licence {license!r} is not written as the hub does: apache-2.0 or cc-by-nc-4.0, "
            "for example; see https://huggingface.co/docs/hub/repositories-licenses."
        )


def _refuse_a_token_that_may_not_write(account: Mapping[str, Any], repo: str) -> None:
    owner, name = repo.split("/")[0], account.get("name")
    roles = {each.get("name"): each.get("roleInOrg") for each in account.get("orgs", ())}
    if owner not in (name, *roles):
        raise BenchError(
            f"--push-to-hub {repo}: you are {name!r} on the hub, and no member of {owner!r}. Name "
            f"a repository of yours, {name}/..., or log in as another."
        )
    if owner in roles and roles[owner] not in (None, *MAY_WRITE):
        raise BenchError(
            f"--push-to-hub {repo}: your role in {owner!r} is {roles[owner]!r}, which may not "
            "write. Ask its administrator, or name a repository of yours."
        )
    token = account.get("auth", {}).get("accessToken", {})
    if token.get("role") == "read" or not _covers(token, owner, repo):
        raise BenchError(
            f"--push-to-hub {repo}: your token may not write there. Make one that may at {TOKENS}, "
            f"and {LOG_IN}."
        )


def _covers(token: Mapping[str, Any], owner: str, repo: str) -> bool:
    """Tell whether a token may write; one that is not limited to some owners may."""
    if token.get("role") != "fineGrained":
        return True
    scopes = token.get("fineGrained", {}).get("scoped", ())
    named = [each for each in scopes if each.get("entity", {}).get("name") in (owner, repo)]
    return any("repo.write" in each.get("permissions", ()) for each in named)


def _explain(error: BaseException, repo: str, license: str = "") -> str:
    """Say why a repository could not be written to, and what cures it."""
    from huggingface_hub import errors

    page = f"https://huggingface.co/{repo}"
    chain = chain_of(error)
    status = next((code for each in chain if (code := status_of(each))), None)
    if any(isinstance(each, errors.OfflineModeIsEnabled) for each in chain):
        return f"HF_HUB_OFFLINE is set, and {page} is to be written to: unset it."
    if status == 401:
        return f"the hub refused your token as invalid or expired: {LOG_IN} ({page})."
    if status == 403:
        return (
            f"the hub does not let you write to {page}: make a token that may write at {TOKENS}, "
            "and see that your storage is not full."
        )
    if status == 404:
        return f"{page} does not exist for you: check its name, or {LOG_IN}."
    if status == 400 and license:
        return (
            f"the hub refused the page of {page}. Is {license!r} one of "
            "https://huggingface.co/docs/hub/repositories-licenses?"
        )
    if status is not None:
        return f"the hub answered {status} for {page}: try again later."
    if any(isinstance(each, ConnectionError | TimeoutError) for each in chain):
        return f"{page} cannot be reached: check the network."
    reason = next(filter(None, map(system_reason, chain)), type(error).__name__)
    return f"{page} could not be written to ({reason}): check the network."
