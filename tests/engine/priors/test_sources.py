"""Where priors come from, and what is said when they do not come."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderTiny,
    DDPMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
)
from diffusers.hooks import apply_group_offloading

from engine.errors import ConfigError, ModelError
from engine.priors import folder as folder_module
from engine.priors import load_prior, schemes

WEIGHTS = ("unet", "vae", "text_encoder")


@pytest.fixture
def folder(tiny_prior_folders: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the tiny SD 2.1 that a test may damage."""
    return Path(shutil.copytree(tiny_prior_folders["epsilon"], tmp_path / "prior"))


@pytest.fixture
def pipe(folder: Path) -> Any:
    return StableDiffusionPipeline.from_pretrained(folder)


def edit(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_a_half_precision_copy_loads_by_its_variant_and_is_the_same_prior(folder: Path) -> None:
    exact = load_prior(folder, device="cpu")
    half = load_prior(folder, device="cpu", dtype=torch.float16)
    for name in WEIGHTS:
        shutil.rmtree(folder / name)
        getattr(half.pipe, name).save_pretrained(folder / name, variant="fp16")
    with pytest.raises(ModelError, match="pass variant='fp16'"):
        load_prior(folder, device="cpu")
    again = load_prior(folder, variant="fp16", device="cpu")
    assert again.dtype == torch.float32
    assert again.fingerprint == half.fingerprint == exact.fingerprint


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


def test_variants_and_revisions_are_refused_where_there_are_none(folder: Path, pipe: Any) -> None:
    for source in ("embedded", "arch:sd-1.5", pipe):
        with pytest.raises(ConfigError, match=r"variant is 'fp16' with prior .*, expected none: "):
            load_prior(source, variant="fp16")
    for source in ("embedded", "arch:sd-1.5", folder):
        with pytest.raises(
            ConfigError, match=r"revision is 'main' with prior .*, expected none: only the hub id"
        ):
            load_prior(source, revision="main")


def test_other_weights_or_another_prediction_make_another_fingerprint(
    tiny_prior_folders: dict[str, Path], folder: Path
) -> None:
    first = load_prior(folder, device="cpu")
    other = load_prior(tiny_prior_folders["v_prediction"], device="cpu")
    assert other.fingerprint != first.fingerprint
    first.network.conv_out.bias.data += 1
    first.network.save_pretrained(folder / "unet")
    assert load_prior(folder, device="cpu").fingerprint != first.fingerprint


def test_stable_diffusion_is_sampled_by_ddim_without_clipping(folder: Path) -> None:
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
    edit(
        folder / "model_index.json",
        lambda index: index.update(scheduler=["diffusers", "PNDMScheduler"]),
    )
    prior = load_prior(folder, device="cpu")
    assert prior.pipe.scheduler.config.clip_sample is False
    assert [int(step.timestep) for step in prior.schedule(4)] == [751, 501, 251, 1]


def test_a_pipeline_object_keeps_its_scheduler_if_it_can_be_read(pipe: Any) -> None:
    pipe.scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    with pytest.raises(ModelError, match="scheduler is a DDPMScheduler, expected one of DDIM"):
        load_prior(pipe)


@pytest.mark.parametrize("name", ["quatsch", "no/such/folder", "./nowhere", ""])
def test_unknown_names_are_answered_with_what_is_accepted(name: str) -> None:
    with pytest.raises(ModelError) as caught:
        load_prior(name)
    assert f"unknown prior {name!r}, expected" in str(caught.value)
    assert all(scheme.words in str(caught.value) for scheme in schemes.SCHEMES)


def test_an_object_of_another_kind_is_named_by_its_class_alone(pipe: Any) -> None:
    with pytest.raises(ModelError, match=r"^unknown prior a UNet2DConditionModel, expected"):
        load_prior(pipe.unet)


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
    monkeypatch.setattr(schemes, "EMBEDDED", tmp_path)
    with pytest.raises(
        ModelError, match=f"not in {re.escape(str(tmp_path))}.*engine.embedded.train"
    ):
        load_prior("embedded")


def test_missing_parts_are_named(folder: Path) -> None:
    shutil.rmtree(folder / "vae")
    with pytest.raises(ModelError, match=r"lacks vae in .*, expected .*unet.* save_pretrained"):
        load_prior(folder)
    (folder / "model_index.json").unlink()
    with pytest.raises(ModelError, match=r"lacks model_index.json in .*save_pretrained"):
        load_prior(folder)


def test_a_tokenizer_without_its_vocabulary_is_refused(folder: Path) -> None:
    for file in (folder / "tokenizer").iterdir():
        if file.name != "tokenizer_config.json":
            file.unlink()
    with pytest.raises(ModelError, match=r"the tokenizer of prior .* knows no words, expected"):
        load_prior(folder)


def test_an_index_that_is_no_object_is_refused(folder: Path) -> None:
    (folder / "model_index.json").write_text("[]")
    with pytest.raises(ModelError, match=r"model_index.json holds a list, not an obj.*, expected"):
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


def test_code_that_comes_with_a_model_is_not_run(folder: Path) -> None:
    edit(folder / "model_index.json", lambda index: index.update(unet=["own_code", "Net"]))
    with pytest.raises(ModelError, match=r"is a own_code.Net, expected a class of diffusers or"):
        load_prior(folder)
    edit(folder / "model_index.json", lambda index: index.update(_class_name="OwnPipeline"))
    with pytest.raises(ModelError, match=r"is a OwnPipeline, expected a pipeline class of diff"):
        load_prior(folder)


def test_parts_of_different_models_are_refused(folder: Path) -> None:
    unet = load_prior(folder, device="cpu").network
    wide = type(unet).from_config(unet.config, cross_attention_dim=48)
    wide.save_pretrained(folder / "unet")
    with pytest.raises(
        ModelError, match="context of width 48 and its text encoder writes 32, expected the same"
    ):
        load_prior(folder)
    inpainting = type(unet).from_config(unet.config, in_channels=9)
    inpainting.save_pretrained(folder / "unet")
    with pytest.raises(
        ModelError, match="maps 9 channels to 4 and its vae has 4, expected all equal: inpainting"
    ):
        load_prior(folder)


def test_pipelines_for_other_tasks_are_refused(pipe: Any) -> None:
    other = StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    with pytest.raises(
        ModelError,
        match=r"Img2ImgPipeline, which changes an image .* expected a pipeline from text",
    ):
        load_prior(other)
    pipe.__dict__["vae"] = None
    with pytest.raises(ModelError, match="is a StableDiffusionPipeline without vae, expected a la"):
        load_prior(pipe)


def test_a_pipeline_with_offloading_hooks_is_refused(pipe: Any) -> None:
    pipe.unet._hf_hook = object()
    with pytest.raises(ModelError, match=r"offloaded by hooks \(unet\), expected .* leave out"):
        load_prior(pipe)


def test_a_pipeline_whose_groups_of_layers_are_offloaded_is_refused(pipe: Any) -> None:
    """Weights that are gone when a gradient comes back would make it NaN."""
    cpu = torch.device("cpu")
    apply_group_offloading(pipe.vae, cpu, cpu, offload_type="leaf_level")
    with pytest.raises(ModelError, match=r"offloaded by hooks \(vae\), expected .* group offload"):
        load_prior(pipe)


def test_an_argument_that_the_pipeline_refuses_is_told(pipe: Any) -> None:
    prior = load_prior(pipe, call={"height": 33, "width": 33})
    with pytest.raises(ConfigError, match=r"refuses its call \(ValueError: .*divisible by 8"):
        prior.encode(["a dog"])


def test_a_refused_call_names_the_users_arguments_alone(pipe_of: Any) -> None:
    prior = load_prior(pipe_of("pixart-sigma"), call={"height": 33, "width": 33})
    assert prior.call.keys() > {"height", "width"}
    with pytest.raises(ConfigError, match=r"that are set, \{'height': 33, 'width': 33\}\.$"):
        prior.encode(["a dog"])


def test_other_sizes_are_arguments_of_the_call(pipe: Any) -> None:
    prior = load_prior(pipe, call={"height": 48, "width": 64})
    assert prior.image_size == (48, 64)
    assert prior.latent_shape(2) == (2, 4, 6, 8)
    assert prior.describe()["call"] == {"height": 48, "width": 64}
    assert prior.called_with(width=32).latent_shape(1) == (1, 4, 6, 4)


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_impossible_numbers_of_steps_are_refused(pipe: Any, steps: int) -> None:
    with pytest.raises(
        ConfigError, match=f"{steps} steps, expected 1 to 1000: prior .* Ask for fewer steps"
    ):
        load_prior(pipe).schedule(steps)


def test_an_offset_past_the_last_noise_level_is_refused(pipe: Any) -> None:
    with pytest.raises(ConfigError, match="begin at timestep 1000, expected less than 1000"):
        load_prior(pipe).schedule(1000)


def test_an_architecture_alone_has_the_published_shapes() -> None:
    prior = load_prior("arch:sd-2.1", device="meta", dtype="float16")
    sizes = {
        component.role: round(sum(w.numel() for w in component.module.parameters()) / 1e6, 2)
        for component in prior.components()
    }
    assert sizes == {
        "denoiser": 865.91,
        "text encoder": 340.39,
        "decoder": 83.65,
        "tiny decoder": 2.45,
    }
    assert prior.image_size == (768, 768)
    assert prior.latent_shape(1) == (1, 4, 96, 96)
    assert prior.dtype == prior.vae.dtype == torch.float16
    with pytest.raises(ModelError, match=r"unknown architecture 'sd-9' of a prior, expected one"):
        load_prior("arch:sd-9")


def test_a_folder_gives_its_shapes_without_reading_weights(folder: Path) -> None:
    whole = load_prior(folder, device="cpu")
    for file in folder.rglob("*.safetensors"):
        file.unlink()
    hollow = load_prior(folder, device="meta")
    for mine, theirs in zip(hollow.components(), whole.components(), strict=True):
        assert mine.name == theirs.name
        shapes = [
            [(name, value.shape, value.dtype) for name, value in part.module.state_dict().items()]
            for part in (mine, theirs)
        ]
        assert shapes[0] == shapes[1]
        assert all(weight.is_meta for weight in mine.module.parameters())


def test_tiny_decoders_go_with_their_prior(folder: Path, pipe: Any, tmp_path: Path) -> None:
    assert load_prior(pipe).tiny is None
    widths = {f"{part}_block_out_channels": (4,) * 4 for part in ("encoder", "decoder")}
    blocks = {f"num_{part}_blocks": (1,) * 4 for part in ("encoder", "decoder")}
    AutoencoderTiny(**widths, **blocks).save_pretrained(tmp_path / "taesd")
    prior = load_prior(pipe, tiny=tmp_path / "taesd", dtype="bfloat16")
    assert prior.tiny is not None
    assert prior.tiny.dtype == torch.bfloat16
    assert prior.components()[-1].role == "tiny decoder"
    z = torch.randn(1, 4, 4, 4)
    assert torch.equal(prior.vae_latents(z, prior.tiny), z)
    assert torch.equal(prior.vae_latents(z), z / 0.18215)
    embedded = load_prior("embedded", device="cpu")
    assert isinstance(embedded.tiny, AutoencoderTiny)
    assert embedded.tiny is not embedded.vae
    assert load_prior("embedded", tiny="none", device="cpu").tiny is None


@pytest.mark.parametrize("kept", [torch.bfloat16, torch.float32])
def test_files_of_bfloat16_are_read_as_such_and_others_are_rounded_later(
    pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: torch.dtype
) -> None:
    """What tells priors apart is read before anything is rounded."""
    pipe.to(kept).save_pretrained(tmp_path)
    read: list[torch.dtype] = []
    whole = folder_module.whole_part

    def noting(*args: Any, **options: Any) -> Any:
        read.append(options.get("torch_dtype", options.get("dtype")))
        return whole(*args, **options)

    monkeypatch.setattr(folder_module, "whole_part", noting)
    found = load_prior(tmp_path, device="cpu", dtype="bfloat16")
    assert set(read) == {kept}
    assert found.network.dtype == torch.bfloat16
    assert found.fingerprint == load_prior(tmp_path, device="cpu").fingerprint
