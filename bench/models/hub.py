"""Find weights on this machine, or download them from the Hugging Face hub.

Error messages are built from the kind of error only: the text of an error of the hub or of the
network library may contain a token, so it is never repeated.
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
AGAIN = "run the same command again"
GATED = f"{{repo}} is gated: accept its licence{{license}} at {{page}}, {LOG_IN}, then {AGAIN}."
NOT_ADMITTED = (
    "{repo} is gated and your account does not have access yet: accept its licence{license} at "
    f"{{page}}, wait for access, then {AGAIN}."
)
STATUS_TEXTS = {
    401: f"the hub refused your token as invalid or expired: {LOG_IN} ({{page}}).",
    403: "the hub does not let your token read {page}: allow a fine-grained token to read gated "
    "repositories, at https://huggingface.co/settings/tokens.",
}
OTHER_STATUS = "the hub answered {status} for {page}: try again later."
FAILED = f"{{file}} of {{page}} could not be downloaded ({{reason}}): {AGAIN}."


def page(weights: Weights) -> str:
    """Return the address of the page that describes the weights and their licence."""
    return f"https://huggingface.co/{weights.repo}"


def cached(weights: Weights) -> Path | None:
    """Return the file in the hub's cache on this machine, without network access."""
    from huggingface_hub import try_to_load_from_cache

    for file in _files(weights):
        path = try_to_load_from_cache(weights.repo, file, revision=weights.revision)
        if isinstance(path, str):
            return Path(path)
    return None


def fetch(weights: Weights, license: str = "", *, gated: bool = False) -> Path:
    """Return the path of a released file; it is downloaded unless the hub's cache has it.

    Args:
        license: of the weights, for the error of a gated repository.
        gated: whether the repository is gated, for errors of a hub that does not answer.

    Raises:
        BenchError: the download failed, or the file has another sha256.
    """
    try:
        path = cached(weights) or _download(weights)
    except Exception as error:  # of the hub's library or of any HTTP library
        text = explain(error, weights, license)
        if gated and page(weights) in text and "gated" not in text:
            text += f" {_filled(GATED, weights, license)}"
        raise BenchError(text) from None
    if weights.sha256:
        from bench.models.checkpoints import sha256_of  # imports torch, which listing must not

        if (actual := sha256_of(path)) != weights.sha256:
            raise BenchError(
                f"{path} is not the released file: its sha256 is {actual}, not {weights.sha256}. "
                f"Delete {path.resolve()}, so that it is downloaded again."
            )
    return path


def _files(weights: Weights) -> list[str]:
    """Return the file, and its older pickled form unless the sha256 is known."""
    older = weights.file.replace("model.safetensors", "pytorch_model.bin")
    return [weights.file] if weights.sha256 or older == weights.file else [weights.file, older]


def _download(weights: Weights) -> Path:
    """Download the first of the files that the repository has."""
    from huggingface_hub import errors

    *others, last = _files(weights)
    for file in others:
        try:
            return _download_file(weights, file)
        except errors.RemoteEntryNotFoundError:
            continue
    return _download_file(weights, last)


def _download_file(weights: Weights, file: str) -> Path:
    import huggingface_hub as hub
    from huggingface_hub import errors

    url = hub.hf_hub_url(weights.repo, file, revision=weights.revision)
    try:  # first, since the download itself would try for half a minute to reach the hub
        hub.get_hf_file_metadata(url, timeout=TIMEOUT_S)
    except (errors.HfHubHTTPError, errors.OfflineModeIsEnabled):
        raise
    except Exception as error:
        raise ConnectionError from error
    return Path(hub.hf_hub_download(weights.repo, file, revision=weights.revision))


def explain(error: BaseException, weights: Weights, license: str = "") -> str:
    """Return why a file could not be downloaded, and how to fix it."""
    from huggingface_hub import errors

    chain = chain_of(error)
    status = next((code for cause in chain if (code := status_of(cause))), None)
    unreachable = (errors.LocalEntryNotFoundError, ConnectionError, TimeoutError)
    texts = (  # in this order, since some classes are subclasses of later ones
        (errors.GatedRepoError, NOT_ADMITTED if status == 403 else GATED),
        (
            errors.RepositoryNotFoundError,
            f"{{page}} does not exist, or is private: {LOG_IN} if you have access.",
        ),
        (errors.RevisionNotFoundError, "{page} no longer has the revision {revision!r}."),
        (errors.OfflineModeIsEnabled, "HF_HUB_OFFLINE is set, and {page} is not cached: unset it."),
        (unreachable, "{page} cannot be reached, and is not cached: check the network."),
        (errors.EntryNotFoundError, "{page} has no file {file!r}."),
    )
    text = next((text for kind, text in texts if any(isinstance(c, kind) for c in chain)), None)
    if text is None:
        text = FAILED if status is None else STATUS_TEXTS.get(status, OTHER_STATUS)
    reason = next(filter(None, map(system_reason, chain)), None)
    if reason is None:
        is_incomplete = any(isinstance(cause, OSError) for cause in chain)
        reason = "it is incomplete" if is_incomplete else type(error).__name__
    return _filled(text, weights, license, status=status, reason=reason)


def _filled(text: str, weights: Weights, license: str, **values: object) -> str:
    return text.format(
        repo=weights.repo,
        page=page(weights),
        file=weights.file,
        revision=weights.revision,
        license=f" ({license})" if license else "",
        **values,
    )


def chain_of(error: BaseException | None) -> list[BaseException]:
    """Return an error, its cause, and so on."""
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return chain


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status of an error; None if it has none."""
    return getattr(getattr(error, "response", None), "status_code", None)


def system_reason(error: BaseException) -> str | None:
    """Return the message of the operating system, such as "No space left on device", or None."""
    return os.strerror(error.errno) if isinstance(error, OSError) and error.errno else None


def users_file(backbone: Backbone) -> Path:
    """Return where the user's cache would have the weights of a backbone."""
    safe = re.sub(r"[^\w.-]", "-", backbone.weights_name or backbone.name)
    return cache_root() / "weights" / f"{safe}.safetensors"


def cached_users_file(backbone: Backbone) -> Path | None:
    """Return the weights of a backbone in the user's cache; None if there are none."""
    if cache_root_if_any() is None:
        return None
    file = users_file(backbone)
    return file if file.is_file() else None


def packaged_file(weights: Weights) -> Path | None:
    """Return the path of weights inside a Python package; None if it is not installed."""
    try:
        return Path(str(files(weights.package) / weights.file))
    except ModuleNotFoundError:
        return None


def location(backbone: Backbone) -> str:
    """Return where the weights are: "cache", "package", "hub" (its cache), or "no".

    "none needed" if the backbone takes no weights.
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
