"""How the studies of evidence and of what it teaches put their sets together, and which tokens ship."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

from engine.classifiers import Classifier, load_classifier
from engine.datasets.dataset import open_dataset, read_dataset
from engine.priors import Prior, load_prior
from engine.runners.trial import Trial
from engine.settings import Sampling
from engine.tokens.files import save_tokens
from engine.tokens.table import TokenTable, TokenTraining, encoder_widths, placeholders
from engine.types import ImageKey, Sample

Script = Callable[[str], ModuleType]


def made_up_tokens(classifier: Classifier, prior: Prior) -> TokenTable:
    """A token for each class, of nothing learned: which tokens ship changes with the models."""
    number, widths = len(classifier.labels), encoder_widths(prior)
    return TokenTable(
        rows=torch.randn(number, sum(widths.values())),
        encoders=widths,
        classes=tuple(range(number)),
        labels=tuple(classifier.labels),
        names=placeholders(classifier.labels),
        prior=prior.fingerprint,
        classifier=classifier.fingerprint,
        training={
            place: TokenTraining("learned", epochs=1, accuracy=1.0, loss=0.0, finished=1.0)
            for place in range(number)
        },
    )


def one_seed(folder: Path, grey: float, images: int = 2) -> Path:
    with open_dataset(folder, {"seed": grey}, {0: "dog", 1: "horse"}) as writer:
        for number in range(2 * images):
            writer.add(
                Sample(
                    key=ImageKey(number % 2, number // 2),
                    label=("dog", "horse")[number % 2],
                    seed=0,
                    prompt="a",
                    token="",
                    image=torch.full((3, 8, 8), grey),
                    logits=torch.zeros(2),
                    l_bn=grey,
                    confidence=0.5,
                    group="",
                )
            )
        writer.finish({"images": 2 * images})
    return folder


def test_seeds_are_numbered_on(tmp_path: Path, bench_script: Script) -> None:
    seeds = [one_seed(tmp_path / str(seed), seed / 2) for seed in range(3)]
    together = bench_script("studies.downstream").together

    def kept(folder: Path) -> list[tuple[int, int, float]]:
        return sorted((row.class_index, row.index, row.l_bn) for _, row in read_dataset(folder))

    numbers = [(0, 0.0), (1, 0.0), (2, 0.5), (3, 0.5), (4, 1.0), (5, 1.0)]
    assert kept(together(seeds, tmp_path / "all")) == [
        (kind, *at) for kind in (0, 1) for at in numbers
    ]


def test_a_prompt_that_names_the_domain_has_a_shared_folder_for_each(
    tmp_path: Path, bench_script: Script
) -> None:
    evidence = bench_script("studies.evidence")
    named = evidence.Method(None, sampling=Sampling(steps=1), names_domain=True)
    prior = load_prior("embedded")
    for domain in ("photo", "sketch"):
        classifier = load_classifier(f"embedded:{domain}", device=prior.device)
        evidence.draw(
            named, classifier, prior, domain, 1, 900, tmp_path / domain, tmp_path / "plain" / "900"
        )
        (row,) = [row for _, row in read_dataset(tmp_path / domain) if row.label == "dog"]
        assert row.prompt == f"a {domain} of a dog"
    assert {folder.name for folder in (tmp_path / "plain").iterdir()} == {"photo", "sketch"}
    assert evidence.Method(None).sampling_for("sketch") == Sampling()


def test_without_tokens_a_row_is_the_method_without_them(
    tmp_path: Path, bench_script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    evidence, prior = bench_script("studies.evidence"), load_prior("embedded")
    classifier = load_classifier("embedded:cartoon", device=prior.device)
    save_tokens(made_up_tokens(classifier, prior), tmp_path / "some.safetensors")
    monkeypatch.setattr(evidence, "shipped_tokens", lambda domain: tmp_path / "some.safetensors")
    how, root = evidence.folder_of("both", "cartoon", classifier, prior, tmp_path)
    assert how.tokens
    assert root.parent == tmp_path / prior.fingerprint / "cartoon" / "both"
    monkeypatch.setattr(evidence, "shipped_tokens", lambda domain: tmp_path / "none.safetensors")
    for method, same in (("both", "DAG"), ("CAT", "plain")):
        how, root = evidence.folder_of(method, "cartoon", classifier, prior, tmp_path)
        assert how == evidence.METHODS[same]
        assert root == tmp_path / prior.fingerprint / "cartoon" / same.replace(" ", "_")
        assert evidence.shared_folder(how, prior, tmp_path, 900).parent.name == same.replace(
            " ", "_"
        )


def test_what_began_without_a_style_is_not_learned_twice(
    bench_script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, prior = bench_script("studies.learn_shipped_tokens"), load_prior("embedded")
    classifier = load_classifier("embedded:cartoon", device=prior.device)
    table, asked = made_up_tokens(classifier, prior), []
    few = replace(
        table,
        rows=table.rows[:2],
        classes=table.classes[:2],
        labels=table.labels[:2],
        names=table.names[:2],
        run={"learning": {"init": "words"}, "models": {}},
    )

    def learned(start: str) -> Callable:
        def learn_tokens(classifier, prior, left, learning, **_):
            asked.append((learning.init, list(left)))
            training = {
                number: replace(found, start=start) for number, found in table.training.items()
            }
            run = {"learning": {"init": learning.init}, "models": {}, "request": {}}
            return replace(few, training=training, run=run)

        return learn_tokens

    monkeypatch.setattr(script, "learn_tokens", learned("cartoon"))
    table_of_both = script.helping(classifier, prior)
    assert [*table_of_both.run] == ["models", "learning"]
    assert [*table_of_both.run["learning"]] == ["words", "a"]
    assert asked == [("words", list(classifier.labels)), ("a", list(classifier.labels[2:]))]
    asked.clear()
    monkeypatch.setattr(script, "learn_tokens", learned("a"))
    assert script.helping(classifier, prior).labels == table.labels[:2]
    assert asked == [("words", list(classifier.labels))]


@pytest.mark.parametrize(("gap", "ships"), [((2.0, 1.9), True), ((2.0, 2.0), False)])
def test_tokens_ship_that_together_lead_towards_the_domain(
    gap, ships, bench_script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, prior = bench_script("studies.learn_shipped_tokens"), load_prior("embedded")
    classifier = load_classifier("embedded:cartoon", device=prior.device)
    without, those = (
        Trial(images=56, l_bn=1.0, gap=value, cross_entropy=1.0, recognised=1.0, agreement=1.0)
        for value in gap
    )
    monkeypatch.setattr(script, "observe", lambda drawing: those if drawing.tokens else without)
    table = made_up_tokens(classifier, prior)
    assert script.nearer(classifier, prior, table) is ships
