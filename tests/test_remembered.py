"""What a board computed before: a file that changes the time it takes, and nothing else."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from small_runs import named, request, run, squares, worse
from squares import place

from bench import remembered, stats
from bench.record import Record, from_bytes, to_bytes
from bench.remembered import remembering
from bench.store import Store

PLACES = 40


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    home = tmp_path_factory.mktemp("made")
    own = run(request(squares(home / "squares", count=14)), home).record
    return [named(worse(own, 0.1 * number), f"m{number}") for number in range(4)]


@pytest.fixture
def here(records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A place with four runs of seven patients each, and an empty cache."""
    own = place(tmp_path, monkeypatch)
    for record in records:
        Store(tmp_path / "results").commit(record, {"finished": record.run_id})
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    return own


def board(here) -> str:
    told = here.bench("leaderboard", "--json", "--reference", "m1")
    assert told.code == 0, told.err
    return told.out


def kept(here) -> Path:
    (file,) = (here.home / "cache" / "boards").iterdir()
    return file


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count how often patients are resampled."""
    calls: list[int] = []
    drawn = stats.drawn_patients

    def counts(*args) -> np.ndarray:
        calls.append(1)
        return drawn(*args)

    monkeypatch.setattr(stats, "drawn_patients", counts)
    return calls


@pytest.mark.fault(7)
def test_a_board_is_the_same_with_and_without_what_it_remembers(here, counted: list[int]) -> None:
    first = board(here)
    assert counted
    counted.clear()
    assert board(here) == first
    assert not counted  # nothing was resampled
    kept(here).unlink()
    assert board(here) == first
    assert counted


@pytest.mark.fault(7)
def test_a_damaged_file_is_made_again_and_the_board_stays(here, record_property) -> None:
    first = board(here)
    whole = kept(here).read_bytes()
    for number in range(PLACES):
        place = number * (len(whole) - 1) // (PLACES - 1)
        cut, flipped = whole[:place], bytearray(whole)
        flipped[place] ^= 0x10
        kept(here).write_bytes(cut if number % 2 else bytes(flipped))
        assert board(here) == first
        assert kept(here).read_bytes() == whole
    record_property("figure", f"{PLACES} positions, half cut, half flipped")


@pytest.mark.fault(7)
def test_what_other_code_computed_counts_as_none(
    here, counted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = board(here)
    monkeypatch.setattr(remembered, "version", lambda _: "another")
    counted.clear()
    assert board(here) == first
    assert counted


@pytest.mark.fault(7)
def test_a_record_that_was_changed_in_place_is_seen(here, records: list[Record]) -> None:
    first = board(here)
    path = here.home / "results" / "runs" / records[0].run_id[:2] / records[0].run_id
    own = from_bytes((path / "record.json").read_bytes(), "r")
    (path / "record.json").write_bytes(to_bytes(worse(own, 0.25)))
    second = board(here)
    assert second != first
    kept(here).unlink()
    assert board(here) == second


@pytest.mark.fault(7)
def test_a_cache_that_cannot_be_written_changes_no_board(here) -> None:
    first = board(here)
    shutil.rmtree(here.home / "cache")
    (here.home / "cache").write_text("a file is in the way")
    assert board(here) == first


def test_boards_of_several_at_once_leave_one_whole_file(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    values = np.random.default_rng(0).random((8, 12))
    patients = [f"p{i}" for i in range(12)]
    found: dict[int, list] = {}

    def work(number: int) -> None:
        with remembering(tmp_path):
            own = values[number : number + 1]
            found[number] = stats.intervals(own, patients, resamples=200, seed_text="s")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    (file,) = (tmp_path / "cache" / "boards").iterdir()
    assert remembered._read(file.read_bytes(), remembered._code())
    assert [found[i][0] for i in range(8)] == stats.intervals(
        values, patients, resamples=200, seed_text="s"
    )


def test_the_numbers_that_were_used_last_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "MOST", 5)
    known = {"a": np.arange(3.0), "b": np.ones((2, 1)), "c": np.arange(2.0)}
    back = remembered._read(remembered._written(known, "code"), "code")
    assert list(back) == ["b", "c"]
    assert back["b"].shape == (2, 1)
