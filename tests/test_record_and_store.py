"""Records are immutable and checked; the store writes whole files or none."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import FACTS, SPEC, changed_spec

from bench.api.record import Record, TrialResult, canonical, from_bytes, identify, to_bytes
from bench.api.spec import RunSpec
from bench.board.scores import defined_grids, metric_of, scores_of_images
from bench.errors import BenchError
from bench.store.files import write_bytes
from bench.store.results import Store


def _record(draws: int = 2, repeat: int = 0) -> Record:
    counts = {"tp": (1.0, 0.0), "fp": (1.0, 0.0), "fn": (0.0, 0.0), "tn": (2.0, 4.0)}
    trials = tuple(
        TrialResult({"draw": draw, "fold": fold}, ("t",), 0.5, (f"b{fold}", f"a{fold}"), counts)
        for draw in range(draws)
        for fold in range(2)
    )
    patients = {name: name for name in ("a0", "a1", "b0", "b1")}
    return Record(replace(SPEC, repeat=repeat), FACTS, patients, (), trials)


def test_a_record_is_read_back_unchanged():
    record = _record()
    again = from_bytes(to_bytes(record), "r")
    assert again == record
    assert to_bytes(again) == to_bytes(record)


@pytest.mark.parametrize(
    ("file", "run_id", "numerics_version"),
    [
        ("before_numerics_version.json", "60c47a6a427245aa", None),
        ("with_numerics_version.json", "a18939e825a615c9", 1),
    ],
)
def test_stored_records_keep_their_run_id_and_bytes(
    file: str, run_id: str, numerics_version: int | None
) -> None:
    content = (Path(__file__).parent / "records" / file).read_bytes()
    record = from_bytes(content, file)
    assert record.run_id == run_id
    assert record.spec.numerics_version == numerics_version
    assert to_bytes(record) == content


def _without(name: str) -> dict[str, Any]:
    return {key: value for key, value in SPEC.to_json().items() if key != name}


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (_without("scored"), "its identity has no scored"),
        ({**SPEC.to_json(), "new": 1}, "its identity has the unknown field 'new'"),
        ({**SPEC.to_json(), "head": 1}, "its head is 1"),
        ({**SPEC.to_json(), "ttt": {"steps": 1}}, "its ttt has no lr"),
        ({**SPEC.to_json(), "protocol": {"name": "full", "seed": 0}}, "protocol's folds is None"),
        ({**SPEC.to_json(), "repeat": True}, "its repeat is True"),
        ([], "its identity is"),
    ],
)
def test_an_identity_with_other_fields_is_refused(body: object, error: str) -> None:
    with pytest.raises(BenchError, match=error):
        RunSpec.from_json(body)


def test_scores_merge_folds_and_separate_draws():
    metric = metric_of("dice")
    scores = scores_of_images(_record(draws=3), "dice")
    np.testing.assert_allclose(scores, [[1, 1, 2 / 3, 2 / 3]] * 3)  # a0 a1 b0 b1
    np.testing.assert_array_equal(
        defined_grids([_record()], metric, "dice")[0], [[False, False, True, True]] * 2
    )


@pytest.mark.fault(6)
def test_every_flipped_or_missing_byte_is_detected():
    content = to_bytes(_record())
    for position in np.linspace(0, len(content) - 2, 50).astype(int):
        flipped = bytearray(content)
        flipped[position] ^= 1
        with pytest.raises(BenchError, match="record"):
            from_bytes(bytes(flipped), "the record")
        with pytest.raises(BenchError, match="record"):
            from_bytes(content[:position], "the record")


@pytest.mark.fault(29)
def test_a_record_of_a_newer_schema_is_refused():
    with pytest.raises(BenchError, match="schema"):
        from_bytes(to_bytes(_record()).replace(b'"schema":2', b'"schema":99'), "r")


@given(
    st.dictionaries(st.text(), st.one_of(st.integers(-9, 9), st.text(), st.booleans()), max_size=5)
)
@pytest.mark.fault(17)
def test_canonical_json_ignores_the_order_of_keys_and_the_form_of_numbers(spec):
    turned = {
        key: float(value) if type(value) is int else value
        for key, value in reversed(list(spec.items()))
    }
    assert canonical(spec) == canonical(turned)


@pytest.mark.parametrize(
    "change", [{"repeat": 1}, {"numerics_version": None}, {"backbone": {"name": "c"}}]
)
@pytest.mark.fault(18)
def test_identity_depends_on_the_configuration(change):
    assert identify(SPEC) != identify(changed_spec(SPEC, **change))


@pytest.mark.fault(4)
def test_a_committed_run_is_found_and_never_replaced(tmp_path):
    store, record = Store(tmp_path), _record()
    assert store.find(record.run_id) is None
    assert store.commit(record, {"seconds": 1})
    assert not store.commit(record, {"seconds": 2})
    assert store.find(record.run_id) == record
    assert store.context(record.run_id) == {"seconds": 1}
    assert list(store.records()) == [record]


def test_repeats_are_counted(tmp_path):
    store = Store(tmp_path)
    for repeat in range(3):
        assert store.repeats(_record().spec) == repeat
        store.commit(_record(repeat=repeat), {})
    assert len(list(store.records())) == 3


def test_finished_trials_are_stored_until_the_commit(tmp_path):
    store, record = Store(tmp_path), _record()
    for number, trial in enumerate(record.trials):
        store.save_trial(record.run_id, number, trial)
    assert store.load_trials(record.run_id) == dict(enumerate(record.trials))
    store.commit(record, {})
    assert store.load_trials(record.run_id) == {}


@pytest.mark.fault(12)
def test_a_failed_run_is_listed_until_it_succeeds(tmp_path):
    store, record = Store(tmp_path), _record()
    store.fail(record.run_id, record.spec, "the loss became nan at step 3")
    (told,) = store.failures()
    for word in ("nan at step 3", record.run_id, "rgb", "squares"):
        assert word in told
    assert list(store.records()) == []
    store.commit(record, {})
    assert store.failures() == []


@pytest.mark.fault(6)
def test_a_damaged_record_does_not_hide_the_others(tmp_path):
    store = Store(tmp_path)
    for repeat in range(2):
        store.commit(_record(repeat=repeat), {})
    damaged = store.folder(_record(repeat=1).run_id) / "record.json"
    damaged.write_bytes(damaged.read_bytes()[:100])
    found = list(store.records())
    assert [each for each in found if isinstance(each, Record)] == [_record()]
    assert sum(isinstance(each, BenchError) for each in found) == 1


@pytest.mark.fault(8)
def test_files_are_written_atomically(tmp_path, monkeypatch):
    path = tmp_path / "folder" / "file"
    assert write_bytes(path, b"old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(BenchError, match="No space left"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.fault(9)
def test_a_file_in_place_of_the_folder_raises(tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(BenchError, match="cannot write"):
        Store(tmp_path / "taken").refuse_if_read_only()
