"""What is written down while a network is trained: a table of steps, TensorBoard, a tracker.

The table is as long as the newest checkpoint or longer; when a run goes on, what lies after the
checkpoint is cut off and comes again.
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from importlib.util import find_spec
from pathlib import Path

from bench.errors import BenchError
from bench.pretrain.trackers import Tracker
from bench.pretrain.validate import Scores
from bench.store import write_bytes

FLUSH_S = 60


@dataclass(frozen=True)
class Row:
    """A step: loss, norm of the gradient before clipping, speed, any validation and probe.

    Attributes:
        mfu: share of the device's peak that was used; None where the peak is not known.
        probe_dice: foreground Dice of a linear probe on a labelled set.
    """

    step: int
    loss: float
    gradient_norm: float
    images_per_s: float
    val_l1: float | None = None
    val_psnr: float | None = None
    val_ssim: float | None = None
    mfu: float | None = None
    probe_dice: float | None = None


class Log:
    """The steps of a run, in `log.csv`, in TensorBoard where it is installed, and at a tracker."""

    def __init__(
        self, out: Path, step: int, writes: bool = True, tracker: Tracker | None = None
    ) -> None:
        """Take up the table of a run after so many steps; it may be kept in memory alone."""
        self._tracker = tracker
        self.path, self._writes = out / "log.csv", writes
        self.rows = [row for row in _read(self.path) if row.step <= step]
        self._folder = out / "tensorboard"
        with self._clear_about_a_full_disk():
            self._board = _board(self._folder, step) if writes else None
        self._flushed = time.monotonic()

    def add(self, row: Row) -> None:
        """Note a step; now and then the table is written."""
        self.rows.append(row)
        told = zip(COLUMNS[1:], astuple(row)[1:], strict=True)
        scalars = {name: value for name, value in told if value is not None}
        if self._board is not None:
            with self._clear_about_a_full_disk():
                for name, value in scalars.items():
                    self._board.add_scalar(name, value, row.step)
        if self._tracker is not None:
            self._tracker.log(scalars, row.step)
        if self._writes and time.monotonic() - self._flushed > FLUSH_S:
            self.flush()

    def flush(self) -> None:
        """Write the table, where it is kept."""
        if not self._writes:
            return
        table = io.StringIO(newline="")
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(astuple(row) for row in self.rows)
        write_bytes(self.path, table.getvalue().encode())
        if self._board is not None:
            with self._clear_about_a_full_disk():
                self._board.flush()
        self._flushed = time.monotonic()

    def close(self) -> None:
        """End what follows the run from outside."""
        if self._tracker is not None:
            self._tracker.finish()

    @contextmanager
    def _clear_about_a_full_disk(self) -> Iterator[None]:
        """Raise what TensorBoard meets when it writes as a BenchError."""
        try:
            yield
        except OSError as error:
            raise BenchError(f"cannot write {self._folder}: {error.strerror or error}.") from error

    def loss(self, steps: int = 100) -> float:
        """Give the mean loss of the last steps."""
        last = [row.loss for row in self.rows[-steps:]]
        return sum(last) / len(last)

    def scores(self) -> Scores | None:
        """Give the newest validation."""
        for row in reversed(self.rows):
            if row.val_l1 is not None and row.val_psnr is not None and row.val_ssim is not None:
                return Scores(row.val_l1, row.val_psnr, row.val_ssim)
        return None

    def probe_dice(self) -> float | None:
        """Give the newest score of a probe."""
        told = [row.probe_dice for row in self.rows if row.probe_dice is not None]
        return told[-1] if told else None


COLUMNS = tuple(each.name for each in fields(Row))


def _read(path: Path) -> list[Row]:
    if not path.is_file():
        return []
    rows = csv.DictReader(io.StringIO(path.read_text()))
    return [_row(row) for row in rows]


def _row(told: dict[str, str]) -> Row:
    values = {name: float(told[name]) for name in COLUMNS if told.get(name)}
    return Row(**values | {"step": int(told["step"])})  # pyright: ignore


def _board(folder: Path, step: int):
    """Open a TensorBoard that forgets what comes after a step; None without the package."""
    if find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=step + 1)
