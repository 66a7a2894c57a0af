"""Report the results of a study as tables, Markdown and JSON, with the paper's scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from bench.api.board import Difference, Summary
from bench.api.report import DASH, Cell, Table, p_cell
from bench.paper.published import Printed, printed
from bench.paper.study import PAPER, PAPER_IMAGES, PAPER_SETS, Arm, Study
from bench.paper.study_run import SCORES, Comparison, Findings, StudyCell, Trained
from bench.render.markdown import markdown as markdown_tables

PUBLISHED = "cmd_paper"
LATENT_PX = 8  # side of the pixels that one latent covers
WIDTH = 120  # terminal columns; every row of every table fits on one line


def tables(findings: Findings) -> list[Table]:
    """Build the tables of a study: arms, scores (the paper's and ours), and comparisons."""
    return [_arms(findings), _scores(findings), _comparisons(findings)]


def markdown(findings: Findings) -> str:
    """Format a study as Markdown."""
    study = findings.study
    parts = [f"# Table {study.table.number}: {study.table.title}", *lines(findings)]
    shown = [table for table in tables(findings) if table.rows]
    return "\n\n".join([*parts, markdown_tables(shown, level=2)])


def lines(findings: Findings) -> list[str]:
    """Describe the settings and limitations of a study, one paragraph per item."""
    study = findings.study
    paragraphs = [
        *_settings(findings),
        f"Each arm was trained once (seed {study.common.seed}): intervals and p values reflect the "
        "variation between patients, not between trainings. Overlap between pretraining and test "
        "images was not checked.",
        "Scores in percent. Dice is the mean over foreground and background (dice_macro), as the "
        "paper's Dice seems to be. Paper: intervals of 1,000 bootstrap resamples. Ours: patients "
        "are resampled; no interval below 5 patients, a doubtful one (?) below 10.",
    ]
    if len({_crops(study, arm) for arm in study.table.arms}) > 1:
        paragraphs.append("Held-out scores of arms with different crops use different images.")
    if study.missing:
        paragraphs.append(f"Not evaluated, data set not found: {', '.join(study.missing)}.")
    notes = [f"Note: {note}" for note in findings.notes]
    return [*paragraphs, _sample_sizes(findings.cells), *notes]


def _settings(findings: Findings) -> Iterator[str]:
    study, images = findings.study, _trained_on(findings.trained[0])
    common, steps = study.common, study.common.steps
    is_small = common.backbone != PAPER.backbone or steps < PAPER.steps or images < PAPER_IMAGES
    kind = "in miniature" if is_small else "at full scale"
    yield (
        f"Table {study.table.number} of arXiv 2605.08276 {kind}: every arm is {common.backbone} "
        f"after {steps:,} steps of {common.batch_size} crops from the same {images:,} images "
        f"(lr {common.lr:g}, EMA {common.ema:g}; conditioned arms use "
        f"{_without_file(common.condition)}), evaluated frozen with a linear probe of "
        f"{study.epochs} epochs."
    )
    caveat = " At this scale, the order of the arms says little about the paper's results."
    yield (
        f"The paper: {PAPER.backbone}, {PAPER.steps:,} steps, {PAPER_IMAGES:,} images, condition "
        f"{PAPER.condition}; it states neither its batch size nor its images."
        f"{caveat if is_small else ''}"
    )


def as_json(findings: Findings) -> dict[str, object]:
    """Return a study as JSON-serialisable values, without times or absolute paths."""
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
        "arms": [_arm_json(study, trained) for trained in findings.trained],
        "cells": [_cell_json(study, cell) for cell in findings.cells],
        "comparisons": [_comparison_json(comparison) for comparison in findings.comparisons],
    }


# ---- tables ----------------------------------------------------------------------------------


def _arms(findings: Findings) -> Table:
    rows = [
        [
            trained.arm.name,
            _crops(findings.study, trained.arm),
            f"{findings.study.input_px(trained.arm)} px",
            f"{trained.card['parameters']:,}",
            _decimals(trained.card["loss"]),
            *(_decimals(_held_out(trained).get(name)) for name in ("l1", "psnr", "ssim")),
        ]
        for trained in findings.trained
    ]
    columns = ["arm", "crops", "probe input", "parameters", "loss"]
    return Table("Arms", [*columns, "held-out L1", "PSNR (dB)", "SSIM"], rows)


