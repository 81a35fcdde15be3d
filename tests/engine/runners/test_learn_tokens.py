"""Learning tokens from end to end on a tiny Stable Diffusion 2.1: files, interruption, and what is left alone."""

import copy
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from engine.classifiers import Classifier, Preprocess, load_classifier
from engine.errors import ConfigError, MissingExtraError, OutputError
from engine.events import EpochEnded, Event, Events
from engine.priors import Prior, load_prior
from engine.runners.generate import generate
from engine.runners.learn_tokens import learn_tokens
from engine.runners.token_record import check_same_run, resumed
from engine.settings import Alignment, Sampling, TokenLearning
from engine.settings.plain import to_plain
from engine.tokens.files import load_tokens, read_tensors
from engine.tokens.state import ON_DEVICE, initial_rows
from engine.tokens.table import TokenTable

LABELS = ("dog", "elephant")
LEARNING = TokenLearning(
    epochs=2,
    images_per_epoch=2,
    steps=0,
    updates_per_trajectory=1,
    domain_weight=0.0,
    augment=False,
    learning_rate=0.05,
    target_accuracy=1.0,
    skip_passing=False,
    init="class name",
    check_images=0,
)
SAMPLING = Sampling(steps=2, cfg=5.0, batch=4)


class Stop(Exception):
    """Where a test cuts a run."""


def at_epochs(watch: Callable[[EpochEnded], object]) -> Events:
    """A stream of which `watch` sees the epochs alone."""

    def see(event: Event) -> None:
        if isinstance(event, EpochEnded):
            watch(event)

    return Events(see)


