"""The scale that the teacher alone chooses."""

import html
import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from engine import Alignment, ImageKey, Sampling, generate, tune
from engine.apps.cli import main
from engine.classifiers import Classifier, Preprocess
from engine.classifiers.base import frozen_classifier
from engine.errors import ConfigError
from engine.guidance.objective import Objective
from engine.memory.micro_batch import MicroBatches
from engine.methods.drawing import Drawing
from engine.prompts import PLAIN
from engine.runners import trial as trying
from engine.runners import tune as tuning
from engine.runners.asking import asked
from engine.runners.trial import Trial
from engine.runners.tune import PROMPTS, TUNING_SEED, PromptTrial, ScaleTrial, try_scale

FEW = Sampling(steps=2, batch=3)
SEEN = Trial(images=2, l_bn=1.0, gap=0.0, cross_entropy=1.0, recognised=1.0, agreement=1.0)
"""What a trial made by hand saw."""


@pytest.fixture
def teacher(tiny_resnet) -> Classifier:
    labels = ["dog", "elephant", "giraffe", "guitar", "horse", "house", "person"]
    return frozen_classifier(
        "tiny", tiny_resnet, Preprocess(crop=(16, 16)), labels, torch.device("cpu")
    )


@torch.no_grad()
def log_of_gaps(teacher: Classifier, images: torch.Tensor) -> float:
    """By hand: of each BatchNorm layer, what its mean and variance lack in units of its stored statistics."""
    kept = []

    def look(layer: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        x = inputs[0].transpose(0, 1).flatten(1)
        mean, var = x.mean(1) - layer.running_mean, x.var(1, unbiased=False) - layer.running_var
        kept.append((mean.norm() / layer.running_var.sqrt().norm()).log().item())
        kept.append((var.norm() / layer.running_var.norm()).log().item())

    norms = [one for one in teacher.network.modules() if isinstance(one, torch.nn.BatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(look) for norm in norms]
    teacher.logits(images)
    for hook in hooks:
        hook.remove()
    return sum(kept) / len(kept)


def trial(scale: float, gap: float, cross_entropy: float) -> ScaleTrial:
    return ScaleTrial(
        scale=scale,
        images=4,
        l_bn=1.0,
        gap=gap,
        cross_entropy=cross_entropy,
        recognised=1.0,
        agreement=1.0,
    )


def test_the_least_sum_of_gap_and_cross_entropy_wins(teacher, small_prior, monkeypatch) -> None:
    """Short steps leave the gap wide, long ones raise the cross-entropy: neither alone decides."""
    made = {0.1: trial(0.1, 2.1, 0.2), 0.4: trial(0.4, 0.1, 0.5), 0.8: trial(0.8, -0.1, 2.0)}
    monkeypatch.setattr(tuning, "try_scale", lambda drawing, _: made[drawing.alignment.scale])
    found = tune(
        *(teacher, small_prior, ["dog"]),
        scales=(0.8, 0.1, 0.4, 0.4),
        prompts=[PLAIN],
        sampling=FEW,
        images_per_class=2,
    )
    assert found.alignment == replace(Alignment(), scale=0.4)
    assert [one.scale for one in found.trials] == [0.1, 0.4, 0.8]
    assert made[0.4].score == pytest.approx(0.6)


def test_the_prompt_is_found_first_and_scales_are_tried_with_it(
    teacher, small_prior, monkeypatch
) -> None:
    scores = {PLAIN: 1.0, "a sketch of {a} {class}": 0.5, "a photo of {a} {class}": 2.0}
    seen = []

    def observed(drawing: Drawing, _) -> Trial:
        alignment = drawing.alignment
        seen.append((drawing.prompt_of(0), alignment and alignment.scale))
        return replace(SEEN, gap=scores[drawing.sampling.prompt])

    monkeypatch.setattr(tuning, "observe", observed)
    found = tune(
        *(teacher, small_prior, ["dog"]),
        alignment=Alignment(scale=0.3),
        sampling=FEW,
        scales=(0.1, 0.2),
        prompts=list(scores) * 2,
    )
    assert seen[:3] == [("a dog", None), ("a sketch of a dog", None), ("a photo of a dog", None)]
    assert seen[3:] == [("a sketch of a dog", 0.1), ("a sketch of a dog", 0.2)]
    assert found.sampling == replace(FEW, prompt="a sketch of {a} {class}")
    assert [trial.prompt for trial in found.prompts] == list(scores)


@pytest.mark.parametrize(
    ("sampling", "prompts", "tried"),
    [
        (FEW, None, len(PROMPTS)),
        (FEW, ["a photo of {a} {class}"], 0),
        (replace(FEW, prompt="a photo of {a} {class}"), None, 0),
    ],
)
def test_prompts_are_tried_where_there_is_a_choice(
    teacher, small_prior, monkeypatch, sampling: Sampling, prompts: list[str], tried: int
) -> None:
    monkeypatch.setattr(tuning, "observe", lambda *_: SEEN)
    found = tune(
        *(teacher, small_prior, ["dog"]), sampling=sampling, scales=(0.1, 0.2), prompts=prompts
    )
    assert len(found.prompts) == tried
    assert found.sampling.prompt == (prompts or [sampling.prompt])[0]


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([], "tune got no prompts, expected at least one"),
        (["{class}", "a photo"], r"tune got the prompt 'a photo', expected texts with \{class\}"),
        ([PLAIN, "word " * 500 + "{class}"], "does not read as far as the class"),
    ],
)
def test_a_prompt_that_cannot_be_tried_is_refused_before_any_is(
    teacher, small_prior, monkeypatch, prompts: list[str], message: str
) -> None:
    monkeypatch.setattr(tuning, "observe", lambda *_: pytest.fail("a trial was made"))
    with pytest.raises(ConfigError, match=message):
        tune(teacher, small_prior, ["dog"], prompts=prompts)


