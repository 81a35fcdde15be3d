"""Where priors come from, and what is said when they do not come."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from engine.errors import ConfigError, ModelError
from engine.models import Prior, load_prior, prior_sources


@pytest.fixture
def folder(tiny_prior_folders: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the tiny SD 2.1 that a test may damage."""
    return Path(shutil.copytree(tiny_prior_folders["epsilon"], tmp_path / "prior"))


def edit(file: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_a_half_precision_copy_loads_by_its_variant_and_is_the_same_prior(
    tiny_prior: Prior, folder: Path
) -> None:
    prior = load_prior(folder, device="cpu", dtype=torch.float16)
    for name in ("unet", "vae", "text_encoder"):
        shutil.rmtree(folder / name)
        getattr(prior, name).save_pretrained(folder / name, variant="fp16")
    with pytest.raises(ModelError, match="pass variant='fp16'"):
        load_prior(folder, device="cpu")
    again = load_prior(folder, variant="fp16", device="cpu")
    assert again.dtype == torch.float32
    assert again.fingerprint == prior.fingerprint == tiny_prior.fingerprint
    assert again.encode_prompts(["a dog"]).dtype == torch.float32


def test_a_variant_that_a_folder_lacks_is_one_error_with_what_it_has(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    wording = r"fp16.safetensors.* expected .* weights of variant 'fp16': leave the variant out\.$"
    with pytest.raises(ModelError, match=wording):
        load_prior(folder, variant="fp16", device="cpu")
    assert capfd.readouterr() == ("", "")
    for file in folder.glob("*/*.safetensors"):
        file.rename(file.with_suffix(".bf16-00001-of-00002.safetensors"))
    with pytest.raises(ModelError, match=r"of variant 'fp16': pass variant='bf16'\.$"):
        load_prior(folder, variant="fp16", device="cpu")
    shutil.rmtree(folder / "vae")
    (folder / "vae").mkdir()
    with pytest.raises(ModelError, match=r"of variant 'fp16': fetch or save it again\.$"):
        load_prior(folder, variant="fp16", device="cpu")


def test_variants_and_revisions_are_refused_where_there_are_none(folder: Path) -> None:
    for source in ("embedded", "arch:sd-1.5"):
        with pytest.raises(
            ConfigError, match=f"variant is 'fp16' with prior '{source}', expected none: .*Leave"
        ):
            load_prior(source, variant="fp16")
    for source in ("embedded", "arch:sd-1.5", folder):
        with pytest.raises(
            ConfigError, match=f"revision is 'main' with prior '{source}', expected none: .*Leave"
        ):
            load_prior(source, revision="main")


def test_other_weights_or_another_prediction_make_another_fingerprint(
    tiny_prior: Prior, tiny_prior_folders: dict[str, Path], folder: Path
) -> None:
    assert (
        load_prior(tiny_prior_folders["v_prediction"], device="cpu").fingerprint
        != tiny_prior.fingerprint
    )
    unet = load_prior(folder, device="cpu").unet
    unet.conv_out.bias.data += 1
    unet.save_pretrained(folder / "unet")
    assert load_prior(folder, device="cpu").fingerprint != tiny_prior.fingerprint


def test_the_scheduler_of_sd_1_is_read_as_ddim_without_clipping(folder: Path) -> None:
    pndm = {
        "_class_name": "PNDMScheduler",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "num_train_timesteps": 1000,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "clip_sample": True,
    }
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(pndm))
    prior = load_prior(folder, device="cpu")
    assert prior.scheduler.config.clip_sample is False
    assert [step.timestep for step in prior.schedule(4)] == [751, 501, 251, 1]
    assert prior.schedule(4)[-1].alpha_next == prior.scheduler.alphas_cumprod[0]


@pytest.mark.parametrize("name", ["quatsch", "no/such/folder", "./nowhere", ""])
def test_unknown_names_are_answered_with_what_is_accepted(name: str) -> None:
    with pytest.raises(
        ModelError, match=r"expected 'embedded', a local folder .* Stable Diffusion 1.x or 2.x"
    ):
        load_prior(name or "stable-diffusion")


def test_an_id_that_is_not_in_the_cache_says_how_to_fetch_it() -> None:
    wording = "no local folder, .* run `hf download nobody/nothing --revision main --local-dir FOLDER`.* pass its path"
    with pytest.raises(ModelError, match=wording):
        load_prior("nobody/nothing", revision="main", local_files_only=True)


def test_a_prior_in_the_hubs_cache_loads_by_its_id(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "hub"
    repository = home / "models--someone--tiny-sd"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    shutil.copytree(folder, repository / "snapshots" / ("0" * 40))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(home))
    assert (
        load_prior("someone/tiny-sd", device="cpu", local_files_only=True).name == "someone/tiny-sd"
    )
    for file in (repository / "snapshots").rglob("*.safetensors"):
        file.unlink()
    with pytest.raises(
        ModelError, match=r"look up on https://huggingface.co/someone/tiny-sd/tree/main which var"
    ):
        load_prior("someone/tiny-sd", variant="fp16", device="cpu", local_files_only=True)


def test_embedded_weights_that_are_missing_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prior_sources, "EMBEDDED", tmp_path)
    with pytest.raises(
        ModelError, match=f"not in {re.escape(str(tmp_path))}.*engine.embedded.train"
    ):
        load_prior("embedded")


