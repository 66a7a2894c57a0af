"""Settings of a pretraining: those that determine the weights, and those that do not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.api.config import PRECISIONS
from bench.errors import BenchError
from bench.pretrain.masking import MASK_PX, SCHEDULES
from bench.pretrain.objective import OBJECTIVES
from bench.pretrain.trackers import TRACKERS

TUNED = ("lr", "clip")  # may change when a run resumes; the card records when
SPACES = ("pixel", "latent", "latent-hires")


@dataclass(frozen=True)
class Settings:
    """The settings that determine the weights; a resumed run may only change those in `TUNED`.

    The defaults are the paper's (section 4.1.2), which does not state a batch size.

    Attributes:
        backbone: name of the backbone whose network is trained.
        batch_size: images per step, over all processes.
        accumulate: number of parts of a batch, for gradient accumulation.
        ema: decay per step of the average of the weights.
        clip: largest norm of the gradient; 0 does not clip.
        arch: architecture: "convnext", "dit" or "attention-unet".
        space: input of the network: "pixel", or the latents of a VAE: "latent", or "latent-hires"
            for crops of twice the side.
        vae: the VAE of a latent space, see `bench.models.vae.Latents`; unused for pixels.
        objective: "masked" diffusion, "ddpm" that predicts the clean image, or "ddpm-epsilon" that
            predicts the noise.
        condition: "none", or NAME, NAME@FILE or NAME@random of a frozen backbone.
        ssim_weight: lambda_s of equation 9.
        schedule: share of masked patches, a key of `SCHEDULES`.
        crop_px: side of a crop.
        held_out: number of images for validation, not used in training.
        only: names of the folders whose images are used; empty for all.
        init: weights to start from; empty for random weights.
    """

    backbone: str
    batch_size: int = 32
    accumulate: int = 1
    lr: float = 3e-5
    ema: float = 0.9999
    clip: float = 0.0
    precision: str = "bf16"
    arch: str = "convnext"
    space: str = "pixel"
    vae: str = "sd-vae"
    objective: str = "masked"
    condition: str = "none"
    ssim_weight: float = 0.0
    schedule: str = "t/(T+1)"
    seed: int = 0
    crop_px: int = 256
    held_out: int = 16
    only: tuple[str, ...] = ()
    init: str = ""

    @property
    def latent(self) -> bool:
        """Whether the network's input are latents."""
        return self.space != "pixel"

    @property
    def side(self) -> int:
        """Side of a crop in pixels, which is doubled for "latent-hires" (table 2)."""
        return self.crop_px * (2 if self.space == "latent-hires" else 1)

    def reading(self) -> dict[str, str]:
        """Return the options of `bench run` that load the trained weights, without defaults."""
        options = {
            "arch": self.arch,
            "space": "latent" if self.latent else "pixel",
            "vae": self.vae,
            "condition": self.condition,
        }
        return {name: text for name, text in options.items() if text != getattr(Settings, name)}

    def check(self) -> None:
        """Raise a BenchError if a setting is invalid or has no effect."""
        wrong = {
            "--batch-size": (self.batch_size < 1, "1 or more"),
            "--accumulate": (
                self.accumulate < 1 or self.batch_size % self.accumulate != 0,
                f"a divisor of --batch-size {self.batch_size}",
            ),
            "--lr": (not 0 < self.lr < float("inf"), "above 0"),
            "--ema": (not 0 <= self.ema < 1, "from 0 to below 1"),
            "--clip": (not self.clip >= 0, "0 (off) or more"),
            "--precision": (self.precision not in PRECISIONS, " or ".join(PRECISIONS)),
            "--ssim-weight": (not 0 <= self.ssim_weight < float("inf"), "0 or more"),
            "--space": (self.space not in SPACES, ", ".join(SPACES)),
            "--objective": (self.objective not in OBJECTIVES, ", ".join(OBJECTIVES)),
            "--schedule": (self.schedule not in SCHEDULES, " or ".join(SCHEDULES)),
            "--seed": (self.seed < 0, "0 or more"),
            "--crop-px": (
                self.crop_px < 32 or self.crop_px % MASK_PX != 0,
                f"32 or more, and a multiple of {MASK_PX}, the side of a masked patch",
            ),
            "--held-out": (self.held_out < 0, "0 or more"),
        }
        _raise_first(wrong, self)
        self._check_ignored()

    def _check_ignored(self) -> None:
        masked = self.objective == "masked"
        ignored = {
            "--ssim-weight": self.ssim_weight > 0 and (self.latent or not masked),
            "--schedule": self.schedule != Settings.schedule and not masked,
            "--vae": self.vae != Settings.vae and not self.latent,
        }
        for option, is_ignored in ignored.items():
            if is_ignored:
                raise BenchError(
                    f"{option} has no effect with --space {self.space} and --objective "
                    f"{self.objective}: omit it."
                )


@dataclass(frozen=True)
class Routine:
    """The settings that do not determine the weights, and may change when a run resumes.

    Attributes:
        steps: total number of steps.
        save_every, picture_every, validate_every, probe_every: intervals in steps.
        keep: number of checkpoints to keep; 0 keeps all.
        workers: processes that read images; 0 reads them in the main process.
        device: "auto", "cpu" or "cuda".
        compile: whether to use `torch.compile`.
        recompute: whether to recompute the activations inside blocks in the backward pass.
        shard: whether to shard the weights over the processes (FSDP2) instead of DDP.
        export: precision of the exported weights.
        probe: labelled data set for linear probes during training; empty for none.
        data: the folder of the data sets.
        track: a key of `bench.pretrain.trackers.TRACKERS`; empty for none.
    """

    steps: int = 80_000
    save_every: int = 1000
    picture_every: int = 1000
    validate_every: int = 1000
    keep: int = 3
    workers: int = 0
    device: str = "auto"
    compile: bool = False
    recompute: bool = False
    shard: bool = False
    export: str = "fp32"
    probe: str = ""
    probe_every: int = 10_000
    data: Path | None = None
    track: str = ""

    def check(self) -> None:
        """Raise a BenchError if a setting is invalid."""
        positive = ("steps", "save_every", "picture_every", "validate_every", "probe_every")
        smallest = dict.fromkeys(positive, 1) | {"keep": 0, "workers": 0}
        wrong = {
            "--track": (self.track not in ("", *TRACKERS), " or ".join(TRACKERS)),
            "--export": (self.export not in PRECISIONS, " or ".join(PRECISIONS)),
        }
        for name, least in smallest.items():
            wrong[f"--{name.replace('_', '-')}"] = (getattr(self, name) < least, f"{least} or more")
        _raise_first(wrong, self)


def _raise_first(wrong: dict[str, tuple[bool, str]], settings: Settings | Routine) -> None:
    """Raise a BenchError for the first option that is wrong, with its valid values."""
    for option, (is_wrong, valid) in wrong.items():
        if is_wrong:
            value = getattr(settings, option[2:].replace("-", "_"))
            raise BenchError(f"{option} {value}: it must be {valid}.")
