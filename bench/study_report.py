"""What a study found, for people and for machines: the paper's table beside ours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from bench.board import Score
from bench.differences import Difference
from bench.published import Printed, printed
from bench.replicate import SCORES, Cell, Comparison, Findings, Trained
from bench.sheet import Sheet, p_value, pipes
from bench.study import PAPER, PAPER_IMAGES, PAPER_SETS, Arm, Study

PUBLISHED = "cmd_paper"
LATENT_PX = 8  # pixels that a latent stands for, each way
WIDTH = 120  # columns in which every row of every sheet fits on a line


def sheets(findings: Findings) -> list[Sheet]:
    """Give the arms, the paper's scores beside ours, and the comparisons."""
    return [_arms(findings), _scores(findings), _comparisons(findings)]


def markdown(findings: Findings) -> str:
    """Write a study as a page."""
    study = findings.study
    parts = [f"# Table {study.table.number}: {study.table.title}", *lines(findings)]
    for sheet in sheets(findings):
        if sheet.rows:
            parts += [f"## {sheet.title}", "\n".join(pipes(sheet))]
    return "\n\n".join(parts) + "\n"


def lines(findings: Findings) -> list[str]:
    """Say plainly what a study is and is not."""
    study = findings.study
    told = [
        *_what_was_done(findings),
        f"One training an arm (seed {study.common.seed}): intervals and p values tell of other "
        "patients, not of another training. No overlap of the images with the test images was "
        "looked for.",
        "Scores in percent. Dice is the mean over foreground and background (dice_macro), which "
        "the paper's Dice seems to be. Paper: intervals of 1,000 bootstrap resamples. Ours: "
        "patients are resampled; fewer than 5 give no interval, fewer than 10 a doubtful one (?).",
    ]
    if len({_seen(study, arm) for arm in study.table.arms}) > 1:
        told.append("Held-out scores of arms that saw other crops are of other pictures.")
    if study.missing:
        told.append(f"Not scored, since they were not found: {', '.join(study.missing)}.")
    return [*told, _counted(findings.cells), *(f"Note: {note}" for note in findings.notes)]


def _what_was_done(findings: Findings) -> Iterator[str]:
    study, images = findings.study, _trained_on(findings.trained[0])
    own, steps = study.common, study.routine.steps
    is_small = own.backbone != PAPER.backbone or steps < PAPER.steps or images < PAPER_IMAGES
    yield (
        f"Table {study.table.number} of arXiv 2605.08276 {'in miniature' if is_small else 'again'}:"
        f" every arm is {own.backbone} after {steps:,} steps of {own.batch_size} crops, drawn from "
        f"the same {images:,} images (lr {own.lr:g}, EMA {own.ema:g}; the condition, of the arms "
        f"that have one: {_name(own.condition)}), then frozen under a linear probe of "
        f"{study.epochs} epochs."
    )
    order = " The order of the arms at this scale says little about the paper's."
    yield (
        f"The paper: {PAPER.backbone}, {PAPER.steps:,} steps, {PAPER_IMAGES:,} images, condition "
        f"{PAPER.condition}; it gives neither its batch size nor its images."
        f"{order if is_small else ''}"
    )


def as_json(findings: Findings) -> dict[str, object]:
    """Give a study for machines; no time and no path, so the same study gives the same text."""
    study = findings.study
    return {
        "finished": True,
        "table": study.table.number,
        "title": study.table.title,
        "reference": study.table.reference.name,
        "statement": lines(findings),
        "missing": list(study.missing),
        "folds": study.plan.folds,
        "seed": study.common.seed,
        "arms": [_arm_json(study, each) for each in findings.trained],
        "cells": [_cell_json(study, cell) for cell in findings.cells],
        "comparisons": [_comparison_json(each) for each in findings.comparisons],
    }


# ---- the sheets ------------------------------------------------------------------------------


def _arms(findings: Findings) -> Sheet:
    rows = [
        [
            trained.arm.name,
            _seen(findings.study, trained.arm),
            f"{findings.study.input_px(trained.arm)} px",
            f"{trained.card['parameters']:,}",
            _decimals(trained.card["loss"], 4),
            *(_decimals(_held_out(trained).get(name), 4) for name in ("l1", "psnr", "ssim")),
        ]
        for trained in findings.trained
    ]
    columns = ["arm", "saw crops of", "probed at", "parameters", "loss"]
    return Sheet("Arms", [*columns, "held-out L1", "PSNR (dB)", "SSIM"], rows, grouped=False)


