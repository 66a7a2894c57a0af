"""Options of a pretraining: those that determine the weights, and those that do not."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from pathlib import Path

from bench.api.options import check_choices, option
from bench.errors import BenchError
from bench.pretrain.trackers import TRACKERS

TUNED = ("lr", "clip")  # may change when a run resumes; the card records when
MODEL, OPTIMISATION, IMAGES = "Model and objective", "Optimisation", "Images"
SCHEDULE, HARDWARE, RESULTS = "Checkpoints and evaluation", "Hardware", "Weights and trackers"


@dataclass(frozen=True, kw_only=True)
class WeightsConfig:
    """The options that determine the weights; a resumed run may only change those in `TUNED`.

    The defaults are the paper's (section 4.1.2), which does not state a batch size.
    """

    backbone: str = option(
        "cmd-tiny", "Backbone whose network is trained.", panel=MODEL, choices="backbones"
    )
    batch_size: int = option(
        32, "Number of images per step, over all processes.", panel=OPTIMISATION
    )
    accumulate: int = option(
        1, "Number of parts of a batch, for gradient accumulation.", panel=OPTIMISATION
    )
    lr: float = option(
        3e-5, "Learning rate of AdamW; constant, without weight decay.", panel=OPTIMISATION
    )
    ema: float = option(0.9999, "Decay per step of the average of the weights.", panel=OPTIMISATION)
    clip: float = option(0.0, "Largest norm of the gradient; 0 does not clip.", panel=OPTIMISATION)
    precision: str = option(
        "bf16",
        "Precision of the network: fp32, or bf16 autocast.",
        panel=OPTIMISATION,
        choices=("fp32", "bf16"),
    )
    arch: str = option(
        "convnext",
        "Architecture of the network: convnext, dit or attention-unet (Table 1).",
        panel=MODEL,
    )
    space: str = option(
        "pixel",
        "Input of the network: pixels, or the latents of a VAE (Table 2). latent-hires doubles "
        "the side of the crops.",
        panel=MODEL,
        choices=("pixel", "latent", "latent-hires"),
    )
    vae: str = option(
        "sd-vae",
        "VAE of the latents: sd-vae, a folder in diffusers format, or random.",
        panel=MODEL,
    )
    objective: str = option(
        "masked",
        "Masked diffusion, or Gaussian diffusion that predicts the image (ddpm) or the noise "
        "(ddpm-epsilon).",
        panel=MODEL,
        choices=("masked", "ddpm", "ddpm-epsilon"),
    )
    condition: str = option(
        "none",
        "Frozen backbone whose embedding conditions the network: NAME, NAME@FILE or "
        "NAME@random:SEED; or none.",
        panel=MODEL,
    )
    ssim_weight: float = option(
        0.0, "Weight of (1 - SSIM) / 2 in the loss, beside L1 (equation 9).", panel=MODEL
    )
    schedule: str = option(
        "t/(T+1)",
        "Share of masked patches at time step t.",
        panel=MODEL,
        choices=("t/(T+1)", "t/T"),
    )
    seed: int = option(0, "Seed of weights, batches, crops and masks.", panel=OPTIMISATION)
    crop_px: int = option(256, "Side of the crops in pixels.", panel=IMAGES)
    held_out: int = option(16, "Number of images for validation, not trained on.", panel=IMAGES)
    only: tuple[str, ...] = option(
        (), "Use only images in folders of this name; may be repeated.", panel=IMAGES
    )
    init: str = option(
        "",
        "Start from these weights: a file, or the output folder of a pretraining.",
        panel=MODEL,
    )

    @property
    def latent(self) -> bool:
        """Whether the network's inputs are latents."""
        return self.space != "pixel"

    @property
    def side(self) -> int:
        """Side of a crop in pixels, which is doubled for "latent-hires" (Table 2)."""
        return self.crop_px * (2 if self.space == "latent-hires" else 1)

    @property
    def input_px(self) -> int | None:
        """The --input-px of `bench run` for the trained weights; None for the default."""
        return None if self.side == self.crop_px else self.side

    def backbone_options(self) -> dict[str, str]:
        """Return the --option values of `bench run` for the trained weights, without defaults."""
        values = {
            "arch": self.arch,
            "space": "latent" if self.latent else "pixel",
            "vae": self.vae,
            "condition": self.condition,
        }
        return {n: value for n, value in values.items() if value != getattr(WeightsConfig, n)}

    def weight_settings(self) -> dict[str, object]:
        """Return the options that determine the weights by name; checkpoints and cards save them.

        The names and values are part of the file formats.
        """
        return {field.name: getattr(self, field.name) for field in fields(WeightsConfig)}

    def check(self) -> None:
        """Raise a BenchError if an option is invalid or has no effect."""
        from bench.pretrain.masking import MASK_PX

        check_choices(self)
        least = {"batch_size": 1, "clip": 0, "ssim_weight": 0, "seed": 0, "held_out": 0}
        for name, minimum in least.items():
            self._require(name, getattr(self, name) >= minimum, f"{minimum} or more")
        is_divisor = self.accumulate >= 1 and self.batch_size % self.accumulate == 0
        self._require("accumulate", is_divisor, f"a divisor of --batch-size {self.batch_size}")
        self._require("lr", 0 < self.lr < float("inf"), "above 0")
        self._require("ema", 0 <= self.ema < 1, "from 0 to below 1")
        self._require("ssim_weight", self.ssim_weight < float("inf"), "finite")
        self._require(
            "crop_px",
            self.crop_px >= 32 and self.crop_px % MASK_PX == 0,
            f"32 or more, and a multiple of {MASK_PX}, the side of a masked patch",
        )
        self._check_ignored()

    def _require(self, name: str, is_valid: bool, valid: str) -> None:
        if not is_valid:
            flag = f"--{name.replace('_', '-')}"
            raise BenchError(f"{flag} {getattr(self, name)}: it must be {valid}.")

    def _check_ignored(self) -> None:
        masked = self.objective == "masked"
        ignored = {
            "--ssim-weight": self.ssim_weight > 0 and (self.latent or not masked),
            "--schedule": self.schedule != WeightsConfig.schedule and not masked,
            "--vae": self.vae != WeightsConfig.vae and not self.latent,
        }
        for flag, is_ignored in ignored.items():
            if is_ignored:
                raise BenchError(
                    f"{flag} has no effect with --space {self.space} and --objective "
                    f"{self.objective}: omit it."
                )


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(WeightsConfig):
    """All options of `bench pretrain`; those of this class may change when a run resumes."""

    images: Path = option(
        MISSING, "Folder of images or tar shards, at any depth; links are followed."
    )
    out: Path = option(MISSING, "Output folder: checkpoints, log, pictures and weights.")
    steps: int = option(
        80_000, "Total number of steps; may be raised to train longer.", panel=OPTIMISATION
    )
    save_every: int = option(1000, "Number of steps between checkpoints.", panel=SCHEDULE)
    keep: int = option(3, "Number of checkpoints to keep; 0 keeps all.", panel=SCHEDULE)
    validate_every: int = option(1000, "Number of steps between validations.", panel=SCHEDULE)
    picture_every: int = option(
        1000, "Number of steps between pictures of restored images.", panel=SCHEDULE
    )
    probe: str | None = option(
        None,
        "Labelled data set on which a linear probe is scored during training.",
        panel=SCHEDULE,
        choices="datasets",
    )
    probe_every: int = option(10_000, "Number of steps between probes.", panel=SCHEDULE)
    data: Path | None = option(None, "Folder of the data sets, for --probe.", panel=SCHEDULE)
    device: str = option(
        "auto", "Device to train on: auto, cpu, cuda, cuda:N or mps.", panel=HARDWARE
    )
    workers: int = option(
        0, "Number of processes that read images; 0 reads in the main process.", panel=HARDWARE
    )
    compile: bool = option(False, "Use torch.compile.", panel=HARDWARE)
    recompute: bool = option(
        False,
        "Recompute activations in the backward pass: less memory, a third more time.",
        panel=HARDWARE,
    )
    shard: bool = option(
        False,
        "With several processes, shard the weights (FSDP2) instead of replicating them (DDP).",
        panel=HARDWARE,
    )
    export: str = option(
        "fp32", "Precision of the exported weights.", panel=RESULTS, choices=("fp32", "bf16")
    )
    track: str | None = option(
        None,
        "Report each step to an experiment tracker; see the README.",
        panel=RESULTS,
        choices=tuple(TRACKERS),
    )
    push_to_hub: str | None = option(
        None,
        "Upload weights, card and model card to the repository OWNER/NAME of the hub at the end.",
        panel=RESULTS,
    )
    license: str = option("", "Licence of the weights, for their model card.", panel=RESULTS)
    public: bool = option(False, "Create a new repository as a public one.", panel=RESULTS)
    accept_license: bool = option(
        False,
        "Download the weights of --condition although bench does not know their licence.",
        panel=MODEL,
    )

    def check(self) -> None:
        """Raise a BenchError if an option is invalid or has no effect."""
        super().check()
        positive = ("steps", "save_every", "picture_every", "validate_every", "probe_every")
        for name, minimum in {**dict.fromkeys(positive, 1), "keep": 0, "workers": 0}.items():
            self._require(name, getattr(self, name) >= minimum, f"{minimum} or more")