def test_missing_parts_are_named(folder: Path) -> None:
    shutil.rmtree(folder / "vae")
    (folder / "model_index.json").unlink()
    with pytest.raises(ModelError, match=r"lacks model_index.json, vae in .*save_pretrained"):
        load_prior(folder)


def test_other_kinds_of_pipeline_are_refused(folder: Path) -> None:
    edit(
        folder / "model_index.json",
        lambda index: index.update(text_encoder_2=["transformers", "CLIPTextModel"]),
    )
    with pytest.raises(
        ModelError, match=r"with text_encoder_2, expected the parts of Stable Diffusion 1.x or 2.x"
    ):
        load_prior(folder)
    edit(
        folder / "model_index.json", lambda index: [index.pop("text_encoder_2"), index.pop("unet")]
    )
    with pytest.raises(ModelError, match="without unet, expected the parts"):
        load_prior(folder)
    edit(
        folder / "model_index.json",
        lambda index: index.update(unet=["diffusers", "x"], vae=["diffusers", "VQModel"]),
    )
    with pytest.raises(
        ModelError, match=r"with the vae VQModel, expected .* one of AutoencoderKL, AutoencoderTiny"
    ):
        load_prior(folder)


@pytest.mark.parametrize("damage", ["cut", "pickle", "foreign", "config"])
def test_broken_weights_are_refused(folder: Path, damage: str) -> None:
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    match damage:
        case "cut":
            file.write_bytes(file.read_bytes()[:1000])
        case "pickle":
            file.rename(file.with_suffix(".bin"))
        case "foreign":
            shutil.copy(folder / "vae" / "diffusion_pytorch_model.safetensors", file)
        case "config":
            (folder / "unet" / "config.json").write_text("{not json")
    with pytest.raises(
        ModelError, match=r"expected (a complete diffusers folder|all of its config).*again"
    ):
        load_prior(folder, device="cpu")


def test_parts_of_different_models_are_refused(folder: Path) -> None:
    prior = load_prior(folder, device="cpu")
    wide = type(prior.unet).from_config(prior.unet.config, cross_attention_dim=48)
    wide.save_pretrained(folder / "unet")
    with pytest.raises(
        ModelError, match="context of width 48 and its text encoder writes 32, expected the same"
    ):
        load_prior(folder)
    inpainting = type(prior.unet).from_config(prior.unet.config, in_channels=9)
    inpainting.save_pretrained(folder / "unet")
    with pytest.raises(
        ModelError, match="maps 9 channels to 4 and its vae has 4, expected all equal: inpainting"
    ):
        load_prior(folder)
