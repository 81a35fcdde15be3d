"""Guidance distilled into an adapter: what it learns, files, interruption, and what is left alone."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline

from engine import Alignment, LearnedLora, LoraLearning, Sampling, generate, learn_lora, load_prior
from engine.classifiers import Classifier, Preprocess, load_classifier
from engine.classifiers.cifar_resnet import CifarResNet
from engine.errors import ConfigError, MissingExtraError, ModelError, OutputError
from engine.events import Event, Events, ImageMade, Progressed
from engine.lora.recording import recorded
from engine.priors import Prior
from engine.runners.asking import asked
from engine.runners.learn_lora import LEARNING
from engine.tokens.files import read_tensors
from tests.engine.priors.conftest import FAMILIES, built

SAMPLING = Sampling(steps=3, cfg=5.0, batch=4)
LESSONS = LoraLearning(rank=4, epochs=2, batch=4, learning_rate=0.01)


class Stop(Exception):
    """Where a test cuts a run."""


@pytest.fixture
def classifier(tiny_resnet: CifarResNet) -> Classifier:
    return load_classifier(
        tiny_resnet, labels=list("abcdefg"), preprocess=Preprocess.squash(16), device="cpu"
    )


@pytest.fixture(scope="module")
def prior_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable Diffusion of two narrow levels, whose latents are (4, 8, 8)."""
    folder = tmp_path_factory.mktemp("prior")
    built(FAMILIES[0]).save_pretrained(folder)
    return folder


@pytest.fixture
def prior(prior_folder: Path) -> Prior:
    return load_prior(prior_folder, device="cpu")


def learned(classifier: Classifier, prior: Any, out: Path, **changes: Any) -> LearnedLora:
    settings: dict[str, Any] = {"learning": LESSONS, "sampling": SAMPLING, "seed": 5, **changes}
    return learn_lora(classifier, prior, ["a", "b"], 4, out=out, **settings)


def weights(prior: Prior) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in prior.network.state_dict().items()}


def test_the_adapter_learns_what_guidance_went_towards_and_the_prior_stays_as_it_was(
    tmp_path: Path, classifier: Classifier, prior: Prior
) -> None:
    before = weights(prior)
    longer = replace(LESSONS, epochs=6, learning_rate=0.03)
    found = learned(classifier, prior, tmp_path / "l.safetensors", learning=longer)
    assert found.images == 8
    assert found.updates == 6 * 2 * 3  # epochs x groups x steps
    assert found.error_after < 0.85 * found.error_before
    assert {name: value.shape for name, value in before.items()} == {
        name: value.shape for name, value in prior.network.state_dict().items()
    }
    assert all(torch.equal(value, before[name]) for name, value in weights(prior).items())
    assert not any(value.requires_grad for value in prior.network.parameters())
    assert [file.name for file in tmp_path.iterdir()] == ["l.safetensors"]


def test_the_error_is_that_of_the_loaded_adapter_in_units_of_the_noise(
    tmp_path: Path, classifier: Classifier, prior: Prior, prior_folder: Path
) -> None:
    """Worked out from the trajectories of the run and the merged weights, without the code that learns."""
    out = tmp_path / "l.safetensors"
    found = learned(classifier, prior, out)
    adapted = load_prior(prior_folder, device="cpu", lora=out)
    drawing: Any = asked(
        classifier, prior, ["a", "b"], 4, seed=5, sampling=SAMPLING, graphs=False
    ).prepare()

    def error(of: Prior) -> float:
        errors = []
        for group in drawing.groups():
            lessons = recorded(drawing, group, Events(lambda _: None))
            context = of.encode([drawing.prompt_of(key.class_index) for key in group])
            for number, step in enumerate(of.schedule(SAMPLING.steps)):
                with torch.no_grad():
                    clean = of.denoiser(context, 1.0)(lessons.latents[number].float(), step).clean
                gap = (clean - lessons.clean[number].float()) / step.noise
                errors.append(gap.square().mean().item())
        return sum(errors) / len(errors)

    assert error(prior) == pytest.approx(found.error_before, rel=1e-3)
    assert error(adapted) == pytest.approx(found.error_after, rel=1e-3)