def test_a_trial_is_what_generated_images_show(teacher, small_prior, monkeypatch) -> None:
    """With views that show the image itself: L_BN of all images together, whatever groups they came in."""
    monkeypatch.setattr(trying, "augmented", lambda images, _: images)
    images_asked = (teacher, small_prior, ["dog", "horse"], 4)
    settings = {"alignment": Alignment(scale=0.3), "sampling": FEW, "seed": TUNING_SEED}
    drawing = asked(*images_asked, **settings).prepare()
    assert len(drawing.groups()) == 3
    found = try_scale(drawing)
    samples = list(generate(*images_asked, **settings))
    images = torch.stack([sample.image for sample in samples])
    classes = torch.tensor([sample.key.class_index for sample in samples])
    with torch.no_grad():
        expected = Objective(teacher, Alignment()).value(images).item()
        logits = teacher.logits(images)
    right = (logits.argmax(1) == classes).float().mean().item()
    assert found.images == 8
    assert found.l_bn == pytest.approx(expected, rel=1e-4)
    assert found.gap == pytest.approx(log_of_gaps(teacher, images), rel=1e-4)
    assert found.cross_entropy == pytest.approx(
        torch.nn.functional.cross_entropy(logits, classes).item(), rel=1e-4
    )
    assert found.recognised == found.agreement == pytest.approx(right)


def test_a_trial_in_parts_is_the_whole_one(teacher, tiny_prior, monkeypatch) -> None:
    """As where memory is scarce: the classifier never sees more than two images at once."""
    drawing = asked(
        teacher, tiny_prior, ["dog", "horse"], 3, sampling=FEW, seed=TUNING_SEED
    ).prepare()
    whole = trying.observe(drawing)
    made = [drawing.make(group) for group in drawing.groups()]
    monkeypatch.setattr(Drawing, "make", lambda *_, **__: made.pop(0))
    sizes: list[int] = []
    hook = teacher.network.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    found = trying.observe(replace(drawing, micro_batches=MicroBatches({"decode": 2})))
    hook.remove()
    assert set(sizes) == {1, 2}
    assert found.images == whole.images == 6
    assert found.l_bn == pytest.approx(whole.l_bn, rel=1e-5)
    assert found.cross_entropy == pytest.approx(whole.cross_entropy, rel=1e-5)
    assert (found.recognised, found.agreement) == (whole.recognised, whole.agreement)


