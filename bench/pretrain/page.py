"""The model card of a repository of pretrained weights: its README.md on the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.pretrain.export import CARD, command

TAGS = ["pathology", "histopathology", "masked-diffusion", "feature-extraction", "cmd-bench"]

TEMPLATE = """\
---
{metadata}
---
# {name}

{architecture}, pretrained by masked diffusion (arXiv 2605.08276) with `bench pretrain` of \
cmd-bench {bench}: {parameters:,} parameters, {steps:,} steps, {images[trained_on]:,} images.

## Use
```
hf download {repo} --local-dir {name}
{command}
```
{condition_note}
## Training
| | |
|---|---|
| weights | {weights} |
| sha256 of the weights | `{weights_sha256}` |
| condition | {condition} |
| loss, mean of the last steps | {loss_text} |
| images trained on | {images[trained_on]} |
| images held out | {images[held_out]} |
| sha256 of the list of images | `{images[list_sha256]}` |
{scores_row}
All settings are in `{card_file}`.
"""

HELD_OUT_NOTE = """
Held-out images are other images, not other patients: their scores show how training went, and do \
not compare networks that were trained on other images.
"""


def describe(card: Mapping[str, Any], repo: str, license: str = "") -> str:
    """Return the model card in Markdown, with the metadata that the hub reads.

    Args:
        card: the card that `bench.pretrain.export.export` wrote.
        repo: "owner/name".
        license: identifier on the hub; omitted from the metadata if empty.
    """
    from huggingface_hub import ModelCardData

    name = repo.partition("/")[2]
    condition_note = scores_row = ""
    if card["condition"] != "none":
        condition_note = (
            f"The condition is {card['condition']}, whose weights are not in this repository.\n"
        )
    scores = card["held_out"]
    if scores is not None:
        scores_row = (
            f"| reconstruction of held-out images | L1 {scores['l1']:.4f}, "
            f"PSNR {scores['psnr']:.2f} dB, SSIM {scores['ssim']:.4f} |\n"
        )
    loss = card["loss"]
    content = TEMPLATE.format(
        **card,
        repo=repo,
        name=name,
        metadata=ModelCardData(license=license or None, tags=TAGS).to_yaml(),
        command=command(card, name),
        condition_note=condition_note,
        loss_text="unknown" if loss is None else f"{loss:.4f}",
        scores_row=scores_row,
        card_file=CARD,
    )
    return content if scores is None else content + HELD_OUT_NOTE
