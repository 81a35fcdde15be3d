"""The recipe of the embedded models on a few made-up pictures: every stage by command, then the packed folders."""

import io
from dataclasses import replace
from itertools import product

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch.nn.functional import cross_entropy

from engine.classifiers import load_classifier
from engine.embedded.judge import load_judge
from engine.embedded.train import autoencoder, classifiers, pack, prior
from engine.embedded.train.__main__ import STAGES, main
from engine.embedded.train.data import CLASSES, DOMAINS, load_pacs
from engine.embedded.train.loop import Recipe
from engine.embedded.train.tiny_decoder import as_guidance_sees, likeness_db, train_tiny_decoder
from engine.models import load_prior

STEPS = 2


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with the parquet files that the recipe reads: two pictures of each pair of domain and class."""
    folder = tmp_path_factory.mktemp("data")
    noise = np.random.default_rng(0)
    rows = {"image": [], "label": [], "domain": []}
    for domain, label, _ in product(DOMAINS, CLASSES, range(2)):
        file = io.BytesIO()
        Image.fromarray(noise.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(file, "png")
        rows["image"].append({"bytes": file.getvalue(), "path": None})
        rows["label"].append(label)
        rows["domain"].append(domain)
    for part in ("prior", "train", "test"):
        pq.write_table(pa.table(rows), folder / f"pacs64-{part}.parquet")
    return folder


def run(stage, data, work, *more):
    return main(
        [stage, "--data", str(data), "--work", str(work), "--resolution", "16", *map(str, more)]
    )


@pytest.fixture(scope="module", autouse=True)
def _small_batches():
    """The recipes as they are but for the size of their batches, and of the sample sheets."""
    with pytest.MonkeyPatch.context() as patch:
        for stage, recipe in STAGES.items():
            patch.setitem(STAGES, stage, replace(recipe, batch=4))
        patch.setattr(prior, "CONTINUED", replace(prior.CONTINUED, batch=4))
        for module in (classifiers, pack):
            patch.setattr(module, "DOMAIN_RECIPE", Recipe(steps=STEPS, batch=4, learning_rate=1e-3))
        patch.setattr(pack, "SAMPLE_STEPS", 2)
        yield


@pytest.fixture(scope="module")
def work(data, tmp_path_factory):
    """A work folder with every stage trained for two steps."""
    folder = tmp_path_factory.mktemp("work")
    for stage in ("autoencoder", "tiny", "prior", "classifiers", "judge"):
        assert run(stage, data, folder, "--steps", STEPS) == 0
    assert run("pack", data, folder, "--out", folder / "weights") == 0
    return folder


def test_every_stage_by_command_then_folders_that_load(work):
    packed = work / "weights"
    loaded = load_prior(packed / "prior")
    assert loaded.image_px == 16
    assert load_classifier(packed / "classifier-photo").labels == CLASSES
    classes, domains = load_judge(packed / "judge")(torch.rand(3, 3, 16, 16))
    assert len(classes) == len(domains) == 3
    assert loaded.tiny is not loaded.vae
    assert loaded.tiny.config.scaling_factor == loaded.vae.config.scaling_factor
    assert sum(p.numel() for p in loaded.tiny.decoder.parameters()) < 0.2 * sum(
        p.numel() for p in loaded.vae.decoder.parameters()
    )
    for folder in ("prior", "prior/tiny", "judge", *(f"classifier-{domain}" for domain in DOMAINS)):
        assert f"steps={STEPS}" in (packed / folder / "README.md").read_text()


def test_the_repository_s_pictures_are_generated(work):
    assert {file.name for file in (work / "weights").rglob("*.png")} == {"samples.png"}


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


def test_without_test_images_the_cards_tell_of_the_others(data, work, tmp_path):
    for part in ("prior", "train"):
        (tmp_path / f"pacs64-{part}.parquet").symlink_to(data / f"pacs64-{part}.parquet")
    assert run("pack", tmp_path, work, "--models", "judge", "--out", tmp_path / "out") == 0
    card = (tmp_path / "out" / "judge" / "README.md").read_text()
    assert "112 training images" in card
    assert "test images" not in card


def test_a_finished_stage_is_not_trained_again(data, work):
    before = (work / "prior" / "log.jsonl").read_text()
    assert run("prior", data, work, "--steps", STEPS) == 0
    assert (work / "prior" / "log.jsonl").read_text() == before


def test_a_packed_prior_is_trained_further_and_its_card_keeps_both_recipes(data, work, tmp_path):
    start = work / "weights" / "prior"
    assert run("prior", data, tmp_path, "--start-from", start, "--steps", 1) == 0
    asked = ("--models", "prior", "--start-from", start, "--out", tmp_path / "more")
    assert run("pack", data, tmp_path, *asked) == 0
    old, new = load_prior(start), load_prior(tmp_path / "more" / "prior")
    for before, after in zip(old.unet.parameters(), new.unet.parameters(), strict=True):
        torch.testing.assert_close(
            before, after, atol=5e-3, rtol=0
        )  # one step of a warming-up rate away
    assert old.fingerprint != new.fingerprint
    assert old.vae.config.scaling_factor == new.vae.config.scaling_factor
    assert not any(str(start) in file.read_text() for file in (tmp_path / "more").rglob("*.json"))
    card = (tmp_path / "more" / "prior" / "README.md").read_text()
    assert f"**recipe, part 1**: Recipe(steps={STEPS}," in card
    assert "**recipe, part 2**: Recipe(steps=1," in card


def test_packing_what_is_not_trained_says_so(data, tmp_path, capsys):
    assert run("pack", data, tmp_path, "--models", "judge") == 2
    assert "expected a trained model to pack" in capsys.readouterr().err


def test_starting_from_a_folder_that_is_no_prior_says_so(data, tmp_path, capsys):
    assert run("prior", data, tmp_path, "--start-from", tmp_path) == 2
    assert "expected a prior in diffusers format" in capsys.readouterr().err


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
