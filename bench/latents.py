"""The latents of images: what a frozen VAE makes of them, for the study of table 2.

Pretraining and feature extraction must encode an image alike, so both take this one. Networks
trained on latents are those of arXiv 2605.08276; the VAE is the SD-VAE (arXiv 2112.10752).
Letters: N images, H and W their sides in pixels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench import hub
from bench.api import Weights
from bench.checkpoints import sha256_of
from bench.errors import BenchError

REPOSITORIES = {"sd-vae": "stabilityai/sd-vae-ft-mse"}
CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
FACTOR = 8  # pixels a latent
CHANNELS = 4
RANDOM = {  # a VAE of the same form, small, for tests and controls
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

    Its weights are buffers that no state dict holds: they follow the module to its device, but are
    never trained, saved, loaded, or counted as those of a network that reads latents.

    Attributes:
        channels: 4, of the latents.
        factor: 8, pixels a latent.
        facts: the VAE's name, without the path of a folder, and the identity of its weights.
    """

    channels = CHANNELS
    factor = FACTOR

    def __init__(self, name: str) -> None:
        """Open a VAE; on the meta device nothing is read, and nothing can be encoded.

        Args:
            name: "sd-vae" (released, from the hub), a folder in the format of diffusers, or
                "random" (untrained, with weights of its own).

        Raises:
            BenchError: there is no such VAE, its files cannot be had or read, it has another
                factor or number of channels, or diffusers is not installed.
        """
        super().__init__()
        self.facts: dict[str, object] = {"vae": Path(name).name}
        self.vae: Any = None  # an AutoencoderKL; the library's own types do not hold
        if torch.empty(0).is_meta:
            return
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            vae, self.facts["vae_weights"] = _random() if name == "random" else _opened(name)
        self.scale: float = vae.config.scaling_factor
        self.vae = vae
        _weights_to_buffers(vae)
        self.eval()

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Map (N, 3, H, W) in [-1, 1], sides divisible by 8, to (N, 4, H / 8, W / 8).

        The mean of the posterior times the VAE's scale, 0.18215 for the SD-VAE: nothing is drawn.
        """
        assert self.vae is not None, "nothing is encoded on the meta device"
        return self.vae.encode(images).latent_dist.mean.float() * self.scale

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Map (N, 4, h, w) of `encode` to images, (N, 3, 8 h, 8 w) float32, about in [-1, 1]."""
        assert self.vae is not None, "nothing is decoded on the meta device"
        return self.vae.decode(latents / self.scale).sample.float()


def _random() -> tuple[Any, str]:
    return _diffusers()(**RANDOM), "random:0"


def _opened(name: str) -> tuple[Any, str]:
    """Open a released VAE or the one of a folder; give it and the identity of its weights."""
    kind = _diffusers()
    folder = _fetched(name) if name in REPOSITORIES else Path(name)
    if not folder.is_dir():
        raise BenchError(f"there is no VAE {name!r}: give {NAMES}.")
    missing = [file for file in (CONFIG, WEIGHTS) if not (folder / file).is_file()]
    if missing:
        raise BenchError(f"the VAE {folder} has no {' and no '.join(missing)}: give {NAMES}.")
    _refuse_another_form(folder / CONFIG)
    try:
        vae, loading = kind.from_pretrained(
            folder,
            local_files_only=True,
            low_cpu_mem_usage=False,
            output_loading_info=True,
            torch_dtype=torch.float32,
            use_safetensors=True,
        )
    except Exception as error:  # whatever a damaged file makes the library say
        raise _damaged(folder, type(error).__name__) from error
    amiss = [*loading["missing_keys"], *loading["unexpected_keys"], *loading["mismatched_keys"]]
    if amiss:
        raise _damaged(folder, f"{len(amiss)} weights are missing or too many, as {amiss[0]}")
    return vae, f"sha256:{sha256_of(folder / WEIGHTS)}"


def _diffusers() -> Any:
    """Give the class of such VAEs; a BenchError where the library is not installed."""
    try:
        from diffusers.models import AutoencoderKL  # pyright: ignore
    except (ImportError, RuntimeError) as error:  # its lazy imports turn the first into the second
        raise BenchError(
            f"latents need the library diffusers, which cannot be imported ({error}): "
            "`pip install 'cmd-bench[latent]'`."
        ) from error
    return AutoencoderKL


def _fetched(name: str) -> Path:
    """Give the folder of a released VAE in the hub's cache."""
    repo = REPOSITORIES[name]
    try:
        config, _ = (hub.fetch(Weights(repo=repo, file=file)) for file in (CONFIG, WEIGHTS))
    except BenchError as error:
        raise BenchError(f"the VAE {name}: {error} Otherwise give {NAMES}.") from None
    return config.parent


def _refuse_another_form(path: Path) -> None:
    """Raise a BenchError where a configuration is not that of a VAE with 4 channels, 8 px each."""
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
        raise BenchError(f"{path} is not the configuration of a VAE. Fetch it again.") from error
    wanted = ("AutoencoderKL", 3, CHANNELS, FACTOR, 0.0)
    if form != wanted:
        raise BenchError(
            f"{path} is of another form than the SD-VAE: class, channels of images and latents, "
            f"pixels a latent, shift are {form}, not {wanted}."
        )


def _damaged(folder: Path, reason: str) -> BenchError:
    return BenchError(
        f"the VAE {folder / WEIGHTS} (sha256 {sha256_of(folder / WEIGHTS)}) could not be loaded: "
        f"{reason}. It is damaged, or does not belong to its {CONFIG}: fetch both again."
    )


def _weights_to_buffers(network: nn.Module) -> None:
    for module in network.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            delattr(module, name)
            module.register_buffer(name, weight.detach(), persistent=False)
