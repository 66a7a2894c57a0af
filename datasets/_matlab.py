"""Read `inst_map` of the MATLAB files (`-v6` or `-v7`) of CPM-15 and CPM-17.

`scipy.io.loadmat` is not used, because a damaged type code ends the process with a segmentation
fault (scipy 1.17). Format: "MAT-File Format", The MathWorks, chapter 1, level 5.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bench.data.decode import MAX_PIXELS
from bench.errors import BenchError

NAME = "inst_map"
NUMBERS = {
    1: "i1",
    2: "u1",
    3: "i2",
    4: "u2",
    5: "i4",
    6: "u4",
    7: "f4",
    9: "f8",
    12: "i8",
    13: "u8",
}
MATRIX, COMPRESSED = 14, 15
HEADER_BYTES = 128
MAX_BYTES = 8 * MAX_PIXELS + 1024
COMPLEX = 0x800


def read_instances(path: Path) -> np.ndarray:
    """Read `inst_map` into (H, W) int32.

    Raises:
        BenchError: the file cannot be read, is too large, or `inst_map` is not a label image.
    """
    try:
        values = _read_array(path.read_bytes())
    except (ValueError, OSError, struct.error, zlib.error) as error:
        raise BenchError(f"{path} is not a MATLAB file or is damaged: {error}.") from error
    if values is None:
        raise BenchError(f"{path} has no `{NAME}`, so it is not a label of CPM-15 or CPM-17.")
    if values.ndim != 2 or (values != np.round(values)).any():
        raise BenchError(f"{path}: {NAME} is {values.dtype} {values.shape}, not (H, W) integers.")
    if values.size == 0 or values.min() < 0 or values.max() > np.iinfo(np.int32).max:
        raise BenchError(f"{path}: {NAME} is empty or has values outside 0 .. 2^31 - 1.")
    return values.astype(np.int32)


def _read_array(content: bytes) -> np.ndarray | None:
    """Return the numeric array `NAME` of a file; None if there is none."""
    order = {b"IM": "<", b"MI": ">"}.get(content[126:HEADER_BYTES])
    if order is None or content[124:126] not in (b"\x00\x01", b"\x01\x00"):
        raise ValueError("it is not of level 5 (save it with `save -v7`)")
    for kind, element in _elements(content[HEADER_BYTES:], order):
        if kind == COMPRESSED:
            unpacked = zlib.decompressobj().decompress(element, MAX_BYTES)
            kind, element = next(_elements(unpacked, order), (0, b""))
        if kind != MATRIX:
            continue
        parts = [*_elements(element, order)]
        if len(parts) > 2 and parts[2][1] == NAME.encode():
            return _array(parts, order)
    return None


def _array(parts: list[tuple[int, bytes]], order: str) -> np.ndarray:
    """Convert the parts of a matrix (flags, shape, name, numbers) to an array."""
    (flags,) = struct.unpack_from(f"{order}I", parts[0][1])
    shape = [*struct.unpack(f"{order}{len(parts[1][1]) // 4}i", parts[1][1])]
    if len(parts) != 4 or parts[3][0] not in NUMBERS or flags & COMPLEX or min(shape) < 0:
        raise ValueError(f"{NAME} is not an array of numbers")
    if math.prod(shape) > MAX_PIXELS:
        size = "x".join(map(str, shape))
        raise ValueError(f"{NAME} is declared as {size}; at most {MAX_PIXELS:.0e} pixels are read")
    kind, numbers = parts[3]
    return np.frombuffer(numbers, f"{order}{NUMBERS[kind]}").reshape(shape, order="F")


def _elements(content: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Yield the type and the content of each data element."""
    position = 0
    while position + 8 <= len(content):
        kind, size = struct.unpack_from(f"{order}II", content, position)
        start = position + 8
        if kind >> 16:  # at most four bytes, beside the type
            kind, size, start = kind & 0xFFFF, kind >> 16, position + 4
        end = start + size
        if end > len(content):
            raise ValueError("it is truncated")
        yield kind, content[start:end]
        position = end if kind == COMPRESSED else end + -end % 8
