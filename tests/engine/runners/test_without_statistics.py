"""A classifier that keeps no statistics, a tiny ViT: what works with it, and what refuses it and says why."""

from pathlib import Path

import pytest
import torch

from engine import Comparison, Distillation, distill
from engine.classifiers import Classifier, Preprocess, load_classifier
from engine.classifiers.statistics import StatisticsWarning
from engine.datasets.manifest import read_manifest
from engine.errors import ConfigError, ModelError
from engine.evaluation.evaluate import evaluate
from engine.evaluation.select import select
from engine.memory.plan import plan
from engine.priors import Prior
from engine.runners.generate import generate
from engine.runners.learn_tokens import learn_tokens
from engine.runners.tune import tune
from engine.settings import Alignment, Evaluation, Sampling, Selection, TokenLearning
from engine.settings.inversion import DeepInversion, NaturalInversion, PlugInInversion
from tests.engine.without_batch_norm import vit as small_vit

CLASSES = ["dog", "horse"]
FEW = Sampling(steps=3, cfg=2.0)
BY_CLASS = Alignment(domain_weight=0.0)
REFUSED = r"classifier 'ViTForImageClassification' has no BatchNorm layers, expected at least one"


@pytest.fixture(scope="module")
def vit() -> Classifier:
    torch.manual_seed(3)
    network = small_vit(len(CLASSES))
    network.classifier.weight.data *= 50  # untrained, it would tell no image from another
    return load_classifier(network, labels=CLASSES, preprocess=Preprocess.squash(16), device="cpu")


@pytest.fixture(scope="module")
def made(vit: Classifier, small_prior: Prior, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished data set, guided by the class alone."""
    out = tmp_path_factory.mktemp("vit") / "made"
    with pytest.warns(
        StatisticsWarning, match="its classes alone guide the images, and no image gets"
    ):
        run = generate(
            vit, small_prior, images_per_class=3, alignment=BY_CLASS, sampling=FEW, out=out
        )
    list(run)
    return out


def test_guidance_by_statistics_says_what_is_missing_and_what_can_be_done(vit: Classifier) -> None:
    with pytest.raises(
        ModelError,
        match=rf"guidance by statistics needs .*{REFUSED}.*alignment.domain_weight` to 0.*method 'plain'",
    ):
        generate(vit, "no prior is looked for")


def test_the_class_alone_guides(vit: Classifier, small_prior: Prior, made: Path) -> None:
    def images(**settings: object) -> torch.Tensor:
        with pytest.warns(StatisticsWarning):
            run = generate(vit, small_prior, images_per_class=3, sampling=FEW, **settings)
        samples = list(run)
        assert torch.tensor([sample.l_bn for sample in samples]).isnan().all()
        return torch.stack([sample.image for sample in samples])

    guided, plain = images(alignment=BY_CLASS), images(method="plain")
    assert (guided - plain).abs().max() > 0.01
    rows = list(read_manifest(made))
    assert len(rows) == 6
    assert all(row.l_bn != row.l_bn for row in rows)
    planned = plan(small_prior, vit, "1GB", batch=6, alignment=BY_CLASS, sampling=FEW, full=False)
    assert planned.peak_bytes["guidance"] > 0


def test_tokens_are_learned_and_a_scale_is_tuned(vit: Classifier, small_prior: Prior) -> None:
    few = {"epochs": 1, "images_per_epoch": 2, "steps": 2, "updates_per_trajectory": 1}
    settings = {"alignment": BY_CLASS, "sampling": FEW}
    with pytest.raises(ModelError, match=rf"domain_weight of token learning needs .*{REFUSED}"):
        learn_tokens(vit, small_prior, learning=TokenLearning(**few), **settings)
    words = {"words": "painted, photo", "skip_passing": False, "check_images": 0}
    learning = TokenLearning(domain_weight=0.0, **words, **few)
    with pytest.warns(StatisticsWarning):
        tokens = learn_tokens(vit, small_prior, learning=learning, **settings)
    with pytest.warns(StatisticsWarning):
        tuned = tune(vit, small_prior, scales=(0.1, 0.5), images_per_class=1, **settings)
    assert tokens.rows.isfinite().all()
    assert [trial.l_bn for trial in tuned.trials] == [None, None]
    assert tuned.trials[0].score == tuned.trials[0].cross_entropy


def test_it_is_evaluated_selected_by_and_distilled(
    vit: Classifier, made: Path, tmp_path: Path
) -> None:
    for report in (
        evaluate(made, classifier=vit, settings=Evaluation(resamples=3)),
        evaluate(
            made,
            "judge",
            settings=Evaluation(
                neighbours=2, density_neighbours=2, resamples=3, kid_subsets=2, prd_clusters=3
            ),
        ),
    ):
        assert 0 <= report["metrics"]["teacher_accuracy"]["value"] <= 1
        assert report["metrics"]["l_bn"] is None
        assert report["missing"]["l_bn"] == "needs a classifier with statistics"
    assert report["missing"]["set_l_bn"] == "needs `classifier`"
    kept = select(made, tmp_path / "energy", Selection(by="energy"), vit)
    assert kept["kept"] < kept["images"] == 6
    with pytest.raises(
        ConfigError, match="by 'l_bn' found images without one, expected it in each"
    ):
        select(made, tmp_path / "l_bn", Selection(by="l_bn"), vit)
    with pytest.raises(ModelError, match=rf"by 'l_bn_share' needs .*{REFUSED}.*by 'energy'"):
        select(made, tmp_path / "share", Selection(by="l_bn_share"), vit)
    report = distill(
        made,
        vit,
        "resnet8",
        out=tmp_path / "out",
        distillation=Distillation(epochs=1, batch=4),
        comparison=Comparison(seeds=1),
    )
    assert 0 <= report["rows"]["folder"]["agreement"]["mean"] <= 1


def test_inversions_that_need_no_statistics_work(vit: Classifier) -> None:
    def samples(method: object) -> int:
        return len(list(generate(vit, classes=CLASSES, images_per_class=1, method=method)))

    assert samples(PlugInInversion(iterations=1, stages=1, copies=1)) == 2
    assert samples(DeepInversion(iterations=2, bn_weight=0.0)) == 2
    with pytest.raises(ModelError, match=rf"bn_weight needs .*{REFUSED}.*set `bn_weight` to 0"):
        samples(DeepInversion(iterations=2))
    with pytest.raises(ModelError, match=rf"'natural-inversion' needs .*{REFUSED}"):
        samples(NaturalInversion(iterations=2))