def test_trajectories_hold_what_sampling_went_through(classifier: Classifier, prior: Prior) -> None:
    """With eta = 0 each next latent follows from the one before, the noise in it and what the step went towards."""
    sampling = replace(SAMPLING, eta=0.0)
    drawing: Any = asked(
        classifier, prior, ["a"], 2, seed=1, sampling=sampling, graphs=False
    ).prepare()
    (group,) = drawing.groups()
    found = recorded(drawing, group, Events(lambda _: None))
    context = drawing.context(group)
    for step, z, clean, later in zip(
        prior.schedule(SAMPLING.steps), found.latents, found.clean, found.latents[1:], strict=False
    ):
        with torch.no_grad():
            noise = prior.denoiser(context, sampling.cfg)(z.float(), step).noise
        expected = step.signal_next * clean.float() + step.noise_next * noise
        assert torch.allclose(later.float(), expected, atol=0.02)
    made = list(generate(classifier, prior, ["a"], 2, seed=1, sampling=sampling))
    with torch.no_grad():
        images = prior.decode(found.clean[-1].float())
    for sample, image in zip(made, images, strict=True):
        assert torch.allclose(sample.image, image, atol=0.02)


def test_diffusers_loads_the_file_and_gives_our_images(
    tmp_path: Path, classifier: Classifier, prior: Prior, prior_folder: Path
) -> None:
    out = tmp_path / "l.safetensors"
    learned(classifier, prior, out)
    pipe = StableDiffusionPipeline.from_pretrained(prior_folder, safety_checker=None)
    pipe.load_lora_weights(str(tmp_path), weight_name=out.name)
    theirs = load_prior(pipe, device="cpu")
    ours = load_prior(prior_folder, device="cpu", lora=out)
    plain = Sampling(steps=3, cfg=1.0)
    alone, merged, attached = (
        [
            image.image
            for image in generate(classifier, of, ["a"], 2, method="plain", sampling=plain)
        ]
        for of in (prior, ours, theirs)
    )
    for one, two, three in zip(alone, merged, attached, strict=True):
        assert torch.allclose(two, three, atol=1e-4)
        assert not torch.allclose(one, two, atol=1e-3)
    assert ours.fingerprint != prior.fingerprint


@pytest.mark.parametrize("at", ["trajectories", "updates"])
def test_a_cut_run_goes_on_and_ends_at_the_same_bytes(
    tmp_path: Path, classifier: Classifier, prior: Prior, at: str
) -> None:
    whole, cut = tmp_path / "whole.safetensors", tmp_path / "cut.safetensors"
    learned(classifier, prior, whole)
    seen: list[Event] = []

    def stop(event: Event) -> None:
        seen.append(event)
        steps = [one for one in seen if isinstance(one, Progressed) and one.task == LEARNING]
        groups = [one for one in seen if isinstance(one, Progressed) and one.task != LEARNING]
        if len(groups if at == "trajectories" else steps) > (0 if at == "trajectories" else 7):
            raise Stop

    with pytest.raises(Stop):
        learned(classifier, prior, cut, events=Events(stop))
    assert not cut.exists()
    resumed: list[Event] = []
    learned(classifier, prior, cut, events=Events(resumed.append))
    tensors, again = read_tensors(whole)[0], read_tensors(cut)[0]
    assert all(torch.equal(value, again[name]) for name, value in tensors.items())
    made = [e for e in resumed if isinstance(e, Progressed) and e.task != LEARNING]
    assert len(made) == (1 if at == "trajectories" else 0)  # of two groups
    assert not any(isinstance(event, ImageMade) for event in resumed)


