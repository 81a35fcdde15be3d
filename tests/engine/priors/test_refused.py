"""What cannot be a prior, or not be asked of one: each is one error of three parts."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    Flux2KleinPipeline,
    FluxControlPipeline,
    FluxKontextPipeline,
    IFPipeline,
    LattePipeline,
    QwenImageEditPipeline,
    QwenImagePipeline,
    SanaVideoPipeline,
    StableAudioPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionUpscalePipeline,
    StableDiffusionXLInstructPix2PixPipeline,
    TextToVideoZeroPipeline,
    WanPipeline,
)
from diffusers.hooks import FirstBlockCacheConfig, PyramidAttentionBroadcastConfig
from diffusers.loaders.single_file_utils import SingleFileComponentError
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError
from safetensors.torch import save_file

from engine import GuidedScheduler
from engine.classifiers import Classifier
from engine.errors import ConfigError, ModelError, PriorWarning
from engine.memory.plan import plan
from engine.networks import hub
from engine.priors import load_prior, single_file
from engine.sampling.stages import encoded
from engine.settings import Sampling, TokenLearning
from tests.engine.priors.original_layout import original_layout


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            IFPipeline,
            r"IFPipeline without prepare_latents, .*vae.*, expected a latent .* not one that",
        ),
        (
            WanPipeline,
            r"is a WanPipeline, which makes videos, expected a pipeline from text to image: ",
        ),
        (
            StableDiffusionInpaintPipeline,
            r"InpaintPipeline, which fills a part of an image .*, expected a pipe",
        ),
        (QwenImageEditPipeline, "EditPipeline, which changes an image that it is given"),
        (StableDiffusionXLInstructPix2PixPipeline, "Pix2PixPipeline, which changes an image"),
        (StableDiffusionUpscalePipeline, "UpscalePipeline, which changes an image"),
        (StableDiffusionControlNetPipeline, "ControlNetPipeline, which follows an image"),
        (FluxControlPipeline, "FluxControlPipeline, which follows an image that it is given"),
        (SanaVideoPipeline, "SanaVideoPipeline, which makes videos"),
        (LattePipeline, "LattePipeline, which makes videos"),
        (TextToVideoZeroPipeline, "TextToVideoZeroPipeline, which makes videos"),
        (StableAudioPipeline, "StableAudioPipeline, which generates audio"),
    ],
)
def test_pipelines_of_other_kinds_are_refused(kind: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_prior(kind.__new__(kind))  # its class tells


@pytest.mark.parametrize("kind", [Flux2KleinPipeline, FluxKontextPipeline])
def test_a_pipeline_that_takes_an_image_only_if_it_is_given_one_is_no_other_kind(kind: Any) -> None:
    with pytest.raises(ModelError, match="without scheduler, vae, unet or transformer"):
        load_prior(kind.__new__(kind))


@pytest.mark.parametrize(
    ("family", "parts"),
    [
        ("flux-dev", ["text_encoder"]),
        ("flux-dev", ["text_encoder_2"]),
        ("z-image", ["text_encoder"]),
        ("sd", ["tokenizer"]),
        ("sdxl", ["tokenizer"]),
        ("sdxl", ["tokenizer_2"]),
        ("sd3", ["text_encoder", "tokenizer_3"]),
        ("pixart-sigma", ["text_encoder"]),
    ],
)
def test_a_text_encoder_or_tokenizer_that_is_missing_is_named(
    pipe_of: Any, classifier: Classifier, family: str, parts: list[str]
) -> None:
    pipe = pipe_of(family)
    pipe.__dict__.update(dict.fromkeys(parts))
    message = f"Pipeline without {', '.join(parts)}, expected the text encoders .* Load the pipel"
    with pytest.raises(ModelError, match=message):
        load_prior(pipe)
    with pytest.raises(ModelError, match=message):
        GuidedScheduler(pipe, classifier)


def test_t5_may_be_left_out_of_stable_diffusion_3(
    families: Any, pipe_of: Any, tmp_path: Path
) -> None:
    pipe = pipe_of("sd3")
    pipe.register_modules(text_encoder_3=None, tokenizer_3=None)
    pipe.save_pretrained(tmp_path)
    for source in (pipe, tmp_path):
        prior = load_prior(source, call=families["sd3"].call, device="cpu")
        assert [encoder.key for encoder in prior.text_encoders()] == ["clip_l", "clip_g"]
        assert len(prior.encode(["a dog"])) == 1


def test_networks_whose_hooks_change_what_they_compute_are_refused(
    families: Any, pipe_of: Any
) -> None:
    pipe, call = pipe_of("flux-dev"), families["flux-dev"].call
    skips = PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2, current_timestep_callback=lambda: 500
    )
    for config in (FirstBlockCacheConfig(threshold=0.1), skips):
        pipe.transformer.enable_cache(config)
        with pytest.raises(
            ModelError, match=r"transformer has hooks .* call `pipe.transformer.disable_cache\(\)`"
        ):
            load_prior(pipe, call=call)
        pipe.transformer.disable_cache()
        load_prior(pipe, call=call)
    pipe.transformer.enable_layerwise_casting(
        storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32
    )
    with pytest.raises(
        ModelError, match=r"\(layerwise_casting\), .* load the pipeline again witho"
    ):
        load_prior(pipe, call=call)


@pytest.mark.parametrize(
    ("family", "channels", "message"),
    [
        ("sd3", 9, "SD3Transformer2DModel of prior .* reads 9 channels and latents .* have 4 "),
        ("flux-dev", 48, "FluxTransformer2DModel of prior .* reads 48 channels and .* have 16 "),
        ("flux2-klein", 4, "Flux2Transformer2DModel of prior .* reads 4 channels"),
        ("qwen-image", 32, "QwenImageTransformer2DModel of prior .* reads 32 channels"),
    ],
)
def test_transformers_that_read_more_than_latents_are_refused(
    pipe_of: Any, family: str, channels: int, message: str
) -> None:
    pipe = pipe_of(family)
    pipe.transformer.register_to_config(in_channels=channels)
    with pytest.raises(ModelError, match=message + ".*, expected as many: inpainting, fill and"):
        load_prior(pipe)


@pytest.mark.parametrize("family", ["sd3", "flux-dev", "chroma", "z-image", "lumina2"])
def test_a_vae_without_the_shift_of_its_family_is_refused(pipe_of: Any, family: str) -> None:
    pipe = pipe_of(family)
    pipe.vae.register_to_config(shift_factor=None)
    with pytest.raises(ModelError, match="has no shift_factor in its config, expected one"):
        load_prior(pipe)


def weights(path: Path, **tensors: torch.Tensor) -> Path:
    save_file(tensors or {"model.diffusion_model.out.2.bias": torch.zeros(4)}, path)
    return path


@pytest.mark.parametrize("name", ["unet.to_k.lora_A.weight", "unet.processor.to_k_lora.up.weight"])
def test_a_lora_is_no_model(tmp_path: Path, name: str) -> None:
    file = weights(tmp_path / "style.safetensors", **{name: torch.zeros(2, 2)})
    with pytest.raises(
        ModelError,
        match=r"style\.safetensors' is a LoRA, not a whole model, expected one: .*its `prior.lora`",
    ):
        load_prior(file)


def test_weights_of_another_network_are_no_model(tmp_path: Path) -> None:
    file = weights(tmp_path / "resnet.safetensors", **{"layer1.0.conv1.weight": torch.zeros(2)})
    with pytest.raises(ModelError, match=r"holds weights that .* 'layer1.0.conv1.weight'"):
        load_prior(file)
    save_file({}, tmp_path / "empty.safetensors")
    with pytest.raises(ModelError, match=r"holds weights that .* 'none'"):
        load_prior(tmp_path / "empty.safetensors")


def test_a_file_whose_configs_are_not_here_says_where_they_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder of the hub's own model would be another prior."""

    raises: list[Exception] = [LocalEntryNotFoundError("not here")]

    def absent(*_: object, **__: object) -> Path:
        raise raises[-1]

    monkeypatch.setattr(hub, "snapshot_download", absent)
    with pytest.raises(ModelError, match=r"m.safetensors' has weights alone ") as found:
        load_prior(weights(tmp_path / "m.safetensors"))
    include = "--include '*.json' --include '*.txt' --include '*.model'`"
    assert f"`hf download stable-diffusion-v1-5/stable-diffusion-v1-5 {include}" in str(found.value)
    assert "--local-dir" not in str(found.value)
    raises.append(GatedRepoError.__new__(GatedRepoError))
    with pytest.raises(ModelError, match="is gated and does not open to you"):
        load_prior(weights(tmp_path / "m.safetensors"))


