"""From a classifier to a data set folder."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

from engine.classifiers import Classifier
from engine.datasets.manifest import read_manifest
from engine.errors import ConfigError, GuidanceError, OutputError
from engine.priors import Prior, load_prior
from engine.runners.asking import asked
from engine.runners.generate import generate
from engine.sampling.noise import ImageNoise
from engine.settings import Alignment, Sampling
from engine.tokens.table import TokenTable, encoder_widths, placeholders
from engine.types import ImageKey

SHORT = Sampling(steps=3, batch=4)


def guided(alignment: Alignment | None) -> dict[str, object]:
    """Arguments of `generate` for some guidance, or for none."""
    return {"method": "plain"} if alignment is None else {"alignment": alignment}


def images_of(*arguments: object, **settings: object) -> dict[ImageKey, torch.Tensor]:
    return {sample.key: sample.image for sample in generate(*arguments, **settings)}


KEYS = [ImageKey(number, index) for index in range(2) for number in range(2)]


@pytest.fixture(scope="module")
def prior(tiny_prior_folder: Path) -> Prior:
    """Each of the tiny SD 2.1s in turn."""
    return load_prior(tiny_prior_folder, device="cpu")


@pytest.fixture(scope="module")
def by_diffusers(tiny_prior_folder: Path) -> Callable[[float], torch.Tensor]:
    """Of the prior's folder, by eta, drawn once: the images of KEYS."""
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_prior_folder)
    for part in (pipeline.text_encoder, pipeline.unet, pipeline.vae):
        part.requires_grad_(False)  # frozen as a prior: torch chooses how to multiply by it
    pipeline.set_progress_bar_config(disable=True)

    @cache
    def images(eta: float) -> torch.Tensor:
        noise = ImageNoise(5, KEYS, (4, 4, 4))
        return pipeline(
            ["a dog", "an elephant"] * 2,
            latents=noise.draw(),
            generator=noise.generators,
            eta=eta,
            num_inference_steps=4,
            guidance_scale=7.5,
            output_type="pt",
        ).images

    return images


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("alignment", [None, Alignment(scale=0.0), Alignment.paper(0.0)], ids=str)
def test_without_guidance_images_are_those_of_diffusers_to_the_bit(
    prior: Prior,
    by_diffusers: Callable[[float], torch.Tensor],
    classifier: Classifier,
    alignment: Alignment | None,
    eta: float,
) -> None:
    found = images_of(
        classifier,
        prior,
        ["dog", "elephant"],
        2,
        **guided(alignment),
        sampling=Sampling(steps=4, cfg=7.5, eta=eta),
        seed=5,
    )
    for key, image in zip(KEYS, by_diffusers(eta), strict=True):
        assert torch.equal(found[key], image)


def test_guidance_lowers_the_loss_and_changes_the_images(
    small_prior: Prior, classifier: Classifier
) -> None:
    def mean_distance(alignment: Alignment | None) -> float:
        samples = list(
            generate(
                classifier, small_prior, None, 1, **guided(alignment), sampling=Sampling(steps=8)
            )
        )
        return sum(sample.l_bn for sample in samples) / len(samples)

    plain = mean_distance(None)
    assert mean_distance(Alignment(scale=0.05)) < 0.95 * plain
    assert mean_distance(Alignment.paper(1.0)) < plain


def test_the_class_weight_makes_the_teacher_surer(
    small_prior: Prior, classifier: Classifier
) -> None:
    def confidence(weight: float) -> float:
        alignment = Alignment(scale=0.4, class_weight=weight)
        samples = list(
            generate(
                classifier, small_prior, None, 2, alignment=alignment, sampling=Sampling(steps=8)
            )
        )
        return sum(sample.confidence for sample in samples) / len(samples)

    assert confidence(10.0) > 1.1 * confidence(0.0)


def test_an_image_depends_on_its_seed_and_not_on_its_neighbours(
    small_prior: Prior, classifier: Classifier
) -> None:
    alone = Alignment(statistics="image")
    together = images_of(
        classifier, small_prior, None, 1, alignment=alone, sampling=Sampling(steps=3, batch=7)
    )
    apart = images_of(
        classifier, small_prior, None, 1, alignment=alone, sampling=Sampling(steps=3, batch=1)
    )
    fewer = images_of(classifier, small_prior, ["horse"], 1, alignment=alone, sampling=SHORT)
    for key, image in together.items():
        torch.testing.assert_close(apart[key], image, atol=1e-4, rtol=0)
    torch.testing.assert_close(fewer[ImageKey(4, 0)], together[ImageKey(4, 0)], atol=1e-4, rtol=0)
    other = images_of(
        classifier, small_prior, ["horse"], 1, alignment=alone, sampling=SHORT, seed=1
    )
    assert not torch.allclose(other[ImageKey(4, 0)], fewer[ImageKey(4, 0)], atol=1e-2)