def cut(epoch: EpochEnded) -> None:
    raise Stop


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    """Two BatchNorm layers over random features, told apart by the image's colours."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, stride=2),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 2),
    )
    network(torch.rand(16, 3, 16, 16))
    return load_classifier(network, labels=LABELS, preprocess=Preprocess.squash(16), device="cpu")


def learned(
    classifier: Classifier, prior: Prior, out: Path | None = None, **changes: object
) -> TokenTable:
    return learn_tokens(
        classifier,
        prior,
        learning=LEARNING,
        sampling=SAMPLING,
        **{"seed": 5, "out": out, **changes},
    )


def weights(prior: Prior) -> dict[str, torch.Tensor]:
    parts = {"text": prior.pipe.text_encoder, "unet": prior.pipe.unet, "vae": prior.vae}
    return {
        f"{part}.{name}": value.clone()
        for part, module in parts.items()
        for name, value in module.state_dict().items()
    }


def test_sd21_s_architecture_learns_and_stays_as_it_was(
    tmp_path, classifier, tiny_prior_folder, monkeypatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    prior = load_prior(tiny_prior_folder, device="cpu")
    before, seen = weights(prior), []
    table = learned(classifier, prior, "~/t.safetensors", events=at_epochs(seen.append))
    start = initial_rows(prior, (0, 1), LABELS, "class name", 5)
    moved = (table.rows - start).abs()
    assert table.names == ("<ddis-dog>", "<ddis-elephant>")
    assert (moved > 0).all()
    assert moved.max() <= 2 * LEARNING.learning_rate * 1.01
    assert [(epoch.class_index, epoch.epoch) for epoch in seen] == [(0, 1), (1, 1), (0, 2), (1, 2)]
    assert all(torch.equal(value, before[name]) for name, value in weights(prior).items())
    assert [path.name for path in tmp_path.iterdir()] == ["t.safetensors"]
    loaded = load_tokens("~/t.safetensors", prior, classifier)
    assert (loaded.fingerprint, loaded.training) == (table.fingerprint, table.training)
    images = list(generate(classifier, prior, images_per_class=1, tokens=loaded, sampling=SAMPLING))
    assert [image.prompt for image in images] == ["a <ddis-dog> dog", "an <ddis-elephant> elephant"]


CHEAP = replace(
    LEARNING,
    optimizer="adam8bit",
    steps=4,
    updates_per_trajectory=2,
    domain_weight=0.1,
    augment=True,
    check_images=3,
)


def test_a_run_that_goes_on_has_its_rows_on_the_device(tmp_path, classifier, small_prior):
    out = tmp_path / "cut.safetensors"
    with pytest.raises(Stop):
        learned(classifier, small_prior, out, events=at_epochs(cut))
    progress = out.with_name(f"{out.name}.progress")
    _, facts = read_tensors(progress)
    state = resumed(progress, facts["run"], torch.device("meta"))
    assert {getattr(state, name).device.type for name in ON_DEVICE} == {"meta"}
    assert state.rows.requires_grad
    assert state.epochs.tolist() == [1, 1]


@pytest.mark.parametrize("learning", [LEARNING, CHEAP], ids=["adam", "adam8bit"])
def test_a_run_cut_after_any_epoch_ends_at_the_same_bytes(
    tmp_path, classifier, small_prior, learning
):
    def learned(*arguments: Any, **changes: Any) -> TokenTable:
        return learn_tokens(
            *arguments[:2],
            learning=learning,
            sampling=SAMPLING,
            seed=5,
            out=arguments[2],
            **changes,
        )

    learned(classifier, small_prior, tmp_path / "whole.safetensors")
    embedding = small_prior.pipe.text_encoder.get_input_embeddings()
    out = tmp_path / "cut.safetensors"

    for _ in range(learning.epochs + (learning.check_images > 0)):
        with pytest.raises(Stop):
            learned(classifier, small_prior, out, events=at_epochs(cut))
        assert small_prior.pipe.text_encoder.get_input_embeddings() is embedding
        assert not out.exists()
    learned(classifier, small_prior, out, events=at_epochs(cut))
    assert out.read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "cut.safetensors",
        "whole.safetensors",
    ]


def test_another_run_s_file_is_refused_and_a_finished_one_returned(
    tmp_path, classifier, small_prior
):
    out = tmp_path / "t.safetensors"

    with pytest.raises(Stop):
        learned(classifier, small_prior, out, events=at_epochs(cut))
    with pytest.raises(
        OutputError,
        match=r"seed is 5 there and 6 here. Expected the same settings .*: use them, or",
    ):
        learned(classifier, small_prior, out, seed=6)
    table = learned(classifier, small_prior, out)
    again = learned(classifier, small_prior, out, events=at_epochs(cut))
    assert again.fingerprint == table.fingerprint
    with pytest.raises(OutputError, match=r"learning.epochs is 2 there and 3 here"):
        learn_tokens(
            classifier,
            small_prior,
            learning=replace(LEARNING, epochs=3),
            sampling=SAMPLING,
            seed=5,
            out=out,
        )
    with pytest.raises(
        OutputError, match=rf"alignment.scale is {Alignment().scale} there and 0.5 here"
    ):
        learned(classifier, small_prior, out, alignment=Alignment(scale=0.5))


def test_a_class_that_passes_without_a_token_has_none(classifier, small_prior):
    easy = TokenLearning(
        epochs=1, images_per_epoch=2, target_accuracy=0.0, init="a", check_images=0
    )
    seen: list[EpochEnded] = []
    table = learn_tokens(
        classifier,
        small_prior,
        learning=easy,
        method="plain",
        sampling=SAMPLING,
        events=at_epochs(seen.append),
    )
    passing = {epoch.class_index for epoch in seen if epoch.epoch == 0 and epoch.accuracy > 0}
    assert passing
    assert set(table.classes) == {0, 1} - passing
    assert {
        number for number, end in table.training.items() if end.outcome == "passes without"
    } == passing
    assert all(table.name_of(number) == "" for number in passing)


def test_domain_weight_and_augmentation_reach_the_rows(classifier, small_prior):
    rows = {
        name: learn_tokens(
            classifier,
            small_prior,
            learning=replace(LEARNING, epochs=1, **changes),
            method="plain",
            sampling=SAMPLING,
            seed=5,
        ).rows
        for name, changes in {
            "plain": {},
            "domain": {"domain_weight": 5.0},
            "augmented": {"augment": True},
            "steps": {"steps": 5},
        }.items()
    }
    for name in ("domain", "augmented", "steps"):
        assert not torch.allclose(rows[name], rows["plain"], atol=1e-4), name


def test_a_float16_prior_learns_as_a_float32_one_does(classifier, tiny_prior, tiny_prior_folders):
    """The classifier is made so flat that its gradient, unscaled, is below what float16 can hold."""
    flat = copy.deepcopy(classifier)
    flat.network[-1].weight.data *= 1e-4
    start = initial_rows(tiny_prior, (0, 1), LABELS, "class name", 5)
    settings = replace(LEARNING, epochs=1, gradient="drawn", steps=4, updates_per_trajectory=1)
    half = load_prior(tiny_prior_folders["epsilon"], device="cpu", dtype="float16")
    moves = [
        learn_tokens(flat, prior, learning=settings, method="plain", sampling=SAMPLING, seed=5).rows
        - start
        for prior in (tiny_prior, half)
    ]
    same = (moves[0].sign() == moves[1].sign()).float().mean()
    assert same > 0.9  # Adam's first step is the gradient's sign


def test_the_table_tells_what_each_class_cost(tmp_path, classifier, small_prior):
    """Published schedule, 2 steps with CFG: an image takes 4 evaluations, and the last step's 2 backward as well."""
    paper = replace(TokenLearning.paper(), epochs=2, images_per_epoch=3, target_accuracy=1.0)
    out = tmp_path / "t.safetensors"
    table = learn_tokens(
        classifier, small_prior, learning=paper, method="plain", sampling=SAMPLING, out=out
    )
    assert {
        number: (end.denoiser_forward, end.denoiser_backward)
        for number, end in table.training.items()
    } == {
        0: (24, 12),
        1: (24, 12),
    }
    assert load_tokens(out, small_prior).training == table.training


