"""The state of a pretraining, and how its checkpoints are written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn


@dataclass
class State:
    """The mutable state of a training.

    Attributes:
        average: the network with the averaged weights.
        step: number of finished steps.
        refused: unusable tiles, with the reason.
        tuned: values of the options in `TUNED`, each with "after", the number of steps before.
    """

    network: nn.Module
    average: nn.Module
    optimizer: torch.optim.Optimizer
    step: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    tuned: list[dict[str, object]] = field(default_factory=list)

    def tune(self, options: Mapping[str, object]) -> None:
        """Apply options of `TUNED` from this step on, and record them if they changed."""
        newest = {**options, "after": self.step}
        if not self.tuned or self.tuned[-1] != newest | {"after": self.tuned[-1]["after"]}:
            self.tuned = [entry for entry in self.tuned if entry["after"] != self.step]
            self.tuned.append(newest)
        for group in self.optimizer.param_groups:
            group["lr"] = options["lr"]


@dataclass(frozen=True)
class CheckpointFormat:
    """How checkpoints are written.

    Attributes:
        identity: options and hashes that must match for a run to resume.
        keep: number of checkpoints to keep; 0 keeps all.
        sharded: whether a checkpoint is a folder into which each process writes its part.
    """

    identity: Mapping[str, object]
    keep: int = 0
    sharded: bool = False