def test_a_file_with_nine_channels_is_an_inpainting_model(tmp_path: Path) -> None:
    name = "model.diffusion_model.input_blocks.0.0.weight"
    file = weights(tmp_path / "x.safetensors", **{name: torch.zeros(320, 9, 3, 3)})
    with pytest.raises(
        ModelError, match=r"is an inpainting model, .* 9 channels, expected one from text"
    ):
        load_prior(file)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            {"head.modulation": (2,), "patch_embedding.weight": (1536, 16)},
            r"\(wan-t2v-1.3B\) that makes videos",
        ),
        (
            {"control_model.time_embed.0.weight": (2,)},
            r"\(controlnet\) that follows an image that it is given",
        ),
        (
            {"conditioner.embedders.0.model.transformer.resblocks.9.mlp.c_proj.bias": (2,)},
            r"\(xl_refiner\) that changes an image that it is given",
        ),
        (
            {
                "double_blocks.0.img_attn.norm.key_norm.scale": (2,),
                "guidance_in.in_layer.bias": (2,),
                "img_in.weight": (2, 384),
            },
            r"\(flux-fill\) that fills a part of an image",
        ),
    ],
    ids=["Wan", "ControlNet", "SDXL refiner", "FLUX.1 Fill"],
)
def test_files_of_models_of_other_kinds_are_refused_before_anything_is_fetched(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tensors: dict[str, tuple[int, ...]],
    message: str,
) -> None:
    monkeypatch.setattr(single_file, "fetch", lambda *_: pytest.fail("fetched"))
    zeros = {name: torch.zeros(shape) for name, shape in tensors.items()}
    file = weights(tmp_path / "x.safetensors", **zeros)
    with pytest.raises(ModelError, match=f"{message}.*, expected one from text to image: choose"):
        load_prior(file)


