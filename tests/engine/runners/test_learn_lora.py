"""Guidance distilled into an adapter: what it learns, files, interruption, and what is left alone."""

import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from engine import (
    Alignment,
    LearnedLora,
    LoraLearning,
    Sampling,
    TokenLearning,
    generate,
    learn_lora,
    learn_tokens,
    load_prior,
    plan,
)
from engine.classifiers import Classifier, Preprocess, load_classifier
from engine.classifiers.cifar_resnet import CifarResNet
from engine.errors import ConfigError, MissingExtraError, ModelError, OutputError
from engine.events import Event, Events, ImageMade, Progressed
from engine.lora.adapter import adapting
from engine.lora.lessons import ClassLessons, GuidanceLessons, Lessons
from engine.lora.progress import Progress
from engine.lora.recording import recorded
from engine.lora.training import PHASE, Learner
from engine.memory.micro_batch import MicroBatches
from engine.methods.drawing import Drawing
from engine.networks.sealed import metadata_of, sealed
from engine.priors import Prior
from engine.runners.asking import asked
from engine.runners.learn_lora import LEARNING
from engine.sampling import loop
from engine.sampling.noise import ImageNoise
from engine.tokens.files import read_tensors
from engine.tokens.trajectories import gradient_steps
from engine.types import ImageKey, image_rng
from tests.engine.priors.conftest import FAMILIES, built

SAMPLING = Sampling(steps=3, cfg=5.0, batch=4)
LESSONS = LoraLearning(rank=4, epochs=2, batch=4, learning_rate=0.01)

TOKENS = TokenLearning(
    epochs=1,
    images_per_epoch=2,
    steps=2,
    updates_per_trajectory=1,
    skip_passing=False,
    check_images=0,
    init="random",
    target_accuracy=1.0,
)


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


def test_the_error_is_that_of_the_loaded_adapter_in_units_of_the_moves(
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
                gap = (clean - lessons.clean[number].float()) / step.uncertainty
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


def test_an_adapter_goes_into_no_other_weights_of_the_same_shapes(
    tmp_path: Path, classifier: Classifier, prior: Prior, prior_folder: Path
) -> None:
    out, other = tmp_path / "pytorch_lora_weights.safetensors", tmp_path / "other"
    learned(classifier, prior, out)
    assert metadata_of(out)["run"]["models"]["prior"]["fingerprint"] == prior.fingerprint
    pipe = StableDiffusionPipeline.from_pretrained(prior_folder, safety_checker=None)
    with torch.no_grad():
        pipe.unet.conv_in.weight += 0.1
    pipe.save_pretrained(other)
    for lora in (out, tmp_path):  # a file, or the folder that holds it
        with pytest.raises(ModelError, match=f"learned on prior {prior.fingerprint}.*expected"):
            load_prior(other, device="cpu", lora=lora)
    out.rename(tmp_path / "mine.safetensors")  # diffusers takes the one that there is
    with pytest.raises(ModelError, match=r"mine.safetensors' was learned on prior"):
        load_prior(other, device="cpu", lora=tmp_path)
    half = load_prior(prior_folder, device="cpu", dtype="bfloat16", lora=tmp_path)
    assert half.fingerprint != prior.fingerprint


@pytest.mark.parametrize("at", ["trajectories", "updates"])
def test_a_cut_run_goes_on_and_ends_at_the_same_bytes(
    tmp_path: Path, classifier: Classifier, prior: Prior, at: str
) -> None:
    whole, cut = tmp_path / "whole" / "l.safetensors", tmp_path / "cut" / "l.safetensors"
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
    assert cut.read_bytes() == whole.read_bytes()
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


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("group-000001.safetensors", b"cut"),
        ("adapter.pt", b"no checkpoint at all"),
        ("run.json", b"[]"),
        ("run.json", b"{"),
    ],
)
def test_damaged_progress_is_named(
    tmp_path: Path, classifier: Classifier, prior: Prior, name: str, content: bytes
) -> None:
    out = tmp_path / "l.safetensors"
    seen: list[Event] = []

    def stop(event: Event) -> None:
        seen.append(event)
        if sum(isinstance(one, Progressed) and one.task == LEARNING for one in seen) > 7:
            raise Stop

    with pytest.raises(Stop):
        learned(classifier, prior, out, events=Events(stop))
    kept = tmp_path / "l.safetensors.progress" / name
    assert kept.exists()
    kept.write_bytes(content)
    with pytest.raises(OutputError, match=f"{name} is damaged.*delete .*progress"):
        learned(classifier, prior, out)


