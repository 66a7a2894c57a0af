"""What a pretraining is asked to be: the settings that make the weights, and the routine around."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError
from bench.fitting import DEVICES, PRECISIONS
from bench.pretrain.corruption import MASK_PX, SCHEDULES
from bench.pretrain.objective import OBJECTIVES
from bench.pretrain.trackers import TRACKERS

TUNED = ("lr", "clip")  # may change when a run goes on, as after a divergence; the card tells when
SPACES = ("pixel", "latent", "latent-hires")


@dataclass(frozen=True)
class Settings:
    """What makes the weights; a run goes on with the same ones, but for those in `TUNED`.

    The defaults are the paper's (section 4.1.2), with a batch size, which it does not give.

    Attributes:
        backbone: name of the backbone whose network is trained.
        batch_size: images of a step.
        accumulate: in how many parts the images of a step go through the network.
        ema: decay of the average of the weights, a step.
        clip: largest norm of the gradient; 0 does not clip.
        arch: the form of the network, for backbones that have several.
        space: what the network sees: pixels, or the latents of a VAE ("latent-hires": of crops of
            twice the side).
        vae: the VAE of a latent space; see `bench.latents.Latents`.
        objective: masked diffusion, or DDPM that predicts the clean image or the noise.
        condition: "none", or NAME, NAME@FILE or NAME@random of a frozen backbone.
        ssim_weight: lambda_s of equation 9.
        held_out: images that are kept from training, for the validation.
        only: the names of the folders whose images are used; empty: all.
        arch: shape of the network: "convnext", "dit" or "attention-unet".
        space: what it sees: "pixel", "latent" or "latent-hires".
        objective: how images are corrupted.
        vae: whose latents; of no account in pixels.
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
        """Whether the network sees latents."""
        return self.space != "pixel"

    @property
    def side(self) -> int:
        """Side of a crop in pixels: twice as long for high-resolution latents (table 2)."""
        return self.crop_px * (2 if self.space == "latent-hires" else 1)

    def reading(self) -> dict[str, str]:
        """Give the options of `bench run` that read weights which were trained so."""
        space = "latent" if self.latent else "pixel"
        asked = {
            "arch": (self.arch, Settings.arch),
            "space": (space, Settings.space),
            "vae": (self.vae, Settings.vae),
            "condition": (self.condition, Settings.condition),
        }
        return {name: value for name, (value, usual) in asked.items() if value != usual}

    def check(self) -> None:
        """Raise a BenchError where a setting is out of range."""
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
                f"32 or more, and a multiple of the masked patches' {MASK_PX}",
            ),
            "--held-out": (self.held_out < 0, "0 or more"),
        }
        _refuse(wrong, self)
        self._refuse_what_would_be_ignored()

    def _refuse_what_would_be_ignored(self) -> None:
        masked = self.objective == "masked"
        ignored = {
            "--ssim-weight": self.ssim_weight > 0 and (self.latent or not masked),
            "--schedule": self.schedule != Settings.schedule and not masked,
            "--vae": self.vae != Settings.vae and not self.latent,
        }
        for option, given in ignored.items():
            if given:
                raise BenchError(
                    f"{option} means nothing with --space {self.space} and --objective "
                    f"{self.objective}: leave it out."
                )


@dataclass(frozen=True)
class Routine:
    """What goes on around the training and may change when a run goes on.

    Attributes:
        steps: where it ends; it may be raised later.
        save_every, picture_every, validate_every, probe_every: steps between two of each.
        keep: how many checkpoints are kept; 0 keeps all.
        workers: processes that read images; 0 reads them in this one.
        device: "auto", "cpu" or "cuda".
        compile: whether the network goes through `torch.compile`.
        recompute: whether activations inside blocks are computed again for the gradient.
        shard: whether several processes share the weights (FSDP2), not each have a copy (DDP).
        export: precision of the weights that are written at the end.
        probe: the labelled data set of a linear probe that is made now and then; "": none.
        data: the folder that holds the data sets.
        track: the tracker that follows, of `bench.pretrain.trackers`; "": none.
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
        """Raise a BenchError where a number is out of range."""
        at_least = {"keep": 0, "workers": 0}
        names = ("steps", "save_every", "picture_every", "validate_every", "probe_every")
        names += ("keep", "workers")
        wrong = {
            "--device": (self.device not in DEVICES, " or ".join(DEVICES)),
            "--track": (self.track not in ("", *TRACKERS), " or ".join(TRACKERS)),
            "--export": (self.export not in PRECISIONS, " or ".join(PRECISIONS)),
        }
        for name in names:
            least = at_least.get(name, 1)
            wrong[f"--{name.replace('_', '-')}"] = (getattr(self, name) < least, f"{least} or more")
        _refuse(wrong, self)


def _refuse(wrong: dict[str, tuple[bool, str]], asked: object) -> None:
    for option, (is_wrong, right) in wrong.items():
        if is_wrong:
            got = getattr(asked, option[2:].replace("-", "_"))
            raise BenchError(f"{option} {got}: it must be {right}.")
