"""Priors and classifiers that are named by their architecture, with random weights or none."""

from pathlib import Path

import pytest
import torch

from engine.classifiers import Classifier, Preprocess, load_classifier
from engine.classifiers.architectures import RESIDUAL
from engine.classifiers.cifar_resnet import CifarResNet
from engine.classifiers.sources import SCHEMES
from engine.errors import ModelError
from engine.guidance.domain import judged
from engine.memory.skeleton import skeleton, skeleton_classifier, skeleton_prior
from engine.priors import Prior, load_prior
from engine.priors.architectures.families import PRIOR_ARCHITECTURES
from engine.priors.architectures.tokenizers import TOKENIZERS
from engine.settings import sources


def millions(module: torch.nn.Module) -> float:
    return round(sum(value.numel() for value in module.parameters()) / 1e6, 2)


@pytest.mark.parametrize(
    ("name", "unet", "text_encoder", "latent", "predicts"),
    [
        ("sd-1.5", 859.52, 123.06, 64, "epsilon"),
        ("sd-2.1-base", 865.91, 340.39, 64, "epsilon"),
        ("sd-2.1", 865.91, 340.39, 96, "v_prediction"),
    ],
)
def test_published_sizes_without_a_byte_of_weights(
    name: str, unet: float, text_encoder: float, latent: int, predicts: str
) -> None:
    prior = load_prior(f"arch:{name}", device="meta", dtype=torch.float16)
    assert (millions(prior.pipe.unet), millions(prior.pipe.text_encoder), millions(prior.vae)) == (
        unet,
        text_encoder,
        83.65,
    )
    assert prior.latent_shape(2) == (2, 4, latent, latent)
    assert prior.image_size == (8 * latent, 8 * latent)
    assert prior.pipe.scheduler.config.prediction_type == predicts
    assert prior.tiny is not None
    assert millions(prior.tiny) == 2.45
    assert (
        prior.device.type == prior.vae.device.type == prior.pipe.text_encoder.device.type == "meta"
    )
    assert prior.dtype == prior.vae.dtype == prior.pipe.text_encoder.dtype == torch.float16


PUBLISHED = {
    "sdxl": {"unet": 2567.46, "text_encoder": 123.06, "text_encoder_2": 694.66},
    "sd-3-medium": {"transformer": 2028.33, "text_encoder_3": 4762.31},
    "sd-3.5-medium": {"transformer": 2243.17, "text_encoder_2": 694.66},
    "sd-3.5-large": {"transformer": 8056.63, "text_encoder": 123.65},
    "pixart-alpha": {"transformer": 611.35, "text_encoder": 4762.31},
    "pixart-sigma": {"transformer": 610.86, "text_encoder": 4762.31},
    "sana-1.6b": {"transformer": 1604.46, "text_encoder": 2614.34, "vae": 312.25},
    "flux.1-dev": {"transformer": 11901.41, "text_encoder_2": 4762.31},
    "flux.1-schnell": {"transformer": 11891.18},
    "chroma": {"transformer": 8899.98},
    "flux.2-klein-4b": {"transformer": 3875.54, "text_encoder": 4022.47},
    "flux.2-klein-9b": {"transformer": 9078.58, "text_encoder": 8190.74},
    "z-image": {"transformer": 6154.91, "text_encoder": 4022.47},
    "lumina-2": {"transformer": 2609.77, "text_encoder": 2614.34},
    "auraflow": {"transformer": 6858.61, "text_encoder": 1223.55},
    "qwen-image": {"transformer": 20430.4, "text_encoder": 8292.17},
}
"""Millions of parameters of some parts. Model cards round these: 2.6 billion, 12 billion, 4 billion, ..."""
QUICK = ("sd-2.1-base", "sdxl", "flux.1-dev")
"""Those of the fast lane."""


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in PUBLISHED],
)
def test_each_family_has_its_published_size(name: str) -> None:
    prior = load_prior(f"arch:{name}", device="meta", dtype=torch.bfloat16)
    sizes = {part.name: millions(part.module) for part in prior.components()}
    assert {part: sizes[part] for part in PUBLISHED[name]} == PUBLISHED[name]
    assert all(part.module.device.type == "meta" for part in prior.components())
    assert prior.schedule(4)[0].noise > 0


def test_flows_are_shifted_as_published() -> None:
    """By a fixed factor, or by how many tokens an image has; Qwen-Image's last step begins at a set level."""
    shifts = {"lumina-2": 6.0, "auraflow": 1.73, "z-image": 3.0, "chroma": 1.0}
    for name, shift in shifts.items():
        config = PRIOR_ARCHITECTURES[name].scheduler.config
        assert config["shift"] == shift
        assert not config.get("use_dynamic_shifting")
    prior = load_prior("arch:qwen-image", device="meta", dtype=torch.bfloat16)
    assert prior.schedule(4)[-1].noise == pytest.approx(0.02)


def test_every_architecture_is_tested() -> None:
    assert {*PUBLISHED, "sd-1.5", "sd-2.1-base", "sd-2.1"} == {*PRIOR_ARCHITECTURES}


@pytest.mark.parametrize("family", TOKENIZERS)
def test_stand_ins_read_any_text_and_pad_it(family: str) -> None:
    tokenizer = TOKENIZERS[family]()
    found = tokenizer(["a dog", "größe 7 ☂"], padding="max_length", max_length=64)
    assert [len(ids) for ids in found.input_ids] == [64, 64]
    assert tokenizer.decode(found.input_ids[1], skip_special_tokens=True).strip() == "größe 7 ☂"


