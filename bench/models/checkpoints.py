"""Read a file of weights without running anything that it may carry."""

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
DEEPEST = 3  # wrappers, one in the other; a file may hold itself
REAL = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
FOLDER = 0x10  # of the attributes of a zip file's entry
WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def sha256_of(path: Path) -> str:
    """Hash a file, in hex.

    Raises:
        BenchError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BenchError(
            f"cannot read the weights {path}: {error.strerror or error}. Check the path."
        ) from error


def read_state(path: Path) -> dict[str, Tensor]:
    """Read the state dict of a file, on the CPU and in the precision in which it is stored.

    Safetensors files are data alone. Pickled ones are read by `torch.load(weights_only=True)`,
    which refuses everything but tensors and plain containers before it is run.

    Raises:
        BenchError: the file is not a whole one of either kind, or holds something else.
    """
    if path.suffix == ".safetensors":
        state = _read_safetensors(path)
    elif path.suffix in PICKLED:
        if _begins_as_zip(path):  # what older versions of torch wrote has no check sums
            _compare_check_sums(path)
        state = _unwrapped(_read_pickled(path), path)
    else:
        raise BenchError(
            f"{path} is not a file of weights by its name: give a .safetensors file (or one of "
            f"{', '.join(PICKLED)})."
        )
    if not isinstance(state, Mapping) or not all(
        isinstance(name, str) and isinstance(each, Tensor) for name, each in state.items()
    ):
        raise _refused(path, "it holds something other than named tensors")
    return dict(state)


def read_container(path: Path) -> object:
    """Read a file of `torch.save` with tensors and plain containers, on the CPU.

    Its check sums are compared first, which `torch.load` does not do.

    Raises:
        BenchError: it is damaged, or holds anything else.
    """
    _compare_check_sums(path)
    return _read_pickled(path)


def _compare_check_sums(path: Path) -> None:
    """Refuse a zip file of `torch.save` with a changed bit, which `torch.load` does not notice."""
    try:
        with zipfile.ZipFile(path) as bundle:
            # torch.save compresses nothing; readers may differ on what says that it is.
            packed = [each.filename for each in bundle.infolist() if not _is_plain(each)]
            damaged = packed[0] if packed else bundle.testzip()
    except (*UNREADABLE, ValueError, RuntimeError) as error:
        raise _refused(path, f"it is truncated or damaged ({type(error).__name__})") from error
    if damaged is not None:
        raise _refused(path, f"it is damaged at {damaged!r}, or was written without check sums")


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
        with warnings.catch_warnings(action="ignore"):  # about old or new pickles: we say it below
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = "it is damaged, or it would run code when opened, which is never allowed"
        raise _refused(path, reason) from error
    except Exception as error:  # the reader may raise anything on a damaged file
        raise _refused(path, f"it is truncated or damaged ({type(error).__name__})") from error


def _unwrapped(content: object, path: Path) -> object:
    for _ in range(DEEPEST + 1):
        inner = content if isinstance(content, Mapping) else {}
        nested = [inner[name] for name in WRAPPERS if isinstance(inner.get(name), Mapping)]
        if not nested:
            return content
        content = nested[0]
    raise _refused(path, f"its tensors lie more than {DEEPEST} wrappers deep, or nowhere")


@contextmanager
def refuse_other_kinds(module: nn.Module) -> Iterator[None]:
    """Let `load_state_dict` inside refuse whole numbers, truths or complex ones as weights.

    PyTorch would convert them without a word. Real numbers of another precision are taken.
    """
    hooks = [each.register_load_state_dict_pre_hook(_compare_kinds) for each in module.modules()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _compare_kinds(
    module: nn.Module, state: Mapping[str, Tensor], prefix: str, *others: object
) -> None:
    """Add to the errors of a load, which are the last argument of such a hook."""
    *_, errors = others
    assert isinstance(errors, list)
    own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    for name, wanted in own:
        given = state.get(prefix + name)
        if given is not None and _kind(given.dtype) != _kind(wanted.dtype):
            errors.append(f"{prefix}{name} holds {given.dtype}, and {wanted.dtype} is needed")


def _kind(dtype: torch.dtype) -> str:
    return "real" if dtype in REAL else "whole" if dtype in WHOLE else str(dtype)


def _refused(path: Path, reason: str) -> BenchError:
    return BenchError(
        f"the weights {path} (sha256 {sha256_of(path)}) were not read: {reason}. "
        "Fetch the file again, or convert it to .safetensors where you trust it."
    )


def all_of(folder: Path) -> list[Path]:
    """List the checkpoints of a run, oldest first."""
    return sorted(folder.glob("step-*"), key=lambda path: path.stem)