def test_more_sampler_steps_than_guidance_or_prior_can_take_are_refused(classifier, small_prior):
    with pytest.raises(
        ConfigError, match=r"sampling has 1 step and alignment is on, expected at least 2"
    ):
        learn_tokens(classifier, small_prior, learning=TokenLearning(steps=1))
    with pytest.raises(ConfigError, match=r"sampling has 2000 steps, expected 1 to 1000"):
        learn_tokens(classifier, small_prior, learning=TokenLearning(steps=2000))


def test_an_optimizer_that_is_not_installed_is_refused_before_anything_is_loaded(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(MissingExtraError, match=r"extra 'gpu' for the optimizer 'adam8bit'"):
        learn_tokens("no such classifier", learning=TokenLearning(optimizer="adam8bit"))


def test_a_file_of_another_ending_is_refused_before_anything_is_loaded():
    with pytest.raises(
        ConfigError, match=r"is to be 'tokens.bin', expected a name that ends in .safetensors: add"
    ):
        learn_tokens("no such classifier", out="tokens.bin")


def test_tokens_in_place_of_names_keep_short_and_stand_in_the_prompts(
    tmp_path, classifier, small_prior
):
    instead = replace(
        TokenLearning.instead(), epochs=2, images_per_epoch=2, check_images=0, target_accuracy=1.0
    )
    settings = {"sampling": replace(SAMPLING, steps=4), "seed": 5}
    out = tmp_path / "t.safetensors"
    table = learn_tokens(classifier, small_prior, learning=instead, out=out, **settings)
    assert table.instead
    assert all(training.moved for training in table.training.values())
    assert load_tokens(out, small_prior, classifier).instead
    encoder = small_prior.text_encoders()[0]
    words = encoder.module.get_input_embeddings().weight
    ids = [encoder.tokenizer(label, add_special_tokens=False).input_ids for label in LABELS]
    longest = 2 * torch.stack([words[number].norm() for row in ids for number in row]).median()
    assert (table.rows.norm(dim=1) <= longest * 1.0001).all()
    tight = replace(instead, norm_cap=0.5)
    short = learn_tokens(classifier, small_prior, learning=tight, **settings)
    torch.testing.assert_close(short.rows.norm(dim=1), (longest / 4).expand(2))
    samples = list(
        generate(
            classifier, small_prior, None, 1, method="plain", tokens=out, sampling=SAMPLING, seed=1
        )
    )
    assert [sample.prompt for sample in samples] == ["a <ddis-dog>", "an <ddis-elephant>"]


def test_a_file_of_before_a_setting_came_is_of_the_same_run(tmp_path, classifier, small_prior):
    out = tmp_path / "t.safetensors"
    run = dict(learned(classifier, small_prior, out).run)
    old = {key: value for key, value in run["learning"].items() if key not in ("place", "norm_cap")}
    check_same_run(out, {**run, "learning": old}, run)
    other = {**run["learning"], "norm_cap": 2.0}
    with pytest.raises(OutputError, match=r"norm_cap is 0\.0 there and 2\.0 here"):
        check_same_run(out, {**run, "learning": old}, {**run, "learning": other})
    for here in (to_plain(TokenLearning.paper()), to_plain(TokenLearning())):
        once = {key: value for key, value in here.items() if key != "check_doublings"}
        before = {**run, "learning": once}
        if here["check_images"]:  # a check was one look
            with pytest.raises(OutputError, match="check_doublings is 0 there and 2 here"):
                check_same_run(out, before, {**run, "learning": here})
        else:
            check_same_run(out, before, {**run, "learning": here})
