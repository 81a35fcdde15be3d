"""Where tiny decoders come from, and which do not fit a prior."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderTiny

from engine.errors import ModelError
from engine.priors import load_prior
from engine.settings.sources import EMBEDDED


def save_tiny(folder: Path, levels: int = 4, **config: object) -> Path:
    widths = {f"{part}_block_out_channels": (4,) * levels for part in ("encoder", "decoder")}
    blocks = {f"num_{part}_blocks": (1,) * levels for part in ("encoder", "decoder")}
    AutoencoderTiny(**widths, **blocks, **config).save_pretrained(folder)
    return folder


@pytest.fixture
def source(tiny_prior_folders: dict[str, Path]) -> Path:
    return tiny_prior_folders["epsilon"]


def test_a_tiny_decoder_comes_from_its_folder_frozen(source: Path, tmp_path: Path) -> None:
    prior = load_prior(source, tiny=save_tiny(tmp_path / "taesd"), device="cpu", dtype="bfloat16")
    assert isinstance(prior.tiny, AutoencoderTiny)
    assert prior.tiny.dtype == prior.dtype == torch.bfloat16
    assert not prior.tiny.training
    assert not any(weight.requires_grad for weight in prior.tiny.parameters())
    assert (
        prior.fingerprint == load_prior(source, device="cpu").fingerprint
    )  # tokens learned before still fit
    assert prior.describe()["tiny"] != load_prior(source, device="cpu").describe()["tiny"] is None


def test_by_default_it_is_the_one_in_the_prior_s_folder_or_its_own_vae_if_that_is_one(
    source: Path, tmp_path: Path
) -> None:
    embedded = load_prior("embedded", device="cpu")
    assert isinstance(embedded.tiny, AutoencoderTiny)
    assert embedded.tiny is not embedded.vae
    assert load_prior("embedded", tiny="none", device="cpu").tiny is None
    shutil.copytree(EMBEDDED / "prior", tmp_path / "prior", ignore=shutil.ignore_patterns("tiny"))
    alone = load_prior(tmp_path / "prior", device="cpu")
    assert alone.tiny is alone.vae
    assert alone.fingerprint == embedded.fingerprint
    assert load_prior(source, device="cpu").tiny is None


def test_latents_of_other_channels_are_refused(source: Path, tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "deeper", latent_channels=16)
    with pytest.raises(
        ModelError,
        match=r"reads latents of 16 channels and prior .* has 4, expected as many: .* Take",
    ):
        load_prior(source, tiny=folder, device="cpu")


@pytest.mark.parametrize("name", ["taesdxl", "models--madebyollin--taesdxl/snapshots/0123abc"])
def test_a_published_one_of_another_family_is_known_by_any_folder_on_its_path(
    source: Path, tmp_path: Path, name: str
) -> None:
    folder = save_tiny(tmp_path / name)
    with pytest.raises(
        ModelError, match=r"reads the latents of another VAE than .*'madebyollin/taesd'"
    ):
        load_prior(source, tiny=folder, device="cpu")


def test_images_of_another_size_are_refused(source: Path, tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "small", levels=3)
    with pytest.raises(
        ModelError,
        match=r"makes 4 px of a latent's side and the vae of prior .* 8, expected as many",
    ):
        load_prior(source, tiny=folder, device="cpu")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda folder: (folder / "config.json").unlink(),
            r"lacks config.json in .*, expected config.json and",
        ),
        (
            lambda folder: (folder / "config.json").write_text("{"),
            r"cannot be read from .* fetch or save it again",
        ),
        (
            lambda folder: (folder / "diffusion_pytorch_model.safetensors").write_bytes(b"cut"),
            r"cannot be read from .*, expected an AutoencoderTiny with",
        ),
    ],
    ids=["no config", "broken config", "broken weights"],
)
def test_a_folder_that_is_damaged_is_named(
    source: Path, tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    folder = save_tiny(tmp_path / "taesd")
    damage(folder)
    with pytest.raises(ModelError, match=message) as caught:
        load_prior(source, tiny=folder, device="cpu")
    assert re.search(re.escape(str(folder)), str(caught.value))


def test_an_unknown_name_is_answered_with_what_is_accepted(source: Path) -> None:
    with pytest.raises(
        ModelError, match=r"unknown tiny decoder 'quatsch', expected a local folder .* or 'none'"
    ):
        load_prior(source, tiny="quatsch", device="cpu")
    with pytest.raises(ModelError, match="not in the hub's cache and the hub was not reached"):
        load_prior(source, tiny="nobody/taesd", device="cpu", local_files_only=True)
