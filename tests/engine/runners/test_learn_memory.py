"""Learning tokens within a budget, and when memory runs out in the middle of it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn

from engine.classifiers import Classifier, Preprocess, load_classifier
from engine.classifiers.cifar_resnet import CifarResNet
from engine.errors import ConfigError
from engine.memory.budget import BudgetError, MemoryWarning, parse_budget
from engine.memory.micro_batch import OutOfMemoryError
from engine.memory.plan import Plan, plan
from engine.priors import Prior
from engine.runners.learn_tokens import learn_tokens
from engine.settings import Sampling, TokenLearning
from engine.tokens import gradient as gradient_module

DRAWN = TokenLearning(
    epochs=1,
    images_per_epoch=3,
    steps=4,
    updates_per_trajectory=2,
    domain_weight=0.5,
    learning_rate=0.05,
    target_accuracy=1.0,
    skip_passing=False,
    init="a",
    check_images=0,
)
LAST = replace(DRAWN, gradient="last", updates_per_trajectory=1, domain_weight=0.0, augment=False)
EARLY = replace(DRAWN, gradient="early", updates_per_trajectory=1)
SAMPLING = Sampling(steps=3, batch=6)
ROUNDING = 0.05 * DRAWN.learning_rate


@pytest.fixture(scope="module")
def classifier(shared_resnet: CifarResNet) -> Classifier:
    labels = ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")
    return load_classifier(
        shared_resnet, labels=labels, preprocess=Preprocess.squash(16), device="cpu"
    )


def rows_of(
    classifier: Classifier, prior: Prior, learning: TokenLearning = DRAWN, **settings: object
) -> Tensor:
    table = learn_tokens(
        classifier, prior, ["dog", "horse"], learning, sampling=SAMPLING, seed=3, **settings
    )
    return table.rows


@pytest.fixture(scope="module")
def undisturbed(small_prior: Prior, classifier: Classifier) -> Callable[[TokenLearning], Tensor]:
    """The rows of a run with all the memory that it wants, learned once for each way."""
    return cache(lambda learning: rows_of(classifier, small_prior, learning))


@contextmanager
def running_out(module: nn.Module, rows: int) -> Iterator[None]:
    """Fail where a gradient is to pass a module and it is given more than `rows` images."""

    def check(_: nn.Module, inputs: tuple[Tensor, ...], keywords: dict[str, Tensor]) -> None:
        reached = [value for value in (*inputs, *keywords.values()) if isinstance(value, Tensor)]
        with_graph = torch.is_grad_enabled() and any(value.requires_grad for value in reached)
        if with_graph and len(reached[0]) > rows:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    handle = module.register_forward_pre_hook(check, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("learning", [DRAWN, LAST, EARLY], ids=["drawn", "last", "early"])
def test_tokens_are_finished_and_right_when_memory_runs_out(
    small_prior: Prior,
    classifier: Classifier,
    undisturbed: Callable[[TokenLearning], Tensor],
    learning: TokenLearning,
) -> None:
    """Drawn with L_BN of the whole batch, which parts alone could not tell; last with both branches of CFG."""
    expected = undisturbed(learning)
    branches = 2 if learning is LAST else 1
    with (
        running_out(small_prior.pipe.unet, 4 * branches),
        pytest.warns(
            MemoryWarning, match=r"ran out in phase 'cat' with 6 images at once .* going on with 3"
        ),
    ):
        found = rows_of(classifier, small_prior, learning)
    torch.testing.assert_close(found, expected, atol=ROUNDING, rtol=0)


def test_the_way_to_the_rows_is_halved_as_well(
    small_prior: Prior, classifier: Classifier, undisturbed: Callable[[TokenLearning], Tensor]
) -> None:
    expected = undisturbed(DRAWN)
    with (
        running_out(small_prior.pipe.text_encoder.final_layer_norm, 1),
        pytest.warns(
            MemoryWarning, match=r"ran out in phase 'rows' with 2 images at once .* going on with 1"
        ),
    ):
        found = rows_of(classifier, small_prior)
    torch.testing.assert_close(found, expected, atol=ROUNDING, rtol=0)


@pytest.mark.filterwarnings("ignore::engine.memory.budget.MemoryWarning")
def test_without_room_for_one_image_it_is_an_error(
    small_prior: Prior, classifier: Classifier
) -> None:
    said = "ran out in phase 'cat' with one image at a time"
    with running_out(small_prior.pipe.unet, 0), pytest.raises(OutOfMemoryError, match=said):
        rows_of(classifier, small_prior)


def planned(prior: Prior, classifier: Classifier, budget: int | str, **changes: object) -> Plan:
    settings = {"batch": 6, "sampling": SAMPLING, "tokens": DRAWN, "full": False, **changes}
    return plan(prior, classifier, budget, **settings)


@pytest.mark.slow
def test_a_small_budget_gives_the_same_tokens(
    small_prior: Prior,
    classifier: Classifier,
    undisturbed: Callable[[TokenLearning], Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The least that can be met has one image at a time, and the UNet computes its activations anew in backward."""
    expected = undisturbed(DRAWN)
    with pytest.raises(BudgetError) as refused:
        planned(small_prior, classifier, 1)
    least = str(refused.value).split("expected at least ")[1].split(":")[0]
    lean = planned(small_prior, classifier, least)
    assert lean.micro_batch["cat"] == 1
    assert "cat" in lean.checkpoint
    anew: list[int] = []
    switch = small_prior.pipe.unet.enable_gradient_checkpointing
    monkeypatch.setattr(
        small_prior.pipe.unet, "enable_gradient_checkpointing", lambda: anew.append(1) or switch()
    )
    found = rows_of(classifier, small_prior, memory=least)
    assert anew
    assert not small_prior.pipe.unet.is_gradient_checkpointing
    torch.testing.assert_close(found, expected, atol=ROUNDING, rtol=0)
    with pytest.raises(BudgetError, match="is too small for prior"):
        rows_of(classifier, small_prior, memory=int(0.9 * parse_budget(least, small_prior.device)))


