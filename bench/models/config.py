"""Options of `bench describe`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bench.api.options import option

MODEL = "Model"


@dataclass(frozen=True, kw_only=True)
class DescribeConfig:
    """The options of `bench describe`."""

    head: str | None = option(
        None,
        "The head. The default is that of the backbone; the linear probe always uses `linear`.",
        panel=MODEL,
        choices="heads",
    )
    cond_dim: int | None = option(None, "CMD: the width of the condition.", panel=MODEL)
    timestep: int | None = option(None, "CMD: the time step of the features.", panel=MODEL)
    blocks: str | None = option(
        None, "CMD: the decoder blocks to use, for example 1,3,5.", panel=MODEL
    )
    options: Mapping[str, str] = option(
        dict, "Any other option of the backbone.", panel=MODEL, flag="--option"
    )
    table: int | None = option(
        None, "Describe all models of this table of the paper, and compare their sizes with it."
    )

    @property
    def backbone_options(self) -> dict[str, str]:
        """The options of the backbone as text."""
        values = {name: getattr(self, name) for name in ("cond_dim", "timestep", "blocks")}
        named = {name: str(value) for name, value in values.items() if value is not None}
        return named | dict(self.options)
