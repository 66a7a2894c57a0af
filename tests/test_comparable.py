"""Comparable runs: blocks of a leaderboard, and pairs of runs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tiny import altered, named, worse

from bench import registry
from bench.api.board import BoardOptions
from bench.api.record import Record
from bench.board.comparable import MAY_VARY, are_comparable, check_vary, why_not
from bench.board.compare import choose, contrast
from bench.board.select import by_id, latest, listed
from bench.errors import BenchError

OPTIONS = BoardOptions(resamples=200)
EVERYTHING = tuple(MAY_VARY)


def blocks_of(records: list[Record], **changes: object) -> list:
    board = registry.get("leaderboards", "ranking")
    return board.rows(records, replace(OPTIONS, **changes))


@pytest.mark.parametrize(
    ("vary", "blocks"),
    [
        (("backbone",), 3),
        (("head",), 3),
        (("protocol",), 3),
        (("backbone", "head"), 2),
        (("backbone", "protocol"), 2),
        (("head", "protocol"), 2),
        (EVERYTHING, 1),
    ],
    ids=str,
)
def test_rows_of_a_block_differ_only_in_what_varies(full, few, vary, blocks):
    records = [full, named(full, "b"), altered(full, head={"name": "light"}), few]
    varied = blocks_of(records, vary=vary)
    assert len(varied) == blocks
    for block in varied:
        for row in block.rows:
            assert are_comparable(row.record, block.rows[0].record, vary)
            assert set(row.settings) == {"protocol", "recipe"} & set(vary)
    if vary == ("backbone",):
        names = sorted(sorted(row.backbone for row in block.rows) for block in varied)
        assert names == [["b", "rgb"], ["rgb"], ["rgb"]]


def with_facts(record: Record, **facts: object) -> Record:
    return replace(record, facts={**record.facts, "requested_px": None, **facts})


@pytest.mark.parametrize(
    ("change", "facts", "word"),
    [
        ({"recipe": {"lr": 0.5}}, {"asked_recipe": {"lr": 0.5}}, "recipe"),
        ({"view": {"kind": "tiles"}}, {}, "view"),
        ({"view": {"px": 16}}, {"requested_px": 16}, "view"),
        ({"recipe": {"epochs": 7}}, {}, ""),  # the backbone's own recipe
        ({"view": {"px": 16}}, {}, ""),  # the backbone's own input size
        ({"precision": "bf16"}, {}, ""),
    ],
    ids=str,
)
def test_runs_of_other_recipes_and_views_are_compared_only_on_purpose(full, change, facts, word):
    plain = with_facts(full, asked_recipe={})
    other = with_facts(altered(named(full, "b"), **change), **{"asked_recipe": {}, **facts})
    blocks = blocks_of([plain, other])
    assert [len(block.rows) for block in blocks] == ([1, 1] if word else [2])
    reasons = why_not(plain, other, ("backbone",))
    assert bool(reasons) == bool(word)
    if word:
        assert f"`--vary backbone,{word}` compares them" in reasons[0]
        (block,) = blocks_of([plain, other], vary=("backbone", word))
        assert len(block.rows) == 2
        assert set(block.rows[0].settings) == {"recipe"} & {word}


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
def test_runs_on_other_metrics_or_data_are_never_comparable(full, change):
    other = altered(named(full, "b"), **change)
    assert len(blocks_of([full, other], vary=EVERYTHING)) == 2
    assert why_not(full, other, EVERYTHING)
    with pytest.raises(BenchError, match="may not be compared"):
        contrast(full, other, "dice", EVERYTHING)


def test_runs_on_other_images_are_not_comparable(full):
    patients = {name: full.patients[name] for name in full.images[1:]}
    with pytest.raises(BenchError, match="different images"):
        contrast(full, replace(named(full, "b"), patients=patients), "dice", EVERYTHING)


def test_other_protocols_are_compared_only_if_protocol_varies(full, few):
    with pytest.raises(BenchError, match="--vary backbone,protocol"):
        contrast(full, named(few, "b"), "dice", ("backbone",))
    contrasted = contrast(full, named(few, "b"), "dice", ("backbone", "protocol"))
    assert contrasted.differences["dice"].n_patients == 7


def test_a_block_lists_backbones_of_other_blocks_without_a_run(full, few):
    blocks = blocks_of([full, named(full, "b"), few])
    missing = {block.rows[0].record.run_id: block.missing for block in blocks}
    assert missing[few.run_id] == ("b",)
    assert [names for names in missing.values() if names] == [("b",)]


def test_lists_of_names_filter_the_rows(full, few):
    for protocols, count in ((("full", "fewshot"), 2), (("full",), 1), (("x",), 0)):
        assert len(blocks_of([full, few], protocol=protocols)) == count
    assert listed(" a, b,,a ") == ("a", "b")
    assert listed(None) == ()


def test_a_run_without_the_counts_of_a_score_is_left_out(full):
    (trial,) = full.trials
    counts = {name: trial.counts[name] for name in ("tp", "fp", "fn", "tn")}
    older = replace(named(full, "older"), trials=(replace(trial, counts=counts),))
    (block,) = blocks_of([full, older])
    assert [row.backbone for row in block.rows] == ["rgb"]
    assert blocks_of([older]) == []
    assert len(blocks_of([full, older], also=("dice",))[0].rows) == 2


def test_unknown_words_of_vary_are_refused():
    with pytest.raises(BenchError, match="protocol"):
        check_vary(["dataset"])
    with pytest.raises(BenchError, match="backbone"):
        check_vary([])


def test_a_run_is_selected_by_a_unique_prefix_of_its_id(full):
    others = [altered(full, repeat=number) for number in range(1, 40)]
    assert by_id([full, *others], full.run_id) == full
    assert by_id([full, *others], full.run_id[:10]) == full
    assert by_id([full], "abc") is None  # too short
    assert by_id([full], "nothing") is None
    other = replace(full)
    other.__dict__["run_id"] = full.run_id[:6] + "0" * 10
    with pytest.raises(BenchError) as error:
        by_id([full, other], full.run_id[:6])
    assert full.run_id in str(error.value)
    assert other.run_id in str(error.value)


def test_only_the_last_run_of_a_configuration_is_shown(full):
    again = altered(full, repeat=1)
    elsewhere = altered(full, sources="other code")
    assert latest([full, again, elsewhere]) == [elsewhere]


def test_differences_are_computed_per_image(full):
    other = worse(named(full, "b"), 0.5)
    contrasted = contrast(full, other, "dice", ("backbone",))
    differences = [pair.difference for pair in contrasted.images]
    assert differences == sorted(differences, key=abs, reverse=True)
    assert contrasted.differences["dice"].mean == pytest.approx(sum(differences) / 7)
    assert contrasted.differences["dice"].p == pytest.approx(2 / 2**7)
    assert {pair.image for pair in contrasted.images} == set(full.images)
    back = contrast(other, full, "dice", ("backbone",))
    assert [-pair.difference for pair in back.images] == differences


def test_names_or_ids_select_the_only_comparable_pair(full, few):
    records = [full, named(full, "b"), few]
    assert choose(records, ("rgb", "b"), OPTIONS) == (full, records[1])
    assert choose(records, (full.run_id[:8], "b"), OPTIONS) == (full, records[1])
    records.append(named(few, "b"))
    with pytest.raises(BenchError) as error:
        choose(records, ("rgb", "b"), OPTIONS)
    assert all(record.run_id in str(error.value) for record in records)
    assert "they differ in protocol:" in str(error.value)
    assert "or narrow the choice by --protocol or --shots" in str(error.value)
    options = replace(OPTIONS, protocol=("fewshot",))
    assert choose(records, ("rgb", "b"), options) == (few, records[3])


def test_the_error_for_several_pairs_shows_what_differs(full):
    slow = replace(full, facts={**full.facts, "asked_recipe": {"lr": 0.5}})
    slow = altered(slow, recipe={"lr": 0.5})
    control = replace(named(full, "b"), facts={**full.facts, "random_twin": True})
    control = replace(altered(control, backbone={"weights": "random:0"}), flags=("untrained",))
    records = [full, named(full, "b"), slow, named(slow, "b"), control]
    with pytest.raises(BenchError) as error:
        choose(records, ("rgb", "b"), OPTIONS)  # not the control: "b" is the label of two others
    first, *lines, last = str(error.value).splitlines()
    assert first == "2 choices of runs match rgb, b; they differ in recipe:"
    assert lines[1].split()[:2] == [records[2].run_id, records[3].run_id]
    assert lines[1].endswith("lr 0.5")
    assert last == "Give the ids of one line in place of the names."
    for name in ("b (random)", "b@random", "b@random:0"):
        assert choose(records, ("rgb", name), OPTIONS) == (full, control)


def test_the_error_for_no_comparable_pair_contains_the_reason(full, few):
    for words, reason in [
        (("rgb", "unknown"), "no run 'unknown'"),
        (("rgb", "b"), "protocol"),
        (("rgb", "rgb"), "nothing to compare"),
    ]:
        with pytest.raises(BenchError, match=reason):
            choose([full, named(few, "b")], words, OPTIONS)