def test_groups_are_even_mixed_and_named_in_the_samples(
    small_prior: Prior, classifier: Classifier
) -> None:
    groups = asked(classifier, small_prior, None, 3, sampling=Sampling(batch=8)).prepare().groups()
    assert [len(group) for group in groups] == [7, 7, 7]
    assert len({key for group in groups for key in group}) == 21
    assert {key.class_index for key in groups[0]} == set(range(7))
    samples = list(generate(classifier, small_prior, ["dog", "horse"], 1, sampling=SHORT))
    assert {sample.group for sample in samples} == {"0.0 4.0"}
    assert all(len(sample.curve) == SHORT.steps - 1 for sample in samples)
    by_image = list(
        generate(classifier, small_prior, ["dog"], 1, alignment=Alignment.paper(), sampling=SHORT)
    )
    assert by_image[0].group == ""


def test_the_folder_holds_images_and_soft_labels(
    tmp_path: Path, small_prior: Prior, classifier: Classifier
) -> None:
    samples = list(
        generate(
            classifier, small_prior, ["dog", "elephant"], 2, sampling=SHORT, out=tmp_path / "set"
        )
    )
    rows = list(read_manifest(tmp_path / "set"))
    assert [(row.label, row.index) for row in rows] == [
        ("dog", 0),
        ("dog", 1),
        ("elephant", 0),
        ("elephant", 1),
    ]
    by_key = {sample.key: sample for sample in samples}
    for row in rows:
        sample = by_key[row.key]
        assert torch.equal(torch.from_numpy(row.logits.copy()), sample.logits)
        assert (row.prompt, row.confidence, row.l_bn) == (
            sample.prompt,
            sample.confidence,
            sample.l_bn,
        )
        assert (tmp_path / "set" / row.path).is_file()
    assert rows[2].prompt == "an elephant"
    record = json.loads((tmp_path / "set" / "run.json").read_text())
    assert record["request"]["method"]["alignment"]["target"] == "clean"
    assert record["measured"]["images"] == 4
    assert record["measured"]["peak_bytes"] > 0
    assert (
        list(
            generate(
                classifier,
                small_prior,
                ["dog", "elephant"],
                2,
                sampling=SHORT,
                out=tmp_path / "set",
            )
        )
        == []
    )


def test_another_config_is_refused_before_anything_is_made(
    tmp_path: Path, small_prior: Prior, classifier: Classifier
) -> None:
    list(generate(classifier, small_prior, ["dog"], 1, sampling=SHORT, out=tmp_path / "set"))
    with pytest.raises(OutputError, match=r"sampling\.cfg is 4\.0 there and 7\.0 here"):
        generate(
            classifier,
            small_prior,
            ["dog"],
            1,
            sampling=replace(SHORT, cfg=7.0),
            out=tmp_path / "set",
        )
    with pytest.raises(OutputError, match=r"images_per_class is 1 there and 2 here"):
        generate(classifier, small_prior, ["dog"], 2, sampling=SHORT, out=tmp_path / "set")


def test_a_folder_without_an_image_takes_other_settings(
    tmp_path: Path, small_prior: Prior, classifier: Classifier
) -> None:
    generate(classifier, small_prior, ["dog"], 1, sampling=SHORT, out=tmp_path / "set")
    assert (tmp_path / "set" / "run.json").exists()
    other = replace(SHORT, cfg=7.0)
    assert (
        len(
            list(
                generate(
                    classifier, small_prior, ["elephant"], 1, sampling=other, out=tmp_path / "set"
                )
            )
        )
        == 1
    )
    assert (
        json.loads((tmp_path / "set" / "run.json").read_text())["request"]["method"]["sampling"][
            "cfg"
        ]
        == 7.0
    )
    assert [
        entry["label"] for entry in json.loads((tmp_path / "set" / "labels.json").read_text())
    ] == ["elephant"]


def test_more_steps_than_noise_levels_leave_nothing_behind(
    tmp_path: Path, small_prior: Prior, classifier: Classifier
) -> None:
    with pytest.raises(ConfigError, match="sampling has 5000 steps, expected 1 to 1000"):
        generate(
            classifier, small_prior, None, 1, sampling=Sampling(steps=5000), out=tmp_path / "set"
        )
    assert not (tmp_path / "set").exists()


def test_tokens_enter_the_prompts_of_their_classes_alone(
    small_prior: Prior, classifier: Classifier
) -> None:
    table = TokenTable(
        rows=torch.randn(1, sum(encoder_widths(small_prior).values())),
        encoders=encoder_widths(small_prior),
        classes=(1,),
        labels=("elephant",),
        names=placeholders(["elephant"]),
        prior=small_prior.fingerprint,
        classifier=classifier.fingerprint,
    )
    plain = images_of(
        classifier, small_prior, ["dog", "elephant"], 1, method="plain", sampling=SHORT
    )
    samples = list(
        generate(
            classifier,
            small_prior,
            ["dog", "elephant"],
            1,
            tokens=table,
            method="plain",
            sampling=SHORT,
        )
    )
    dog, elephant = sorted(samples, key=lambda sample: sample.key)
    assert (dog.prompt, dog.token) == ("a dog", "")
    assert (elephant.prompt, elephant.token) == ("an <ddis-elephant> elephant", "<ddis-elephant>")
    assert torch.allclose(dog.image, plain[dog.key], atol=1e-5)
    assert not torch.allclose(elephant.image, plain[elephant.key], atol=1e-3)