def test_a_folder_is_one_whatever_it_is_called(
    tmp_path: Path, tiny_prior_folders: dict[str, Path]
) -> None:
    folder = tmp_path / "x.safetensors"
    folder.symlink_to(tiny_prior_folders["epsilon"])
    assert load_prior(folder, device="meta").name == str(folder)


def test_files_that_are_pickled_broken_or_missing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=r"x\.ckpt' is a pickled file, .*, expected \.safetensors: con"
    ):
        load_prior(tmp_path / "x.ckpt")
    with pytest.raises(
        ModelError, match=r"x\.safetensors' is no file, expected the path of a model's"
    ):
        load_prior(tmp_path / "x.safetensors")
    (tmp_path / "x.safetensors").write_bytes(b"cut")
    with pytest.raises(
        ModelError, match=r"cannot be read as safetensors .*, expected a model's weights"
    ):
        load_prior(tmp_path / "x.safetensors")


def test_a_file_is_read_with_the_configs_that_diffusers_takes_it_to_have(
    tmp_path: Path, tiny_prior_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reading itself is diffusers' own, which is stood in for."""
    folder, file = tiny_prior_folders["epsilon"], weights(tmp_path / "model.safetensors")
    fetched: list[str] = []
    given: dict[str, Any] = {}

    def fetch(name: str, *_: object) -> Path:
        fetched.append(name)
        return folder

    def from_single_file(path: str, **options: Any) -> Any:
        given.update(options, path=path)
        return StableDiffusionPipeline.from_pretrained(folder)

    monkeypatch.setattr(single_file, "fetch", fetch)
    monkeypatch.setattr(StableDiffusionPipeline, "from_single_file", from_single_file)
    prior = load_prior(file, device="cpu")
    assert set(fetched) == {"stable-diffusion-v1-5/stable-diffusion-v1-5"}
    assert (given["path"], given["config"]) == (str(file), str(folder))
    assert given["local_files_only"]
    assert prior.fingerprint == load_prior(folder, device="cpu").fingerprint
    assert type(prior.pipe.scheduler).__name__ == "DDIMScheduler"


@pytest.mark.shows("single file", family="sd")
def test_a_file_in_the_original_layout_is_the_prior_it_was_made_of(
    pipe_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All weights are the file's: the repository of its configs has none."""
    pipe, folder, file = pipe_of("sd"), tmp_path / "folder", tmp_path / "model.safetensors"
    pipe.save_pretrained(folder)
    fingerprint = load_prior(folder, device="cpu").fingerprint
    for network in folder.rglob("*.safetensors"):
        network.unlink()
    save_file(original_layout(pipe), file)
    monkeypatch.setattr(single_file, "fetch", lambda *_: folder)
    prior = load_prior(file, device="cpu")
    assert prior.fingerprint == fingerprint
    for part in prior.components():
        own = getattr(pipe, part.name).state_dict()
        assert own.keys() == part.module.state_dict().keys()
        assert all(torch.equal(value, own[key]) for key, value in part.module.state_dict().items())
    other = original_layout(pipe_of("sd"))
    other.pop("model.diffusion_model.out.2.weight")
    save_file(other, file)
    with pytest.raises(ModelError, match=r"model\.safetensors' .*, expected"):
        load_prior(file, device="cpu")


def test_a_gated_repository_says_whose_turn_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise GatedRepoError.__new__(GatedRepoError)  # without the response that it is made of

    monkeypatch.setattr(hub, "snapshot_download", refuse)
    with pytest.raises(
        ModelError, match=r"someone/gated' is gated .* expected an account .*hf auth log"
    ):
        load_prior("someone/gated")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            {"hight": 16},
            r"has the argument 'hight', expected some of .*height.*takes: correct its name",
        ),
        (
            {"eta": 1.0},
            r"sets 'eta', expected arguments that no other setting is for: set sampling\.eta",
        ),
        (
            {"guidance_scale": 5.0},
            r"sets 'guidance_scale', which is its scale .*: set `sampling\.cfg`",
        ),
        (
            {"callback_on_step_end": print},
            r"which is called after each step, expected arguments that",
        ),
        ({"height": 0, "width": 16}, r"sets 'height' to 0, expected a whole number above 0: give"),
        ({"guidance_rescale": float("nan")}, r"'guidance_rescale' to nan, expected a finite num"),
        ({"width": -16}, r"sets 'width' to -16, expected a whole number above 0: give one"),
    ],
)
def test_arguments_that_are_not_the_caller_s_are_refused(
    families: Any, pipe_of: Any, call: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load_prior(pipe_of("sd"), call=call)


def test_guidance_that_counts_steps_is_refused(families: Any, pipe_of: Any) -> None:
    call = families["lumina2"].call | {"cfg_trunc_ratio": 0.25}
    with pytest.raises(
        ConfigError, match="'cfg_trunc_ratio', which ends guidance after some steps, exp"
    ):
        load_prior(pipe_of("lumina2"), call=call)


def test_cfg_is_refused_where_it_was_distilled_away(families: Any, pipe_of: Any) -> None:
    pipe = pipe_of("flux2-klein")
    pipe.register_to_config(is_distilled=True)
    prior = load_prior(pipe, call=families["flux2-klein"].call)
    with pytest.raises(
        ConfigError, match=r"asked of a Flux2KleinPipeline, which has none .*: set cfg to 1"
    ):
        encoded(prior, ["a dog"], Sampling(cfg=4.0))
    assert len(encoded(prior, ["a dog"], Sampling(cfg=1.0))) == 1


@pytest.mark.parametrize(
    ("family", "warned"),
    [("flux-dev", True), ("flux-schnell", True), ("qwen-image", False), ("sd", False)],
)
def test_cfg_that_a_pipeline_does_not_use_by_itself_is_warned_of(
    families: Any, pipe_of: Any, family: str, warned: bool
) -> None:
    prior = load_prior(pipe_of(family), call=families[family].call)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        prior.check_sampling(4.0)
        assert [one.category for one in found] == [PriorWarning] * warned
        prior.check_sampling(1.0)
        assert len(found) == warned


def test_a_sampler_of_higher_order_is_warned_of(pipe_of: Any) -> None:
    pipe = pipe_of("pixart-sigma")
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config, solver_order=2)
    with pytest.warns(PriorWarning, match="is of order 2 and steps here are of order 1, .*Guided"):
        load_prior(pipe).check_sampling(4.0)