def test_a_finished_file_is_read_and_another_run_s_is_refused(
    tmp_path: Path, classifier: Classifier, prior: Prior
) -> None:
    out = tmp_path / "l.safetensors"
    first = learned(classifier, prior, out)
    seen: list[Event] = []
    assert learned(classifier, prior, out, events=Events(seen.append)) == first
    assert not seen
    with pytest.raises(OutputError, match=r"other settings: learning.rank.*another file"):
        learned(classifier, prior, out, learning=replace(LESSONS, rank=2))
    with pytest.raises(OutputError, match="other settings: seed"):
        learned(classifier, prior, out, seed=6)


def test_damaged_progress_is_named(tmp_path: Path, classifier: Classifier, prior: Prior) -> None:
    out = tmp_path / "l.safetensors"

    def stop(event: Event) -> None:
        if isinstance(event, Progressed) and event.task == LEARNING:
            raise Stop

    with pytest.raises(Stop):
        learned(classifier, prior, out, events=Events(stop))
    kept = tmp_path / "l.safetensors.progress" / "group-000001.safetensors"
    kept.write_bytes(kept.read_bytes()[:100])
    with pytest.raises(
        OutputError, match=r"group-000001.safetensors is damaged.*delete .*progress"
    ):
        learned(classifier, prior, out)
    shutil.rmtree(kept.parent)
    learned(classifier, prior, out)


def test_memory_that_runs_out_halves_the_images_and_not_the_gradient(
    tmp_path: Path, classifier: Classifier, prior: Prior, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = learned(classifier, prior, tmp_path / "whole.safetensors")
    bound, calls = Prior.denoiser, []

    def short(self: Prior, context: Any, cfg: float | None = None) -> Any:
        if torch.is_grad_enabled() and len(context) > 2:
            calls.append(len(context))
            raise torch.OutOfMemoryError("CUDA out of memory")
        return bound(self, context, cfg)

    monkeypatch.setattr(Prior, "denoiser", short)
    with pytest.warns(UserWarning, match="phase 'adapter' with 4 images at once"):
        halved = learned(classifier, prior, tmp_path / "halved.safetensors")
    assert calls
    assert halved.error_after == pytest.approx(whole.error_after, rel=1e-3)


def test_what_makes_no_sense_is_refused(
    tmp_path: Path, classifier: Classifier, prior: Prior
) -> None:
    with pytest.raises(ConfigError, match=r"ends in .safetensors"):
        learned(classifier, prior, tmp_path / "l.bin")
    with pytest.raises(ConfigError, match=r"target is 'noisy', expected 'clean'"):
        learned(classifier, prior, tmp_path / "l.safetensors", alignment=Alignment(target="noisy"))
    with pytest.raises(ConfigError, match="'deepinversion', expected one that draws"):
        learn_lora(classifier, method="deepinversion", out=tmp_path / "l.safetensors")
    with pytest.raises(ConfigError, match="rank is 0"):
        LoraLearning(rank=0)
    with pytest.raises(ConfigError, match="learning_rate is nan"):
        LoraLearning(learning_rate=float("nan"))
    assert not list(tmp_path.iterdir())


def test_without_peft_the_extra_is_named(
    tmp_path: Path,
    classifier: Classifier,
    prior: Prior,
    prior_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("engine.priors.lora.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'ddis\[lora\]'"):
        learned(classifier, prior, tmp_path / "l.safetensors")
    with pytest.raises(MissingExtraError, match=r"pip install 'ddis\[lora\]'"):
        load_prior(prior_folder, device="cpu", lora="somewhere.safetensors")


def test_a_foreign_or_broken_adapter_is_refused(
    tmp_path: Path, classifier: Classifier, prior: Prior, prior_folder: Path
) -> None:
    out = tmp_path / "l.safetensors"
    learned(classifier, prior, out)
    with pytest.raises(ModelError, match=r"does not go into prior 'embedded'.*which model"):
        load_prior("embedded", device="cpu", lora=out)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"nothing")
    for source in (broken, tmp_path / "absent.safetensors"):
        with pytest.raises(ModelError, match=r"does not go into prior .*check the path"):
            load_prior(prior_folder, device="cpu", lora=source, local_files_only=True)
    with pytest.raises(ConfigError, match=r"lora is .* only"):
        load_prior(prior.pipe, lora=out)
