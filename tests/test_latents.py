"""Latents of a frozen VAE: encoding, errors, and networks whose input they are."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.backbones.cmd.extractor import CMDExtractor, FeatureOptions
from bench.backbones.cmd.variants import Size, Variant
from bench.errors import BenchError
from bench.models import vae as module
from bench.models.checkpoints import sha256_of
from bench.models.load import open_backbone
from bench.models.vae import CONFIG, WEIGHTS, Latents
from bench.testing import check_backbone

MINIATURE = Size("miniature", cmd=16, dit=(16, 4), unet=32)
SCALE = 0.18215


def _images(*size: int) -> Tensor:
    return torch.rand(size, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def diffusers() -> None:
    pytest.importorskip("diffusers.models", reason="diffusers is not installed")


@pytest.fixture
def folder(diffusers: None, tmp_path: Path) -> Path:
    """A small VAE in the format of diffusers, with weights that are not those of "random"."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        module._autoencoder_class()(**module.RANDOM).save_pretrained(tmp_path / "vae")
    return tmp_path / "vae"


# ---- encoding --------------------------------------------------------------------------------


def test_latents_are_the_scaled_means_and_decoding_inverts_the_scale(
    folder: Path,
) -> None:
    latents, vae = Latents(str(folder)), module._autoencoder_class().from_pretrained(folder)
    images = 2 * _images(2, 3, 32, 48) - 1
    with torch.no_grad():
        mean = vae.encode(images).latent_dist.mean
        decoded = vae.decode(mean).sample
    encoded = latents.encode(images)
    assert encoded.shape == (2, 4, 4, 6)
    torch.testing.assert_close(encoded, mean * SCALE)
    torch.testing.assert_close(latents.decode(encoded), decoded)
    sha256 = sha256_of(folder / WEIGHTS)
    assert latents.facts == {"vae": "vae", "vae_weights": f"sha256:{sha256}"}  # without the path


@pytest.mark.usefixtures("diffusers")
def test_encoding_is_deterministic_and_the_random_vae_is_always_the_same() -> None:
    images = 2 * _images(1, 3, 32, 32) - 1
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, other = Latents("random"), Latents("random")
    assert torch.equal(one.encode(images), other.encode(images))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert one.facts == {"vae": "random", "vae_weights": "random:0"}


@pytest.mark.usefixtures("diffusers")
def test_a_vae_moves_with_its_module_but_is_not_counted_saved_or_trained() -> None:
    latents = Latents("random")
    assert not latents.training
    assert list(latents.parameters()) == []
    assert latents.state_dict() == {}
    images = 2 * _images(1, 3, 16, 16) - 1
    expected = latents.encode(images)
    latents.to(torch.float64)
    assert all(buffer.dtype == torch.float64 for buffer in latents.buffers())
    torch.testing.assert_close(latents.encode(images.double()), expected)
    assert not latents.encode(images.double().requires_grad_()).requires_grad


def test_a_vae_saved_by_an_older_library_is_read(folder: Path) -> None:
    """In the released VAE, attention has other names, and the configuration has no scale."""
    images = 2 * _images(1, 3, 16, 16) - 1
    expected = Latents(str(folder)).encode(images)
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = load_file(folder / WEIGHTS)
    for new, old in older.items():
        state = {name.replace(f".{new}.", f".{old}."): w for name, w in state.items()}
    assert any(".proj_attn." in name for name in state)
    save_file(state, folder / WEIGHTS)
    config = json.loads((folder / CONFIG).read_text())
    assert config.pop("scaling_factor") == SCALE
    (folder / CONFIG).write_text(json.dumps(config))
    torch.testing.assert_close(Latents(str(folder)).encode(images), expected)


def test_on_the_meta_device_nothing_is_read() -> None:
    with torch.device("meta"):
        latents = Latents("/nowhere/vae")
    assert latents.facts == {"vae": "vae"}


# ---- errors ----------------------------------------------------------------------------------


def test_a_missing_library_raises_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    monkeypatch.delitem(sys.modules, "diffusers.models", raising=False)
    with pytest.raises(BenchError, match=r"pip install 'cmd-bench\[latent\]'"):
        Latents("random")


@pytest.mark.usefixtures("diffusers")
def test_an_unknown_vae_raises(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"no VAE 'sdvae': use sd-vae, random, or a folder"):
        Latents("sdvae")
    with pytest.raises(BenchError, match=r"has no config.json and no diffusion_pytorch_model"):
        Latents(str(tmp_path))


@pytest.mark.usefixtures("diffusers")
def test_an_unreachable_hub_raises(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object, **__: object) -> object:
        raise TimeoutError

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", refuse)
    with pytest.raises(BenchError, match=r"sd-vae-ft-mse cannot be reached.*Or use"):
        Latents("sd-vae")


def test_a_released_vae_is_read_from_the_cache_of_the_hub(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[tuple[str, str]] = []

    def cached(repo: str, file: str, revision: str | None) -> str:
        requests.append((repo, file))
        return str(folder / file)

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cached)
    assert Latents("sd-vae").facts["vae_weights"] == f"sha256:{sha256_of(folder / WEIGHTS)}"
    assert requests == [("stabilityai/sd-vae-ft-mse", file) for file in (CONFIG, WEIGHTS)]