@pytest.mark.parametrize("learning", [DRAWN, LAST], ids=["drawn", "last"])
def test_tokens_stay_the_same_where_a_plan_lets_no_two_graphs_be_held(
    small_prior: Prior,
    classifier: Classifier,
    undisturbed: Callable[[TokenLearning], Tensor],
    learning: TokenLearning,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = planned(small_prior, classifier, "1GB", tokens=learning)
    assert whole.staged == ()
    calls: list[int] = []
    stages = gradient_module._in_stages
    monkeypatch.setattr(
        gradient_module, "_in_stages", lambda *given: calls.append(1) or stages(*given)
    )
    staged = replace(whole, staged=("cat",))
    found = rows_of(classifier, small_prior, learning, memory=staged)
    assert calls
    torch.testing.assert_close(found, undisturbed(learning), atol=ROUNDING, rtol=0)


def test_parts_rest_where_learning_does_not_need_them(
    small_prior: Prior, classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan for a GPU says it, and the run moves the text encoder to its device for text and rows alone."""
    resting = replace(planned(small_prior, classifier, "1GB"), offload=("text_encoder",))
    moves: list[str] = []
    monkeypatch.setattr(small_prior.pipe.text_encoder, "to", lambda place: moves.append(str(place)))
    inside: list[bool] = []

    def note(_: nn.Module, inputs: object) -> None:
        inside.append(len(moves) % 2 == 0)  # laid aside once at first, then there and back

    handles = [
        next(small_prior.pipe.text_encoder.children()).register_forward_pre_hook(note),
        small_prior.pipe.unet.register_forward_pre_hook(
            lambda m, i: inside.append(len(moves) % 2 == 1)
        ),
    ]
    try:
        rows_of(classifier, small_prior, memory=resting)
    finally:
        for handle in handles:
            handle.remove()
    assert len(inside) > 4
    assert all(inside)


def test_a_plan_without_room_for_learning_is_refused(
    small_prior: Prior, classifier: Classifier
) -> None:
    alone = planned(small_prior, classifier, "1GB", tokens=False)
    with pytest.raises(
        ConfigError, match=r"no room for token learning, expected .* cat and rows: plan again"
    ):
        rows_of(classifier, small_prior, memory=alone)


def test_attention_reaches_learning(
    small_prior: Prior, classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls are counted: tokens are too alike to tell one backend from another."""
    calls: list[int] = []
    process = AttnProcessor.__call__
    monkeypatch.setattr(
        AttnProcessor, "__call__", lambda *a, **k: calls.append(1) or process(*a, **k)
    )
    rows_of(classifier, small_prior)
    assert not calls
    rows_of(classifier, small_prior, attention="vanilla")
    assert calls
