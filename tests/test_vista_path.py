"""VISTA-PATH: parameter count, parts against other implementations, file, text, threshold."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench import registry
from bench.api import Backbone
from bench.api.run_config import RunConfig
from bench.backbones._clip import END, START, Clip, ClipShape, TowerShape, tokenise
from bench.backbones._vista_path import CrossAttention, VistaPath, VistaShape
from bench.errors import BenchError
from bench.models.load import LoadedBackbone, describe, open_backbone
from bench.runs.execute import Paths, execute
from bench.testing import check_backbone

TOWERS = ClipShape(TowerShape(32, 2, 2), TowerShape(16, 2, 2), shared=24, image_px=64)
MINIATURE = VistaShape(
    TOWERS, heads=2, depth=2, feed_forward=32, decoder=(8, 8, 4, 4), box_channels=4
)


def _images(count: int = 2, seed: int = 0) -> Tensor:
    return torch.rand((count, 3, 64, 64), generator=torch.Generator().manual_seed(seed))


def _randomise(module: nn.Module, seed: int = 0) -> None:
    """Give every weight a random value, those too that start at 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in module.parameters():
            weight += 0.2 * torch.randn(weight.shape, generator=generator)


def _build(text: str = "nuclei", threshold: float = 0.3, seed: int = 0) -> VistaPath:
    torch.manual_seed(seed)
    model = VistaPath(text, threshold, MINIATURE)
    _randomise(model, seed)
    return model


@pytest.fixture
def miniature(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a small VISTA-PATH in the registry."""
    released: Backbone = registry.get("backbones", "vista-path")
    small = Backbone(
        name="vista-mini",
        build=lambda text="nuclei", threshold=0.3: _build(text, threshold),
        weights=released.weights,
        convert=released.convert,
        input_px=64,
        default_head=released.default_head,
    )
    shelf = registry.catalogue("backbones").found
    monkeypatch.setitem(shelf, small.name, [registry.LoadedPlugin(small, "this test")])
    return small.name


def _released(model: VistaPath) -> dict[str, Tensor]:
    """Write a model's weights as the release does."""
    state = {f"model.{name}": weight for name, weight in model.state_dict().items()}
    return state | {
        "model.image_proj.weight": model.base_model.visual_projection.weight,
        "model.text_proj.weight": model.base_model.text_projection.weight,
        "model.base_model.text_model.embeddings.position_ids": torch.arange(77)[None],
    }


# ---- the record ------------------------------------------------------------------------------


def test_the_network_has_the_parameter_count_of_the_release() -> None:
    info = describe("vista-path")
    assert info.parameters == info.backbone.params == 167_570_479
    assert info.trainable_parameters == 0
    assert (info.channels, info.strides) == ((2,), (1,))
    assert (info.backbone.input_px, info.backbone.default_head) == (224, "logits")
    with torch.device("meta"):
        clip = Clip(ClipShape())  # ViT-B/32
    assert sum(weight.numel() for weight in clip.parameters()) == 151_277_313


def test_invalid_options_and_missing_weights_are_refused(miniature: str) -> None:
    for options, problem in (
        ({"threshold": "1"}, "between 0 and 1"),
        ({"threshold": "nan"}, "between 0 and 1"),
        ({"text": " "}, "text=nuclei"),
    ):
        with pytest.raises(BenchError, match=problem):
            open_backbone(miniature, random=True, options=options)
    with pytest.raises(BenchError, match=r"no weights for vista-path.*--checkpoint FILE"):
        open_backbone("vista-path")


# ---- the parts -------------------------------------------------------------------------------


def test_a_text_has_the_token_ids_of_clip() -> None:
    assert tokenise("a photo of a Cat", 77) == [START, 320, 1125, 539, 320, 2368, END]
    cut = tokenise("cell " * 100, 77)
    assert (len(cut), cut[0], cut[-1]) == (77, START, END)


def test_both_towers_equal_those_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        text_config={"hidden_size": 16, "intermediate_size": 64, **sizes},
        vision_config={"hidden_size": 32, "intermediate_size": 128, "image_size": 64, **sizes},
        projection_dim=24,
    )
    torch.manual_seed(0)
    theirs = transformers.CLIPModel(config).eval()
    _randomise(theirs)
    ours = Clip(TOWERS).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    words = tokenise("an image of nuclei", 77)
    ids = torch.tensor([words + [END] * (77 - len(words))])
    seen = (torch.arange(77) < len(words)).long()[None]
    text = theirs.text_model(input_ids=ids, attention_mask=seen).last_hidden_state
    image = theirs.vision_model(pixel_values=_images()).last_hidden_state
    torch.testing.assert_close(ours.encode_text("an image of nuclei"), theirs.text_projection(text))
    torch.testing.assert_close(
        ours.encode_images(_images()), theirs.visual_projection(image[:, 1:])
    )


