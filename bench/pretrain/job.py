"""Prepare a pretraining: list the images, build the network, and check everything that may fail."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from bench import registry
from bench.api import Backbone
from bench.api.config import RunConfig
from bench.api.nn import Objective
from bench.errors import BenchError
from bench.models.checkpoints import kinds_are_kept, read_state, sha256_of
from bench.models.conditioner import Conditioner
from bench.models.load import file_of
from bench.models.vae import Latents
from bench.pretrain import checkpoint
from bench.pretrain.batches import WEIGHTS, seed_of
from bench.pretrain.config import TUNED, Routine, Settings
from bench.pretrain.distributed import ProcessGroup, current_processes
from bench.pretrain.masking import MASK_LATENTS, MASK_PX
from bench.pretrain.objective import Gaussian, Masked
from bench.pretrain.probe import Probe
from bench.pretrain.tiles import Tile, find_tiles, fingerprint, labelled, survey
from bench.pretrain.trackers import require_package
from bench.runs.resolve import device_named
from bench.store.files import write_bytes
from bench.store.locks import claimed

CHECKPOINTS = "checkpoints"  # folder in --out
TRACKED = (
    "backbone",
    "batch_size",
    "accumulate",
    "lr",
    "ema",
    "clip",
    "precision",
    "arch",
    "space",
)
TRACKED += ("objective", "ssim_weight", "schedule", "seed", "crop_px")


@dataclass(frozen=True)
class Job:
    """A prepared pretraining.

    Attributes:
        out: the output folder.
        tiles, held_out: the images for training and for validation.
        network: on the device, with its initial weights.
        conditioner: computes the condition from unmasked crops; None without a condition.
        latents: the VAE whose latents the network sees; None for pixels.
        objective: the corruption and the loss.
        probe: the linear probe of the main process; None without --probe.
        processes: the processes that train together.
        identity: settings and hashes that must match for a run to resume.
        tuned: settings that may change when a run resumes.
        notes: messages for the user before training starts.
    """

    settings: Settings
    routine: Routine
    out: Path
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
        """Return the settings that trackers receive, without paths."""
        config: dict[str, object] = {name: getattr(self.settings, name) for name in TRACKED}
        return config | {
            "steps": self.routine.steps,
            "parameters": sum(weight.numel() for weight in self.network.parameters()),
            "images": len(self.tiles),
        }


def prepare(
    backbone: Backbone, settings: Settings, routine: Routine, images: Path, out: Path
) -> Job:
    """Prepare a pretraining; nothing is written.

    Args:
        images: a folder or a tar file of images.
        out: the output folder.

    Raises:
        BenchError: a setting is invalid, a file is missing, or the disk is too small.
    """
    if backbone.network is None:
        raise BenchError(
            f"{backbone.name} cannot be pretrained; choose from {', '.join(_trainable())}."
        )
    settings.check()
    routine.check()
    processes = current_processes()
    if routine.track and processes.is_main:
        require_package(routine.track)
    _check_batch_split(settings, routine, processes)
    device = device_named(routine.device)
    all_tiles = find_tiles(images, settings.only)
    tiles, held_out = _split(all_tiles, settings.held_out)
    notes = [*labelled(all_tiles), *survey(tiles, settings.side), *_ema_notes(settings, routine)]
    conditioner = None if settings.condition == "none" else Conditioner(settings.condition)
    latents = Latents(settings.vae) if settings.latent else None
    network = _network(backbone, settings, conditioner)
    init = file_of(Path(settings.init)) if settings.init else None
    if init is not None:
        _load_initial_weights(network, init)
    weights = sum(weight.numel() for weight in network.parameters())
    checkpoint.refuse_a_full_disk(out / CHECKPOINTS, weights, _most_checkpoints(routine))
    identity: dict[str, object] = {**asdict(settings), "images": fingerprint(all_tiles)}
    tuned = {name: identity.pop(name) for name in TUNED}
    identity |= _weight_hashes(init, conditioner, latents)
    probe = _probe(settings, routine) if routine.probe and processes.is_main else None
    if probe is not None:
        memory_gib = probe.memory_bytes() / 2**30
        notes.append(f"--probe {routine.probe} needs {memory_gib:.1f} GiB of memory for features.")
    return Job(
        settings=settings,
        routine=routine,
        out=out,
        tiles=tiles,
        held_out=held_out,
        network=network.to(device, memory_format=torch.channels_last),  # pyright: ignore
        conditioner=None if conditioner is None else conditioner.to(device),
        latents=None if latents is None else latents.to(device),
        objective=objective_of(settings),
        probe=probe,
        processes=processes,
        device=device,
        identity=identity,
        tuned=tuned,
        notes=notes,
    )


def _network(backbone: Backbone, settings: Settings, conditioner: Conditioner | None) -> nn.Module:
    """Build the network with the random weights of the seed."""
    assert backbone.network is not None
    options = {"arch": settings.arch, "space": "latent" if settings.latent else "pixel"}
    parameters = inspect.signature(backbone.network).parameters
    supported = {name: value for name, value in options.items() if name in parameters}
    for name, value in options.items():
        if name not in parameters and value != getattr(Settings, name):
            raise BenchError(f"the network of {backbone.name} has no {name}: omit --{name}.")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_of(settings.seed, WEIGHTS))
        cond_dim = None if conditioner is None else conditioner.width
        return backbone.network(cond_dim=cond_dim, **supported)


def _load_initial_weights(network: nn.Module, path: Path) -> None:
    try:
        with kinds_are_kept(network):
            network.load_state_dict(read_state(path))
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()
        raise BenchError(
            f"{path} does not fit the network ({first}): --init needs weights of the same "
            "backbone, --arch, --space and condition width."
        ) from error


def _weight_hashes(
    init: Path | None, conditioner: Conditioner | None, latents: Latents | None
) -> dict[str, object]:
    """Return the identities of the pretrained weights that a training uses."""
    hashes: dict[str, object] = {}
    if init is not None:
        hashes["init"] = f"sha256:{sha256_of(init)}"
    if conditioner is not None:
        hashes["condition_weights"] = conditioner.facts["condition_weights"]
    if latents is not None:
        hashes["vae_weights"] = latents.facts["vae_weights"]
    return hashes


def objective_of(settings: Settings) -> Objective:
    """Return the objective of a training."""
    if settings.objective == "masked":
        patch = MASK_LATENTS if settings.latent else MASK_PX
        return Masked(settings.schedule, patch, settings.ssim_weight)
    return Gaussian(epsilon=settings.objective == "ddpm-epsilon")


def _probe(settings: Settings, routine: Routine) -> Probe:
    request = RunConfig(
        backbone=settings.backbone,
        dataset=routine.probe,
        option=settings.reading(),
        input_px=None if settings.side == settings.crop_px else settings.side,
        device=routine.device,
    )
    return Probe(request, routine.data)


def _check_batch_split(settings: Settings, routine: Routine, processes: ProcessGroup) -> None:
    parts = processes.size * settings.accumulate
    if settings.batch_size % parts:
        raise BenchError(
            f"--batch-size {settings.batch_size} is not divisible by {processes.size} processes "
            f"times --accumulate {settings.accumulate}: use a multiple of {parts}."
        )
    if routine.shard and processes.size == 1:
        raise BenchError("--shard needs several processes: start them with torchrun.")


def _trainable() -> list[str]:
    entries = registry.catalogue("backbones").found
    records = [entry.record for name in sorted(entries) for entry in entries[name]]
    return [record.name for record in records if getattr(record, "network", None) is not None]


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


def _ema_notes(settings: Settings, routine: Routine) -> list[str]:
    initial_share = settings.ema**routine.steps
    if initial_share < 0.05:
        return []
    shorter_ema = round(1 - 5 / routine.steps, 5) if routine.steps > 5 else 0
    return [
        f"--ema {settings.ema} over {routine.steps} steps: the averaged weights will be "
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
    with claimed(out / "claim", refuse):
        try:
            yield
        finally:
            with suppress(OSError):
                if [path.name for path in out.iterdir()] == ["claim"]:
                    (out / "claim").unlink()
                    for folder in new_folders:
                        folder.rmdir()


def _most_checkpoints(routine: Routine) -> int:
    """Return the largest number of checkpoints at a time: a new one precedes a deletion."""
    total = math.ceil(routine.steps / routine.save_every)
    return min(total, routine.keep + 1) if routine.keep else total
