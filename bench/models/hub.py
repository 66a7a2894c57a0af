"""Fetch released weights from the Hugging Face hub, and say in plain words why that failed.

The messages are built from the kind of error alone: what the hub or the network library said may
carry a token, so it is never repeated.
"""

from __future__ import annotations

import os
import re
from importlib.resources import files
from pathlib import Path

from bench.api import Backbone, Weights
from bench.errors import BenchError
from bench.store.cache_dir import cache_root, cache_root_if_any

TIMEOUT_S = 10
LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"
AGAIN = "give the same command again"


def page(weights: Weights) -> str:
    """Give the address of the page that describes the weights and their licence."""
    return f"https://huggingface.co/{weights.repo}"


def cached(weights: Weights) -> Path | None:
    """Give the file that the hub's cache on this machine holds; it asks no network."""
    from huggingface_hub import try_to_load_from_cache

    for file in _files(weights):
        found = try_to_load_from_cache(weights.repo, file, revision=weights.revision)
        if isinstance(found, str):
            return Path(found)
    return None


def fetch(weights: Weights, license: str = "", *, gated: bool = False) -> Path:
    """Give the path of a released file, downloaded where the hub's cache lacks it.

    Args:
        license: of the weights, for the message where it has to be accepted first.
        gated: whether it has to be, for the message where the hub cannot be asked.

    Raises:
        BenchError: it cannot be had, or is not the file that the record names.
    """
    try:
        path = cached(weights) or _downloaded(weights)
    except Exception as error:  # the hub's errors and those of whichever HTTP library it uses
        told = explain(error, weights, license)
        if gated and page(weights) in told and "gated" not in told:
            told += f" {_explain_gate(weights, license, logged_in=False)}"
        raise BenchError(told) from None
    if weights.sha256:
        _refuse_another(path, weights.sha256)
    return path


def _refuse_another(path: Path, wanted: str) -> None:
    from bench.models.checkpoints import (
        sha256_of,  # it imports torch, and listing what is cached must not
    )

    if (found := sha256_of(path)) != wanted:
        raise BenchError(
            f"{path} is not the file that was released: its sha256 is {found}, not {wanted}. "
            f"Delete {path.resolve()}, so that it is fetched again."
        )


def _files(weights: Weights) -> list[str]:
    """Name the file, and its older pickled form; a known hash is of the one file alone."""
    older = weights.file.replace("model.safetensors", "pytorch_model.bin")
    return [weights.file] if weights.sha256 or older == weights.file else [weights.file, older]


def _downloaded(weights: Weights) -> Path:
    """Fetch the first of the files that the repository has."""
    from huggingface_hub import errors

    *others, last = _files(weights)
    for file in others:
        try:
            return _downloaded_file(weights, file)
        except errors.RemoteEntryNotFoundError:
            continue
    return _downloaded_file(weights, last)


def _downloaded_file(weights: Weights, file: str) -> Path:
    import huggingface_hub as hub
    from huggingface_hub import errors

    url = hub.hf_hub_url(weights.repo, file, revision=weights.revision)
    try:  # one question first: the download itself would try for half a minute to reach the hub
        hub.get_hf_file_metadata(url, timeout=TIMEOUT_S)
    except (errors.HfHubHTTPError, errors.OfflineModeIsEnabled):
        raise
    except Exception as error:
        raise ConnectionError from error
    return Path(hub.hf_hub_download(weights.repo, file, revision=weights.revision))


def explain(error: BaseException, weights: Weights, license: str = "") -> str:
    """Say why a file could not be fetched, and what cures it."""
    from huggingface_hub import errors

    where = page(weights)
    chain = chain_of(error)
    status = next((code for each in chain if (code := status_of(each))), None)

    def is_a(*kinds: type[BaseException]) -> bool:
        return any(isinstance(each, kinds) for each in chain)

    if is_a(errors.GatedRepoError):  # first: it is a RepositoryNotFoundError too
        return _explain_gate(weights, license, logged_in=status == 403)
    if is_a(errors.RepositoryNotFoundError):
        return f"{where} does not exist, or is private: {LOG_IN} if you were given access."
    if is_a(errors.RevisionNotFoundError):
        return f"{where} has no revision {weights.revision!r} any more: see its page."
    if is_a(errors.OfflineModeIsEnabled):
        return f"HF_HUB_OFFLINE is set, and {where} was never fetched: unset it once."
    if is_a(errors.LocalEntryNotFoundError, ConnectionError, TimeoutError):
        return f"{where} cannot be reached, and was not fetched before: check the network."
    if is_a(errors.EntryNotFoundError):
        return f"{where} holds no file {weights.file!r}: see its page."
    if status == 401:
        return f"the hub refused your token as invalid or expired: {LOG_IN} ({where})."
    if status == 403:
        return (
            f"the hub does not let your token read {where}: a fine-grained one has to be allowed "
            "to read gated repositories, at https://huggingface.co/settings/tokens."
        )
    if status is not None:
        return f"the hub answered {status} for {where}: try again later."
    reason = next(filter(None, map(system_reason, chain)), None)
    if reason is None:
        reason = "it came incomplete" if is_a(OSError) else type(error).__name__
    return f"{weights.file} of {where} could not be fetched ({reason}): {AGAIN}."


def _explain_gate(weights: Weights, license: str, *, logged_in: bool) -> str:
    named = f" ({license})" if license else ""
    if logged_in:
        return (
            f"{weights.repo} is gated and your account is not on its list yet: accept its licence"
            f"{named} at {page(weights)}, wait until you are let in, then {AGAIN}."
        )
    return (
        f"{weights.repo} is gated: accept its licence{named} at {page(weights)}, {LOG_IN}, then "
        f"{AGAIN}."
    )


def chain_of(error: BaseException | None) -> list[BaseException]:
    """Give an error, what caused it, and so on."""
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return chain


def status_of(error: BaseException) -> int | None:
    """Give the HTTP status that an error stands for; None where it stands for none."""
    return getattr(getattr(error, "response", None), "status_code", None)


def system_reason(error: BaseException) -> str | None:
    """Give what the operating system said ("No space left on device"), and nobody else."""
    return os.strerror(error.errno) if isinstance(error, OSError) and error.errno else None


# moved here


def users_file(backbone: Backbone) -> Path:
    """Give the place in the user's cache where a file of weights for a backbone is looked for."""
    safe = re.sub(r"[^\w.-]", "-", backbone.weights_name or backbone.name)
    return cache_root() / "weights" / f"{safe}.safetensors"


def cached_users_file(backbone: Backbone) -> Path | None:
    """Give the file of weights for a backbone in the user's cache; None where there is none."""
    if cache_root_if_any() is None:
        return None
    file = users_file(backbone)
    return file if file.is_file() else None


def packaged_file(weights: Weights) -> Path | None:
    """Give the place of weights that a Python package brings; None where it is not installed."""
    try:
        return Path(str(files(weights.package) / weights.file))
    except ModuleNotFoundError:
        return None


def holder(backbone: Backbone) -> str:
    """Name who holds the weights: "cache", "package" or "hub" (its cache), else "no".

    "none needed" where the backbone takes none.
    """
    weights = backbone.weights
    if cached_users_file(backbone) is not None:
        return "cache"
    if weights.package:
        file = packaged_file(weights)
        return "package" if file is not None and file.is_file() else "no"
    if weights.repo:
        return "hub" if cached(weights) else "no"
    return "no" if weights.needed else "none needed"