def _scores(findings: Findings) -> Sheet:
    table = findings.study.table
    paper = printed(PUBLISHED, table.number)
    rows = []
    for cell in findings.cells:
        row = [_set_name(cell.dataset), cell.arm.name]
        for name, word in SCORES.items():
            theirs = paper.get((cell.arm.name, _set_name(cell.dataset), word))
            row += [_theirs(theirs), shown(cell.scores[name])]
        rows.append(row)
    columns = [f"{whose} {word}" for word in SCORES.values() for whose in ("paper", "our")]
    title = f"Table {table.number}, the paper's and ours: score [95 % interval]"
    return Sheet(title, ["data set", "arm", *columns], rows)


def _comparisons(findings: Findings) -> Sheet:
    rows = [
        [
            _set_name(each.dataset),
            each.arm.name,
            SCORES[each.score],
            _of_difference(each.difference),
            p_value(each.difference.p),
            p_value(each.holm_p),
        ]
        for each in findings.comparisons
    ]
    reference = findings.study.table.reference.name
    title = f"Ours, minus {reference}, paired by patient (Holm over all of these)"
    columns = ["data set", "arm", "score", "difference [95 % interval]", "p", "Holm p"]
    return Sheet(title, columns, rows, words=3)


# ---- words and numbers -----------------------------------------------------------------------


def _seen(study: Study, arm: Arm) -> str:
    side = study.settings(arm).side
    latents = f", {side // LATENT_PX} x {side // LATENT_PX} latents" if arm.is_latent else ""
    return f"{side} x {side} px{latents}"


def _counted(cells: Sequence[Cell]) -> str:
    """Tell on how many images and patients each data set was scored."""
    of_set = {cell.dataset: cell.scores["bf1"].summary for cell in cells}
    told = [
        f"{_set_name(name)} {each.n_images} images of {each.n_patients} patients"
        for name, each in of_set.items()
    ]
    return f"Scored on: {'; '.join(told)}."


def _trained_on(trained: Trained) -> int:
    images = trained.card["images"]
    assert isinstance(images, Mapping)
    return int(images["trained_on"])


def _held_out(trained: Trained) -> Mapping[str, object]:
    scores = trained.card["held_out"]
    return scores if isinstance(scores, Mapping) else {}


def _name(backbone: str) -> str:
    """Take the file from NAME@FILE, which is of this machine alone."""
    return backbone.partition("@")[0]


def _set_name(dataset: str) -> str:
    return PAPER_SETS.get(dataset, dataset)


def _decimals(value: object, digits: int) -> str:
    return f"{value:.{digits}f}" if isinstance(value, int | float) else "–"


def _percents(mean: float | None, low: float | None, high: float | None) -> str:
    if mean is None:
        return "–"
    bounds = "" if low is None or high is None else f" [{100 * low:.2f}, {100 * high:.2f}]"
    return f"{100 * mean:.2f}{bounds}"


def _theirs(score: Printed | None) -> str:
    return "–" if score is None else _percents(score.mean, score.low, score.high)


def shown(score: Score) -> str:
    """Write a score of ours in percent, with its interval if any; "?" marks a doubtful one."""
    bounds = score.summary.interval
    mark = " ?" if bounds.note and bounds.low is not None else ""
    return _percents(score.summary.mean, bounds.low, bounds.high) + mark


def _of_difference(difference: Difference) -> str:
    return _percents(difference.mean, difference.interval.low, difference.interval.high)


# ---- for machines ----------------------------------------------------------------------------


def _arm_json(study: Study, trained: Trained) -> dict[str, object]:
    settings, card = study.settings(trained.arm), trained.card
    kept = ("parameters", "cond_dim", "steps", "loss", "held_out", "images", "weights_sha256")
    return {
        "name": trained.arm.name,
        "folder": study.folder(trained.arm).relative_to(study.out).as_posix(),
        **{name: getattr(settings, name) for name in ("backbone", "arch", "space", "side")},
        **{name: getattr(settings, name) for name in ("batch_size", "lr", "ema", "precision")},
        "input_px": study.input_px(trained.arm),
        "condition": _name(settings.condition),
        "vae": Path(settings.vae).name if trained.arm.is_latent else None,
        **{name: card[name] for name in kept},
    }


def _cell_json(study: Study, cell: Cell) -> dict[str, object]:
    paper = printed(PUBLISHED, study.table.number)
    told = {}
    for name, word in SCORES.items():
        theirs = paper.get((cell.arm.name, _set_name(cell.dataset), word))
        told[name] = {
            "paper": None if theirs is None else asdict(theirs),
            "ours": cell.scores[name].plain(),
        }
    return {
        "arm": cell.arm.name,
        "dataset": cell.dataset,
        "run_id": cell.record.run_id,
        "flags": list(cell.record.flags),
        "scores": told,
    }


def _comparison_json(comparison: Comparison) -> dict[str, object]:
    return {
        "arm": comparison.arm.name,
        "dataset": comparison.dataset,
        "score": comparison.score,
        **asdict(comparison.difference),
        "holm_p": comparison.holm_p,
    }