def test_what_a_killed_run_left_behind_goes(
    tmp_path: Path, classifier: Classifier, prior: Prior, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the last write and the deletion of what it kept."""
    out = tmp_path / "l.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr(Progress, "delete", lambda self: None)
        first = learned(classifier, prior, out)
    assert (tmp_path / "l.safetensors.progress").exists()
    assert learned(classifier, prior, out) == first
    assert [file.name for file in tmp_path.iterdir()] == ["l.safetensors"]


def test_half_the_images_at_once_make_the_same_gradient(
    classifier: Classifier, prior: Prior
) -> None:
    drawing: Any = asked(classifier, prior, ["a"], 4, sampling=SAMPLING, graphs=False).prepare()
    (group,) = drawing.groups()
    found = recorded(drawing, group, Events(lambda _: None))
    context = prior.encode([drawing.prompt_of(0)])

    def gradients(size: int) -> list[torch.Tensor]:
        with adapting(prior, 2, seed=0) as parameters:
            lessons = GuidanceLessons(
                prior=prior,
                schedule=prior.schedule(SAMPLING.steps),
                context=context,
                groups=[[0] * 4],
                trajectories=lambda _, step: (found.latents[step], found.clean[step]),
                seed=0,
                parts=MicroBatches({PHASE: size}),
            )
            learner = Learner(parameters, LESSONS, lessons)
            learner.error_of((0, 1, torch.arange(4)))
            return [value.grad for value in parameters.values() if value.grad is not None]

    whole, halved = gradients(4), gradients(2)
    assert any(bool(grad.any()) for grad in whole)
    for one, other in zip(whole, halved, strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-6 * float(one.abs().max()) + 1e-9)


def test_memory_that_runs_out_halves_the_images(
    tmp_path: Path, classifier: Classifier, prior: Prior, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound, calls = Prior.denoiser, []

    def short(self: Prior, context: Any, cfg: float | None = None) -> Any:
        if torch.is_grad_enabled() and len(context) > 2:
            calls.append(len(context))
            raise torch.OutOfMemoryError("CUDA out of memory")
        return bound(self, context, cfg)

    monkeypatch.setattr(Prior, "denoiser", short)
    with pytest.warns(UserWarning, match="phase 'adapter' with 4 images at once"):
        learned(classifier, prior, tmp_path / "halved.safetensors")
    assert calls == [4]  # then it knows


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_learns_as_well(
    dtype: str, tmp_path: Path, classifier: Classifier, prior: Prior, prior_folder: Path
) -> None:
    longer = replace(LESSONS, epochs=6, learning_rate=0.03)
    half = load_prior(prior_folder, device="cpu", dtype=dtype)
    whole = learned(classifier, prior, tmp_path / "whole.safetensors", learning=longer)
    found = learned(classifier, half, tmp_path / "half.safetensors", learning=longer)
    assert found.error_after == pytest.approx(whole.error_after, rel=0.1)


@pytest.mark.slow
def test_a_small_budget_says_how_many_images_learn_at_once(
    tmp_path: Path, classifier: Classifier, prior: Prior, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[dict[str, int]] = []
    bound = Learner.__init__

    def watched(self: Learner, parameters: Any, learning: Any, lessons: Lessons) -> None:
        sizes.append(dict(lessons.parts.sizes))
        bound(self, parameters, learning, lessons)

    monkeypatch.setattr(Learner, "__init__", watched)
    smallest = plan(prior, classifier, "1GB", tokens=TokenLearning()).smallest_bytes
    learned(classifier, prior, tmp_path / "l.safetensors", memory=round(1.05 * smallest))
    assert 1 <= sizes[0][PHASE] < 4


def test_tokens_are_learned_along(
    tmp_path: Path, classifier: Classifier, prior: Prior, prior_folder: Path
) -> None:
    """The adapter's own prompts have no token, so that it can be used without the file."""
    table = learn_tokens(classifier, prior, ["a", "b"], TOKENS, sampling=SAMPLING)
    out = tmp_path / "l.safetensors"
    prompts: list[str] = []
    bound = Drawing.encoded

    def watched(self: Drawing, found: Any, speaking: Prior) -> Any:
        prompts.append(found[0])
        return bound(self, found, speaking)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Drawing, "encoded", watched)
        learned(classifier, prior, out, tokens=table)
    assert "<ddis-a>" in prompts[0]
    assert "<ddis" not in prompts[-1]
    adapted = load_prior(prior_folder, device="cpu", lora=out)
    assert list(generate(classifier, adapted, ["a"], 1, method="plain", sampling=SAMPLING))


