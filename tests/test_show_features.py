"""Figures of features: clusters, components, cosine similarity and the anchor."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bench.api.run_config import RunConfig
from bench.errors import BenchError
from bench.figures import anchor, dense, features
from bench.figures.canvas import Canvas


def _planted(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return features of four distant groups in the quarters of a 12 x 10 grid, and the groups."""
    rng = np.random.default_rng(seed)
    groups = np.repeat([[0, 1], [2, 3]], 6, axis=0).repeat(5, axis=1)
    centres = 20 * np.eye(4, 7)[rng.permutation(4)]
    return (centres[groups] + rng.normal(0, 0.1, (12, 10, 7))).astype(np.float32), groups


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_planted_clusters_are_found(seed):
    planted, groups = _planted(seed)
    labels = dense.clusters(planted, 4)
    assert (dense.matched(labels, groups, 4) == groups).all()


def test_clusters_are_matched_across_resolutions():
    reference = np.repeat([[0, 1], [2, 3]], 6, axis=0).repeat(6, axis=1)
    mixed = np.array([2, 0, 3, 1])[np.array([[0, 1], [2, 3]]).repeat(2, axis=0).repeat(2, axis=1)]
    expected = np.array([[0, 1], [2, 3]]).repeat(2, axis=0).repeat(2, axis=1)
    assert (dense.matched(mixed, reference, 4) == expected).all()


def test_clusters_are_numbered_from_dark_to_bright():
    labels = np.array([[0, 0, 1, 2]])
    assert dense.by_darkness(labels, np.array([[0.9, 0.9, 0.1, 0.5]]), 3).tolist() == [[2, 2, 0, 1]]


def test_features_that_cannot_be_clustered_or_compared_raise():
    for maps, problem in (
        (torch.ones(1, 4, 5, 5), "same everywhere"),
        (torch.full((1, 4, 5, 5), torch.nan), "not finite"),
    ):
        with pytest.raises(BenchError, match=problem):
            dense.joined([maps])
    with pytest.raises(BenchError, match="fewer than 3"):
        dense.clusters(np.repeat([[[0.0], [1.0]]], 5, axis=0), 3)
    with pytest.raises(BenchError, match="anchor is zero"):
        dense.cosine(np.zeros((1, 2, 3)), (0, 0))


def test_planted_principal_components_are_recovered():
    rng = np.random.default_rng(0)
    hidden = np.linalg.qr(rng.normal(size=(400, 3)))[0]
    hidden = np.linalg.qr(hidden - hidden.mean(axis=0))[0] * [9, 4, 2]
    turn = np.linalg.qr(rng.normal(size=(6, 6)))[0][:3]
    light = hidden.sum(axis=1).reshape(20, 20)
    shown = dense.components((hidden @ turn).reshape(20, 20, 6), light).reshape(-1, 3)
    assert shown.min() == 0
    assert shown.max() == 1
    for number in range(3):
        inside = (shown[:, number] > 0) & (shown[:, number] < 1)
        assert np.corrcoef(shown[inside, number], hidden[inside, number])[0, 1] > 0.9999


def test_missing_components_are_grey():
    line = np.arange(12.0).reshape(3, 4)
    shown = dense.components(np.stack([line, -line], axis=-1), line)
    assert (shown[..., 1:] == 0.5).all()
    assert (np.diff(shown[..., 0].ravel()) >= 0).all()  # increases with the brightness


def test_similarity_is_the_cosine():
    vectors = np.array([[[1.0, 0], [2, 0], [0, 3], [-1, 0], [1, 1]]])
    expected = [[1, 1, 0, -1, np.sqrt(0.5)]]
    np.testing.assert_allclose(dense.cosine(vectors, (0, 0)), expected, atol=1e-12)


def test_maps_are_joined_at_the_middle_resolution_and_standardised():
    torch.manual_seed(0)
    maps = [5 + 3 * torch.randn(1, c, s, s) for c, s in ((2, 16), (3, 8), (1, 4))]
    maps[1][:, 0] = 7.0
    joined = dense.joined(maps)
    assert joined.shape == (8, 8, 6)
    np.testing.assert_allclose(joined.mean(axis=(0, 1)), 0, atol=1e-5)
    np.testing.assert_allclose(joined.std(axis=(0, 1)), [1, 1, 0, 1, 1, 1], atol=1e-4)
    assert dense.joined(maps[:1]).shape == (16, 16, 2)


def test_the_anchor_is_the_innermost_pixel_of_the_largest_central_nucleus():
    instances = np.zeros((40, 40), np.int32)
    instances[:9, :9] = 1  # larger, but in a corner
    instances[18:23, 18:23], instances[26:28, 20:22] = 2, 3
    assert anchor.on_nucleus(instances) == (20, 20)
    with pytest.raises(BenchError, match="--anchor"):
        anchor.on_nucleus(np.zeros((4, 4), np.int32))


def test_an_anchor_is_parsed_as_x_then_y():
    assert anchor.parse("7,2", (5, 9)) == (2, 7)
    for wrong in ("7", "a,b", "9,0", "0,5", "-1,0"):
        with pytest.raises(BenchError, match="--anchor"):
            anchor.parse(wrong, (5, 9))


def test_the_figure_has_three_images_per_backbone(tmp_path, drawn):
    subject = features.of_dataset("synthetic", None, None, None)
    requests = [RunConfig(backbone=name, input_px=64) for name in ("cmd-tiny", "rgb")]
    views = features.compute(requests, subject, 3, lambda *_: None)
    assert [view.name for view in views] == ["cmd-tiny", "rgb"]
    assert all(set(np.unique(view.clusters)) <= {0, 1, 2} for view in views)
    features.draw(subject, views, 3, Canvas(tmp_path / "a.png", 4, 60))
    assert sum(bool(axes.images) for axes in drawn[0].axes) == 2 + 3 * len(views)


def test_invalid_images_raise(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    Image.new("RGB", (64, 64), (10, 20, 30)).save(tmp_path / "uniform.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "noise.png").read_bytes()[:60])
    for name, place, problem in (
        ("uniform.png", "3,3", "of one colour"),
        ("broken.png", "3,3", r"broken\.png"),
        ("noise.png", None, "--anchor X,Y"),
    ):
        with pytest.raises(BenchError, match=problem):
            features.of_file(tmp_path / name, place)
    with pytest.raises(BenchError, match="no image 'nope'"):
        features.of_dataset("synthetic", None, "nope", None)


def test_the_command_reports_the_anchor_and_the_grid(tmp_path, command):
    picture = tmp_path / "noise.png"
    noise = np.random.default_rng(0).integers(0, 255, (50, 70, 3)).astype(np.uint8)
    Image.fromarray(noise).save(picture)
    words = ["show", "features", "--backbone", "rgb", "--file", str(picture), "--anchor", "30,20"]
    words += ["--input-px", "32", "--out", str(tmp_path / "f.svg"), "--json"]
    code, out, _ = command(*words)
    facts = json.loads(out)
    assert (code, facts["anchor"]) == (0, [30, 20])
    assert facts["backbones"][0]["grid"] == [32, 32]
    assert Path(facts["out"]).read_bytes().startswith(b"<?xml")