def _scores(findings: Findings) -> Table:
    table = findings.study.table
    paper = printed(PUBLISHED, table.number)
    rows = []
    for cell in findings.cells:
        row = [_set_name(cell.dataset), cell.arm.name]
        for name, word in SCORES.items():
            theirs = paper.get((cell.arm.name, _set_name(cell.dataset), word))
            row += [_printed_percent(theirs), _percent(cell.scores[name].summary)]
        rows.append(row)
    columns = [f"{word}, {source}" for word in SCORES.values() for source in ("paper", "ours")]
    title = f"Table {table.number}, paper and ours: score [95 % interval]"
    return Table(title, ["data set", "arm", *columns], rows, grouped=True)


def _comparisons(findings: Findings) -> Table:
    rows = [
        [
            _set_name(comparison.dataset),
            comparison.arm.name,
            SCORES[comparison.score],
            _percent(comparison.difference),
            p_cell(comparison.difference.p),
            p_cell(comparison.holm_p),
        ]
        for comparison in findings.comparisons
    ]
    reference = findings.study.table.reference.name
    title = f"Our difference to {reference}, paired by patient (Holm over all rows)"
    columns = ["data set", "arm", "score", "difference [95 % interval]", "p", "Holm p"]
    return Table(title, columns, rows, grouped=True)


# ---- text ------------------------------------------------------------------------------------


def _crops(study: Study, arm: Arm) -> str:
    side = study.pretraining(arm).side
    latents = f", {side // LATENT_PX} x {side // LATENT_PX} latents" if arm.is_latent else ""
    return f"{side} x {side} px{latents}"


def _sample_sizes(cells: Sequence[StudyCell]) -> str:
    """Return a sentence with the number of images and patients of each data set."""
    summaries = {cell.dataset: cell.scores["bf1"].summary for cell in cells}
    sizes = [
        f"{_set_name(name)} {summary.n_images} images of {summary.n_patients} patients"
        for name, summary in summaries.items()
    ]
    return f"Evaluated on: {'; '.join(sizes)}."


def _trained_on(trained: Trained) -> int:
    images = trained.card["images"]
    assert isinstance(images, Mapping)
    return int(images["trained_on"])


def _held_out(trained: Trained) -> Mapping[str, object]:
    scores = trained.card["held_out"]
    return scores if isinstance(scores, Mapping) else {}


def _without_file(backbone: str) -> str:
    """Return NAME of NAME@FILE; the path is only valid on this machine."""
    return backbone.partition("@")[0]


def _set_name(dataset: str) -> str:
    return PAPER_SETS.get(dataset, dataset)


def _decimals(value: object) -> Cell:
    return Cell(value if isinstance(value, int | float) else None, digits=4)


def _percent(score: Summary | Difference) -> Cell:
    """Return the cell of a number in percent; "?" marks an unreliable interval."""
    return Cell.of(score.mean, score.interval, digits=2, percent=True)


def _printed_percent(score: Printed | None) -> Cell | str:
    if score is None:
        return DASH
    return Cell(score.mean, score.low, score.high, digits=2, percent=True)


# ---- JSON ------------------------------------------------------------------------------------


def _arm_json(study: Study, trained: Trained) -> dict[str, object]:
    config, card = study.pretraining(trained.arm), trained.card
    names = ("parameters", "cond_dim", "steps", "loss", "held_out", "images", "weights_sha256")
    return {
        "name": trained.arm.name,
        "folder": config.out.relative_to(study.common.out).as_posix(),
        **{name: getattr(config, name) for name in ("backbone", "arch", "space", "side")},
        **{name: getattr(config, name) for name in ("batch_size", "lr", "ema", "precision")},
        "input_px": study.input_px(trained.arm),
        "condition": _without_file(config.condition),
        "vae": Path(config.vae).name if trained.arm.is_latent else None,
        **{name: card[name] for name in names},
    }


def _cell_json(study: Study, cell: StudyCell) -> dict[str, object]:
    paper = printed(PUBLISHED, study.table.number)
    scores = {}
    for name, word in SCORES.items():
        theirs = paper.get((cell.arm.name, _set_name(cell.dataset), word))
        scores[name] = {
            "paper": None if theirs is None else asdict(theirs),
            "ours": cell.scores[name].plain(),
        }
    return {
        "arm": cell.arm.name,
        "dataset": cell.dataset,
        "run_id": cell.record.run_id,
        "flags": list(cell.record.flags),
        "scores": scores,
    }


def _comparison_json(comparison: Comparison) -> dict[str, object]:
    return {
        "arm": comparison.arm.name,
        "dataset": comparison.dataset,
        "score": comparison.score,
        **asdict(comparison.difference),
        "holm_p": comparison.holm_p,
    }