def test_its_images_are_not_those_that_the_scale_then_makes(teacher, small_prior) -> None:
    settings = {"scales": (0.2, 0.5), "prompts": [PLAIN], "sampling": FEW, "seed": 3}
    settings |= {"images_per_class": 2}
    found = tune(teacher, small_prior, ["dog"], **settings)
    assert tune(teacher, small_prior, ["dog"], **settings) == found
    drawing = asked(
        teacher, small_prior, ["dog"], 2, alignment=found.alignment, sampling=FEW, seed=3
    ).prepare()
    chosen = next(one for one in found.trials if one.scale == found.alignment.scale)
    assert try_scale(drawing) != chosen
    assert ImageKey(0, 0) in drawing.groups()[0]


@pytest.mark.parametrize("scales", [(), (0.2,), (0.2, 0.2), (0.0, 0.2), (-1, 2)])
def test_scales_between_which_nothing_is_to_choose(teacher, small_prior, scales) -> None:
    with pytest.raises(ConfigError, match="expected at least two different ones above 0"):
        tune(teacher, small_prior, scales=scales)


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    models = ["--classifier", "embedded:photo", "--classes", "dog"]
    few = ["--images-per-class", "2", "--steps", "2"]
    command = ["tune", *models, *few, "--scales", "0.2", "0.6"]
    prompts = ["{a} {class}", "a photo of {a} {class}"]
    assert main([*command, "--prompts", *prompts, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["prompt"] in prompts
    assert [trial["prompt"] for trial in found["prompts"]] == prompts
    assert found["scale"] in (0.2, 0.6)
    assert len(found["trials"]) == 2
    assert main([*command, "--method", "plain"]) == 2
    assert "--method is 'plain', expected 'ddis'" in capsys.readouterr().err
    assert main(["tune", "--classifier", "embedded:photo", "--preset", "paper"]) == 2
    assert "expected some: no list suits all classifiers" in capsys.readouterr().err
    assert main([*command, "--alignment.scale", "0.3"]) == 2
    assert "--alignment.scale 0.3 has no effect in tune" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("preset", "scale"),
    [("default", " --alignment.scale 0.2"), ("paper", "")],  # the paper's has this scale
)
def test_the_command_says_how_to_use_what_it_found(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    preset: str,
    scale: str,
) -> None:
    trial = ScaleTrial(
        images=2, l_bn=1.0, gap=0.0, cross_entropy=1.0, recognised=1.0, agreement=1.0, scale=0.2
    )
    monkeypatch.setattr(
        "engine.runners.tune.try_scale",
        lambda drawing, *_: replace(trial, scale=drawing.alignment.scale),
    )
    styles = ["{a} {class}", "a photo of {a} {class}"]
    scores = dict(zip(styles, (2.0, 1.0), strict=True))
    monkeypatch.setattr(
        "engine.runners.tune.try_prompt",
        lambda drawing, *_: PromptTrial(
            **asdict(SEEN) | {"gap": scores[drawing.sampling.prompt]},
            prompt=drawing.sampling.prompt,
        ),
    )
    command = [
        "tune",
        "--classifier",
        "embedded:photo",
        "--classes",
        "dog",
        "--steps",
        "2",
        "--scales",
        "0.2",
        "0.6",
        "--prompts",
        *styles,
    ]
    file = tmp_path / "tuned.json"
    assert main([*command, "--preset", preset, "--out", str(file), "--quiet"]) == 0
    shown = capsys.readouterr().out
    given = f"--classifier embedded:photo --steps 2 --classes dog --preset {preset}"
    found = "--prompt 'a photo of {a} {class}'"
    told = f"ddis generate {given} {found}{scale} --out FOLDER"
    assert f"{told}\n" in shown
    assert "Scale 0.2 has the least score" in shown
    assert main(["report", str(file), "--quiet"]) == 0
    page = html.unescape(file.with_suffix(".html").read_text())
    assert f"<code>{told}</code>" in page
