"""Guidance looks through its own decoder; what is kept comes from the full VAE."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderTiny
from torch import Tensor

from engine.classifiers import Classifier
from engine.errors import ConfigError, OutputError
from engine.guidance.decoder import decoder_of
from engine.priors import Prior
from engine.runners.asking import asked
from engine.runners.generate import generate
from engine.runners.learn_tokens import learn_tokens
from engine.settings import Alignment, Sampling

SHORT = Sampling(steps=3, batch=4)


def guided(alignment: Alignment | None) -> dict[str, object]:
    """Arguments of `generate` for some guidance, or for none."""
    return {"method": "plain"} if alignment is None else {"alignment": alignment}


@pytest.fixture
def prior(small_prior: Prior) -> Prior:
    """The tiny SD 2.1 with a tiny decoder whose images have nothing to do with the VAE's."""
    torch.manual_seed(9)
    tiny = AutoencoderTiny(
        encoder_block_out_channels=(8,) * 4,
        decoder_block_out_channels=(8,) * 4,
        num_decoder_blocks=(1,) * 4,
    )
    return small_prior.replaced(tiny=tiny.eval().requires_grad_(False))


def image_of(classifier: Classifier, prior: Prior, alignment: Alignment | None) -> Tensor:
    (sample,) = generate(classifier, prior, ["dog"], 1, **guided(alignment), sampling=SHORT, seed=4)
    return sample.image


def test_final_images_come_from_the_full_vae(
    prior: Prior, small_prior: Prior, classifier: Classifier
) -> None:
    for alignment in (None, Alignment(scale=0.0), Alignment(decoder="full"), Alignment.paper(0.5)):
        expected = image_of(classifier, small_prior, alignment)
        assert torch.equal(image_of(classifier, prior, alignment), expected)


def test_guidance_looks_through_the_decoder_and_at_the_size_that_are_asked_for(
    prior: Prior, classifier: Classifier
) -> None:
    seen: list[int] = []
    classifier.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[-1]))
    sizes = {}
    for alignment in (
        Alignment(),
        Alignment(decode_px=-1),
        Alignment(decoder="full"),
        Alignment.paper(),
    ):
        drawing = asked(
            classifier, prior, ["dog"], 1, alignment=alignment, sampling=SHORT
        ).prepare()
        sizes[alignment] = (drawing.decoder.kind, drawing.decoder.px)
    assert list(sizes.values()) == [("tiny", 16), ("tiny", 32), ("full", 32), ("full", 32)]
    images = [image_of(classifier, prior, alignment) for alignment in list(sizes)[:3]]
    assert set(seen) == {16}  # the classifier's own preprocessing has the last word
    for number, image in enumerate(images):
        assert all(not torch.allclose(image, other, atol=1e-3) for other in images[:number])


def test_checkpoints_change_no_image(prior: Prior, classifier: Classifier) -> None:
    for decoder in ("full", "tiny"):
        alignment = Alignment(decoder=decoder)
        plain, saving = (
            checkpointed(classifier, prior, alignment, checkpoint) for checkpoint in (False, True)
        )
        assert torch.equal(plain, saving)


def checkpointed(
    classifier: Classifier, prior: Prior, alignment: Alignment, checkpoint: bool
) -> Tensor:
    drawing = asked(classifier, prior, ["dog"], 1, alignment=alignment, sampling=SHORT).prepare()
    decoder = decoder_of(alignment, prior, classifier.preprocess, checkpoint)
    drawing = replace(drawing, decoder=decoder)
    return drawing.make(drawing.groups()[0])[0].image


def test_the_decoder_is_part_of_what_a_run_depends_on(
    tmp_path: Path, prior: Prior, small_prior: Prior, classifier: Classifier
) -> None:
    list(generate(classifier, prior, ["dog"], 1, sampling=SHORT, out=tmp_path / "set"))
    record = json.loads((tmp_path / "set" / "run.json").read_text())
    alignment = record["request"]["method"]["alignment"]
    assert (alignment["decoder"], alignment["decode_px"]) == ("auto", 0)
    assert record["models"]["prior"]["tiny"] != small_prior.describe()["tiny"] is None
    folder = tmp_path / "set"
    with pytest.raises(OutputError, match=r'alignment\.decoder is "auto" there and "full" here'):
        generate(
            classifier,
            prior,
            ["dog"],
            1,
            alignment=Alignment(decoder="full"),
            sampling=SHORT,
            out=folder,
        )
    with pytest.raises(OutputError, match=r'prior\.tiny is "\w+" there and null here'):
        generate(classifier, small_prior, ["dog"], 1, sampling=SHORT, out=folder)


def test_a_tiny_decoder_that_is_not_there_leaves_nothing_behind(
    tmp_path: Path, small_prior: Prior, classifier: Classifier
) -> None:
    with pytest.raises(ConfigError, match="has no tiny decoder"):
        generate(classifier, small_prior, alignment=Alignment(decoder="tiny"), out=tmp_path / "set")
    with pytest.raises(ConfigError, match="has no tiny decoder"):
        learn_tokens(
            classifier,
            small_prior,
            alignment=Alignment(decoder="tiny"),
            out=tmp_path / "t.safetensors",
        )
    assert list(tmp_path.iterdir()) == []
