"""Run the tests that guard against faults, and write docs/reliability.md from their results.

    python docs/make_reliability.py [--from FILE]

FILE is the output of `pytest tests -m fault --fault-table=FILE`; without it the tests are run.
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
ROWS = {  # the fault, and the required behaviour
    1: ("killed at any file operation", "the run resumes to the same bytes"),
    2: ("SIGTERM, Ctrl-C", "complete files, exit code 143 or 130, resumes"),
    3: ("orphaned temporary files, stale locks", "files older than a day removed; no stale locks"),
    4: ("several processes, the same run", "one computes it, one record"),
    5: ("writers and a reader of the board", "no error, only committed runs"),
    6: ("a record truncated, a bit flipped", "quarantined, recomputed; `bench verify` reports it"),
    8: ("disk full at any write", "a clear message, old files unchanged, resumes"),
    9: ("results cannot be written", "refused before any computation"),
    10: ("out of memory while extracting", "batches are halved; at size 1, the next run starts"),
    11: ("out of memory while training", "the same batch in parts, noted in the record"),
    12: ("a loss or logits that are not finite", "stops, the reason is saved, no score"),
    13: ("damaged or unexpected images", "`datasets check` names the file; a run refuses it"),
    14: ("damaged or unexpected labels", "`datasets check` names the file; a run refuses it"),
    15: ("an image changed", "another run; only its own features are recomputed"),
    16: ("a patient or image in training and test", "refused"),
    17: ("order of keys, 1 and 1.0, moved folders", "the same run"),
    18: ("any option that affects numbers", "another run"),
    19: ("weights with a payload, damaged, of another model", "refused; a payload never runs"),
    20: ("code from a hub", "never run"),
    21: (
        "archives with .., absolute paths, links, duplicates, more than 1 GiB",
        "refused before a file is written; only the names of a bundle or release",
    ),
    22: ("images whose header claims a huge size", "refused by their header"),
    23: ("tokens", "in no file and no message"),
    24: ("markup and formulas in names", "escaped everywhere"),
    25: (
        "a plug-in that raises, calls sys.exit or prints at import",
        "listed as broken, others work; JSON output stays valid",
    ),
    26: (
        "a plug-in with wrong shapes, NaN or changed weights",
        "no score; other runs continue; `bench check` reports it",
    ),
    27: ("clock, time zone, locale", "no effect"),
    28: (
        "no network, a hub that is down, an interrupted download",
        "reported at once with the command to run; hashes checked",
    ),
    29: ("records of another schema", "refused"),
    30: ("few images, constant scores", "no interval, no crash"),
    31: ("the same command twice", "the same bytes"),
    32: ("unicode, spaces, long names", "work, or are refused by the check"),
    33: ("3,600 runs in the store", "a board within 2 s"),
    34: ("weights replaced between hashing and reading", "refused; never cached under the first"),
    35: ("too little memory for a training step", "smaller parts of a batch, or refused at once"),
    36: ("the same run with other threads, merged", "accepted if its counts agree up to rounding"),
    37: ("a FIFO or device in place of a stored file", "reported; no command waits for it"),
}
NOTES = {
    3: "Locks are those of `filelock`, which end with their process. Where the system has none, "
    "`filelock` uses a lock file, which a killed process leaves behind.",
    6: "A cached head or feature file names its owner in its header, which is compared at every "
    "use; one that does not load is computed again. A changed bit among its numbers is not "
    "detected. `bench verify` does not check plug-ins, weights and unregistered data sets.",
    9: "The test of a folder's permission skips for root, who may write anywhere. A cache that "
    "is not writable is used read-only.",
    10: "Maps agree within 1e-5, not to the bit: another batch size may choose another kernel.",
    11: "The gradient is that of the whole batch, up to rounding, if the loss is a function of the "
    "logits or a mean over images; the losses of `deep-supervision` and of other heads with "
    "auxiliary outputs differ in their Dice term. A head with batch norm is not divided. A divided "
    "run is marked (`parts_of_a_batch`), and its heads are not cached. A trial that was saved "
    "before a run was interrupted carries no mark of its own.",
    13: "Pillow ignores some damaged EXIF of a JPEG: such an image counts as not rotated.",
    14: "Labels that were exchanged between two images of one size are not detected in general; "
    "those that are known in CPM-15 are put back.",
    16: "There is no way to override it. Patients are compared by their names, letter for letter: "
    "'P1' and 'p1' are two.",
    19: "Dtypes are compared in `load_state_dict`; a plug-in whose `load` copies tensors itself "
    "skips this. Files of `torch.save` are compared with their check sums, which `torch.load` does "
    "not do; safetensors have none, so a changed bit among their numbers changes the sha256 in the "
    "record, and is refused only where that hash is pinned.",
    20: "There is no option for it.",
    25: "`os._exit` and hangs at import are not guarded: plug-ins are code.",
    26: "The harness sets eval mode and `requires_grad_(False)`. Only `bench check` compares the "
    "weights before and after.",
    28: "Downloads of data sets restart from the beginning; downloads from the hub resume.",
    29: "There is one schema so far (2), so nothing is migrated. A record of another one is "
    "quarantined if it does not match its own hash, else it is left unchanged.",
    34: "The file is in memory while it is parsed, which needs twice its size. The VAE "
    "of latents is read by diffusers: it is hashed before and after.",
    35: "The estimate is that of tensors on the meta device, doubled on a CPU: measured for "
    "`decoder`, `light` and `linear` only. Heads that cannot run there are not estimated, and the "
    "linear probe is not checked.",
    36: "Per count, summed over all images: at most 0.1 % of its total, or one per image. A long "
    "training on another device may differ by more, and is then refused.",
    33: "Of four images each, so without intervals; timed with no other test beside it, and "
    "asserted loosely. With 30 images each, 60 boards of 60 models take 14 to 20 s, for intervals, "
    "tests and ranks.",
}


def run_tests() -> list[dict]:
    """Run the marked tests and return their results; the timed one runs alone."""
    return _run_tests("tests", f"--deselect={TIMED}") + _run_tests(TIMED, "--numprocesses=0")


def _run_tests(*words: str) -> list[dict]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "table.json"
        command = [sys.executable, "-m", "pytest", *words, "-q", "-m", "fault"]
        subprocess.run([*command, f"--fault-table={file}"], cwd=CHECKOUT, check=False)
        return json.loads(file.read_text())


def names(tests: list[dict]) -> list[str]:
    """List the tests of a row, with the number of their cases."""
    cases: dict[str, int] = {}
    for test in tests:
        path, name = test["test"].partition("[")[0].split("::")
        cases[f"{Path(path).stem}: {name}"] = cases.get(f"{Path(path).stem}: {name}", 0) + 1
    return [f"{name} ({count} cases)" if count > 1 else name for name, count in cases.items()]


def result(tests: list[dict]) -> str:
    """Summarise the outcomes of the tests of a row."""
    outcomes = {test["outcome"] for test in tests}
    if "failed" in outcomes:
        return "FAILS"
    if any(test.get("unmet") for test in tests):
        return "NOT MET"
    return "holds" if "passed" in outcomes else "not tested"


def figures(tests: list[dict]) -> str:
    """Return the counts and the duration of the tests of a row."""
    counts = [str(figure) for test in tests for figure in test["figures"]]
    files = [int(count.split()[0]) for count in counts if count.endswith(" made files")]
    counts = [count for count in counts if not count.endswith(" made files")]
    counts += [f"{sum(files)} generated files"] if files else []
    cases = sum(test["outcome"] == "passed" for test in tests)
    skipped = sum(test["outcome"] == "skipped" for test in tests)
    seconds = sum(test["seconds"] for test in tests)
    counts.append(f"{cases} {'case' if cases == 1 else 'cases'} in {seconds:.0f} s")
    return "; ".join(counts + ([f"{skipped} skipped"] if skipped else []))


def page(table: list[dict]) -> str:
    """Return the page as Markdown."""
    by_row = {row: [test for test in table if row in test["rows"]] for row in ROWS}
    lines = [
        "# Faults and the tests that guard against them",
        "",
        "Written by `python docs/make_reliability.py` from a run of the tests, under Python "
        f"{platform.python_version()} on {platform.system()}; do not edit. Each test is marked "
        "with the rows that it guards, `@pytest.mark.fault(ROW)`; `pytest -m fault` runs them. "
        "What is trusted and what is not: [SECURITY.md](../SECURITY.md).",
        "",
        "| # | fault | required | result | figures |",
        "|---|---|---|---|---|",
    ]
    for row, (fault, required) in ROWS.items():
        tests = by_row[row]
        cells = (result(tests), figures(tests)) if tests else ("nothing to test", "")
        lines.append(f"| {row} | {fault} | {required} | {cells[0]} | {cells[1]} |")
    lines += ["", "## Limits", "", *(f"- {row}: {note}" for row, note in NOTES.items())]
    lines += ["", "## Tests", ""]
    for row, tests in by_row.items():
        if tests:
            lines.append(f"- {row}, {ROWS[row][0]}: {', '.join(f'`{n}`' for n in names(tests))}")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write docs/reliability.md; exit code 1 if a test fails."""
    file = sys.argv[2] if sys.argv[1:2] == ["--from"] else None
    table = json.loads(Path(file).read_text()) if file else run_tests()
    (CHECKOUT / "docs" / "reliability.md").write_text(page(table))
    sys.exit(any(test["outcome"] == "failed" for test in table))


if __name__ == "__main__":
    main()
