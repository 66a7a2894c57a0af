"""Libraries and settings on which the last bits of a result depend."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import torch


def numerics(device: torch.device) -> dict[str, object]:
    """Return what the last bits of a result depend on: libraries, device type, threads."""
    libraries = ("torch", "timm", "open_clip_torch", "numpy", "pillow")
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in libraries},
        "device": device.type,
        "threads": torch.get_num_threads(),
        "tf32": torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32,
    }


def forbid_tf32() -> None:
    """Disable TF32: by default, convolutions on a GPU round their inputs to 10 bits."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
