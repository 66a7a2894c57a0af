"""Read files of weights without running any code in them."""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.serialization import safe_globals

from bench.errors import BenchError
from bench.store.files import UNREADABLE

WRAPPERS = (  # names under which training code nests a state dict, preferred ones first
    *("teacher", "model_ema", "state_dict_ema", "ema", "state_dict", "model", "model_state_dict"),
    *("student", "network", "net", "module"),
)
PREFIXES = (  # of the names in a state dict, preferred ones first
    *("module.", "_orig_mod.", "teacher.", "model.", "backbone.", "base_encoder.", "encoder."),
    *("network.", "net.", "dinov2.", "vit.", "student."),
)
MAX_WRAPPERS = 3  # nested; a file may contain itself
INDEX = ".index.json"  # suffix of the list of the files of a sharded checkpoint
FILES_OF_A_FOLDER = tuple(
    f"{name}{suffix}"
    for suffix in ("", INDEX)
    for name in ("model.safetensors", "pytorch_model.bin")
)
KINDS = (  # what is downloaded in place of weights, by its first bytes
    (b"version https://git-lfs", "it is a Git LFS pointer, not the file: run `git lfs pull`"),
    (b"<!doctype html", "it is an HTML page, such as a login or licence page"),
    (b"<html", "it is an HTML page, such as a login or licence page"),
)
ZIP, PICKLE = b"PK\x03\x04", b"\x80"  # first bytes of files of `torch.save`
REAL = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
FOLDER = 0x10  # of the attributes of a zip file's entry
WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


@dataclass(frozen=True)
class StateFile:
    """The tensors of a file of weights, and the hash of the bytes that they were read from.

    Attributes:
        tensors: by name, on the CPU in their stored precision.
        sha256: in hex digits; of a sharded checkpoint, see `sha256_of`.
        unwrapped: names of the dictionaries around the tensors, and prefixes of their names.
    """

    tensors: Mapping[str, Tensor]
    sha256: str
    unwrapped: tuple[str, ...] = ()

    def candidates(self) -> Iterator[StateFile]:
        """Yield the tensors as stored, then without the first prefix of their names, and so on.

        Tensors whose names lack the prefix, such as those of a projection head, are left out.
        """
        state = self
        yield state
        while prefix := next((p for p in PREFIXES if state._has(p)), ""):
            inner = {
                name.removeprefix(prefix): tensor
                for name, tensor in state.tensors.items()
                if name.startswith(prefix)
            }
            left_out = len(state.tensors) - len(inner)
            note = f"{prefix} ({left_out} other tensors left out)" if left_out else prefix
            state = replace(state, tensors=inner, unwrapped=(*state.unwrapped, note))
            yield state

    def _has(self, prefix: str) -> bool:
        return any(name.startswith(prefix) for name in self.tensors)

    def refuse_damaged(self, tensors: Mapping[str, Tensor]) -> None:
        """Raise a BenchError if tensors are not finite, or if most matrices are zero."""
        real = {name: tensor for name, tensor in tensors.items() if tensor.dtype in REAL}
        for name, tensor in real.items():
            if not bool(torch.isfinite(tensor).all()):
                raise BenchError(f"{name} contains NaN or infinity. Use another checkpoint.")
        matrices = [tensor for tensor in real.values() if tensor.ndim > 1]
        zero = sum(not bool(tensor.any()) for tensor in matrices)
        if 2 * zero > len(matrices) > 1:
            raise BenchError(
                f"{zero} of its {len(matrices)} matrices contain only zeros: it was not written or "
                "copied completely. Copy it again."
            )


def sha256_of(path: Path) -> str:
    """Return the sha256 (hex) of a file; of a sharded checkpoint, that of its files' hashes.

    Raises:
        BenchError: the file cannot be read.
    """
    if path.name.endswith(INDEX):
        index = _read(path)
        hashes = {shard.name: sha256_of(shard) for shard in _shards(path, index)}
        return _combined(index, hashes)
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from error


def files_of(path: Path) -> list[Path]:
    """Return the files of a checkpoint: the path, and the shards that it lists if it is an index.

    Raises:
        BenchError: the index cannot be read, or a shard is missing.
    """
    return [path, *_shards(path, _read(path))] if path.name.endswith(INDEX) else [path]


def read_weights(path: Path) -> StateFile:
    """Read the tensors of a file or of an index of shards, and hash the bytes that are read.

    Files are read once: a file that is replaced meanwhile cannot get the hash of another one. The
    content decides on the format, safetensors or `torch.save`. Pickled files are read by
    `torch.load(weights_only=True)`, which refuses everything except tensors and plain containers;
    `argparse.Namespace` and numbers of numpy are allowed too, which training code saves beside.

    Raises:
        BenchError: the file is damaged, of another format, or contains something else.
    """
    if not path.name.endswith(INDEX):
        return _parsed(path, _read(path))
    index, tensors, hashes = _read(path), {}, {}
    for shard in _shards(path, index):
        state = _parsed(shard, _read(shard))
        tensors |= state.tensors
        hashes[shard.name] = state.sha256
    return StateFile(tensors, _combined(index, hashes))


