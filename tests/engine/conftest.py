"""Tiny models that many tests share, built in code and saved as their users would save them."""

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest
import torch
from tokenizers import pre_tokenizers
from torch import Tensor

from engine.networks.later import imports_spared

with imports_spared():  # few tests need bitsandbytes, and it takes longer than all the others
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    from engine.classifiers import Classifier, Preprocess, load_classifier, save_classifier
    from engine.classifiers.cifar_resnet import CifarResNet
    from engine.priors import Prior, load_prior

LABELS = ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")
PREDICTION_TYPES = ("epsilon", "v_prediction")
WORDS = (
    "a",
    "an",
    "of",
    "art",
    "cartoon",
    "painting",
    "photo",
    "sketch",
    "dog",
    "elephant",
    "guitar",
    "horse",
)


def tiny_tokenizer(folder: Path) -> CLIPTokenizer:
    """CLIP's tokenizer with a vocabulary of bytes and a few merged words, 16 tokens long."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = letters + [letter + "</w>" for letter in letters]
    merges = []
    for word in WORDS:
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            pair, pieces = (pieces[0], pieces[1]), [pieces[0] + pieces[1], *pieces[2:]]
            if pair not in merges:
                merges.append(pair)
                vocabulary.append("".join(pair))
    vocabulary = list(dict.fromkeys([*vocabulary, "<|startoftext|>", "<|endoftext|>"]))
    (folder / "vocab.json").write_text(
        json.dumps({token: number for number, token in enumerate(vocabulary)})
    )
    (folder / "merges.txt").write_text(
        "#version: 0.2\n" + "\n".join(" ".join(pair) for pair in merges)
    )
    return CLIPTokenizer(
        vocab=str(folder / "vocab.json"),
        merges=str(folder / "merges.txt"),
        model_max_length=16,
        pad_token="!",
    )


def tiny_pipeline(prediction_type: str, folder: Path) -> StableDiffusionPipeline:
    """Stable Diffusion 2.1's architecture, 32 channels wide: 32 px images, (4, 4, 4) latents."""
    torch.manual_seed(21)
    tokenizer = tiny_tokenizer(folder / "vocabulary")
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=16,
            hidden_act="gelu",
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=4,
        block_out_channels=(32, 64, 64, 64),
        layers_per_block=2,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        attention_head_dim=(1, 2, 2, 2),
        cross_attention_dim=32,
        use_linear_projection=True,
        norm_num_groups=16,
    )
    vae = AutoencoderKL(
        block_out_channels=(16, 16, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=32,
        scaling_factor=0.18215,
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def marked(prior: Prior, fingerprint: str) -> Prior:
    """The prior under another fingerprint, where a test gave it other weights."""
    prior.fingerprint = fingerprint
    return prior


@pytest.fixture(scope="session")
def tiny_prior_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Diffusers folders of a tiny SD 2.1, by prediction type."""
    folders = {}
    for prediction_type in PREDICTION_TYPES:
        folder = tmp_path_factory.mktemp(prediction_type)
        folders[prediction_type] = folder / "prior"
        tiny_pipeline(prediction_type, folder).save_pretrained(folders[prediction_type])
    return folders


@pytest.fixture(scope="session", params=PREDICTION_TYPES)
def tiny_prior_folder(request: pytest.FixtureRequest, tiny_prior_folders: dict[str, Path]) -> Path:
    """Each of the tiny SD 2.1 folders in turn: epsilon, then v-prediction."""
    return tiny_prior_folders[request.param]


@pytest.fixture(scope="session")
def tiny_prior(tiny_prior_folders: dict[str, Path]) -> Prior:
    """The tiny SD 2.1 that predicts epsilon. Frozen: tests share it, and must not add tokens to it."""
    return load_prior(tiny_prior_folders["epsilon"], device="cpu")


@pytest.fixture(scope="session")
def small_prior(tiny_prior: Prior) -> Prior:
    """The tiny prior with a UNet of two blocks, for tests that count or run it many times."""
    torch.manual_seed(2)
    unet = UNet2DConditionModel(
        sample_size=4,
        block_out_channels=(16, 16),
        layers_per_block=1,
        attention_head_dim=2,
        cross_attention_dim=32,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        norm_num_groups=8,
    )
    return marked(tiny_prior.replaced(unet=unet.eval().requires_grad_(False)), "small")


@pytest.fixture(scope="session")
def small_prior_folder(
    small_prior: Prior,
    tiny_prior_folders: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The small prior as a diffusers folder."""
    folder = tmp_path_factory.mktemp("small") / "prior"
    shutil.copytree(tiny_prior_folders["epsilon"], folder)
    small_prior.pipe.unet.save_pretrained(folder / "unet")
    return folder


@pytest.fixture(scope="session")
def resnet_and_random_state() -> tuple[CifarResNet, Tensor]:
    """An untrained 8-layer CIFAR ResNet of 7 classes, whose running statistics have seen 64 random images."""
    torch.manual_seed(8)
    network = CifarResNet(depth=8, widths=(4, 6, 8), classes=7).train()
    with torch.no_grad():
        for _ in range(20):
            network(torch.rand(64, 3, 16, 16) - 0.5)
    return network.eval(), torch.get_rng_state()


@pytest.fixture
def tiny_resnet(resnet_and_random_state: tuple[CifarResNet, Tensor]) -> CifarResNet:
    """A copy of that network for the test to change. The test draws its random numbers from where it was made."""
    network, random_state = resnet_and_random_state
    torch.set_rng_state(random_state)
    return copy.deepcopy(network)


@pytest.fixture(scope="module")
def shared_resnet(resnet_and_random_state: tuple[CifarResNet, Tensor]) -> CifarResNet:
    """A copy of that network for all tests of a module, which leave it as it is."""
    return copy.deepcopy(resnet_and_random_state[0])


@pytest.fixture
def classifier(tiny_resnet: CifarResNet) -> Classifier:
    """That copy as a classifier of images of 16 px."""
    return load_classifier(
        tiny_resnet, labels=LABELS, preprocess=Preprocess.squash(16), device="cpu"
    )


@pytest.fixture
def classifier_folder(tmp_path: Path, tiny_resnet: CifarResNet) -> Path:
    """The same classifier as its user would save it."""
    folder = tmp_path / "classifier"
    reads = Preprocess.squash(16)
    save_classifier(folder, tiny_resnet, architecture="resnet8", labels=LABELS, preprocess=reads)
    return folder


@pytest.fixture(scope="session")
def operator_table() -> Iterator[None]:
    """torch's table of ONNX operators, read once. Each export reads it from sources again, for a second."""
    pytest.importorskip("onnxscript")
    registry = import_module("torch.onnx._internal.exporter._registration").ONNXRegistry
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "from_torchlib", staticmethod(cache(registry.from_torchlib)))
        yield


@pytest.fixture(scope="session")
def contents() -> Callable[[Path], dict[str, bytes]]:
    """(data set folder) -> every file's bytes, hidden ones too; of run.json what was not measured."""

    def read(folder: Path) -> dict[str, bytes]:
        files = {
            str(path.relative_to(folder)): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
        }
        record = json.loads(files["run.json"])
        assert "seconds" in record.pop("measured")
        del record["sha256"]
        return files | {"run.json": json.dumps(record).encode()}

    return read
