"""What may be compared: blocks of a board, pairs of runs, and what is never pooled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from small_runs import FEWSHOT, altered, named, request, run, squares, worse

from bench import registry
from bench.api.board import BoardOptions
from bench.api.record import Record
from bench.board.comparable import MAY_VARY, are_comparable, check_vary, why_not
from bench.board.compare import choose, contrast
from bench.board.select import by_id, latest, listed
from bench.errors import BenchError

OPTIONS = BoardOptions(resamples=200)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def full(home) -> Record:
    return run(request(squares(home / "squares")), home).record


@pytest.fixture(scope="module")
def few(home, full) -> Record:
    return run(request(home / "squares", **FEWSHOT), home).record


def _blocks(records: list[Record], **changes: object) -> list:
    board = registry.get("leaderboards", "ranking")
    return board.rows(records, replace(OPTIONS, **changes))


def test_a_block_holds_backbones_with_all_else_equal(full, few):
    light = altered(full, head={"name": "light"})
    records = [full, named(full, "b"), light, few]
    found = {block.title: [row.backbone for row in block.rows] for block in _blocks(records)}
    of = {name: [own for title, own in found.items() if name in title] for name in ("few", "light")}
    assert of == {"few": [["rgb"]], "light": [["rgb"]]}
    assert sorted(map(sorted, found.values())) == [["b", "rgb"], ["rgb"], ["rgb"]]


@pytest.mark.parametrize(
    ("vary", "blocks"),
    [
        (("backbone",), 3),
        (("head",), 3),
        (("protocol",), 3),
        (("backbone", "head"), 2),
        (("backbone", "protocol"), 2),
        (("head", "protocol"), 2),
        (tuple(MAY_VARY), 1),
    ],
    ids=str,
)
def test_what_varies_is_what_differs_between_the_rows_of_a_block(full, few, vary, blocks):
    records = [full, named(full, "b"), altered(full, head={"name": "light"}), few]
    found = _blocks(records, vary=vary)
    assert len(found) == blocks
    for block in found:
        for row in block.rows:
            assert are_comparable(row.record, block.rows[0].record, vary)
            assert bool(row.protocol) == ("protocol" in vary)


@pytest.mark.parametrize(
    "change",
    [
        {"metrics_version": 99},
        {"scored": {"sha256": "f" * 64}},
        {"dataset": {"sha256": "f" * 64}},
        {"scored": {"shift": "blur-1"}},
    ],
    ids=str,
)
def test_no_choice_pools_other_metrics_or_other_data(full, change):
    other = altered(named(full, "b"), **change)
    everything = tuple(MAY_VARY)
    assert len(_blocks([full, other], vary=everything)) == 2
    assert why_not(full, other, everything)
    with pytest.raises(BenchError, match="may not be compared"):
        contrast(full, other, "dice", everything)


def test_runs_on_other_images_are_told_apart(full):
    image = full.images[0]
    fewer = replace(
        named(full, "b"),
        patients={each: own for each, own in full.patients.items() if each != image},
    )
    assert len(_blocks([full], vary=tuple(MAY_VARY))) == 1
    with pytest.raises(BenchError, match="different images"):
        contrast(full, fewer, "dice", tuple(MAY_VARY))


def test_another_protocol_is_compared_only_where_that_is_asked(full, few):
    with pytest.raises(BenchError, match="--vary backbone,protocol"):
        contrast(full, named(few, "b"), "dice", ("backbone",))
    found = contrast(full, named(few, "b"), "dice", ("backbone", "protocol"))
    assert found.differences["dice"].n_patients == 7


def test_a_backbone_of_other_blocks_that_was_not_run_here_is_named(full, few):
    blocks = _blocks([full, named(full, "b"), few])
    missing = {block.rows[0].record.run_id: block.missing for block in blocks}
    assert missing[few.run_id] == ("b",)
    assert [own for own in missing.values() if own] == [("b",)]


def test_lists_of_names_filter_the_rows(full, few):
    both = _blocks([full, few], protocol=("full", "fewshot"))
    assert len(both) == 2
    assert [len(_blocks([full, few], protocol=(name,))) for name in ("full", "x")] == [1, 0]
    assert listed(" a, b,,a ") == ("a", "b")
    assert listed(None) == ()


def test_a_run_from_before_a_score_is_left_out_and_hides_no_other(full):
    older = replace(
        named(full, "older"),
        trials=tuple(
            replace(each, counts={n: v for n, v in each.counts.items() if n in "tp fp fn tn"})
            for each in full.trials
        ),
    )
    (block,) = _blocks([full, older])
    assert [row.backbone for row in block.rows] == ["rgb"]
    assert _blocks([older]) == []
    assert len(_blocks([full, older], also=("dice",))[0].rows) == 2


def test_words_that_vary_does_not_know_are_refused():
    with pytest.raises(BenchError, match="protocol"):
        check_vary(["dataset"])
    with pytest.raises(BenchError, match="backbone"):
        check_vary([])


def test_a_run_is_found_by_the_start_of_its_id(full):
    others = [altered(full, repeat=number) for number in range(1, 40)]
    assert by_id([full, *others], full.run_id) == full
    assert by_id([full, *others], full.run_id[:10]) == full
    assert by_id([full], "abc") is None  # too short
    assert by_id([full], "nothing") is None
    twin = replace(full)
    twin.__dict__["run_id"] = full.run_id[:6] + "0" * 10
    with pytest.raises(BenchError) as told:
        by_id([full, twin], full.run_id[:6])
    assert full.run_id in str(told.value)
    assert twin.run_id in str(told.value)


def test_only_the_last_run_of_a_request_stands(full):
    again = altered(full, repeat=1)
    elsewhere = altered(full, sources="other code")
    assert latest([full, again, elsewhere]) == [elsewhere]


def test_a_difference_is_that_of_the_scores_image_by_image(full):
    other = worse(named(full, "b"), 0.5)
    found = contrast(full, other, "dice", ("backbone",))
    gaps = [abs(each.difference) for each in found.images]
    assert gaps == sorted(gaps, reverse=True)
    assert found.differences["dice"].mean == pytest.approx(
        sum(e.difference for e in found.images) / 7
    )
    assert found.differences["dice"].p == pytest.approx(2 / 2**7)
    assert {each.image for each in found.images} == set(full.images)
    back = contrast(other, full, "dice", ("backbone",))
    assert [each.difference for each in back.images] == [-each.difference for each in found.images]


def test_names_choose_the_one_pair_that_may_be_compared(full, few):
    records = [full, named(full, "b"), few]
    assert choose(records, ("rgb", "b"), OPTIONS) == (full, records[1])
    assert choose(records, (full.run_id[:8], "b"), OPTIONS) == (full, records[1])


def test_several_pairs_are_listed_and_a_filter_chooses(full, few):
    records = [full, named(full, "b"), few, named(few, "b")]
    with pytest.raises(BenchError) as told:
        choose(records, ("rgb", "b"), OPTIONS)
    assert all(each.run_id in str(told.value) for each in records)
    options = replace(OPTIONS, protocol=("fewshot",))
    assert choose(records, ("rgb", "b"), options) == (few, records[3])


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("rgb", "nobody"), "no run 'nobody'"),
        (("rgb", "b"), "protocol"),
        (("rgb", "rgb"), "nothing to compare"),
    ],
)
def test_a_pair_that_is_none_is_told_with_the_reason(full, few, words, reason):
    with pytest.raises(BenchError, match=reason):
        choose([full, named(few, "b")], words, OPTIONS)
