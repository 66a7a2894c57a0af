"""The log of a training: `log.csv`, TensorBoard and an experiment tracker.

The table has at least the steps of the newest checkpoint. A resumed run deletes the rows after its
checkpoint, because these steps are repeated.
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
from bench.store.files import write_bytes

FLUSH_S = 60


@dataclass(frozen=True)
class LogRow:
    """The measurements of a step.

    Attributes:
        gradient_norm: norm of the gradient before clipping.
        val_l1, val_psnr, val_ssim: validation scores; None if this step was not validated.
        mfu: model FLOPs utilisation; None if the device's peak is unknown.
        probe_dice: foreground Dice of a linear probe on a labelled data set.
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
    """The rows of a run, in `log.csv`, in TensorBoard if it is installed, and at a tracker."""

    def __init__(
        self, out: Path, step: int, writes: bool = True, tracker: Tracker | None = None
    ) -> None:
        """Read the rows up to `step`; write no files unless `writes`."""
        self._tracker = tracker
        self.path, self._writes = out / "log.csv", writes
        self.rows = [row for row in _read(self.path) if row.step <= step]
        self._folder = out / "tensorboard"
        with self._disk_errors():
            self._board = _board(self._folder, step) if writes else None
        self._flushed = time.monotonic()

    def add(self, row: LogRow) -> None:
        """Add a row, and write the table once per `FLUSH_S` seconds."""
        self.rows.append(row)
        values = zip(COLUMNS[1:], astuple(row)[1:], strict=True)
        scalars = {name: value for name, value in values if value is not None}
        if self._board is not None:
            with self._disk_errors():
                for name, value in scalars.items():
                    self._board.add_scalar(name, value, row.step)
        if self._tracker is not None:
            self._tracker.log(scalars, row.step)
        if self._writes and time.monotonic() - self._flushed > FLUSH_S:
            self.flush()

    def flush(self) -> None:
        """Write the table."""
        if not self._writes:
            return
        table = io.StringIO(newline="")
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(astuple(row) for row in self.rows)
        write_bytes(self.path, table.getvalue().encode())
        if self._board is not None:
            with self._disk_errors():
                self._board.flush()
        self._flushed = time.monotonic()

    def close(self) -> None:
        """End the tracker's run."""
        if self._tracker is not None:
            self._tracker.finish()

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        """Raise the OSErrors of TensorBoard as a BenchError."""
        try:
            yield
        except OSError as error:
            raise BenchError(f"cannot write {self._folder}: {error.strerror or error}.") from error

    def loss(self, steps: int = 100) -> float:
        """Return the mean loss of the last `steps` steps."""
        last = [row.loss for row in self.rows[-steps:]]
        return sum(last) / len(last)

    def scores(self) -> Scores | None:
        """Return the newest validation scores."""
        for row in reversed(self.rows):
            if row.val_l1 is not None and row.val_psnr is not None and row.val_ssim is not None:
                return Scores(row.val_l1, row.val_psnr, row.val_ssim)
        return None

    def probe_dice(self) -> float | None:
        """Return the newest Dice coefficient of a probe."""
        for row in reversed(self.rows):
            if row.probe_dice is not None:
                return row.probe_dice
        return None


COLUMNS = tuple(field.name for field in fields(LogRow))


def _read(path: Path) -> list[LogRow]:
    if not path.is_file():
        return []
    rows = []
    for cells in csv.DictReader(io.StringIO(path.read_text())):
        values = {name: float(cells[name]) for name in COLUMNS if cells.get(name)}
        rows.append(LogRow(**values | {"step": int(cells["step"])}))  # pyright: ignore
    return rows


def _board(folder: Path, step: int):
    """Open TensorBoard and delete what follows the step; return None without the package."""
    if find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=step + 1)