def test_attention_without_a_box_equals_attention_to_an_empty_sequence() -> None:
    block = CrossAttention(16, 2).eval()
    _randomise(block)
    tokens = torch.randn(2, 5, 16)
    empty = block(tokens, tokens.new_zeros(2, 0, 16))
    torch.testing.assert_close(block.without_context(tokens), empty)


def test_every_token_of_the_transformer_attends_to_itself_alone() -> None:
    model = _build()
    tokens = torch.randn(3, 4, 24)
    expected = tokens
    for layer in model.transformer_encoder.layers:
        attention = layer.self_attn
        weight, bias = attention.in_proj_weight[48:], attention.in_proj_bias[48:]
        itself = attention.out_proj(F.linear(expected, weight, bias))
        expected = layer.norm1(expected + itself)
        expected = layer.norm2(expected + layer.linear2(F.relu(layer.linear1(expected))))
    torch.testing.assert_close(model._refine(tokens), expected)


def test_a_miniature_passes_the_checks() -> None:
    record = Backbone("vista-mini", partial(VistaPath, "nuclei", 0.3, MINIATURE))
    assert check_backbone(record, sizes=[(64, 64)]) == []
    with pytest.raises(BenchError, match=r"got 64 x 96: --input-px 64"):
        _build()(torch.rand(1, 3, 64, 96))


# ---- the file --------------------------------------------------------------------------------


def _opened(name: str, state: dict[str, Tensor], folder: Path) -> LoadedBackbone:
    path = folder / "pytorch_model.bin"
    torch.save(state, path)
    return open_backbone(name, checkpoint=path)


def test_a_released_file_is_loaded(miniature: str, tmp_path: Path) -> None:
    source = _build(seed=1)
    opened = _opened(miniature, _released(source), tmp_path)
    assert not opened.untrained
    assert opened.options == {"text": "nuclei", "threshold": 0.3}
    assert torch.equal(opened.extractor(_images())[0], source(_images())[0])
    assert not torch.equal(_build()(_images())[0], source(_images())[0])


def test_a_file_of_another_network_is_refused(miniature: str, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="not of VISTA-PATH's first release"):
        _opened(miniature, {"model.text_encoder.weight": torch.zeros(3)}, tmp_path)
    state = _released(_build())
    del state["model.decoder.decoder.16.bias"]
    with pytest.raises(BenchError, match=r"Missing key.*decoder\.decoder\.16\.bias"):
        _opened(miniature, state, tmp_path)


# ---- the text and the threshold --------------------------------------------------------------


def test_the_prompt_is_encoded_once_and_again_after_loading_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoded: list[str] = []
    encode_text = Clip.encode_text

    def counted(self: Clip, text: str) -> Tensor:
        encoded.append(text)
        return encode_text(self, text)

    monkeypatch.setattr(Clip, "encode_text", counted)
    assert not torch.allclose(_build("nuclei")(_images())[0], _build("stroma")(_images())[0])
    encoded.clear()
    model, other = _build(), _build(seed=1)
    with torch.inference_mode():
        model(_images())
    model(_images())
    assert encoded == ["an image of nuclei"]
    model.load(other.state_dict())
    assert torch.equal(model(_images())[0], other(_images())[0])
    assert len(encoded) == 3


@pytest.mark.parametrize("threshold", [0.3, 0.8])
def test_pixels_above_the_threshold_are_foreground(
    threshold: float,
) -> None:
    model = _build(threshold=threshold)
    logits: list[Tensor] = []
    model.decoder.register_forward_hook(lambda *args: logits.append(args[2]))
    with torch.no_grad():  # spread the probabilities around the threshold
        classify = model.decoder.decoder[-1]
        assert isinstance(classify, nn.Conv2d)
        classify.weight *= 30
        plain = model(_images())[0][:, 1] + model.log_odds
        assert classify.bias is not None
        classify.bias[1] += model.log_odds - plain.median()
    logits.clear()
    logits_out = model(_images())[0]
    probability = logits[0].softmax(1)[:, 1]
    clear = (probability - threshold).abs() > 1e-6  # not decided by rounding
    foreground = probability > threshold
    assert 0.2 < foreground.float().mean() < 0.8
    for maps in (logits_out, logits_out.bfloat16()):
        assert torch.equal((maps.argmax(1) == 1)[clear], foreground[clear])


def test_a_zero_shot_run_depends_on_the_text(miniature: str, tmp_path: Path) -> None:
    places = Paths(tmp_path / "results", cache=tmp_path / "cache")
    records = [
        execute(
            RunConfig(
                miniature, protocol="zero-shot", weights="random", option=options, folds=0, limit=1
            ),
            places,
            lambda *_: None,
        ).record
        for options in ({}, {"text": "stroma"})
    ]
    assert records[0].run_id != records[1].run_id
    assert records[0].flags == ("untrained", "smoke")
    for record in records:
        assert [(trial.train, len(trial.images)) for trial in record.trials] == [((), 1)]
        assert record.spec.head.name == "logits"
