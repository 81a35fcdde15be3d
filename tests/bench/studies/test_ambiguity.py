"""Ambiguous names: what else a name speaks of, and what the check left of its token."""

import pytest
import torch
from studies.ambiguity import NAMES, also_named, kept

from engine.embedded.judge import load_judge
from engine.tokens.table import TokenTable, TokenTraining


@pytest.mark.parametrize(
    ("name", "head", "others"),
    [
        ("house dog", "dog", ("house",)),
        ("animal", "horse", ("dog", "elephant", "giraffe")),
        ("blick", "dog", ("guitar",)),
    ],
)
def test_a_name_speaks_of_its_other_word_or_of_all_that_it_means(
    name: str, head: str, others: tuple[str, ...]
) -> None:
    assert also_named(name, head) == others


def test_every_name_speaks_of_classes_alone() -> None:
    classes = set(load_judge().classes)
    for names in NAMES:
        for head, name in names.items():
            assert {head, *also_named(name, head)} <= classes


def test_what_was_kept_is_told_from_the_table() -> None:
    def training(moved: bool | None) -> TokenTraining:
        return TokenTraining("recognised", 1, 1.0, 0.1, moved=moved)

    table = TokenTable(
        rows=torch.zeros(2, 4),
        encoders={"clip": 4},
        classes=(3, 5),
        labels=("house dog", "blick"),
        names=("<ddis-house-dog>", "<ddis-blick>"),
        prior="0",
        classifier="0",
        training={1: training(True), 3: training(True), 5: training(False)},
    )
    labels = ("house dog", "blick", "horse person")
    assert [kept(table, label) for label in labels] == ["learned", "start", "none"]