BY_CLASS = LoraLearning(objective="class", rank=4, epochs=8, batch=8, learning_rate=0.01)


def by_class(classifier: Classifier, prior: Any, out: Path, **changes: Any) -> LearnedLora:
    settings = {"learning": BY_CLASS, "method": "plain", **changes}
    return learned(classifier, prior, out, **settings)


def test_one_adapter_lowers_the_cross_entropy_of_all_classes(
    tmp_path: Path, classifier: Classifier, prior: Prior, prior_folder: Path
) -> None:
    """By what it reports, on noise that no update has read, and by the classifier's words on finished images."""
    out = tmp_path / "l.safetensors"
    before = weights(prior)
    found = by_class(classifier, prior, out)
    assert (found.images, found.updates) == (8 * 2 * 4, 8)
    assert found.error_after < found.error_before - 0.05
    assert all(torch.equal(value, before[name]) for name, value in weights(prior).items())
    adapted = load_prior(prior_folder, device="cpu", lora=out)

    def loss(of: Prior) -> float:
        made = list(generate(classifier, of, ["a", "b"], 8, method="plain", sampling=SAMPLING))
        logits = classifier.logits(torch.stack([sample.image for sample in made]))
        targets = torch.tensor([sample.key.class_index for sample in made])
        return float(torch.nn.functional.cross_entropy(logits, targets))

    assert loss(adapted) < loss(prior)


def test_the_gradient_of_the_classes_is_that_of_a_sum_by_hand(
    classifier: Classifier, prior: Prior, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With CFG's two branches both in the graph, whatever the number of images at once."""
    monkeypatch.setattr("engine.lora.lessons.shown", lambda images, views: images)
    drawing: Any = asked(
        classifier, prior, ["a", "b"], 2, method="plain", sampling=SAMPLING, graphs=False
    ).prepare()
    context = drawing.context([ImageKey(number, 0) for number in drawing.classes])
    with adapting(prior, 2, seed=0) as parameters:
        for value in parameters.values():
            value.data += 0.02 * torch.randn(
                value.shape, generator=torch.Generator().manual_seed(1)
            )

        def gradients(size: int) -> list[torch.Tensor]:
            lessons = ClassLessons(drawing, context, MicroBatches({PHASE: size}))
            (update,) = lessons.order(4, 0)
            Learner(parameters, BY_CLASS, lessons).error_of(update)
            return [value.grad.clone() for value in parameters.values()]

        whole, halved = gradients(4), gradients(3)
        (keys,) = ClassLessons(drawing, context).order(4, 0)
        assert [key.class_index for key in keys] == [0, 1, 0, 1]
        (at,) = gradient_steps("drawn", SAMPLING.steps, 1, image_rng(drawing.seed, keys[0]))
        rows = context[[0, 1, 0, 1]]
        noise = ImageNoise(drawing.seed, keys, prior.latent_shape(1)[1:], prior.device)
        schedule = prior.schedule(SAMPLING.steps)
        with torch.no_grad():
            z = prior.noise(noise.generators, SAMPLING.steps)
            guided = prior.denoiser(rows, SAMPLING.cfg)
            z = loop.sample(z, guided, schedule[:at], eta=SAMPLING.eta, noise=noise)
        step, cfg = schedule[at], SAMPLING.cfg
        free = prior.denoiser(rows.null(), 1.0)(z, step).clean
        clean = free + cfg * (prior.denoiser(rows, 1.0)(z, step).clean - free)
        logits = classifier.logits(prior.decode(clean))
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 0, 1]))
        expected = torch.autograd.grad(loss, list(parameters.values()))
    assert any(bool(grad.any()) for grad in expected)
    for one, other, wanted in zip(whole, halved, expected, strict=True):
        close = {"rtol": 1e-3, "atol": 1e-3 * float(wanted.abs().max())}
        torch.testing.assert_close(one, wanted, **close)
        torch.testing.assert_close(other, wanted, **close)


