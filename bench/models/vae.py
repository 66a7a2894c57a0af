"""Encode images to the latents of a frozen VAE, and decode them, for the study of table 2.

Pretraining and feature extraction share this module, so that they encode images the same way.
Networks trained on latents are those of arXiv 2605.08276; the VAE is the SD-VAE (arXiv 2112.10752).
Shapes: N images, H and W their sides in pixels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.api import Weights
from bench.errors import BenchError
from bench.models import hub
from bench.models.checkpoints import sha256_of

REPOSITORIES = {"sd-vae": "stabilityai/sd-vae-ft-mse"}
CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
FACTOR = 8  # pixels per latent
CHANNELS = 4
RANDOM = {  # a small VAE with the same factor and channels, for tests and controls
    "block_out_channels": (16, 16, 16, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "latent_channels": CHANNELS,
    "layers_per_block": 1,
    "norm_num_groups": 8,
}
NAMES = f"sd-vae, random, or a folder with {CONFIG} and {WEIGHTS}"


class Latents(nn.Module):
    """A frozen VAE between images and latents.

    Its weights are non-persistent buffers: they move with the module, but a network that contains
    it neither trains, saves, loads nor counts them.

    Attributes:
        channels: number of channels of the latents, 4.
        factor: pixels per latent, 8.
        facts: the VAE's name, without the path of a folder, and the identity of its weights.
    """

    channels = CHANNELS
    factor = FACTOR

    def __init__(self, name: str) -> None:
        """Load a VAE; on the meta device no file is read, and images cannot be encoded.

        Args:
            name: "sd-vae" (from the hub), a folder in the format of diffusers, or "random" (a small
                VAE with random weights).

        Raises:
            BenchError: there is no such VAE, its files cannot be downloaded or read, it has another
                factor or number of channels, or diffusers is not installed.
        """
        super().__init__()
        self.facts: dict[str, object] = {"vae": Path(name).name}
        self.vae: Any = None  # an AutoencoderKL, whose type annotations are wrong
        if torch.empty(0).is_meta:
            return
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            if name == "random":
                vae, self.facts["vae_weights"] = _autoencoder_class()(**RANDOM), "random:0"
            else:
                vae, self.facts["vae_weights"] = _load(name)
        self.scale: float = vae.config.scaling_factor
        self.vae = vae
        _weights_to_buffers(vae)
        self.eval()

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Map (N, 3, H, W) in [-1, 1], sides divisible by 8, to (N, 4, H / 8, W / 8).

        The result is the mean of the posterior times the VAE's scale (0.18215 for the SD-VAE).
        """
        assert self.vae is not None, "cannot encode on the meta device"
        return self.vae.encode(images).latent_dist.mean.float() * self.scale

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Map latents (N, 4, h, w) to images (N, 3, 8 h, 8 w), float32 in about [-1, 1]."""
        assert self.vae is not None, "cannot decode on the meta device"
        return self.vae.decode(latents / self.scale).sample.float()


def _load(name: str) -> tuple[Any, str]:
    """Load a VAE from the hub or from a folder; return it and the identity of its weights."""
    autoencoder_class = _autoencoder_class()
    folder = _download(name) if name in REPOSITORIES else Path(name)
    if not folder.is_dir():
        raise BenchError(f"there is no VAE {name!r}: use {NAMES}.")
    missing = [file for file in (CONFIG, WEIGHTS) if not (folder / file).is_file()]
    if missing:
        raise BenchError(f"the VAE {folder} has no {' and no '.join(missing)}: use {NAMES}.")
    _check_config(folder / CONFIG)
    before = sha256_of(folder / WEIGHTS)
    try:
        vae, loading = autoencoder_class.from_pretrained(
            folder,
            local_files_only=True,
            low_cpu_mem_usage=False,
            output_loading_info=True,
            torch_dtype=torch.float32,
            use_safetensors=True,
        )
    except Exception as error:  # the library raises any exception for a damaged file
        raise _damaged(folder, type(error).__name__) from error
    wrong = [*loading["missing_keys"], *loading["unexpected_keys"], *loading["mismatched_keys"]]
    if wrong:
        raise _damaged(folder, f"{len(wrong)} weights are missing or unexpected, e.g. {wrong[0]}")
    if sha256_of(folder / WEIGHTS) != before:
        raise _damaged(folder, "the file changed while it was read")
    return vae, f"sha256:{before}"


def _autoencoder_class() -> Any:
    """Import diffusers' `AutoencoderKL`; raise a BenchError if it is not installed."""
    try:
        from diffusers.models import AutoencoderKL  # pyright: ignore
    except (ImportError, RuntimeError) as error:  # its lazy imports raise RuntimeError
        raise BenchError(
            f"latents need the library diffusers, which cannot be imported ({error}): run "
            "`pip install 'cmd-bench[latent]'`."
        ) from error
    return AutoencoderKL


def _download(name: str) -> Path:
    """Return the folder of a released VAE in the hub's cache."""
    repo = REPOSITORIES[name]
    try:
        config, _ = (hub.fetch(Weights(repo=repo, file=file)) for file in (CONFIG, WEIGHTS))
    except BenchError as error:
        raise BenchError(f"the VAE {name}: {error} Or use {NAMES}.") from None
    return config.parent


def _check_config(path: Path) -> None:
    """Raise a BenchError unless the VAE has 4 latent channels and a factor of 8."""
    try:
        config: Mapping[str, Any] = json.loads(path.read_bytes())
        form = (
            config["_class_name"],
            config["in_channels"],
            config["latent_channels"],
            2 ** (len(config["block_out_channels"]) - 1),
            config.get("shift_factor") or 0.0,
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BenchError(f"{path} is not the configuration of a VAE. Download it again.") from error
    expected = ("AutoencoderKL", 3, CHANNELS, FACTOR, 0.0)
    if form != expected:
        raise BenchError(
            f"{path} differs from the SD-VAE: class, channels of images and latents, pixels per "
            f"latent, and shift are {form}, not {expected}. Use {NAMES}."
        )


def _damaged(folder: Path, reason: str) -> BenchError:
    return BenchError(
        f"the VAE {folder / WEIGHTS} (sha256 {sha256_of(folder / WEIGHTS)}) could not be loaded: "
        f"{reason}. It is damaged, or does not match its {CONFIG}: download both again."
    )


def _weights_to_buffers(network: nn.Module) -> None:
    for module in network.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            delattr(module, name)
            module.register_buffer(name, weight.detach(), persistent=False)
