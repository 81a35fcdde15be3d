"""How bench/downstream.py and bench/evidence.py put their sets together."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch

from engine.config import Sampling
from engine.models import load_classifier, load_prior
from engine.outputs.dataset import open_dataset, read_dataset
from engine.types import ImageKey, Sample

Script = Callable[[str], ModuleType]


def one_seed(folder: Path, grey: float, images: int = 2) -> Path:
    with open_dataset(folder, {"seed": grey}, {0: "dog", 1: "horse"}) as writer:
        for number in range(2 * images):
            writer.add(
                Sample(
                    key=ImageKey(number % 2, number // 2), label=("dog", "horse")[number % 2], seed=0, prompt="a",
                    token="", image=torch.full((3, 8, 8), grey), logits=torch.zeros(2), l_bn=grey, confidence=0.5,
                    group="",
                )
            )  # fmt: skip
        writer.finish({"images": 2 * images})
    return folder


def test_seeds_are_numbered_on_and_cut_class_by_class(tmp_path: Path, bench_script: Script) -> None:
    seeds = [one_seed(tmp_path / str(seed), seed / 2) for seed in range(3)]
    together = bench_script("downstream").together

    def kept(folder: Path) -> list[tuple[int, int, float]]:
        return sorted((row.class_index, row.index, row.l_bn) for _, row in read_dataset(folder))

    numbers = [(0, 0.0), (1, 0.0), (2, 0.5), (3, 0.5), (4, 1.0), (5, 1.0)]
    assert kept(together(seeds, tmp_path / "all")) == [(kind, *at) for kind in (0, 1) for at in numbers]
    cut = kept(together(seeds, tmp_path / "cut", {"dog": 3, "horse": 9}))
    assert cut == [(0, *at) for at in numbers[:3]] + [(1, *at) for at in numbers]


def test_a_prompt_that_tells_the_domain_has_a_shared_folder_for_each(
    tmp_path: Path, bench_script: Script
) -> None:
    evidence = bench_script("evidence")
    told = evidence.Method(None, sampling=Sampling(steps=1), told=True)
    prior = load_prior("embedded")
    for domain in ("photo", "sketch"):
        classifier = load_classifier(f"embedded:{domain}", device=prior.device)
        evidence.draw(told, classifier, prior, domain, 1, 900, tmp_path / domain, tmp_path / "plain" / "900")
        (row,) = [row for _, row in read_dataset(tmp_path / domain) if row.label == "dog"]
        assert row.prompt == f"a {domain} of a dog"
    assert {folder.name for folder in (tmp_path / "plain").iterdir()} == {"photo", "sketch"}
    assert evidence.Method(None).sampling_for("sketch") == Sampling()
