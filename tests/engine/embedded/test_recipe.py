"""The recipe of the embedded models on a few made-up pictures: every stage by command, then the packed folders."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForImageClassification

from engine.classifiers import load_classifier
from engine.classifiers.hub import from_transformers
from engine.embedded.judge import load_judge
from engine.embedded.train import autoencoder, classifiers, pack, pack_classifiers
from engine.embedded.train.__main__ import main
from engine.embedded.train.data import CLASSES, DOMAINS, load_pacs, load_photos
from engine.embedded.train.loop import Recipe
from engine.embedded.train.machine import CPU
from engine.embedded.train.prior import kept_views
from engine.embedded.train.stages import RECIPES, STAGES
from engine.embedded.train.tiny_decoder import as_guidance_sees, likeness_db, train_tiny_decoder
from engine.priors import load_prior

STEPS = 2


def run(stage, data, work, *more):
    return main(
        [stage, "--data", str(data), "--work", str(work), "--resolution", "32", *map(str, more)]
    )


@pytest.fixture(scope="module", autouse=True)
def _small_batches():
    """The recipes as they are but for the size of their batches, and of the sample sheets."""
    with pytest.MonkeyPatch.context() as patch:
        for stage, recipe in RECIPES.items():
            patch.setitem(RECIPES, stage, replace(recipe, batch=4))
        for module in (classifiers, pack_classifiers):
            patch.setattr(module, "DOMAIN_RECIPE", Recipe(steps=STEPS, batch=4, learning_rate=1e-3))
        patch.setattr(pack, "SAMPLE_STEPS", 2)
        yield


@pytest.fixture(scope="module")
def work(data, tmp_path_factory):
    """A work folder with every stage trained for two steps."""
    folder = tmp_path_factory.mktemp("work")
    for stage in STAGES:
        assert run(stage, data, folder, "--steps", STEPS) == 0
    assert run("pack", data, folder, "--out", folder / "weights") == 0
    return folder


@pytest.mark.slow
def test_every_stage_by_command_then_folders_that_load(work):
    packed = work / "weights"
    loaded = load_prior(packed / "prior")
    assert loaded.image_size == (32, 32)
    assert load_classifier(packed / "classifier-photo").labels == CLASSES
    classes, domains = load_judge(packed / "judge")(torch.rand(3, 3, 32, 32))
    assert len(classes) == len(domains) == 3
    assert loaded.tiny is not loaded.vae
    assert loaded.tiny.config.scaling_factor == loaded.vae.config.scaling_factor
    assert sum(p.numel() for p in loaded.tiny.decoder.parameters()) < 0.2 * sum(
        p.numel() for p in loaded.vae.decoder.parameters()
    )
    for folder in ("prior", "prior/tiny", "judge", *(f"classifier-{domain}" for domain in DOMAINS)):
        assert f"steps={STEPS}" in (packed / folder / "README.md").read_text()


@pytest.mark.slow
def test_a_convnext_is_packed_as_transformers_reads_it(data, work):
    folder = work / "weights" / "classifier-photo-convnext"
    found = from_transformers(str(folder))
    assert tuple(found.labels) == CLASSES
    images = load_pacs(data / "pacs64-test.parquet").where(torch.arange(56) < 3).pixels / 255
    model = AutoModelForImageClassification.from_pretrained(folder, dtype=torch.float32)
    assert model(found.preprocess(images)).logits.shape == (3, len(CLASSES))
    assert not [name for name in model.state_dict() if "running" in name]


@pytest.mark.slow
def test_the_repository_s_pictures_are_generated(work):
    assert {file.name for file in (work / "weights").rglob("*.png")} == {"samples.png"}


@pytest.mark.slow
def test_cards_tell_recipes_and_what_the_packed_weights_reach(data, work):
    packed, images = work / "weights", load_pacs(data / "pacs64-test.parquet")
    card = (packed / "classifier-photo" / "README.md").read_text()
    assert "**recipe of the fine-tuning**: Recipe(steps=2, batch=4, learning_rate=0.001," in card
    photos = images.where(images.domains == DOMAINS.index("photo"))
    logits = load_classifier(packed / "classifier-photo", device="cpu").logits(photos.pixels / 255)
    right, loss = (
        (logits.argmax(1) == photos.classes).double().mean(),
        cross_entropy(logits, photos.classes),
    )
    for part in ("training", "test"):
        assert (
            f"**class of its 14 {part} images**: {100 * right:.1f} % right, cross-entropy {loss:.2f}\n"
            in card
        )
    card = (packed / "judge" / "README.md").read_text()
    classes, domains = load_judge(packed / "judge")(images.pixels / 255)
    for what, number, part in (("class", 112, "training"), ("domain", 56, "test")):
        found, truth = (classes, images.classes) if what == "class" else (domains, images.domains)
        share = (found == truth).double().mean()
        assert f"**{what} of its {number} {part} images**: {100 * share:.1f} % right" in card


@pytest.mark.slow
def test_without_test_images_the_cards_tell_of_the_others(data, work, tmp_path):
    for part in ("prior", "train"):
        (tmp_path / f"pacs64-{part}.parquet").symlink_to(data / f"pacs64-{part}.parquet")
    assert run("pack", tmp_path, work, "--models", "judge", "--out", tmp_path / "out") == 0
    card = (tmp_path / "out" / "judge" / "README.md").read_text()
    assert "112 training images" in card
    assert "test images" not in card


@pytest.mark.slow
def test_a_finished_stage_is_not_trained_again(data, work):
    before = (work / "prior" / "log.jsonl").read_text()
    assert run("prior", data, work, "--steps", STEPS) == 0
    assert (work / "prior" / "log.jsonl").read_text() == before


@pytest.mark.slow
def test_a_packed_prior_is_trained_further_and_its_card_keeps_both_recipes(data, work, tmp_path):
    start = work / "weights" / "prior"
    assert run("prior", data, tmp_path, "--start-from", start, "--steps", 1) == 0
    asked = ("--models", "prior", "--start-from", start, "--out", tmp_path / "more")
    assert run("pack", data, tmp_path, *asked) == 0
    old, new = load_prior(start), load_prior(tmp_path / "more" / "prior")
    for before, after in zip(old.network.parameters(), new.network.parameters(), strict=True):
        torch.testing.assert_close(before, after, atol=5e-3, rtol=0)  # one step of a low rate away
    assert old.fingerprint != new.fingerprint
    assert old.vae.config.scaling_factor == new.vae.config.scaling_factor
    assert not any(str(start) in file.read_text() for file in (tmp_path / "more").rglob("*.json"))
    card = (tmp_path / "more" / "prior" / "README.md").read_text()
    assert f"**recipe, part 1**: Recipe(steps={STEPS}," in card
    assert "**recipe, part 2**: Recipe(steps=1," in card


def test_packing_what_is_not_trained_says_so(data, tmp_path, capsys):
    assert run("pack", data, tmp_path, "--models", "judge") == 2
    assert "expected a trained model: run the stage 'judge' first" in capsys.readouterr().err


def test_starting_from_a_folder_that_is_no_prior_says_so(data, tmp_path, capsys):
    assert run("prior", data, tmp_path, "--start-from", tmp_path) == 2
    assert "expected a prior in diffusers format" in capsys.readouterr().err


@pytest.mark.slow
def test_a_budget_of_seconds_goes_through_every_stage_and_ends_with_weights(data, tmp_path):
    given = ("--seconds", 4, "--out", tmp_path / "out", "--models", "prior", "tiny", "judge")
    assert run("all", data, tmp_path / "work", *given) == 0
    assert {folder.name for folder in (tmp_path / "work").iterdir()} == set(STAGES)
    assert load_prior(tmp_path / "out" / "prior").tiny is not None
    assert load_judge(tmp_path / "out" / "judge").resolution == 48


def test_all_without_a_budget_says_so(data, tmp_path, capsys):
    assert run("all", data, tmp_path) == 2
    assert "expected --seconds" in capsys.readouterr().err


@pytest.mark.slow
def test_cifar_s_prior_is_told_its_own_classes(data, tmp_path):
    for stage in ("perception", "autoencoder", "prior"):
        assert run(stage, data, tmp_path, "--cifar", "--steps", 1) == 0
    asked = ("--cifar", "--models", "prior", "--out", tmp_path / "out")
    assert run("pack", data, tmp_path, *asked) == 0
    card = (tmp_path / "out" / "prior" / "README.md").read_text()
    assert "**data**: 10 images" in card
    assert "**data set**: CIFAR-10" in card
    assert "columns: airplane, cat" in card


def test_half_of_cifar_is_half_of_each_of_its_classes(data):
    half = load_photos(data / "cifar10-train.parquet", 0.5)
    whole = load_photos(data / "cifar10-train.parquet")
    assert half.class_names == whole.class_names == ("airplane", "cat")
    assert half.classes.bincount().tolist() == [5, 5]
    assert torch.equal(half.pixels, whole.pixels[[*range(5), *range(10, 15)]])


def test_latents_are_kept_for_the_images_that_they_are_of(data, tmp_path):
    images, vae = load_photos(data / "cifar10-train.parquet"), autoencoder.build()
    first, second = (images.where(images.classes == kind) for kind in (0, 1))
    file = tmp_path / "latents.pt"
    kept = [kept_views(vae, part, 32, 0, CPU, file) for part in (first, first, second)]
    assert torch.equal(kept[0], kept[1])
    assert not torch.allclose(kept[1], kept[2], atol=1e-2)


def test_classifiers_of_cifar_have_no_recipe(data, tmp_path, capsys):
    assert run("classifiers", data, tmp_path, "--cifar") == 2
    assert "no recipe for classifiers of CIFAR-10" in capsys.readouterr().err


def test_a_tiny_decoder_learns_to_give_its_teachers_images(data, tmp_path):
    torch.manual_seed(0)
    images, vae = load_pacs(data / "pacs64-prior.parquet"), autoencoder.build().eval()
    found = {}
    for steps in (1, 40):
        recipe = Recipe(steps=steps, batch=8, learning_rate=5e-3, warmup=1, averaging=0.5)
        torch.manual_seed(0)
        narrow = train_tiny_decoder(images, vae, 16, recipe, tmp_path / str(steps))
        found[steps] = likeness_db(narrow, vae, images, 16)
    assert found[40] > found[1] + 3


def test_blends_and_noise_leave_half_of_the_latents_nearly_as_they_are():
    latents = torch.randn(400, 4, 2, 2)
    seen = as_guidance_sees(latents, torch.Generator().manual_seed(0))
    error = (seen - latents).square().mean((1, 2, 3)).sqrt()
    assert 0.3 < (error < 0.31).float().mean() < 0.8
    assert error.max() > 0.4