@pytest.mark.parametrize("change", ["missing", "extra", "reshaped", "truncated"])
def test_weights_that_do_not_match_their_configuration_raise(folder: Path, change: str) -> None:
    state = load_file(folder / WEIGHTS)
    weight = state.pop("encoder.conv_in.weight")
    if change == "extra":
        state |= {"encoder.conv_in.weight": weight, "encoder.other": torch.zeros(1)}
    elif change == "reshaped":
        state["encoder.conv_in.weight"] = weight[:-1].clone()
    save_file(state, folder / WEIGHTS)
    message = r"does not match its config\.json"
    if change == "truncated":
        content = (folder / WEIGHTS).read_bytes()
        (folder / WEIGHTS).write_bytes(content[: len(content) // 2])
        message = r"could not be loaded: .* download both again"
    with pytest.raises(BenchError, match=message):
        Latents(str(folder))


def test_a_vae_of_another_architecture_raises(folder: Path) -> None:
    config = json.loads((folder / CONFIG).read_text())
    other = {"latent_channels": 16, "block_out_channels": [16, 16, 16], "shift_factor": 0.1}
    for name, value in {**other, "_class_name": "AutoencoderTiny"}.items():
        (folder / CONFIG).write_text(json.dumps(config | {name: value}))
        with pytest.raises(BenchError, match="differs from the SD-VAE"):
            Latents(str(folder))
    for damaged in ("{", "[]", "{}"):
        (folder / CONFIG).write_text(damaged)
        with pytest.raises(BenchError, match="not the configuration of a VAE"):
            Latents(str(folder))


# ---- networks on latents ---------------------------------------------------------------------


def _extractor(arch: str, features: FeatureOptions) -> CMDExtractor:
    torch.manual_seed(0)
    extractor = CMDExtractor(Variant(MINIATURE, arch, "latent"), features)
    generator = torch.Generator().manual_seed(0)
    for weight in extractor.network.parameters():
        weight += 0.1 * torch.randn(weight.shape, generator=generator)
    return extractor


@pytest.mark.usefixtures("diffusers")
@pytest.mark.parametrize("arch", ["convnext", "dit", "attention-unet"])
def test_a_latent_variant_fulfils_the_contract_of_a_backbone(arch: str) -> None:
    blocks = (3,) if arch == "dit" else (3, 9)
    extractor = _extractor(arch, FeatureOptions(blocks=blocks, vae="random"))
    assert check_backbone(extractor, sizes=[(256, 256), (128, 256)]) == []


@pytest.mark.usefixtures("diffusers")
def test_feature_maps_are_those_of_the_encoded_padded_image() -> None:
    extractor = _extractor("dit", FeatureOptions(timestep=7, vae="random"))
    images = _images(2, 3, 48, 40)
    padded = torch.cat([images, images[..., -1:].expand(-1, -1, -1, 8)], dim=3)
    assert extractor.latents is not None
    x = extractor.latents.encode(2 * padded - 1)
    expected = extractor.network.features(x, torch.tensor([7, 7]), None, (3, 2, 1, 0))
    assert extractor.strides == (16,) * 4
    for level, padded_level in zip(extractor(images), expected, strict=True):
        assert level.shape == (2, 16, 3, 2)
        torch.testing.assert_close(level, padded_level[..., :2])


@pytest.mark.usefixtures("diffusers")
def test_masks_of_latents_have_patches_of_four_latents() -> None:
    extractor = _extractor("dit", FeatureOptions(timestep=500, mask_seed=3, vae="random"))
    inputs: list[Tensor] = []
    extractor.network.patches.register_forward_hook(lambda _, x, __: inputs.append(x[0]))  # type: ignore[union-attr]
    extractor(_images(1, 3, 100, 64))
    assert inputs[0].shape == (1, 4, 16, 8)  # padded to 128 x 64 px, so that whole patches fit
    hidden = (
        (inputs[0] == 0).all(dim=1)[0].view(4, 4, 2, 4).transpose(1, 2).flatten(2)
    )  # (4, 2, 16)
    assert torch.equal(hidden.all(dim=2), hidden.any(dim=2))
    assert int(hidden.all(dim=2).sum()) == 500 * 8 // 1001


@pytest.mark.usefixtures("diffusers")
def test_weights_of_a_latent_network_are_loaded_without_its_vae(tmp_path: Path) -> None:
    options = {"arch": "dit", "space": "latent", "vae": "random"}
    random = open_backbone("cmd-tiny@random", options=options)
    state = random.extractor.network.state_dict()  # type: ignore[union-attr]
    save_file({name: weight + 1 for name, weight in state.items()}, tmp_path / "model.safetensors")
    opened = open_backbone("cmd-tiny", checkpoint=tmp_path, options=options)
    loaded = opened.extractor.network.state_dict()  # type: ignore[union-attr]
    assert all(torch.equal(loaded[name], weight + 1) for name, weight in state.items())
    assert opened.options["vae_weights"] == "random:0"
    assert sum(weight.numel() for weight in opened.extractor.parameters()) == 8_164_048
    with pytest.raises(BenchError, match="add --option arch=dit --option space=latent"):
        open_backbone("cmd-tiny", checkpoint=tmp_path)