def test_steps_without_noise_levels_are_refused(pipe_of: Any, classifier: Classifier) -> None:
    """Qwen-Image's schedule is stretched to end at a level that one step cannot end at."""
    pipe = pipe_of("qwen-image")
    pipe.scheduler.register_to_config(shift_terminal=0.02)
    prior = load_prior(pipe)
    with pytest.raises(ConfigError, match=r"1 steps, .* not finite, expected more steps"):
        prior.schedule(1)
    assert len(prior.schedule(2)) == 2
    settings = {"batch": 1, "tokens": TokenLearning.paper(), "full": False}
    assert plan(prior, classifier, "8GB", **settings).micro_batch["cat"] == 1


def test_distilled_guidance_is_an_argument_of_the_call(families: Any, pipe_of: Any) -> None:
    """FLUX.1 dev: its network takes a scale of its own, which is not CFG's."""
    call = families["flux-dev"].call
    weak, strong = (
        load_prior(pipe_of("flux-dev"), call=call | {"guidance_scale": scale})
        for scale in (1.0, 9.0)
    )
    step, z = weak.schedule(4)[1], torch.ones(weak.latent_shape(1))
    with torch.no_grad():
        found = [
            prior.denoiser(prior.encode(["a dog"]), 1.0)(z, step).clean for prior in (weak, strong)
        ]
    assert not torch.allclose(*found)


