"""Prepare a pretraining: list the images, build the network, and check everything that may fail."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from bench import registry
from bench.api import Backbone
from bench.api.nn import Objective
from bench.api.run_config import RunConfig
from bench.api.seeds import seed_of_numbers
from bench.errors import BenchError
from bench.models.checkpoints import read_weights, refuse_other_kinds
from bench.models.conditioner import Conditioner
from bench.models.load import file_of
from bench.models.vae import Latents
from bench.pretrain import checkpoint
from bench.pretrain.batches import WEIGHTS
from bench.pretrain.config import TUNED, PretrainConfig, WeightsConfig
from bench.pretrain.distributed import ProcessGroup, current_processes
from bench.pretrain.masking import MASK_LATENTS, MASK_PX
from bench.pretrain.objective import Gaussian, Masked
from bench.pretrain.probe import Probe
from bench.pretrain.tiles import Tile, find_tiles, fingerprint, survey
from bench.pretrain.trackers import require_package
from bench.runs.resolve import device_named
from bench.store.files import write_bytes
from bench.store.locks import locked

CHECKPOINTS = "checkpoints"  # folder in --out
LOCK = "in-use.lock"  # file in --out
TRACKED = ("backbone", "arch", "space", "objective", "schedule", "ssim_weight", "precision")
TRACKED += ("steps", "batch_size", "accumulate", "lr", "ema", "clip", "seed", "crop_px")


@dataclass(frozen=True)
class PretrainJob:
    """A prepared pretraining.

    Attributes:
        tiles, held_out: the images for training and for validation.
        network: on the device, with its initial weights.
        conditioner: computes the condition from unmasked crops; None without a condition.
        latents: the VAE whose latents the network sees; None for pixels.
        objective: the corruption and the loss.
        probe: the linear probe of the main process; None without --probe.
        processes: the processes that train together.
        identity: options and hashes that must match for a run to resume.
        tuned: options that may change when a run resumes.
        notes: messages for the user before training starts.
    """

    config: PretrainConfig
    tiles: Sequence[Tile]
    held_out: Sequence[Tile]
    network: nn.Module
    conditioner: Conditioner | None
    latents: Latents | None
    objective: Objective
    probe: Probe | None
    processes: ProcessGroup
    device: torch.device
    identity: dict[str, object]
    tuned: dict[str, object]
    notes: list[str]

    def tracked_config(self) -> dict[str, object]:
        """Return the options that trackers receive, without paths."""
        config: dict[str, object] = {name: getattr(self.config, name) for name in TRACKED}
        return config | {
            "parameters": sum(weight.numel() for weight in self.network.parameters()),
            "images": len(self.tiles),
        }


def prepare(backbone: Backbone, config: PretrainConfig) -> PretrainJob:
    """Prepare a pretraining; nothing is written.

    Args:
        backbone: the registered backbone of the name `config.backbone`.
        config: the options of the pretraining.

    Raises:
        BenchError: an option is invalid, a file is missing, or the disk is too small.
    """
    if backbone.network is None:
        entries = registry.catalogue("backbones").found
        records = [entry.record for name in sorted(entries) for entry in entries[name]]
        names = [record.name for record in records if getattr(record, "network", None) is not None]
        raise BenchError(f"{backbone.name} cannot be pretrained; choose from {', '.join(names)}.")
    config.check()
    config = replace(config, only=tuple(sorted(set(config.only))))
    processes = current_processes()
    if config.track and processes.is_main:
        require_package(config.track)
    _check_batch_split(config, processes)
    device = device_named(config.device)
    listing = find_tiles(config.images, config.only)
    tiles, held_out = _split(listing.tiles, config.held_out)
    notes = [*listing.notes, *survey(tiles, config.side), *_ema_notes(config)]
    conditioner = None if config.condition == "none" else Conditioner(config.condition)
    latents = Latents(config.vae) if config.latent else None
    network = _network(backbone, config, conditioner)
    init = file_of(Path(config.init)) if config.init else None
    hashes = {"init": _load_initial_weights(network, init)} if init is not None else {}
    weights = sum(weight.numel() for weight in network.parameters())
    checkpoint.refuse_a_full_disk(config.out / CHECKPOINTS, weights, _most_checkpoints(config))
    identity: dict[str, object] = {**config.weight_settings(), "images": fingerprint(listing.tiles)}
    tuned = {name: identity.pop(name) for name in TUNED}
    identity |= hashes | _weight_hashes(conditioner, latents)
    probe = _probe(config, config.probe) if config.probe and processes.is_main else None
    if probe is not None:
        memory_gib = probe.memory_bytes() / 2**30
        notes.append(f"--probe {config.probe} needs {memory_gib:.1f} GiB of memory for features.")
    return PretrainJob(
        config=config,
        tiles=tiles,
        held_out=held_out,
        network=network.to(device, memory_format=torch.channels_last),  # pyright: ignore
        conditioner=None if conditioner is None else conditioner.to(device),
        latents=None if latents is None else latents.to(device),
        objective=objective_of(config),
        probe=probe,
        processes=processes,
        device=device,
        identity=identity,
        tuned=tuned,
        notes=notes,
    )


def _network(
    backbone: Backbone, config: WeightsConfig, conditioner: Conditioner | None
) -> nn.Module:
    """Build the network with the random weights of the seed."""
    assert backbone.network is not None
    options = {"arch": config.arch, "space": "latent" if config.latent else "pixel"}
    parameters = inspect.signature(backbone.network).parameters
    supported = {name: value for name, value in options.items() if name in parameters}
    for name, value in options.items():
        if name not in parameters and value != getattr(WeightsConfig, name):
            raise BenchError(f"the network of {backbone.name} has no {name}: omit --{name}.")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_of_numbers(config.seed, WEIGHTS))
        cond_dim = None if conditioner is None else conditioner.width
        return backbone.network(cond_dim=cond_dim, **supported)


def _load_initial_weights(network: nn.Module, path: Path) -> str:
    """Load weights and return their identity."""
    weights = read_weights(path)
    try:
        with refuse_other_kinds(network):
            network.load_state_dict(weights.tensors)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()
        raise BenchError(
            f"{path} does not fit the network ({first}): --init needs weights of the same "
            "backbone, --arch, --space and condition width."
        ) from error
    return f"sha256:{weights.sha256}"


def _weight_hashes(conditioner: Conditioner | None, latents: Latents | None) -> dict[str, object]:
    """Return the identities of the frozen weights that a training uses."""
    hashes: dict[str, object] = {}
    if conditioner is not None:
        hashes["condition_weights"] = conditioner.facts["condition_weights"]
    if latents is not None:
        hashes["vae_weights"] = latents.facts["vae_weights"]
    return hashes


def objective_of(config: WeightsConfig) -> Objective:
    """Return the objective of a pretraining."""
    if config.objective == "masked":
        patch = MASK_LATENTS if config.latent else MASK_PX
        return Masked(config.schedule, patch, config.ssim_weight)
    return Gaussian(epsilon=config.objective == "ddpm-epsilon")


def _probe(config: PretrainConfig, dataset: str) -> Probe:
    request = RunConfig(
        backbone=config.backbone,
        dataset=dataset,
        option=config.backbone_options(),
        folds=0,
        input_px=config.input_px,
        device=config.device,
    )
    return Probe(request, config.data)


def _check_batch_split(config: PretrainConfig, processes: ProcessGroup) -> None:
    parts = processes.size * config.accumulate
    if config.batch_size % parts:
        raise BenchError(
            f"--batch-size {config.batch_size} is not divisible by {processes.size} processes "
            f"times --accumulate {config.accumulate}: use a multiple of {parts}."
        )
    if config.shard and processes.size == 1:
        raise BenchError("--shard needs several processes: start them with torchrun.")


def _split(tiles: list[Tile], held_out: int) -> tuple[list[Tile], list[Tile]]:
    """Return training tiles and `held_out` tiles that are evenly spaced in the list."""
    if len(tiles) <= held_out:
        raise BenchError(
            f"--held-out {held_out} leaves none of {len(tiles)} images to train on. Use a smaller "
            "number; 0 disables validation."
        )
    indices = {number * len(tiles) // held_out for number in range(held_out)}
    training = [tile for index, tile in enumerate(tiles) if index not in indices]
    return training, [tiles[index] for index in sorted(indices)]


def _ema_notes(config: PretrainConfig) -> list[str]:
    initial_share = config.ema**config.steps
    if initial_share < 0.05:
        return []
    shorter_ema = round(1 - 5 / config.steps, 5) if config.steps > 5 else 0
    return [
        f"--ema {config.ema} over {config.steps} steps: the averaged weights will be "
        f"{initial_share:.0%} initial weights. --ema {shorter_ema} would leave under 1%."
    ]


@contextmanager
def alone_in(out: Path) -> Iterator[None]:
    """Lock the output folder, and delete it at the end if nothing was written into it.

    Raises:
        BenchError: another training has locked it, or it cannot be written to.
    """

    def refuse() -> None:
        raise BenchError(
            f"another process is training into {out}. Wait for it, stop it, or choose another "
            "folder with --out."
        )

    new_folders = [path for path in (out, *out.parents) if not path.exists()]
    probe = out / ".probe"  # shows before any work whether the folder is writable
    write_bytes(probe, b"")
    probe.unlink(missing_ok=True)
    with locked(out / LOCK, refuse):
        try:
            yield
        finally:
            with suppress(OSError):
                if [path.name for path in out.iterdir()] == [LOCK]:
                    (out / LOCK).unlink()
                    for folder in new_folders:
                        folder.rmdir()


def _most_checkpoints(config: PretrainConfig) -> int:
    """Return the largest number of checkpoints at a time: a new one precedes a deletion."""
    total = math.ceil(config.steps / config.save_every)
    return min(total, config.keep + 1) if config.keep else total
