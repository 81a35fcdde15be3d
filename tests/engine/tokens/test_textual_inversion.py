"""Tokens that diffusers itself loads, and its files that the engine loads."""

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file

from engine.errors import TokenFileError
from engine.sampling.loop import sample
from engine.sampling.noise import ImageNoise
from engine.tokens.attached import attached
from engine.tokens.textual_inversion import export_textual_inversion, import_textual_inversion
from engine.types import ImageKey

PROMPTS = ["a <ddis-dog> dog", "an <ddis-elephant> elephant"]


def test_diffusers_makes_the_engine_s_images_from_exported_tokens(
    tmp_path, tiny_prior, tiny_prior_folders, table
):
    paths = export_textual_inversion(table, tmp_path)
    assert {path.name for path in paths.values()} == {
        "ddis-dog.safetensors",
        "ddis-elephant.safetensors",
    }
    pipe = StableDiffusionPipeline.from_pretrained(
        tiny_prior_folders["epsilon"], safety_checker=None
    )
    pipe.set_progress_bar_config(disable=True)
    pipe.load_textual_inversion(paths["<ddis-dog>"], token="<ddis-dog>")
    pipe.load_textual_inversion(paths["<ddis-elephant>"])  # the file names its token
    theirs, _ = pipe.encode_prompt(PROMPTS, "cpu", 1, False)
    keys = [ImageKey(0, 0), ImageKey(1, 0)]
    noise = ImageNoise(0, keys, tiny_prior.latent_shape(1)[1:])
    with attached(tiny_prior, table) as prior, torch.no_grad():
        context = prior.encode(PROMPTS, "")
        torch.testing.assert_close(context.packed(), theirs.flatten(1), rtol=0, atol=1e-5)
        denoise = prior.denoiser(context, 5.0)
        z = sample(noise.draw(), denoise, prior.schedule(3), eta=1.0, noise=noise)
        ours = prior.decode(z)
    noise = ImageNoise(0, keys, tiny_prior.latent_shape(1)[1:])
    images = pipe(
        PROMPTS,
        latents=noise.draw(),
        generator=noise.generators,
        eta=1.0,
        num_inference_steps=3,
        guidance_scale=5.0,
        output_type="pt",
    ).images
    # Not to the bit: the pipeline's table of embeddings was resized, so products run at another memory alignment.
    torch.testing.assert_close(ours, images, rtol=0, atol=1e-5)


def test_an_export_comes_back_as_it_was(tmp_path, tiny_prior, classifier, table):
    paths = export_textual_inversion(table, tmp_path)
    files = dict(zip(table.labels, paths.values(), strict=True))
    assert import_textual_inversion(files, tiny_prior, classifier).fingerprint == table.fingerprint


def test_a_file_in_diffusers_own_shape_is_read(tmp_path, tiny_prior, classifier):
    vector = torch.randn(32)
    save_file({"<cat-toy>": vector}, tmp_path / "learned_embeds.safetensors")
    table = import_textual_inversion(
        {"elephant": tmp_path / "learned_embeds.safetensors"}, tiny_prior, classifier
    )
    assert torch.equal(table.rows, vector[None])
    assert (table.classes, table.names) == ((1,), ("<ddis-elephant>",))


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(tmp_path, tiny_prior, classifier, number):
    save_file({"<x>": torch.full((32,), number)}, tmp_path / "x.safetensors")
    with pytest.raises(TokenFileError, match=r"holds numbers that are NaN or infinite, expected"):
        import_textual_inversion({"dog": tmp_path / "x.safetensors"}, tiny_prior, classifier)


@pytest.mark.parametrize(
    "tensors",
    [
        {"<x>": torch.zeros(3, 32)},
        {"<x>": torch.zeros(1, 8)},
        {"<x>": torch.zeros(32), "<y>": torch.zeros(32)},
    ],
    ids=["several vectors", "other width", "several tokens"],
)
def test_a_file_of_another_kind_is_refused(tmp_path, tiny_prior, classifier, tensors):
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(
        TokenFileError,
        match=r"x.safetensors holds .*, expected one vector of width 32 for text encoder clip: give",
    ):
        import_textual_inversion({"dog": tmp_path / "x.safetensors"}, tiny_prior, classifier)


