"""Tiny decoders that diffusers has no class for, and which of the published ones read a prior's latents."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from engine.classifiers import Preprocess
from engine.errors import ModelError
from engine.guidance.decoder import guidance_decoder
from engine.guidance.decoder_stages import tiny_stages
from engine.priors import load_prior
from engine.priors.tiny_decoder import VARIANTS, PooledBlock, TinyDecoder, decoder_with
from engine.priors.tiny_sources import load_tiny, published_for

KLEIN = "arch:flux.2-klein-4b"


def made(name: str) -> TinyDecoder:
    torch.manual_seed(3)
    return VARIANTS[name]().requires_grad_(False)


def as_its_author_names(decoder: TinyDecoder, prefix: str) -> dict[str, Tensor]:
    """Weights by the names of the author's own code, where a clamp without weights is layer 0."""
    found = {}
    for name, value in decoder.state_dict().items():
        place, rest = name.removeprefix("decoder.layers.").split(".", 1)
        found[f"{prefix}{int(place) + 1}.{rest}"] = value
    return found


@pytest.mark.parametrize(
    ("name", "millions"), [("taef2", 1.34), ("taesana", 8.3), ("taew2_1", 7.63)]
)
def test_they_have_their_sizes(name: str, millions: float) -> None:
    count = sum(value.numel() for value in made(name).parameters()) / 1e6
    assert round(count, 2) == millions


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("names", ["hub", "author", "author's decoder file"])
def test_weights_are_known_by_their_shapes(name: str, names: str) -> None:
    decoder = made(name)
    weights = {
        "hub": decoder.state_dict() | {"encoder.layers.0.weight": torch.zeros(2)},
        "author": as_its_author_names(decoder, "decoder."),
        "author's decoder file": as_its_author_names(decoder, ""),
    }[names]
    found = decoder_with(weights)
    z = torch.randn(1, decoder.config.latent_channels, 2, 2)
    assert found is not None
    assert torch.equal(found.decode(z)[0], decoder.decode(z)[0])


def test_other_weights_are_of_none() -> None:
    weights = made("taef2").state_dict()
    weights.pop("decoder.layers.0.bias")
    assert decoder_with(weights) is None


@pytest.mark.parametrize(("name", "px"), [("taef2", 8), ("taesana", 32), ("taew2_1", 8)])
def test_a_decoder_makes_images_of_its_size(name: str, px: int) -> None:
    decoder = made(name)
    (image,) = decoder.decode(torch.randn(2, decoder.config.latent_channels, 2, 3))
    assert image.shape == (2, 3, 2 * px, 3 * px)


def test_a_pooled_block_is_the_published_formula() -> None:
    block = PooledBlock(8)
    x = torch.randn(2, 8, 4, 4)
    first, norm, _, second = block.pool
    hidden = norm(nn.functional.conv2d(x, first.weight)).relu()
    inner = x + nn.functional.conv2d(hidden, second.weight)
    assert norm.num_groups == 4
    assert norm.num_channels == 32
    torch.testing.assert_close(block(x), (block.conv(inner) + inner).relu())


def video_weights() -> dict[str, Tensor]:
    """Weights of a whole video decoder by its author's names, as taew2_1.pth has them."""
    torch.manual_seed(4)
    widths, places = (256, 128, 64, 64), {}
    for level in range(3):
        width, first = widths[level], 3 + 6 * level
        for block in range(first, first + 3):
            sizes = ((0, 2 * width), (2, width), (4, width))
            places |= {f"{block}.conv.{n}.weight": (width, seen, 3, 3) for n, seen in sizes}
            places |= {f"{block}.conv.{n}.bias": (width,) for n, _ in sizes}
        places[f"{first + 4}.conv.weight"] = (width if level == 0 else 2 * width, width, 1, 1)
        places[f"{first + 5}.weight"] = (widths[level + 1], width, 3, 3)
    places |= {"1.weight": (256, 16, 3, 3), "1.bias": (256,)}
    places |= {"22.weight": (3, 64, 3, 3), "22.bias": (3,)}
    return {f"decoder.{name}": 0.03 * torch.randn(shape) for name, shape in places.items()}


