"""Run the tests that guard against faults, and write docs/reliability.md from what came of them.

    python docs/make_reliability.py [--from FILE]

FILE is what `pytest tests -m fault --fault-table=FILE` has written; without it the tests are run.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

CHECKOUT = Path(__file__).parent.parent
TIMED = "tests/test_faults_run.py::test_a_board_of_3600_runs_is_read"
ROWS = {  # the fault, and what must hold
    1: ("killed at any write", "the run resumes to the same bytes"),
    2: ("SIGTERM, Ctrl-C", "whole files, exit code 143 or 130, resumes"),
    3: ("orphan temporary files, stale claims, reused process numbers", "swept; never a live one"),
    4: ("several processes, the same run", "one makes it, one record"),
    5: ("writers and a reader of the board", "no error, committed runs alone"),
    6: ("a record cut short, a bit flipped", "put aside, made again; `bench verify` tells"),
    8: ("the disk full at any write", "a clear message, old files whole, resumes"),
    9: ("results cannot be written", "refused before anything is computed"),
    10: ("out of memory while extracting", "half as many at once; at one, the next run goes on"),
    11: ("out of memory while training", "the same batch in parts, and the record says so"),
    12: ("a loss or logits that are not finite", "stops, the reason is kept, no score"),
    13: ("damaged or odd images", "`datasets check` names the file; a run refuses it"),
    14: ("damaged or odd labels", "`datasets check` names the file; a run refuses it"),
    15: ("an image changed", "another run; only its own features are made again"),
    16: ("a patient or picture on both sides", "refused"),
    17: ("order of keys, 1 and 1.0, moved folders", "the same run"),
    18: ("any option that matters", "another run"),
    19: ("weights with a payload, damaged, of another model", "refused; a payload never runs"),
    20: ("code from a hub", "never run"),
    21: ("archives with .., links, devices, bombs, duplicates", "refused before a file is written"),
    22: ("images that claim to be huge", "refused by their header"),
    23: ("tokens", "in no file and no message"),
    24: ("markup and formulas in names", "text everywhere"),
    25: (
        "a plug-in that raises, exits, hangs or prints at import",
        "listed as broken, others work",
    ),
    26: ("a plug-in that breaks its word", "no score; other runs go on"),
    27: ("clock, time zone, locale", "no effect"),
    28: ("no network, a hub that is down, a download that breaks off", "told at once; resumed"),
    29: ("records of another schema", "refused"),
    30: ("few images, constant scores", "no interval, no crash"),
    31: ("the same command twice", "the same bytes"),
    32: ("unicode, blanks, long names", "work, or are refused by the check"),
    33: ("3,600 runs in the store", "a board within 2 s"),
}
NOTES = {
    3: "Claims are locks of the kernel, which end with their process. Where there are none "
    "(Windows, some network file systems) two processes may make one run; the first commits it.",
    6: "Kept heads are compared with their hash at every use. Kept features, which are mapped into "
    "memory, are compared with their image and extractor at every use, and with their hash by "
    "`bench verify` and `bench cache verify` alone. A `context.json` or a file about kept features "
    "without a hash is taken for that of an older version, and a context that is gone is no doubt: "
    "records are merged without one. Data sets that are no known ones, plug-ins that are "
    "remembered, and weights are not looked at; names that begin with a dot are left out.",
    9: "The test of a folder's permission skips for root, who may write anywhere. A cache that "
    "cannot be written is read, and nothing new is kept in it.",
    10: "Maps agree within 1e-5, not to the bit: another batch size may choose another kernel.",
    11: "The gradient is that of the whole batch for a loss that is a mean over images. The "
    "default one has a Dice term over the batch, and batch norm sees parts: such a run differs, is "
    "marked (`parts_of_a_batch`), and what it trained is not handed to other runs. A trial that "
    "was kept before a run was stopped carries no mark of its own.",
    13: "Pillow passes over some damaged EXIF of a JPEG: such an image counts as not turned.",
    14: "Labels that were exchanged between two images of one size cannot be noticed in general; "
    "those that are known in CPM-15 are put back.",
    16: "There is no way to override it. Patients are compared by their names, letter for letter: "
    "'P1' and 'p1' are two.",
    19: "Kinds of numbers are compared in `load_state_dict`; a plug-in whose `load` copies tensors "
    "by itself goes without. Files of `torch.save` are compared with their check sums, which "
    "`torch.load` does not do; safetensors have none, so a changed bit among their numbers changes "
    "the sha256 that the record names, and is refused only where that hash is pinned.",
    20: "There is no option for it.",
    25: "Plug-ins of installed packages are imported in a child first. Files in this checkout's "
    "own folders are not: they are part of the program. What a plug-in changes of the process is "
    "put back after its import and after a backbone is built, not after each `forward`.",
    29: "There is one schema so far (2), so nothing is migrated. A record of another one is put "
    "aside if it does not match its own hash, else it stays where it is.",
    33: "Of four images each, so without intervals; timed with no other test beside it, and "
    "asserted loosely. With 30 images each, 60 boards of 60 models take 14 to 20 s, for intervals, "
    "tests and ranks.",
}


def measured() -> list[dict]:
    """Run the marked tests and give what came of each; the one that is timed runs alone."""
    return _measured("tests", f"--deselect={TIMED}") + _measured(TIMED, "--numprocesses=0")


def _measured(*words: str) -> list[dict]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "table.json"
        command = [sys.executable, "-m", "pytest", *words, "-q", "-m", "fault"]
        subprocess.run([*command, f"--fault-table={file}"], cwd=CHECKOUT, check=False)
        return json.loads(file.read_text())


def names(own: list[dict]) -> list[str]:
    """Name the tests of a row, with the number of their cases."""
    cases: dict[str, int] = {}
    for each in own:
        path, name = each["test"].partition("[")[0].split("::")
        cases[f"{Path(path).stem}: {name}"] = cases.get(f"{Path(path).stem}: {name}", 0) + 1
    return [f"{name} ({count} cases)" if count > 1 else name for name, count in cases.items()]


def result(own: list[dict]) -> str:
    """Say what came of the tests of a row."""
    outcomes = {each["outcome"] for each in own}
    if "failed" in outcomes:
        return "FAILS"
    if any(each.get("unmet") for each in own):
        return "NOT MET"
    return "holds" if "passed" in outcomes else "not tested"


def figures(own: list[dict]) -> str:
    """Give what the tests of a row counted, and how long they took."""
    told = [str(figure) for each in own for figure in each["figures"]]
    files = [int(figure.split()[0]) for figure in told if figure.endswith(" made files")]
    told = [figure for figure in told if not figure.endswith(" made files")]
    told += [f"{sum(files)} made files"] if files else []
    cases = sum(each["outcome"] == "passed" for each in own)
    skipped = sum(each["outcome"] == "skipped" for each in own)
    seconds = sum(each["seconds"] for each in own)
    told.append(f"{cases} {'case' if cases == 1 else 'cases'} in {seconds:.0f} s")
    return "; ".join(told + ([f"{skipped} skipped"] if skipped else []))


def page(table: list[dict]) -> str:
    """Write the page."""
    by_row = {row: [each for each in table if row in each["rows"]] for row in ROWS}
    lines = [
        "# What must not go wrong, and the tests of it",
        "",
        "Written by `python docs/make_reliability.py` from a run of the tests, under Python "
        f"{platform.python_version()} on {platform.system()}; do not edit. Each test carries the "
        "rows that it guards, `@pytest.mark.fault(ROW)`; `pytest -m fault` runs them. What is "
        "trusted and what is not: [SECURITY.md](../SECURITY.md).",
        "",
        "| # | fault | must | result | figures |",
        "|---|---|---|---|---|",
    ]
    for row, (fault, must) in ROWS.items():
        own = by_row[row]
        told = (result(own), figures(own)) if own else ("nothing to test", "")
        lines.append(f"| {row} | {fault} | {must} | {told[0]} | {told[1]} |")
    lines += ["", "## Limits", "", *(f"- {row}: {note}" for row, note in NOTES.items())]
    lines += ["", "## Tests", ""]
    for row, own in by_row.items():
        if own:
            lines.append(f"- {row}, {ROWS[row][0]}: {', '.join(f'`{n}`' for n in names(own))}")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write docs/reliability.md; exit code 1 where a row fails."""
    given = sys.argv[2] if sys.argv[1:2] == ["--from"] else None
    table = json.loads(Path(given).read_text()) if given else measured()
    (CHECKOUT / "docs" / "reliability.md").write_text(page(table))
    sys.exit(any(each["outcome"] == "failed" for each in table))


if __name__ == "__main__":
    main()
