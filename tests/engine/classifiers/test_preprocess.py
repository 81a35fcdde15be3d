"""A network's own preprocessing, against Pillow and against transformers' descriptions of it."""

import warnings

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch.nn.functional import interpolate

from engine.classifiers import Preprocess
from engine.classifiers.image_processor import from_image_processor
from engine.classifiers.preprocess import resized_by_products
from engine.errors import ClassifierWarning, ConfigError, ModelError

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


@pytest.mark.parametrize(
    ("name", "pil"), [("bilinear", Image.BILINEAR), ("bicubic", Image.BICUBIC)]
)
@pytest.mark.parametrize("size", [(64, 64), (20, 20), (50, 31)], ids=["down", "up", "oblong"])
def test_resizing_is_pillows(name: str, pil: Image.Resampling, size: tuple[int, int]) -> None:
    smooth = torch.nn.functional.interpolate(torch.rand(1, 3, 5, 5), size, mode="bilinear")
    picture = (smooth * 155 + 50).round().byte()
    ours = Preprocess(crop=(32, 32), resize=(32, 32), interpolation=name, **PLAIN)(picture / 255)
    theirs = Image.fromarray(picture[0].permute(1, 2, 0).numpy()).resize((32, 32), pil)
    gap = (ours[0].permute(1, 2, 0) * 255 - torch.from_numpy(np.array(theirs)).float()).abs()
    assert (
        gap.max() <= 1.2
    )  # Pillow rounds to whole bytes after each axis; bicubic weights sum to 1.25 in size


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(8, 8), (20, 31), (64, 7), (17, 33)])
def test_products_resize_and_differentiate_as_torch_does(mode: str, size: tuple[int, int]) -> None:
    images = torch.rand(2, 3, 17, 33, requires_grad=True)
    given = torch.randn(2, 3, *size)
    found = resized_by_products(images, size, mode)
    expected = interpolate(images, size, mode=mode, antialias=True)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    gradients = [torch.autograd.grad((out * given).sum(), images)[0] for out in (found, expected)]
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)


def test_the_shorter_side_is_resized_and_the_centre_cut() -> None:
    images = torch.arange(40.0).view(1, 1, 1, 40).expand(1, 3, 20, 40)
    cut = Preprocess(crop=(8, 8), resize=10, **PLAIN)(images)
    assert cut.shape == (1, 3, 8, 8)
    assert cut[0, 0, 0].mean().item() == pytest.approx(19.5)


def test_an_image_of_the_right_size_is_only_normalised() -> None:
    images = torch.rand(2, 3, 8, 8)
    out = Preprocess(crop=(8, 8), resize=(8, 8), mean=(0.1, 0.2, 0.3), std=(0.5, 0.5, 0.25))(images)
    expected = (images - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / torch.tensor(
        [0.5, 0.5, 0.25]
    ).view(3, 1, 1)
    assert torch.equal(out, expected)


def test_the_gradient_is_that_of_finite_differences() -> None:
    preprocess = Preprocess(crop=(4, 4), resize=5, interpolation="bicubic")
    assert torch.autograd.gradcheck(
        preprocess, torch.rand(1, 3, 9, 9, dtype=torch.float64, requires_grad=True)
    )


def test_a_crop_larger_than_the_image_is_filled_with_zeros() -> None:
    out = Preprocess(crop=(6, 6), **PLAIN)(torch.ones(1, 3, 4, 4))
    assert out.shape == (1, 3, 6, 6)
    assert out.sum() == 3 * 16


@pytest.mark.parametrize(
    ("config", "resize", "crop"),
    [
        (
            {"feature_extractor_type": "ConvNextFeatureExtractor", "size": 224, "crop_pct": 0.875},
            256,
            224,
        ),
        (
            {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 224}},
            256,
            224,
        ),
        (
            {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 384}},
            (384, 384),
            384,
        ),
        (
            {"image_processor_type": "ViTImageProcessor", "size": {"height": 96, "width": 96}},
            (96, 96),
            96,
        ),
        ({"feature_extractor_type": "ViTFeatureExtractor", "size": 224}, (224, 224), 224),
        ({"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": 224}, 256, 224),
        (
            {
                "image_processor_type": "LevitImageProcessor",
                "size": {"shortest_edge": 224},
                "do_center_crop": True,
                "crop_size": {"height": 224, "width": 224},
            },
            256,
            224,
        ),
        ({"size": {"height": 32, "width": 32}, "do_resize": False}, None, 32),
    ],
)
def test_image_processors_are_read(
    config: dict, resize: int | tuple[int, int] | None, crop: int
) -> None:
    preprocess = from_image_processor({**config, "resample": 3, "image_mean": [0.5, 0.5, 0.5]})
    assert preprocess.resize == resize
    assert preprocess.crop == (crop, crop)
    assert preprocess.interpolation == "bicubic"
    assert preprocess.mean == (0.5, 0.5, 0.5)