def test_a_cut_run_by_class_goes_on_and_ends_at_the_same_bytes(
    tmp_path: Path, classifier: Classifier, prior: Prior
) -> None:
    whole, cut = tmp_path / "whole" / "l.safetensors", tmp_path / "cut" / "l.safetensors"
    by_class(classifier, prior, whole)
    seen: list[Event] = []

    def stop(event: Event) -> None:
        seen.append(event)
        if sum(isinstance(one, Progressed) and one.task == LEARNING for one in seen) > 5:
            raise Stop

    with pytest.raises(Stop):
        by_class(classifier, prior, cut, events=Events(stop))
    with pytest.raises(OutputError, match=r"other settings: .*learning.objective"):
        learned(classifier, prior, cut, method="plain")
    by_class(classifier, prior, cut)
    assert cut.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("cfg", [pytest.param(1.0, marks=pytest.mark.slow), 5.0])
def test_a_budget_says_how_many_images_of_classes_learn_at_once(
    tmp_path: Path,
    classifier: Classifier,
    prior: Prior,
    monkeypatch: pytest.MonkeyPatch,
    cfg: float,
) -> None:
    """The plan counts one branch of CFG, as tokens keep; where an adapter keeps two, half as many images fit."""
    seen: list[tuple[int, bool]] = []
    bound = ClassLessons.losses

    def watched(self: ClassLessons, update: Any) -> Any:
        checkpointed = all(
            part.module.is_gradient_checkpointing
            for part in prior.components()
            if part.role in ("denoiser", "decoder")
        )
        seen.append((self.parts.sizes[PHASE], checkpointed))
        return bound(self, update)

    monkeypatch.setattr(ClassLessons, "losses", watched)
    short = replace(BY_CLASS, epochs=1)
    sampling = replace(SAMPLING, cfg=cfg)
    learning = TokenLearning(images_per_epoch=short.batch)
    planned = plan(prior, classifier, "1GB", batch=4, sampling=sampling, tokens=learning)
    by_class(
        classifier,
        prior,
        tmp_path / "l.safetensors",
        learning=short,
        sampling=sampling,
        memory=planned,
    )
    branches = 1 if cfg == 1 else 2
    assert {*seen} == {(max(1, planned.micro_batch["cat"] // branches), True)}


def test_an_adapter_of_before_the_objectives_is_one_of_guidance(
    tmp_path: Path, classifier: Classifier, prior: Prior
) -> None:
    out = tmp_path / "l.safetensors"
    first = learned(classifier, prior, out)
    tensors, metadata = read_tensors(out)
    del metadata["run"]["learning"]["objective"]
    out.write_bytes(sealed(tensors, metadata))
    assert learned(classifier, prior, out) == first


def test_models_are_those_of_a_record_or_refused(
    tmp_path: Path, classifier: Classifier, prior: Prior
) -> None:
    known, out = classifier.describe(), tmp_path / "l.safetensors"
    another = {"classifier": {**known, "fingerprint": "0" * 16}}
    with pytest.raises(ModelError, match="not those of the record"):
        learned(classifier, prior, out, expected=another)
    assert not list(tmp_path.iterdir())
    assert learned(classifier, prior, out, expected={"classifier": known}).file == out


def test_what_makes_no_sense_is_refused(
    tmp_path: Path, classifier: Classifier, prior: Prior
) -> None:
    with pytest.raises(ConfigError, match=r"ends in .safetensors"):
        learned(classifier, prior, tmp_path / "l.bin")
    with pytest.raises(ConfigError, match=r"target is 'noisy', expected 'clean'"):
        learned(classifier, prior, tmp_path / "l.safetensors", alignment=Alignment(target="noisy"))
    with pytest.raises(ConfigError, match="'deepinversion', expected one that draws"):
        learn_lora(classifier, method="deepinversion", out=tmp_path / "l.safetensors")
    quantised = load_prior(prior.pipe, device="cpu", quantise="int8")
    with pytest.raises(ModelError, match="quantised layers, expected plain weights"):
        learned(classifier, quantised, tmp_path / "l.safetensors")
    with pytest.raises(ConfigError, match="tokens are given and the objective is 'class', exp"):
        by_class(classifier, prior, tmp_path / "l.safetensors", tokens=tmp_path / "t.safetensors")
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


@pytest.mark.parametrize(
    ("how", "twice"),
    [
        ({"method": "plain", "sampling": replace(SAMPLING, cfg=1.0)}, ""),
        ({"alignment": Alignment(stride=2), "sampling": replace(SAMPLING, cfg=1.0)}, ""),
        ({"method": "plain", "sampling": replace(SAMPLING, cfg=3.0)}, "has cfg 3 besides"),
        (
            {"sampling": replace(SAMPLING, cfg=3.0)},
            "has cfg 3 and alignment at every step besides.*method 'plain'",
        ),
    ],
)
def test_guidance_on_top_of_distilled_guidance_is_warned_of(
    tmp_path: Path,
    classifier: Classifier,
    prior: Prior,
    prior_folder: Path,
    how: dict[str, Any],
    twice: str,
) -> None:
    out = tmp_path / "l.safetensors"
    learned(classifier, prior, out)
    adapted = load_prior(prior_folder, device="cpu", lora=out)
    assert (prior.adapter, adapted.adapter) == ("", "guidance")
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        asked(classifier, adapted, ["a"], 2, **how).prepare()
    said = [str(one.message) for one in found if "count twice" in str(one.message)]
    assert [bool(re.search(twice, text)) for text in said] == ([True] if twice else [])


def test_an_adapter_comes_from_the_hub(
    tmp_path: Path, classifier: Classifier, prior: Prior, prior_folder: Path, monkeypatch: Any
) -> None:
    """By whatever name its file has; others' are looked for by diffusers' name first."""
    out = tmp_path / "hub" / "mine.safetensors"
    out.parent.mkdir()
    learned(classifier, prior, out)
    asked_for = []

    def fetched(repository: str, patterns: list[str], **_: Any) -> Path:
        asked_for.append((repository, patterns))
        return out.parent

    monkeypatch.setattr("engine.priors.lora.fetch", fetched)
    adapted = load_prior(prior_folder, device="cpu", lora="someone/adapter")
    assert adapted.fingerprint == load_prior(prior_folder, device="cpu", lora=out).fingerprint
    assert asked_for == [
        ("someone/adapter", ["pytorch_lora_weights.safetensors"]),
        ("someone/adapter", ["*.safetensors"]),
    ]
    for misspelt in ("out/absent.safetensors", "absent"):
        with pytest.raises(ModelError, match=f"there is no adapter '{misspelt}'"):
            load_prior(prior_folder, device="cpu", lora=misspelt)


def test_a_foreign_or_broken_adapter_is_refused(
    tmp_path: Path, classifier: Classifier, prior: Prior, prior_folder: Path, monkeypatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    out = tmp_path / "l.safetensors"
    learned(classifier, prior, out)
    with pytest.raises(ModelError, match=r"was learned on prior [0-9a-f]{16} .*'embedded'"):
        load_prior("embedded", device="cpu", lora=out)
    of_others = tmp_path / "others.safetensors"  # says nothing of where it was learned
    save_file(load_file(out), of_others)
    with pytest.raises(ModelError, match=r"does not go into prior 'embedded'.*which model"):
        load_prior("embedded", device="cpu", lora=of_others)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"nothing")
    with pytest.raises(ModelError, match=r"does not go into prior .*check the path"):
        load_prior(prior_folder, device="cpu", lora=broken, local_files_only=True)
    with pytest.raises(ModelError, match=r"there is no adapter .*absent.safetensors"):
        load_prior(prior_folder, device="cpu", lora=tmp_path / "absent.safetensors")
    with pytest.raises(OutputError, match=r"was not written by `ddis learn-lora`"):
        learned(classifier, prior, "~/broken.safetensors")
    prior.pipe.load_lora_weights(str(tmp_path), weight_name=out.name)
    theirs = load_prior(prior.pipe, device="cpu")
    with pytest.raises(ModelError, match="an adapter already, expected plain weights"):
        learned(classifier, theirs, tmp_path / "second.safetensors")
    with pytest.raises(ConfigError, match=r"lora is .* only"):
        load_prior(prior.pipe, lora=out)
