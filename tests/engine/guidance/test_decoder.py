"""What guidance sees latents through: the same pixels for less memory, or nearly the same for less work."""

from contextlib import suppress
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor, nn

from engine.classifiers import Preprocess, load_classifier
from engine.errors import ConfigError
from engine.guidance.decoder import (
    crop_margin,
    decoder_of,
    guidance_decoder,
)
from engine.guidance.decoder_stages import coarse, full_stages, tiny_stages
from engine.guidance.objective import Objective
from engine.priors import Prior, load_prior
from engine.priors.vae import decoded, decoding_in_parts
from engine.settings import CLASSIFIERS_PX, PRIORS_PX, Alignment


def taesd(seed: int = 3, levels: int = 4, **config: object) -> AutoencoderTiny:
    """The layout of TAESD, 8 channels wide: 8 px a latent."""
    torch.manual_seed(seed)
    widths = {
        "encoder_block_out_channels": (8,) * levels,
        "decoder_block_out_channels": (8,) * levels,
    }
    blocks = {"num_encoder_blocks": (1,) * levels, "num_decoder_blocks": (*(2,) * (levels - 1), 1)}
    return AutoencoderTiny(**widths, **blocks, **config).eval().requires_grad_(False)


@pytest.fixture
def prior(tiny_prior: Prior) -> Prior:
    """The tiny SD 2.1, of 32 px, with a tiny decoder beside its VAE."""
    return tiny_prior.replaced(tiny=taesd())


@pytest.mark.parametrize("halvings", [1, 2])
def test_a_convolution_behind_a_left_out_upsampling_gives_the_means_of_its_pixels(
    halvings: int,
) -> None:
    convolution = nn.Conv2d(3, 5, 3, padding=1).double()
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64)
    whole = convolution(F.interpolate(x, scale_factor=2**halvings, mode="nearest"))
    found = coarse(convolution, halvings)(x)
    torch.testing.assert_close(found, F.avg_pool2d(whole, 2**halvings), atol=1e-12, rtol=0)
    assert not torch.allclose(convolution(x), found, atol=0.05)


def test_a_smaller_image_is_the_whole_one_made_small_as_far_as_a_trained_decoder_goes() -> None:
    """Against leaving the upsampling out and nothing else, on latents of smooth images, and by its gradient."""
    prior = load_prior("embedded", device="cpu")
    side, half = prior.image_size[0], prior.image_size[0] // 2
    images = F.interpolate(torch.rand(8, 3, 6, 6), (side, side), mode="bicubic").clamp(0, 1)
    latents = prior.vae.encode(images * 2 - 1).latents * prior.vae.config.scaling_factor
    layers = list(prior.vae.decoder.layers)
    last = max(place for place, layer in enumerate(layers) if isinstance(layer, nn.Upsample))
    skipped = nn.Sequential(*layers[:last], *layers[last + 1 :])
    weights = torch.randn(8, 3, half, half)

    def seen(decoder) -> tuple[Tensor, Tensor]:
        leaf = latents.clone().requires_grad_()
        image = decoder(leaf)
        return image.detach(), torch.autograd.grad(
            (F.interpolate(image, half, mode="area") * weights).sum(), leaf
        )[0]

    whole, gradient = seen(guidance_decoder(prior))
    small = {
        "ours": seen(guidance_decoder(prior, "tiny", half)),
        "skipped": seen(lambda z: skipped(torch.tanh(z / prior.vae.config.scaling_factor / 3) * 3)),
    }
    error = {
        name: (image - F.avg_pool2d(whole, 2)).square().mean().sqrt()
        for name, (image, _) in small.items()
    }
    cosine = {
        name: F.cosine_similarity(g.flatten(), gradient.flatten(), 0)
        for name, (_, g) in small.items()
    }
    assert error["ours"] < 0.6 * error["skipped"]
    assert error["ours"] < 0.06
    assert 1 - cosine["ours"] < 0.5 * (1 - cosine["skipped"])


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("kind", ["full", "tiny", "tiny at 16 px"])
def test_stages_are_the_decoder_to_the_bit_and_checkpoints_change_nothing(
    prior: Prior, kind: str, checkpoint: bool
) -> None:
    name, px = kind.split()[0], 16 if "16" in kind else None
    decoder = guidance_decoder(prior, name, px, checkpoint)
    latents = torch.randn(2, 4, 4, 4)
    vae = prior.vae if name == "full" else prior.tiny
    if px:
        plain = guidance_decoder(prior, name, px)
    else:
        stages = full_stages(vae) if name == "full" else tiny_stages(vae)
        plain = replace(guidance_decoder(prior, name), stages=stages)
        unscaled = latents / vae.config.scaling_factor
        assert torch.equal(plain(latents), decoded(vae, unscaled) * 0.5 + 0.5)
    (first, first_grad), (second, second_grad) = (
        with_gradient(each, latents) for each in (plain, decoder)
    )
    assert torch.equal(first, second)
    assert torch.equal(first_grad, second_grad)
    assert first_grad.abs().max() > 0
    assert first.shape == (2, 3, decoder.px, decoder.px) == (2, 3, px or 32, px or 32)