def test_efficientnet_divides_by_its_std_twice() -> None:
    config = {
        "image_processor_type": "EfficientNetImageProcessor",
        "size": {"height": 8, "width": 8},
    }
    preprocess = from_image_processor({**config, "image_std": [0.5, 0.5, 0.5]})
    assert preprocess.std == (0.25, 0.25, 0.25)


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="expected three numbers each, std above 0"):
        Preprocess(crop=(8, 8), std=(1.0, 0.0, 1.0))
    with pytest.raises(ConfigError, match="expected at least 1 x 1 pixel"):
        Preprocess(crop=(0, 8))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"crop": 224}, {"crop": (224, 224)}),
        ({"crop": [20, 24]}, {"crop": (20, 24)}),
        ({"crop": 8, "mean": 0.5, "std": 0.25}, {"mean": (0.5,) * 3, "std": (0.25,) * 3}),
        ({"crop": 8, "mean": [0.1, 0.2, 0.3]}, {"mean": (0.1, 0.2, 0.3)}),
        ({"crop": 8, "resize": [9, 10]}, {"resize": (9, 10)}),
        ({"crop": 8, "mean": np.array([0.1, 0.2, 0.3])}, {"mean": (0.1, 0.2, 0.3)}),
        ({"crop": 8, "std": torch.tensor([0.5, 0.25, 1.0])}, {"std": (0.5, 0.25, 1.0)}),
        ({"crop": 8, "mean": np.float32(0.5)}, {"mean": (0.5,) * 3}),
        ({"crop": 8, "mean": (np.float32(0.5),) * 3}, {"mean": (0.5,) * 3}),
    ],
)
def test_one_number_stands_for_all(given: dict, expected: dict) -> None:
    preprocess = Preprocess(**given)
    assert {name: getattr(preprocess, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("given", "wording"),
    [
        (
            {"crop": 8, "mean": (123.7, 116.3, 103.5), "std": 58.0},
            "these are of pixels up to 255. Divide",
        ),
        ({"crop": 8, "mean": 0.0, "std": 255.0}, "these are of pixels up to 255"),
        ({"crop": 8, "mean": (0.5, 0.5)}, "expected three numbers each"),
        ({"crop": 8, "mean": ("a", "b", "c")}, "expected three numbers each"),
        ({"crop": 8, "mean": float("nan")}, "expected three numbers each"),
        ({"crop": "224"}, "has crop '224', expected at least 1 x 1 pixel"),
        ({"crop": 224.0}, "has crop .*224.0.*expected"),
        ({"crop": (8, 8, 3)}, r"has crop \(8, 8, 3\)"),
        ({"crop": 8, "resize": 0}, "has resize 0, expected"),
        (
            {"crop": 8, "interpolation": "lanczos"},
            "interpolation 'lanczos', expected one of nearest-exact",
        ),
        ({"crop": 8, "channels": "RGB"}, "channels 'RGB', expected one of rgb, bgr"),
    ],
)
def test_settings_of_another_kind_are_refused(given: dict, wording: str) -> None:
    with pytest.raises(ConfigError, match=wording):
        Preprocess(**given)


def test_channels_are_turned_round_before_normalising() -> None:
    images = torch.rand(2, 3, 4, 4)
    reads = Preprocess(crop=4, mean=(0.1, 0.2, 0.3), std=(0.2, 0.3, 0.4), channels="bgr")
    expected = Preprocess(crop=4, mean=(0.1, 0.2, 0.3), std=(0.2, 0.3, 0.4))(images[:, [2, 1, 0]])
    assert torch.equal(reads(images), expected)


def test_a_network_of_rgb_has_the_fingerprint_that_it_always_had() -> None:
    assert repr(Preprocess.squash(8, 0.5, 0.5)) == (
        "Preprocess(crop=(8, 8), resize=(8, 8), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), interpolation='bilinear')"
    )
    assert "channels='bgr'" in repr(Preprocess(crop=8, channels="bgr"))
    for channels in ("rgb", "bgr"):
        reads = Preprocess(crop=8, channels=channels)
        assert Preprocess.from_dict(reads.to_plain()) == reads


PROCESSORS = {
    "MobileViTImageProcessor": {
        "size": {"shortest_edge": 12},
        "crop_size": {"height": 8, "width": 8},
        "resample": 2,
    },
    "MobileViTFeatureExtractor": {
        "size": 12,
        "crop_size": 8,
        "do_flip_channel_order": True,
        "resample": 2,
    },
    "MobileViTV2": {
        "image_processor_type": "MobileViTImageProcessor",
        "do_flip_channel_order": False,
        "size": {"shortest_edge": 8},
        "crop_size": {"height": 8, "width": 8},
    },
    "ViTImageProcessor": {
        "size": {"height": 8, "width": 8},
        "do_rescale": False,
        "image_mean": [127.0] * 3,
        "image_std": [60.0] * 3,
    },
    "DeiTImageProcessor": {
        "size": {"height": 8, "width": 8},
        "rescale_factor": 1 / 127.5,
        "do_center_crop": False,
        "image_mean": [1.0] * 3,
        "image_std": [1.0] * 3,
    },
    "EfficientNetImageProcessor": {
        "size": {"height": 8, "width": 8},
        "rescale_factor": 1 / 127.5,
        "rescale_offset": True,
        "include_top": False,
    },
    "ViTFeatureExtractor": {"size": 8, "do_normalize": False},
}


@pytest.mark.parametrize("kind", PROCESSORS)
def test_what_networks_read_is_what_transformers_feeds_them(kind: str) -> None:
    config = {"image_processor_type": kind, **PROCESSORS[kind]}
    name = config["image_processor_type"].replace("FeatureExtractor", "ImageProcessor")
    processor = getattr(transformers, f"{name}Pil")
    settings = {key: value for key, value in config.items() if key != "image_processor_type"}
    picture = (torch.rand(16, 16, 3) * 40 + torch.tensor([20.0, 90.0, 200.0])).round().byte()
    picture[:] = picture.float().mean((0, 1)).byte()  # one colour: resizing is tested above
    theirs = processor(**settings)(picture.numpy(), return_tensors="np")["pixel_values"]
    ours = from_image_processor(config)(picture.permute(2, 0, 1)[None] / 255)
    torch.testing.assert_close(
        ours, torch.from_numpy(np.asarray(theirs)).float(), atol=2e-2, rtol=1e-2
    )


SIZELESS = (
    *("Beit", "Bit", "CLIP", "ConvNext", "DeiT", "EfficientNet", "Levit", "MobileNetV1"),
    *("MobileNetV2", "MobileViT", "Perceiver", "PoolFormer", "Pvt", "Segformer", "TextNet", "ViT"),
)
GIVEN = {
    "PoolFormer": {"size": {"shortest_edge": 400}, "crop_size": {"height": 384, "width": 384}},
    "Perceiver": {"size": {"height": 56, "width": 56}, "crop_size": {"height": 64, "width": 64}},
}


@pytest.mark.parametrize(("name", "settings"), [*((name, {}) for name in SIZELESS), *GIVEN.items()])
def test_sizes_that_a_file_leaves_out_are_those_of_its_class(name: str, settings: dict) -> None:
    kind = f"{name}ImageProcessor"
    coarse = torch.rand(1, 3, 20, 20)
    picture = (interpolate(coarse, (320, 320), mode="bilinear") * 255).round().byte()
    processor = getattr(transformers, f"{kind}Pil")(**settings)
    theirs = processor(picture[0].permute(1, 2, 0).numpy(), return_tensors="np")["pixel_values"]
    ours = from_image_processor({"image_processor_type": kind, **settings})(picture / 255)
    assert ours.shape == theirs.shape
    assert (ours - torch.from_numpy(np.asarray(theirs))).abs().mean() < 0.01


def test_a_size_that_depends_on_the_image_is_refused() -> None:
    with pytest.raises(ModelError, match=r"size \{'longest_edge': 8\}, expected a number, .*Put"):
        from_image_processor({"size": {"longest_edge": 8}})


@pytest.mark.parametrize(
    ("number", "name", "instead"),
    [(1, "Lanczos", "bicubic"), (4, "box", "bilinear"), (5, "Hamming", "bilinear")],
)
def test_filters_that_are_replaced_are_warned_of(number: int, name: str, instead: str) -> None:
    with pytest.warns(ClassifierWarning, match=f"filter {name}, .*: {instead} is used instead"):
        assert from_image_processor({"size": 8, "resample": number}).interpolation == instead
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for own in (0, 2, 3):
            from_image_processor({"size": 8, "resample": own})
        from_image_processor({"size": 8, "resample": number, "do_resize": False})


@pytest.mark.parametrize("step", ["do_thumbnail", "do_align_long_axis", "do_pad", "do_grey_world"])
def test_steps_that_are_not_read_are_refused(step: str) -> None:
    config = {"image_processor_type": "DonutImageProcessor", "size": 8, step: True}
    with pytest.raises(
        ModelError, match=f"asks for {step}, expected resizing.*dropping a step would"
    ):
        from_image_processor(config)
    from_image_processor({**config, step: False})
