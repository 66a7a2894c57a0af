"""Fetch released weights from the Hugging Face hub, and say in plain words why that failed.

The messages are built from the kind of error alone: what the hub or the network library said may
carry a token, so it is never repeated.
"""

from __future__ import annotations

import os
from pathlib import Path

from bench.api import Weights
from bench.checkpoints import sha256_of
from bench.errors import BenchError

TIMEOUT_S = 10
LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


def fetch(weights: Weights) -> Path:
    """Give the path of a released file, downloaded (or resumed) where the hub's cache lacks it.

    Raises:
        BenchError: it cannot be had, or is not the file that the record names.
    """
    try:
        path = _download(weights)
    except Exception as error:  # the hub's errors and those of whichever HTTP library it uses
        raise BenchError(explain(error, weights)) from None
    if weights.sha256 and (found := sha256_of(path)) != weights.sha256:
        raise BenchError(
            f"{path} is not the file that was released: its sha256 is {found}, not "
            f"{weights.sha256}. Delete it, so that it is fetched again."
        )
    return path


def _download(weights: Weights) -> Path:
    """Fetch the file, or its older pickled form where the repository has no safetensors."""
    from huggingface_hub import errors

    try:
        return _download_file(weights, weights.file)
    except errors.RemoteEntryNotFoundError:
        older = weights.file.replace("model.safetensors", "pytorch_model.bin")
        if older == weights.file:
            raise
        return _download_file(weights, older)


def _download_file(weights: Weights, file: str) -> Path:
    import huggingface_hub as hub
    from huggingface_hub import errors

    cached = hub.try_to_load_from_cache(weights.repo, file, revision=weights.revision)
    if isinstance(cached, str):
        return Path(cached)
    url = hub.hf_hub_url(weights.repo, file, revision=weights.revision)
    try:  # one question first: the download itself would try for half a minute to reach the hub
        hub.get_hf_file_metadata(url, timeout=TIMEOUT_S)
    except (errors.HfHubHTTPError, errors.OfflineModeIsEnabled):
        raise
    except Exception as error:
        raise ConnectionError from error
    return Path(hub.hf_hub_download(weights.repo, file, revision=weights.revision))


def explain(error: BaseException, weights: Weights) -> str:
    """Say why a file could not be fetched, and what cures it."""
    from huggingface_hub import errors

    page = f"https://huggingface.co/{weights.repo}"
    chain = chain_of(error)
    status = next((code for each in chain if (code := status_of(each))), None)

    def is_a(*kinds: type[BaseException]) -> bool:
        return any(isinstance(each, kinds) for each in chain)

    if is_a(errors.GatedRepoError):  # first: it is a RepositoryNotFoundError too
        if status == 403:
            return (
                f"{weights.repo} is gated and your account is not on its list yet: ask at {page}."
            )
        return f"{weights.repo} is gated: accept its terms at {page}, then {LOG_IN}."
    if is_a(errors.RepositoryNotFoundError):
        return f"{page} does not exist, or is private: {LOG_IN} if you were given access."
    if is_a(errors.RevisionNotFoundError):
        return f"{page} has no revision {weights.revision!r} any more: see its page."
    if is_a(errors.OfflineModeIsEnabled):
        return f"HF_HUB_OFFLINE is set, and {page} was never fetched: unset it once."
    if is_a(errors.LocalEntryNotFoundError, ConnectionError, TimeoutError):
        return f"{page} cannot be reached, and was not fetched before: check the network."
    if is_a(errors.EntryNotFoundError):
        return f"{page} holds no file {weights.file!r}: see its page."
    if status == 401:
        return f"the hub refused your token as invalid or expired: {LOG_IN} ({page})."
    if status is not None:
        return f"the hub answered {status} for {page}: try again later."
    reason = next(filter(None, map(system_reason, chain)), type(error).__name__)
    return f"{weights.file} of {page} could not be fetched ({reason})."


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