def with_gradient(decoder, latents: Tensor) -> tuple[Tensor, Tensor]:
    leaf = latents.clone().requires_grad_()
    images = decoder(leaf)
    (grad,) = torch.autograd.grad(images.square().sum(), leaf)
    return images.detach(), grad


@pytest.mark.parametrize(("name", "share"), [("full", 0.3), ("tiny", 0.35)])
def test_checkpoints_hold_a_part_of_the_activations(prior: Prior, name: str, share: float) -> None:
    def held_bytes(checkpoint: bool) -> int:
        kept: dict[int, int] = {}

        def pack(x: Tensor) -> Tensor:
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        weights = {
            w.untyped_storage().data_ptr() for m in (prior.vae, prior.tiny) for w in m.parameters()
        }
        decoder = guidance_decoder(prior, name, checkpoint=checkpoint)
        leaf = torch.randn(2, 4, 4, 4, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            graph = decoder(leaf)  # what is kept must live on while it is counted
        assert graph.requires_grad
        return sum(nbytes for place, nbytes in kept.items() if place not in weights)

    assert held_bytes(True) < share * held_bytes(False)


@pytest.mark.parametrize(
    ("px", "made"), [(None, 32), (99, 32), (32, 32), (17, 32), (16, 16), (9, 16), (8, 8), (1, 4)]
)
def test_the_tiny_decoder_gives_its_smallest_size_that_is_enough(
    prior: Prior, px: int | None, made: int
) -> None:
    decoder = guidance_decoder(prior, "auto", px)
    assert (decoder.kind, decoder.px) == ("tiny", made)
    assert decoder(torch.randn(1, 4, 4, 4)).shape == (1, 3, made, made)
    assert (guidance_decoder(prior, "full", px).kind, guidance_decoder(prior, "full", px).px) == (
        "full",
        32,
    )


@pytest.mark.parametrize(
    ("decode_px", "preprocess", "px"),
    [
        (CLASSIFIERS_PX, Preprocess(crop=(14, 14), resize=16), 16),
        (CLASSIFIERS_PX, Preprocess.squash(8), 8),
        (CLASSIFIERS_PX, Preprocess(crop=(8, 8), resize=(8, 12)), 16),
        (CLASSIFIERS_PX, Preprocess(crop=(8, 8)), 32),  # it reads the middle of whatever comes
        (CLASSIFIERS_PX, Preprocess(crop=(224, 224), resize=256), 32),
        (PRIORS_PX, Preprocess.squash(8), 32),
        (12, Preprocess.squash(8), 16),
    ],
)
def test_a_size_follows_from_the_setting_and_the_classifier(
    prior: Prior, decode_px: int, preprocess: Preprocess, px: int
) -> None:
    assert decoder_of(Alignment(decode_px=decode_px), prior, preprocess).px == px


def test_without_a_tiny_decoder_the_full_one_is_taken_unless_the_tiny_one_is_asked_for(
    tiny_prior: Prior,
) -> None:
    assert tiny_prior.tiny is None
    assert guidance_decoder(tiny_prior, "auto", 16).kind == "full"
    with pytest.raises(
        ConfigError, match=r"has no tiny decoder, expected one: load it with .*tiny_decoder"
    ):
        guidance_decoder(tiny_prior, "tiny")


def test_each_decoder_takes_unit_latents_by_its_own_scale(prior: Prior) -> None:
    latents = torch.randn(1, 4, 4, 4)
    tiny, full = (guidance_decoder(prior, name)(latents) for name in ("tiny", "full"))
    assert torch.equal(tiny, prior.tiny.decode(latents).sample / 2 + 0.5)
    assert torch.equal(full, prior.vae.decode(latents / 0.18215).sample / 2 + 0.5)


@pytest.mark.parametrize("name", ["full", "tiny"])
def test_nothing_is_computed_where_tensors_have_no_values(prior: Prior, name: str) -> None:
    part = AutoencoderKL if name == "full" else AutoencoderTiny
    with torch.device("meta"):
        empty = part.from_config((prior.vae if name == "full" else prior.tiny).config)
    decoder = guidance_decoder(
        load_prior(prior.pipe, device="meta").replaced(
            **{"vae" if name == "full" else "tiny": empty}
        ),
        name,
        16,
        True,
    )
    leaf = torch.empty(2, 4, 4, 4, device="meta", requires_grad=True)
    images = decoder(leaf)
    assert torch.autograd.grad(images.sum(), leaf)[0].shape == leaf.shape
    assert images.shape == (2, 3, decoder.px, decoder.px)


def test_decoding_in_parts_ends_with_the_block(prior: Prior) -> None:
    latents = torch.randn(3, 4, 4, 4)
    expected, whole = prior.decode(latents), prior.vae.tile_latent_min_size
    with suppress(KeyError), decoding_in_parts(prior.vae, slices=True, tile=4):
        assert (prior.vae.use_slicing, prior.vae.use_tiling) == (True, True)
        torch.testing.assert_close(prior.decode(latents), expected, atol=1e-5, rtol=0)
        raise KeyError
    assert (prior.vae.use_slicing, prior.vae.use_tiling) == (False, False)
    assert prior.vae.tile_latent_min_size == whole
    with decoding_in_parts(prior.tiny, slices=True, tile=4):
        assert (prior.tiny.use_slicing, prior.tiny.use_tiling) == (True, False)


CROPPING = Preprocess(crop=(224, 224), resize=256)


@pytest.mark.parametrize(
    ("px", "preprocess", "margin"),
    [
        (
            256,
            CROPPING,
            3,
        ),  # 16 px of 256 are cut on each side: 4 latents, one of them decoded as a neighbour
        (512, CROPPING, 3),
        (512, Preprocess(crop=(224, 224)), 17),  # pixels as they come
        (256, Preprocess.squash(224), 0),
        (256, Preprocess(crop=(250, 250), resize=256), 0),
        (256, Preprocess(crop=(224, 224), resize=(256, 300)), 0),
        (256, Preprocess(crop=(300, 300), resize=256), 0),
        (256, None, 0),
    ],
)
def test_a_crop_leaves_a_margin(px: int, preprocess: Preprocess | None, margin: int) -> None:
    assert crop_margin((64, 64), px, preprocess) == margin


def test_the_gradient_through_the_crop_s_window_is_that_of_the_whole_image() -> None:
    """Trained networks in the geometry of Stable Diffusion at 512 px: 64 latents, 256 px of which 224 are looked at."""
    prior, classifier = (
        load_prior("embedded", device="cpu"),
        load_classifier("embedded:cartoon", device="cpu"),
    )
    classifier = replace(classifier, preprocess=CROPPING)
    images = F.interpolate(torch.rand(1, 3, 32, 32), (256, 256), mode="bilinear")
    prior = prior.called_with(height=256, width=256)
    z = prior.vae.encode(images * 2 - 1).latents * prior.vae.config.scaling_factor
    window = decoder_of(Alignment(), prior, classifier.preprocess)
    whole = replace(window, margin=0)
    assert (window.margin, window.px) == (3, 256)
    (near, grad), (exact, expected) = (
        Objective(classifier, Alignment(class_weight=0.0), decoder).value_and_grad(z)
        for decoder in (window, whole)
    )
    torch.testing.assert_close(near, exact, rtol=0.05, atol=0)
    cosine = F.cosine_similarity(grad.flatten(), expected.flatten(), 0)
    assert cosine > 0.98, cosine
