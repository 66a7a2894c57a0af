"""A pretraining that can begin: images found, network built, everything refused that would fail."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from bench import registry
from bench.api import Backbone
from bench.checkpoints import kinds_are_kept, read_state, sha256_of
from bench.claim import claimed
from bench.condition import Conditioner
from bench.errors import BenchError
from bench.fitting import device_named
from bench.job import Request
from bench.latents import Latents
from bench.pretrain import checkpoint
from bench.pretrain.batches import WEIGHTS, seed_of
from bench.pretrain.corruption import MASK_LATENTS, MASK_PX
from bench.pretrain.distributed import World, world
from bench.pretrain.objective import Gaussian, Masked, Objective
from bench.pretrain.probe import Probe
from bench.pretrain.settings import TUNED, Routine, Settings
from bench.pretrain.tiles import Tile, find_tiles, fingerprint, labelled, survey
from bench.pretrain.trackers import require_package
from bench.store import write_bytes
from bench.weights import file_of

CHECKPOINTS = "checkpoints"  # the folder of them, below --out
TOLD = ("backbone", "batch_size", "accumulate", "lr", "ema", "clip", "precision", "arch", "space")
TOLD += ("objective", "ssim_weight", "schedule", "seed", "crop_px")


@dataclass(frozen=True)
class Job:
    """A pretraining with everything found that it needs.

    Attributes:
        tiles, held_out: the images to train on, and those to validate with.
        network: with the weights that it begins with, on the device.
        conditioner: describes the unmasked crops; None without a condition.
        latents: what the network sees in place of pixels; None: pixels.
        objective: the corruption, and what is learnt from it.
        probe: the linear probe that is made now and then, in the first process; None: none.
        world: the processes that train together.
        identity: the settings, and the hashes of what they stand on.
        tuned: the settings that may change when a run goes on.
        notes: what a user should know before it begins.
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
    world: World
    device: torch.device
    identity: dict[str, object]
    tuned: dict[str, object]
    notes: list[str]

    def told(self) -> dict[str, object]:
        """Give what a tracker is told: the settings that are no place on this machine."""
        weights = sum(each.numel() for each in self.network.parameters())
        facts: dict[str, object] = {name: getattr(self.settings, name) for name in TOLD}
        return facts | {
            "steps": self.routine.steps,
            "parameters": weights,
            "images": len(self.tiles),
        }


def prepare(
    backbone: Backbone, settings: Settings, routine: Routine, images: Path, out: Path
) -> Job:
    """Find everything that a pretraining needs.

    Raises:
        BenchError: something is wrong or missing, or does not fit.
    """
    if backbone.network is None:
        raise BenchError(
            f"{backbone.name} cannot be pretrained here; these can: {', '.join(_trainable())}."
        )
    settings.check()
    routine.check()
    among = world()
    if routine.track and among.leads:
        require_package(routine.track)
    _refuse_unequal_parts(settings, routine, among)
    device = device_named(routine.device)
    found = find_tiles(images, settings.only)
    tiles, held_out = _split(found, settings.held_out)
    notes = [*labelled(found), *survey(tiles, settings.side), *_told_of_ema(settings, routine)]
    conditioner = None if settings.condition == "none" else Conditioner(settings.condition)
    latents = Latents(settings.vae) if settings.latent else None
    network = _network(backbone, settings, conditioner)
    init = file_of(Path(settings.init)) if settings.init else None
    if init is not None:
        _begin_with(network, init)
    weights = sum(each.numel() for each in network.parameters())
    checkpoint.refuse_a_full_disk(out / CHECKPOINTS, weights, _at_a_time(routine))
    identity: dict[str, object] = {**asdict(settings), "images": fingerprint(found)}
    tuned = {name: identity.pop(name) for name in TUNED}
    identity |= _hashes(init, conditioner, latents)
    probe = _probe(settings, routine) if routine.probe and among.leads else None
    if probe is not None:
        room = probe.memory_bytes() / 2**30
        notes.append(f"--probe {routine.probe} takes {room:.1f} GiB of memory for its features.")
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
        world=among,
        device=device,
        identity=identity,
        tuned=tuned,
        notes=notes,
    )


def _network(backbone: Backbone, settings: Settings, conditioner: Conditioner | None) -> nn.Module:
    """Build what is trained, with the weights that the seed gives."""
    assert backbone.network is not None
    given = {"arch": settings.arch, "space": "latent" if settings.latent else "pixel"}
    taken = inspect.signature(backbone.network).parameters
    for name, value in given.items():
        if name not in taken and value != getattr(Settings, name):
            raise BenchError(
                f"the network of {backbone.name} has no choice of {name}: leave --{name} out."
            )
    options = {name: value for name, value in given.items() if name in taken}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_of(settings.seed, WEIGHTS))
        cond_dim = None if conditioner is None else conditioner.width
        return backbone.network(cond_dim=cond_dim, **options)


