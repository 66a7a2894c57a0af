"""Read files of weights without running any code in them."""

from __future__ import annotations

import hashlib
import pickle
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from bench.errors import BenchError
from bench.store.files import UNREADABLE

PICKLED = (".pt", ".pth", ".bin", ".ckpt")
WRAPPERS = ("state_dict", "model")  # names under which training code nests a state dict
MAX_WRAPPERS = 3  # nested; a file may contain itself
REAL = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
FOLDER = 0x10  # of the attributes of a zip file's entry
WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def sha256_of(path: Path) -> str:
    """Return the sha256 (hex) of a file.

    Raises:
        BenchError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BenchError(
            f"cannot read the weights {path}: {error.strerror or error}. Check the path."
        ) from error


def read_state(path: Path) -> dict[str, Tensor]:
    """Read the state dict of a file, on the CPU and in its stored precision.

    Pickled files are read by `torch.load(weights_only=True)`, which refuses everything except
    tensors and plain containers.

    Raises:
        BenchError: the file is damaged, of another format, or contains something else.
    """
    if path.suffix == ".safetensors":
        state = _read_safetensors(path)
    elif path.suffix in PICKLED:
        if _begins_as_zip(path):  # files of older versions of torch have no checksums
            _compare_checksums(path)
        state = _unwrapped(_read_pickled(path), path)
    else:
        raise BenchError(
            f"{path} does not have the suffix of a file of weights: use a .safetensors file (or "
            f"{', '.join(PICKLED)})."
        )
    if not isinstance(state, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        raise _refused(path, "it contains something other than named tensors")
    return dict(state)


def read_container(path: Path) -> object:
    """Read a file of `torch.save` with tensors and plain containers, on the CPU.

    The checksums of the file are compared first, which `torch.load` does not do.

    Raises:
        BenchError: the file is damaged, or contains anything else.
    """
    _compare_checksums(path)
    return _read_pickled(path)


def _compare_checksums(path: Path) -> None:
    """Raise a BenchError if a bit of a zip file has changed, which `torch.load` does not detect."""
    try:
        with zipfile.ZipFile(path) as bundle:
            # torch.save does not compress; a damaged header may claim that an entry is compressed.
            compressed = [entry.filename for entry in bundle.infolist() if not _is_plain(entry)]
            damaged = compressed[0] if compressed else bundle.testzip()
    except (*UNREADABLE, ValueError, RuntimeError) as error:
        raise _refused(path, f"it is truncated or damaged ({type(error).__name__})") from error
    if damaged is not None:
        raise _refused(path, f"it is damaged at {damaged!r}, or was written without checksums")


def _is_plain(entry: zipfile.ZipInfo) -> bool:
    is_stored = entry.compress_type == zipfile.ZIP_STORED and not entry.external_attr & FOLDER
    return is_stored and entry.file_size == entry.compress_size


def _begins_as_zip(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) == b"PK\x03\x04"
    except OSError as error:
        raise _refused(path, f"it cannot be read ({error.strerror or error})") from error


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise _refused(path, f"it is truncated or no safetensors file ({error})") from error


def _read_pickled(path: Path) -> object:
    try:
        with warnings.catch_warnings(action="ignore"):  # of old pickles: the error below covers it
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = "it is damaged, or it would run code when opened, which is never allowed"
        raise _refused(path, reason) from error
    except Exception as error:  # the reader may raise anything on a damaged file
        raise _refused(path, f"it is truncated or damaged ({type(error).__name__})") from error


def _unwrapped(content: object, path: Path) -> object:
    for _ in range(MAX_WRAPPERS + 1):
        if not isinstance(content, Mapping):
            return content
        nested = [content[name] for name in WRAPPERS if isinstance(content.get(name), Mapping)]
        if not nested:
            return content
        content = nested[0]
    raise _refused(path, f"its tensors are nested in more than {MAX_WRAPPERS} wrappers")


@contextmanager
def refuse_other_kinds(module: nn.Module) -> Iterator[None]:
    """Let `load_state_dict` refuse integers, booleans and complex numbers as weights.

    PyTorch would convert them silently. Real numbers of another precision are converted.
    """
    hooks = [part.register_load_state_dict_pre_hook(_compare_kinds) for part in module.modules()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _compare_kinds(
    module: nn.Module, state: Mapping[str, Tensor], prefix: str, *others: object
) -> None:
    """Append to the errors of `load_state_dict`, the last argument of the hook."""
    *_, errors = others
    assert isinstance(errors, list)
    for tensors in (module.named_parameters(recurse=False), module.named_buffers(recurse=False)):
        for name, expected in tensors:
            value = state.get(prefix + name)
            if value is not None and _kind(value.dtype) != _kind(expected.dtype):
                errors.append(f"{prefix}{name} is {value.dtype}, but must be {expected.dtype}")


def _kind(dtype: torch.dtype) -> str:
    return "real" if dtype in REAL else "whole" if dtype in WHOLE else str(dtype)


def _refused(path: Path, reason: str) -> BenchError:
    return BenchError(
        f"the weights {path} (sha256 {sha256_of(path)}) were not read: {reason}. "
        "Download the file again, or if you trust it, convert it to .safetensors."
    )


def all_of(folder: Path) -> list[Path]:
    """List the checkpoints in a folder, oldest first."""
    return sorted(folder.glob("step-*"), key=lambda path: path.stem)