def read_container(path: Path) -> object:
    """Read a file of `torch.save` with tensors and plain containers, on the CPU.

    The checksums of the file are compared first, which `torch.load` does not do.

    Raises:
        BenchError: the file is damaged, or contains anything else.
    """
    _compare_checksums(path, path)
    return _read_pickled(path, path)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> BenchError:
    return BenchError(f"cannot read the weights {path}: {error.strerror or error}. Check the path.")


def _shards(path: Path, index: bytes) -> list[Path]:
    try:
        names = sorted({str(name) for name in json.loads(index)["weight_map"].values()})
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise _refused(path, "it is not an index of shards") from error
    shards = [path.parent / Path(name).name for name in names]
    if missing := [shard.name for shard in shards if not shard.is_file()]:
        raise BenchError(
            f"{path} lists {', '.join(missing)}, which is missing. Download all files."
        )
    return shards


def _combined(index: bytes, hashes: Mapping[str, str]) -> str:
    lines = "".join(f"{sha256}  {name}\n" for name, sha256 in sorted(hashes.items()))
    return hashlib.sha256(index + lines.encode()).hexdigest()


def _parsed(path: Path, content: bytes) -> StateFile:
    sha256, start = hashlib.sha256(content).hexdigest(), content[:64].lstrip().lower()
    unwrapped: tuple[str, ...] = ()
    if kind := next((text for first, text in KINDS if start.startswith(first)), ""):
        raise _refused(path, kind)
    if not content:
        raise _refused(path, "it is empty")
    if content[8:9] == b"{":
        state: object = _read_safetensors(path, content)
    elif content.startswith((ZIP, PICKLE)):
        if content.startswith(ZIP):  # files of older versions of torch have no checksums
            _compare_checksums(path, io.BytesIO(content))
        state, unwrapped = _unwrapped(_read_pickled(path, io.BytesIO(content)), path)
    else:
        raise _refused(path, "it is damaged: neither a safetensors file nor of torch.save")
    if not isinstance(state, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        raise _refused(path, "it contains something other than named tensors")
    return StateFile(dict(state), sha256, unwrapped)


def _compare_checksums(path: Path, file: Path | io.BytesIO) -> None:
    """Raise a BenchError if a bit of a zip file has changed, which `torch.load` does not detect."""
    try:
        with zipfile.ZipFile(file) as bundle:
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


def _read_safetensors(path: Path, content: bytes) -> dict[str, Tensor]:
    try:
        return dict(sorted(safetensors.torch.load(content).items()))
    except Exception as error:  # the library raises several kinds of errors for a damaged header
        raise _refused(path, f"it is truncated or no safetensors file ({error})") from error


def _read_pickled(path: Path, file: Path | io.BytesIO) -> object:
    try:
        with warnings.catch_warnings(action="ignore"), safe_globals(_plain_classes()):
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = "it is damaged, or it would run code when opened, which is never allowed"
        if named:
            reason = (
                f"it contains an object of the class {named[1]}, whose code would run when opened. "
                "Save the tensors only, `torch.save(model.state_dict(), FILE)`"
            )
        raise _refused(path, reason) from error
    except Exception as error:  # the reader may raise anything on a damaged file
        raise _refused(path, f"it is truncated or damaged ({type(error).__name__})") from error


def _plain_classes() -> list[Any]:
    """Return the classes of settings and numbers beside weights; creating them runs no code."""
    scalar = np.float64(0).__reduce__()[0]
    kinds = [type(np.dtype(name)) for name in ("f8", "f4", "f2", "i8", "i4", "u1", "?")]
    old = (scalar, "numpy.core.multiarray.scalar")  # its name before numpy 2
    return [argparse.Namespace, np.dtype, scalar, old, *kinds]


def _unwrapped(content: object, path: Path) -> tuple[object, tuple[str, ...]]:
    """Return a state dict, and the names of the dictionaries around it, outermost first."""
    names: tuple[str, ...] = ()
    for _ in range(MAX_WRAPPERS + 1):
        nested = isinstance(content, Mapping) and next(
            (name for name in WRAPPERS if isinstance(content.get(name), Mapping)), ""
        )
        if not nested:
            return content, names
        assert isinstance(content, Mapping)
        content, names = content[nested], (*names, nested)
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
        "Download the file again, or convert it to .safetensors where you trust it."
    )


def all_of(folder: Path) -> list[Path]:
    """List the checkpoints in a folder, oldest first."""
    return sorted(folder.glob("step-*"), key=lambda path: path.stem)
