"""The page of a repository of pretrained weights: what they are, and how to use them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bench.pretrain.export import CARD, command

TAGS = ("pathology", "histopathology", "masked-diffusion", "feature-extraction", "cmd-bench")


def describe(card: Mapping[str, Any], repo: str, license: str = "") -> str:
    """Write the page of a repository, in Markdown with the metadata that the hub reads."""
    name = repo.partition("/")[2]
    return "\n".join([*_metadata(license), *_body(card, repo, name)]) + "\n"


def _metadata(license: str) -> Iterator[str]:
    yield "---"
    if license:
        yield f"license: {license}"
    yield "tags:"
    yield from (f"- {tag}" for tag in TAGS)
    yield "---"


def _body(card: Mapping[str, Any], repo: str, name: str) -> Iterator[str]:
    condition = card["condition"]
    images = card["images"]
    yield f"# {name}"
    yield ""
    yield (
        f"{card['architecture']}, pretrained by masked diffusion (arXiv 2605.08276) with "
        f"`bench pretrain` of cmd-bench {card['bench']}: {card['parameters']:,} parameters, "
        f"{card['steps']:,} steps, {images['trained_on']:,} images."
    )
    yield ""
    yield "## Use"
    yield "```"
    yield f"hf download {repo} --local-dir {name}"
    yield command(card, name)
    yield "```"
    if condition != "none":
        yield f"The condition is {condition}, whose weights are not in this repository."
    yield ""
    yield "## Training"
    yield "| | |"
    yield "|---|---|"
    yield from (f"| {key} | {value} |" for key, value in _facts(card).items())
    yield ""
    yield f"All settings are in `{CARD}`."
    if card["held_out"] is not None:
        yield ""
        yield (
            "Held-out images are other images, not other patients: their scores tell how training "
            "went, and do not compare networks that were trained on other images."
        )


def _facts(card: Mapping[str, Any]) -> dict[str, object]:
    scores = card["held_out"]
    facts = {
        "weights": card["weights"],
        "sha256 of the weights": f"`{card['weights_sha256']}`",
        "condition": card["condition"],
        "loss, mean of the last steps": _short(card["loss"]),
        "images trained on": card["images"]["trained_on"],
        "images held out": card["images"]["held_out"],
        "sha256 of the list of images": f"`{card['images']['list_sha256']}`",
    }
    if scores is not None:
        told = f"L1 {scores['l1']:.4f}, PSNR {scores['psnr']:.2f} dB, SSIM {scores['ssim']:.4f}"
        facts["reconstruction of held-out images"] = told
    return facts


def _short(loss: float | None) -> str:
    return "unknown" if loss is None else f"{loss:.4f}"