def _begin_with(network: nn.Module, path: Path) -> None:
    try:
        with kinds_are_kept(network):
            network.load_state_dict(read_state(path))
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()
        raise BenchError(
            f"{path} does not fit the network that is asked for ({first}): it must be of the same "
            "backbone, --arch, --space and width of condition."
        ) from error


def _hashes(
    init: Path | None, conditioner: Conditioner | None, latents: Latents | None
) -> dict[str, object]:
    """Name the weights that a training stands on, by their content."""
    hashes: dict[str, object] = {}
    if init is not None:
        hashes["init"] = f"sha256:{sha256_of(init)}"
    if conditioner is not None:
        hashes["condition_weights"] = conditioner.facts["condition_weights"]
    if latents is not None:
        hashes["vae_weights"] = latents.facts["vae_weights"]
    return hashes


def objective_of(settings: Settings) -> Objective:
    """Give the corruption of a training, and what its network predicts."""
    if settings.objective == "masked":
        patch = MASK_LATENTS if settings.latent else MASK_PX
        return Masked(settings.schedule, patch, settings.ssim_weight)
    return Gaussian(epsilon=settings.objective == "ddpm-epsilon")


def _probe(settings: Settings, routine: Routine) -> Probe:
    request = Request(
        backbone=settings.backbone,
        dataset=routine.probe,
        options=settings.reading(),
        input_px=None if settings.side == settings.crop_px else settings.side,
        device=routine.device,
    )
    return Probe(request, routine.data)


def _refuse_unequal_parts(settings: Settings, routine: Routine, among: World) -> None:
    parts = among.size * settings.accumulate
    if settings.batch_size % parts:
        raise BenchError(
            f"--batch-size {settings.batch_size} is not divisible by {among.size} processes times "
            f"--accumulate {settings.accumulate}: give a multiple of {parts}."
        )
    if routine.shard and among.size == 1:
        raise BenchError("--shard shares weights between processes: start them with torchrun.")


def _trainable() -> list[str]:
    shelf = registry.catalogue("backbones").found
    records = [found.record for name in sorted(shelf) for found in shelf[name]]
    return [each.name for each in records if getattr(each, "network", None) is not None]


def _split(found: list[Tile], held_out: int) -> tuple[list[Tile], list[Tile]]:
    """Hold out images that are evenly spread over the list."""
    if len(found) <= held_out:
        raise BenchError(
            f"--held-out {held_out} leaves none of {len(found)} images to train on. Give a smaller "
            "number; 0 goes without validation."
        )
    kept = {number * len(found) // held_out for number in range(held_out)}
    tiles = [tile for number, tile in enumerate(found) if number not in kept]
    return tiles, [found[number] for number in sorted(kept)]


def _told_of_ema(settings: Settings, routine: Routine) -> list[str]:
    start = settings.ema**routine.steps
    if start < 0.05:
        return []
    fits = round(1 - 5 / routine.steps, 5) if routine.steps > 5 else 0
    return [
        f"--ema {settings.ema} over {routine.steps} steps: {start:.0%} of the averaged weights will"
        f" still be those of the start. --ema {max(fits, 0)} would leave under 1%."
    ]


@contextmanager
def alone_in(out: Path) -> Iterator[None]:
    """Be the only training that writes into a folder; it goes again if nothing is put into it.

    Raises:
        BenchError: another one does, or the folder cannot be written to.
    """

    def refuse() -> None:
        raise BenchError(
            f"another process is training into {out}. Wait for it, stop it, or choose another "
            "folder with --out."
        )

    made = [each for each in (out, *out.parents) if not each.exists()]
    _refuse_a_locked_folder(out)
    with claimed(out / "claim", refuse):
        try:
            yield
        finally:
            _leave_nothing(out, made)


def _leave_nothing(out: Path, made: Sequence[Path]) -> None:
    """Remove a claim that is all that a folder holds, and the folders that were made for it."""
    with suppress(OSError):
        if [each.name for each in out.iterdir()] == ["claim"]:
            (out / "claim").unlink()
            for folder in made:
                folder.rmdir()


def _refuse_a_locked_folder(out: Path) -> None:
    """Probe, before any work, whether the folder can be written to."""
    probe = out / ".probe"
    write_bytes(probe, b"")
    probe.unlink(missing_ok=True)


def _at_a_time(routine: Routine) -> int:
    """Say how many checkpoints lie on the disk at most; a new one comes before an old one goes."""
    made = -(-routine.steps // routine.save_every)
    return min(made, routine.keep + 1) if routine.keep else made
