"""The identity of a run: everything that was configured and can change a number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from bench.api.experiment import Adaptation, LinearRecipe, Recipe
from bench.errors import BenchError

PROTOCOL_OPTIONS = {"folds": int, "seed": int, "shots": int, "by": str, "fraction": float}


@dataclass(frozen=True)
class DatasetSpec:
    """The training data.

    Attributes:
        sha256: hash of the images and labels.
        limit: largest number of training and test images of a smoke run.
    """

    name: str
    sha256: str
    limit: int | None


@dataclass(frozen=True)
class BackboneSpec:
    """The backbone, the hash of its weights, and all of its options."""

    name: str
    weights: str
    options: Mapping[str, object]


@dataclass(frozen=True)
class HeadSpec:
    """The segmentation head."""

    name: str


@dataclass(frozen=True)
class ScoredSpec:
    """The scored data.

    Attributes:
        sha256: hash of the images and labels, before the shift.
        shift: name of the corruption of the images; "" if there is none.
    """

    name: str
    sha256: str
    shift: str


@dataclass(frozen=True)
class ProtocolSpec:
    """The protocol and the options that it reads, which are next to its name in JSON."""

    name: str
    options: Mapping[str, str | int | float]

    @property
    def folds(self) -> int:
        """Number of cross-validation folds; 0 for the official split."""
        return int(self.options["folds"])

    @property
    def seed(self) -> int:
        """Seed of the support sets, of initial weights and of batches."""
        return int(self.options["seed"])

    @property
    def shots(self) -> int | None:
        """Size of a support set; None if the protocol has none."""
        return int(self.options["shots"]) if "shots" in self.options else None

    @property
    def by(self) -> str:
        """What `shots` counts: "images" or "nuclei"."""
        return str(self.options.get("by", "images"))

    @property
    def fraction(self) -> float | None:
        """Fraction of the training images; None if the protocol has none."""
        return float(self.options["fraction"]) if "fraction" in self.options else None


@dataclass(frozen=True)
class ViewSpec:
    """The input of the backbone: "whole" or "tiles", squares with a side of `px` pixels."""

    kind: str
    px: int


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """Everything that was configured and can change a number.

    Attributes:
        schema: version of the format of a record.
        metrics_version: version of the definitions of the counts.
        numerics_version: see `bench.api.record.NUMERICS_VERSION`; None, and absent in JSON, for
            runs of versions before it existed.
        ttt: settings of test-time training; None without it.
        precision: "fp32" or "bf16".
        sources: hash of the source code of the plug-ins.
        repeat: number of earlier runs with the same identity.
    """

    schema: int
    metrics_version: int
    numerics_version: int | None
    dataset: DatasetSpec
    backbone: BackboneSpec
    head: HeadSpec
    recipe: Recipe | LinearRecipe
    ttt: Adaptation | None
    scored: ScoredSpec
    protocol: ProtocolSpec
    view: ViewSpec
    precision: str
    sources: str
    repeat: int

    def to_json(self) -> dict[str, Any]:
        """Return the identity as a JSON object."""
        body = self.subset(*_types_of(RunSpec))
        if self.numerics_version is None:
            del body["numerics_version"]
        return body

    def subset(self, *names: str) -> dict[str, Any]:
        """Return the named fields as a JSON object."""
        body: dict[str, Any] = {}
        for name in names:
            value = getattr(self, name)
            body[name] = dict(vars(value)) if is_dataclass(value) else value
        if "protocol" in body:
            body["protocol"] = {"name": self.protocol.name, **self.protocol.options}
        if "recipe" in body and not body["recipe"].get("min_steps", 1):
            del body["recipe"]["min_steps"]
        return body

    @classmethod
    def from_json(cls, body: object) -> RunSpec:
        """Read an identity from a JSON object.

        Raises:
            BenchError: a field is missing, unknown, or has the wrong type.
        """
        if isinstance(body, Mapping) and isinstance(protocol := body.get("protocol"), Mapping):
            options = {key: value for key, value in protocol.items() if key != "name"}
            name = {"name": protocol["name"]} if "name" in protocol else {}
            body = {"numerics_version": None, **body, "protocol": {**name, "options": options}}
            recipe = body.get("recipe")
            if isinstance(recipe, Mapping) and "solver" not in recipe:
                body["recipe"] = {"min_steps": 0, **recipe}
        spec: RunSpec = _parse(cls, body, "identity")
        options = {"folds": None, "seed": None, **spec.protocol.options}
        for name, value in options.items():
            check_type(PROTOCOL_OPTIONS.get(name, str | int | float), value, f"protocol's {name}")
        return spec


@cache
def _types_of(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _parse(kind: type, body: object, name: str) -> Any:
    """Build a dataclass from a JSON object with exactly its fields."""
    if not isinstance(body, Mapping):
        raise BenchError(f"its {name} is {body!r}")
    types_by_name = _types_of(kind)
    if missing := types_by_name.keys() - body.keys():
        raise BenchError(f"its {name} has no {min(missing)}")
    if unknown := body.keys() - types_by_name.keys():
        raise BenchError(f"its {name} has the unknown field {min(unknown)!r}")
    prefix = "" if kind is RunSpec else f"{name}'s "
    values = {
        key: check_type(expected, body[key], f"{prefix}{key}")
        for key, expected in types_by_name.items()
    }
    return kind(**values)


def check_type(expected: Any, value: object, name: str) -> Any:
    """Return a JSON value of an expected type; objects become dataclasses.

    Raises:
        BenchError: it has another type.
    """
    is_union = get_origin(expected) in (Union, UnionType)
    types = get_args(expected) if is_union else (expected,)
    kind: type = types[0]
    if value is not None and is_dataclass(kind):
        if LinearRecipe in types and isinstance(value, Mapping) and "solver" in value:
            kind = LinearRecipe
        return _parse(kind, value, name)
    accepted = [Mapping if get_origin(kind) is Mapping else kind for kind in types]
    if float in accepted:
        accepted.append(int)
    if not isinstance(value, tuple(accepted)) or (type(value) is bool and bool not in accepted):
        raise BenchError(f"its {name} is {value!r}")
    return value