def last_frame(weights: dict[str, Tensor], z: Tensor) -> Tensor:
    """The last of the four frames that the author's decoder makes of one latent, frame by frame, in [0, 1]."""

    def conv(name: str, x: Tensor) -> Tensor:
        kernel = weights[f"decoder.{name}.weight"]
        bias = weights.get(f"decoder.{name}.bias")
        return nn.functional.conv2d(x, kernel, bias, padding=kernel.shape[-1] // 2)

    frames = [conv("1", 3 * torch.tanh(z / 3)).relu()]
    for first in (3, 9, 15):
        for block in range(first, first + 3):
            seen, frames, before = frames, [], torch.zeros_like(frames[0])
            for frame in seen:
                hidden = conv(f"{block}.conv.0", torch.cat([frame, before], 1)).relu()
                hidden = conv(f"{block}.conv.4", conv(f"{block}.conv.2", hidden).relu())
                frames.append((hidden + frame).relu())
                before = frame
        large = [nn.functional.interpolate(frame, scale_factor=2) for frame in frames]
        grown = [conv(f"{first + 4}.conv", frame) for frame in large]
        frames = [part for frame in grown for part in frame.split(large[0].shape[1], dim=1)]
        frames = [conv(f"{first + 5}", frame) for frame in frames]
    assert len(frames) == 4
    return conv("22", frames[-1].relu())


def test_the_part_of_a_video_decoder_that_makes_an_image_is_taken() -> None:
    weights = video_weights()
    decoder = decoder_with(weights)
    assert decoder is not None
    assert sum(value.numel() for value in decoder.parameters()) < 0.8 * sum(
        value.numel() for value in weights.values()
    )
    z = 2 * torch.randn(2, 16, 3, 2)
    expected = 2 * last_frame(weights, z) - 1
    torch.testing.assert_close(decoder.decode(z)[0], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(decoder.decode(z[:, :, None])[0], expected, rtol=1e-4, atol=1e-5)
    stages = tiny_stages(decoder)
    seen = z[:, :, None]
    for stage in stages:
        seen = stage(seen)
    torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-5)
    assert (
        len(stages) == 2 + 1 + 3 * 4
    )  # clamp and scale, the first convolution, blocks and upsamplings


def test_guidance_sees_qwen_image_through_the_decoder_of_video_weights() -> None:
    """The pipeline's own scale of latents is left out: this decoder reads what the network samples."""
    prior = load_prior("arch:qwen-image", device="meta", dtype="bfloat16")
    assert isinstance(prior.tiny, TinyDecoder)
    z = torch.empty(prior.latent_shape(2), device="meta")
    assert prior.vae_latents(z, prior.tiny).shape == (2, 16, 1, 128, 128)
    seen = guidance_decoder(prior, px=256, preprocess=Preprocess.squash(224))
    assert (seen.kind, seen.px) == ("tiny", 256)
    assert seen(z).shape == (2, 3, 256, 256)


def test_of_klein_it_reads_the_latents_that_the_pipeline_samples() -> None:
    """Before the normalisation of the full VAE is undone, in the layout of an image."""
    prior = load_prior(KLEIN, device="meta", dtype="bfloat16")
    tiny = prior.tiny
    assert isinstance(tiny, TinyDecoder)
    z = torch.empty(prior.latent_shape(2), device="meta")
    assert prior.vae_latents(z, tiny).shape == (2, 32, 128, 128)
    real = made("taef2")
    scale = torch.sqrt(real.bn.running_var + real.config.batch_norm_eps)
    assert torch.equal(scale, torch.ones(128))
    assert torch.equal(real.bn.running_mean, torch.zeros(128))


def test_guidance_sees_a_whole_image_through_a_decoder_that_normalises_all_of_it() -> None:
    prior = load_prior(KLEIN, device="meta", dtype="bfloat16")
    crop = Preprocess.squash(224)
    assert guidance_decoder(prior, px=256, preprocess=crop).margin == 0
    sana = load_prior("arch:sana-1.6b", device="meta", dtype="bfloat16")
    seen = guidance_decoder(sana, px=256, preprocess=crop)
    assert (seen.kind, seen.px) == ("tiny", 256)
    images = seen(torch.empty(sana.latent_shape(1), device="meta"))
    assert images.shape == (1, 3, 256, 256)


def vae_of(source: str) -> Any:
    return load_prior(source, device="meta", dtype="bfloat16", tiny="none").vae


def test_what_a_file_is_counts_and_not_its_ending(tmp_path: Path) -> None:
    klein = vae_of(KLEIN)
    weights = made("taef2").state_dict()
    save_file(weights, tmp_path / "taef2.bin")
    torch.save(weights, tmp_path / "taef2.safetensors")
    torch.save(weights, tmp_path / "taef2", _use_new_zipfile_serialization=False)
    for name in ("taef2.bin", "taef2.safetensors", "taef2"):
        assert isinstance(load_tiny(tmp_path / name, klein, "klein"), TinyDecoder)
    (tmp_path / "taef2.pth").write_text("<html>sign in</html>")
    with pytest.raises(ModelError, match=r"cannot be read from .*taef2.pth .*: fetch or save it"):
        load_tiny(tmp_path / "taef2.pth", klein, "klein")


def test_a_file_is_read_for_the_family_that_it_fits(tmp_path: Path) -> None:
    file = tmp_path / "taef2.safetensors"
    save_file(made("taef2").state_dict(), file)
    klein = vae_of(KLEIN)
    for source in (file, tmp_path):
        found = load_tiny(source, klein, "klein", dtype=torch.bfloat16)
        assert isinstance(found, TinyDecoder)
        assert found.dtype == torch.bfloat16
    torch.save(as_its_author_names(made("taesana"), ""), tmp_path / "taesana_decoder.pth")
    with pytest.raises(
        ModelError, match=r"makes 32 px of a latent's side .* Take 'madebyollin/taef2'"
    ):
        load_tiny(tmp_path / "taesana_decoder.pth", klein, "klein")
    save_file(made("taew2_1").state_dict(), tmp_path / "taew2_1.safetensors")
    with pytest.raises(ModelError, match=r"reads latents of AutoencoderKLQwenImage .* colours"):
        load_tiny(tmp_path / "taew2_1.safetensors", vae_of("arch:flux.1-dev"), "flux")
    with pytest.raises(ModelError, match=r"the latents of another VAE .* 'one of its family'"):
        load_tiny("madebyollin/taef1", vae_of("arch:qwen-image"), "qwen", local_files_only=True)
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(
        ModelError, match="are none of taef2, taesana, taew2_1, expected one of these"
    ):
        load_tiny(tmp_path / "other.safetensors", klein, "klein")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("sd-2.1", "madebyollin/taesd"),
        ("sdxl", "madebyollin/taesdxl"),
        ("pixart-alpha", "madebyollin/taesd"),
        ("pixart-sigma", "madebyollin/taesdxl"),
        ("sd-3.5-medium", "madebyollin/taesd3"),
        ("flux.1-dev", "madebyollin/taef1"),
        ("z-image", "madebyollin/taef1"),
        ("flux.2-klein-9b", "madebyollin/taef2"),
        ("qwen-image", None),
    ],
)
def test_each_family_has_its_published_one(source: str, expected: str | None) -> None:
    assert published_for(vae_of(f"arch:{source}")) == expected


def test_one_of_another_family_is_refused_by_its_name(tmp_path: Path) -> None:
    """The shapes of TAESD fit SDXL, those of TAESD3 fit FLUX.1; also where a folder is called so."""
    for source, named in [("sdxl", "taesd"), ("flux.1-dev", "taesd3")]:
        with pytest.raises(
            ModelError, match=r"reads the latents of another VAE .* expected 'madebyollin/tae"
        ):
            load_tiny(f"madebyollin/{named}", vae_of(f"arch:{source}"), "it")
        with pytest.raises(ModelError, match="reads the latents of another VAE"):
            load_tiny(tmp_path / named, vae_of(f"arch:{source}"), "it")


def test_a_vae_of_other_channels_has_none_of_the_published() -> None:
    vae = vae_of("arch:sdxl")
    vae.register_to_config(latent_channels=8)
    assert published_for(vae) is None


def test_where_none_is_known_auto_says_so() -> None:
    vae = SimpleNamespace(config={})
    with pytest.raises(ModelError, match=r"'auto' and none is known for the SimpleNamespace"):
        load_tiny("auto", vae, "it")