def test_a_class_that_the_classifier_lacks_is_refused(tmp_path, tiny_prior, classifier):
    with pytest.raises(
        TokenFileError,
        match=r"'cat' is not a label .*, expected some of 'dog', 'elephant', 'guitar': name",
    ):
        import_textual_inversion({"cat": tmp_path / "x.safetensors"}, tiny_prior, classifier)


@pytest.mark.parametrize("wrapped", [dict, torch.nn.ParameterDict], ids=["dict", "ParameterDict"])
def test_an_embedding_of_automatic1111_is_read(tmp_path, tiny_prior, classifier, wrapped):
    vector = torch.randn(1, 32)
    content = {"string_to_token": {"*": 265}, "name": "toy", "step": 3, "sd_checkpoint": None}
    torch.save(content | {"string_to_param": wrapped({"*": vector})}, tmp_path / "toy.pt")
    table = import_textual_inversion({"dog": tmp_path / "toy.pt"}, tiny_prior, classifier)
    assert torch.equal(table.rows, vector)


class Harmful:
    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return type(self.file).touch, (self.file,)


def test_no_code_of_a_pickled_file_is_run(tmp_path, tiny_prior, classifier):
    torch.save({"<x>": Harmful(tmp_path / "harm")}, tmp_path / "x.pt")
    with pytest.raises(
        TokenFileError, match=r"x.pt cannot be read without running code .* convert"
    ):
        import_textual_inversion({"dog": tmp_path / "x.pt"}, tiny_prior, classifier)
    assert not (tmp_path / "harm").exists()


def test_a_pickled_model_is_no_embedding(tmp_path, tiny_prior, classifier):
    torch.save({"epoch": 3, "weights": {"a": torch.zeros(2)}}, tmp_path / "x.pt")
    with pytest.raises(
        TokenFileError, match=r"x.pt holds no textual inversion, expected a token an"
    ):
        import_textual_inversion({"dog": tmp_path / "x.pt"}, tiny_prior, classifier)


@pytest.mark.parametrize(
    "content",
    [
        {"string_to_param": {"other": torch.zeros(1, 32)}, "name": "toy"},
        {"string_to_param": [torch.zeros(1, 32)], "name": "toy"},
        [torch.zeros(1, 32)],
    ],
    ids=["no star", "a list", "no mapping"],
)
def test_an_odd_embedding_is_named(tmp_path, tiny_prior, classifier, content):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(TokenFileError, match=r"x.pt holds no textual inversion, expected a token"):
        import_textual_inversion({"dog": tmp_path / "x.pt"}, tiny_prior, classifier)


@pytest.mark.parametrize("content", [b"", b"junk", 40 * b"\x80", b"PK\x03\x04 cut"])
def test_a_broken_embedding_is_named(tmp_path, tiny_prior, classifier, content):
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(TokenFileError, match=r"x.pt cannot be read without running code"):
        import_textual_inversion({"dog": tmp_path / "x.pt"}, tiny_prior, classifier)


def test_a_folder_for_other_encoders_is_refused(tmp_path, tiny_prior, classifier):
    for key, width in (("clip", 32), ("t5", 8)):
        save_file({key: torch.zeros(1, width)}, tmp_path / f"{key}.safetensors")
    with pytest.raises(TokenFileError, match=r"holds {'clip': \(1, 32\), 't5': \(1, 8\)}, exp"):
        import_textual_inversion({"dog": tmp_path}, tiny_prior, classifier)


def test_a_file_for_another_encoder_is_refused(tmp_path, tiny_prior, classifier):
    """Of the right width, by chance."""
    save_file({"t5": torch.zeros(1, 32)}, tmp_path / "x.safetensors")
    with pytest.raises(
        TokenFileError, match=r"holds {'t5': \(1, 32\)}, expected one .* encoder clip: "
    ):
        import_textual_inversion({"dog": tmp_path / "x.safetensors"}, tiny_prior, classifier)