def test_a_file_without_all_parts_and_one_that_diffusers_does_not_read_are_refused(
    tmp_path: Path, tiny_prior_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As files of FLUX.1 are, which hold its transformer alone, and those of FLUX.2 and Qwen-Image."""
    file = weights(tmp_path / "model.safetensors")
    monkeypatch.setattr(single_file, "fetch", lambda *_: tiny_prior_folders["epsilon"])

    def lacks(*_: object, **__: object) -> None:
        raise SingleFileComponentError("Failed to load CLIPTextModel")

    monkeypatch.setattr(StableDiffusionPipeline, "from_single_file", lacks)
    with pytest.raises(
        ModelError,
        match=r"cannot be read as a Stable.*Failed to load CLIPTextModel.*, expected all",
    ):
        load_prior(file)
    index = single_file.read_index(tiny_prior_folders["epsilon"], "")
    other = replace(index, kind=QwenImagePipeline)
    monkeypatch.setattr(single_file, "read_index", lambda *_: other)
    with pytest.raises(
        ModelError, match=r"of a QwenImagePipeline, which diffusers reads from no single file, exp"
    ):
        load_prior(file)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    ("name", "size", "made"),
    [
        ("sd", {"height": 24}, "height 24 and its images would have height 16 and width 16"),
        ("flux-dev", {"height": 18}, "height 18 and width 16 and its images would have height 16 "),
    ],
)
def test_a_size_that_a_pipeline_would_not_keep_to_is_refused(
    families: Any, pipe_of: Any, name: str, size: dict[str, int], made: str, device: str
) -> None:
    """Stable Diffusion ignores one side without the other, FLUX.1 rounds both."""
    prior = load_prior(pipe_of(name), call=families[name].call | size, device=device)
    for _ in range(2):
        with pytest.raises(
            ConfigError, match=f"sets {made}.*, expected sides that are multiples of"
        ):
            prior.latent_shape(1)
    kept = prior.called_with(height=24, width=32)
    assert kept.image_size == (24, 32)


@pytest.mark.parametrize("name", ["flux-dev", "flux2-klein"])
def test_a_size_without_a_latent_is_refused(families: Any, pipe_of: Any, name: str) -> None:
    """By pipelines that round sides down to none, without a word."""
    size = {"height": 1, "width": 1}
    prior = load_prior(pipe_of(name), call=families[name].call | size)
    with pytest.raises(ConfigError, match=r"sets height 1 and width 1, too little for one latent"):
        prior.latent_shape(1)


@pytest.mark.parametrize(
    ("name", "most"), [("sd3", 32), ("aura-flow", 32), ("z-image", 128), ("lumina2", 8192)]
)
def test_a_size_beyond_the_known_positions_is_refused(
    families: Any, pipe_of: Any, name: str, most: int
) -> None:
    """SD3's own error names latents, AuraFlow's and the others' an index."""
    prior = load_prior(pipe_of(name), call=families[name].call, device="meta")
    more = prior.called_with(height=2 * most, width=most)
    with pytest.raises(ConfigError, match=rf"expected at most {most} px a side: its \w+ knows no"):
        more.latent_shape(1)
    assert prior.called_with(height=most, width=most).image_size == (most, most)


def test_nf4_is_refused_on_a_device_without_kernels(
    families: Any, pipe_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    functional = pytest.importorskip("bitsandbytes").functional

    def lacks(*_: object, **__: object) -> None:
        raise NotImplementedError("Could not run 'bitsandbytes::quantize_4bit'")

    monkeypatch.setattr(functional, "quantize_4bit", lacks)
    with pytest.raises(
        ConfigError, match=r"cannot quantise on cpu \(NotImpl.*\), expected a device .*'int8'"
    ):
        load_prior(pipe_of("sdxl"), call=families["sdxl"].call, quantise="nf4", device="cpu")