def test_its_tokenizer_has_clips_ids_and_length() -> None:
    tokenizer = load_prior("arch:sd-1.5", device="meta").pipe.tokenizer
    tokens = tokenizer("a dog", padding="max_length").input_ids
    assert (len(tokenizer), len(tokens), tokens[0], tokens[-1]) == (49_408, 77, 49_406, 49_407)
    assert tokenizer.add_tokens(["<ddis-dog>"]) == 1
    assert tokenizer.convert_tokens_to_ids("<ddis-dog>") == 49_408


def test_a_tiny_decoder_may_be_refused() -> None:
    assert load_prior("arch:sd-1.5", device="meta", tiny="none").tiny is None


@pytest.mark.parametrize(
    ("name", "size"), [("resnet18", 11.69), ("resnet34", 21.8), ("resnet50", 25.56)]
)
def test_classifiers_have_imagenets_size(name: str, size: float) -> None:
    classifier = load_classifier(f"arch:{name}", device="meta")
    assert millions(classifier.network) == size
    assert len(classifier.labels) == 1000
    assert classifier.input_px == 224


def test_a_skeleton_is_its_own_skeleton_unless_its_dtype_changes() -> None:
    found = skeleton(torch.nn.Linear(2, 3))
    assert skeleton(found) is skeleton(found, torch.float32) is found
    half = skeleton(found, torch.float16)
    assert (half.weight.dtype, found.weight.dtype) == (torch.float16, torch.float32)


def test_the_names_that_need_no_library_are_those_of_the_tables() -> None:
    assert {*sources.PRIOR_ARCHITECTURES} == {*PRIOR_ARCHITECTURES}
    assert tuple(f"resnet{depth}" for depth in RESIDUAL) == sources.CLASSIFIER_ARCHITECTURES
    assert {*sources.CLASSIFIER_SCHEMES} == {"arch", *SCHEMES}


def test_unknown_architectures_are_refused() -> None:
    with pytest.raises(
        ModelError, match=r"unknown architecture 'sd-9' of a prior, expected one of arch:sd-1\.5"
    ):
        load_prior("arch:sd-9")
    with pytest.raises(ModelError, match=r"Did you mean 'arch:flux\.1-dev'\?"):
        load_prior("arch:flux-dev", device="meta")
    with pytest.raises(
        ModelError,
        match="unknown architecture 'vgg' of a classifier, expected one of arch:resnet18",
    ):
        load_classifier("arch:vgg")


def test_a_folder_gives_its_shapes_without_reading_weights(
    tiny_prior: Prior, tmp_path: Path
) -> None:
    source = Path(tiny_prior.name)
    for file in source.rglob("*"):
        if file.is_file() and file.suffix != ".safetensors":
            (tmp_path / file.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file.relative_to(source)).write_bytes(file.read_bytes())
    hollow = load_prior(tmp_path, device="meta")
    assert shapes(hollow) == shapes(tiny_prior)
    with pytest.raises(ModelError, match="cannot be read"):
        load_prior(tmp_path, device="cpu")


def shapes(prior: Prior) -> list[tuple[str, torch.Size, torch.dtype]]:
    networks = (prior.pipe.unet, prior.vae, prior.pipe.text_encoder)
    return [
        (name, value.shape, value.dtype) for n in networks for name, value in n.state_dict().items()
    ]


def test_a_skeleton_shares_what_the_model_shares(
    tiny_prior: Prior, tiny_resnet: CifarResNet
) -> None:
    twin = skeleton_prior(tiny_prior)
    assert shapes(twin) == shapes(tiny_prior)
    assert twin.device.type == "meta"
    assert tiny_prior.device.type == "cpu"
    own = load_prior("embedded", device="cpu")
    embedded = skeleton_prior(own.replaced(tiny=own.vae), torch.float16)
    assert embedded.tiny is embedded.vae
    assert embedded.dtype == torch.float16
    classifier = load_classifier(
        tiny_resnet, labels=list("abcdefg"), preprocess=Preprocess.squash(16), device="cpu"
    )
    hollow: Classifier = skeleton_classifier(classifier)
    assert all(
        layer in set(hollow.network.modules())
        for layer in [tap.layer for tap in hollow.statistics.taps]
    )
    assert hollow.logits(torch.zeros(2, 3, 32, 32, device="meta")).shape == (2, 7)


def test_random_weights_are_the_same_each_time_and_leave_the_generator_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first, second = (load_classifier("arch:resnet18", device="cpu") for _ in range(2))
    assert torch.equal(torch.rand(1), expected)
    assert first.fingerprint == second.fingerprint


def test_labels_say_how_many_outputs_an_architecture_has() -> None:
    """Names of classes are all that the plain prior needs: no trained classifier."""
    classifier = load_classifier("arch:resnet18", labels=["dog", "horse"], device="cpu")
    assert classifier.labels == ("dog", "horse")
    assert classifier.logits(torch.zeros(1, 3, 64, 64)).shape == (1, 2)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_an_architecture_has_statistics_of_images_of_its_own_size(name: str) -> None:
    """Those of a new network are zeros and ones: a ResNet-50's activations then leave float16's range."""
    classifier = load_classifier(f"arch:{name}", labels=["dog", "horse"], device="cpu")
    assert all(tap.layer.momentum == 0.1 for tap in classifier.statistics.taps)
    largest: list[float] = []
    hooks = [
        tap.layer.register_forward_hook(
            lambda module, inputs, output: largest.append(float(output.abs().max()))
        )
        for tap in classifier.statistics.taps
    ]
    _, l_bn = judged(classifier, torch.rand(2, 3, 224, 224))
    for hook in hooks:
        hook.remove()
    assert max(largest) < 100
    assert l_bn.max() < 1e4