def test_gradients_that_are_not_finite_end_in_an_error(
    small_prior: Prior, classifier: Classifier
) -> None:
    with torch.no_grad():
        classifier.network.layer3[0].conv1.weight.fill_(float("nan"))
    with pytest.raises(GuidanceError, match="NaN or infinite, expected at most 10%"):
        list(generate(classifier, small_prior, ["dog"], 1, sampling=SHORT))


def test_skipped_steps_are_written_down_also_of_a_run_that_was_cut(
    tmp_path: Path, small_prior: Prior, classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 3 steps the first two are guided, and here all are skipped; each image is a group of its own."""
    monkeypatch.setattr("engine.guidance.move.MAX_SKIPPED", 1.0)
    with torch.no_grad():
        classifier.network.layer3[0].conv1.weight.fill_(float("nan"))
    images = partial(
        generate,
        classifier,
        small_prior,
        ["dog"],
        3,
        sampling=replace(SHORT, batch=1),
        out=tmp_path / "set",
    )
    assert next(images()).skipped == 2
    assert len(list(images())) == 2
    measured = json.loads((tmp_path / "set" / "run.json").read_text())["measured"]
    assert (measured["images"], measured["skipped_guidance_steps"]) == (2, 6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"images_per_class": 0}, "images_per_class is 0, expected at least 1"),
        ({"images_per_class": -3}, "images_per_class is -3"),
        ({"classes": ["dog", "dog"]}, "class 'dog' is named twice"),
        ({"classes": ["dog", " "]}, "a class name is empty"),
        (
            {"classes": ["cat"]},
            "class 'cat' is not a label of classifier .* expected some of 'dog', 'elephant'",
        ),
        ({"classes": []}, "no class is named"),
        ({"classes": [0, 1]}, r"classes\[0\] is 0, expected a text in quotes"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**63}, f"seed is {2**63}, expected a whole number from 0 up to"),
        ({"sampling": Sampling(steps=1)}, "sampling has 1 step and alignment is on"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_request_that_makes_no_sense_is_refused(
    tmp_path: Path,
    small_prior: Prior,
    classifier: Classifier,
    settings: dict[str, object],
    message: str,
) -> None:
    with pytest.raises(ConfigError, match=message):
        generate(classifier, small_prior, out=tmp_path / "set", **settings)
    assert not (tmp_path / "set").exists()


@pytest.mark.slow
def test_killed_at_20_random_moments_and_continued(
    tmp_path: Path, classifier_folder: Path, small_prior_folder: Path, contents
) -> None:
    process = subprocess.Popen(
        [
            sys.executable,
            str(Path(__file__).with_name("generate_process.py")),
            str(small_prior_folder),
            str(classifier_folder),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",  # where there are devices, autograd has threads and forbids forking
        },
    )

    def answer() -> str:
        return process.stdout.readline().strip()

    def run(folder: Path, kill_after_s: float | None = None) -> int:
        process.stdin.write(f"{folder}\n")
        process.stdin.flush()
        child = int(answer())
        if kill_after_s is not None:
            time.sleep(kill_after_s)
            with suppress(ProcessLookupError):  # it was faster
                os.kill(child, signal.SIGKILL)
        return int(answer())

    try:
        assert answer() == "ready"
        start = time.perf_counter()
        assert run(tmp_path / "undisturbed") == 0
        duration_s = time.perf_counter() - start
        expected = contents(tmp_path / "undisturbed")
        assert sum(name.endswith(".png") for name in expected) == 6 + 1
        moments, codes = random.Random(7), []
        for number in range(20):
            folder = tmp_path / str(number)
            codes.append(run(folder, kill_after_s=moments.uniform(0, 0.9 * duration_s)))
            assert run(folder) == 0
            assert contents(folder) == expected
        assert codes.count(-signal.SIGKILL) > 10
    finally:
        process.kill()


def test_the_prompts_template_is_what_is_drawn_and_written_down(small_prior, classifier) -> None:
    def drawn(prompt: str):
        sampling = replace(SHORT, prompt=prompt)
        return next(
            generate(classifier, small_prior, ["elephant"], 1, method="plain", sampling=sampling)
        )

    styled, plain = drawn("a sketch of {a} {class}"), drawn("{a} {class}")
    assert styled.prompt == "a sketch of an elephant"
    assert plain.prompt == "an elephant"
    assert not torch.equal(styled.image, plain.image)
