"""The learning loop on problems small enough to check by hand."""

import copy
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import fields, replace
from math import isnan

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from engine.errors import GuidanceError
from engine.priors import Context, Prior
from engine.priors.context import Entry
from engine.settings import TokenLearning
from engine.tokens.check import variety
from engine.tokens.optimise import learn
from engine.tokens.scaled import scaled_gradient
from engine.tokens.source import ContextGradient
from engine.tokens.state import ON_DEVICE, Outcome, TokenState, initial_rows, learning_key
from engine.types import ImageKey, image_rng

CLASSES, WIDTH = 3, 5
ALWAYS = TokenLearning(
    skip_passing=False,
    images_per_epoch=20,
    target_accuracy=1.0,
    epochs=5,
    updates_per_trajectory=1,
    domain_weight=0.0,
    check_images=0,
)
LogitsOf = Callable[[Sequence[ImageKey], Tensor, bool], Tensor]
"""(images, their contexts (N, D), whether with tokens) -> logits (N, K)."""


def context_of(rows: Tensor) -> Context:
    """The rows (N, D) as the context of N prompts."""
    return Context(((Entry(rows, "prompt"),),), len(rows))


class Images:
    """A batch whose images cost 3 evaluations to draw, 1 each way for a gradient, and 2 more to finish."""

    def __init__(self, source: "Rows", keys: Sequence[ImageKey], context: Context) -> None:
        self.source, self.keys, self.context, self.complete = source, keys, context, False
        self.denoiser_forward = torch.full((len(keys),), 3)
        self.denoiser_backward = torch.zeros(len(keys), dtype=torch.int64)

    def gradient(
        self, update: int, context: Context, targets: Tensor, learning: TokenLearning, scale: float
    ) -> ContextGradient:
        self.denoiser_forward += 1
        self.denoiser_backward += 1
        leaf = context.packed().clone().requires_grad_()
        logits = self.source.logits_of(self.keys, leaf, self.source.with_tokens)
        l_bn = leaf.square().mean()
        loss = (
            cross_entropy(logits, targets, reduction="sum")
            + learning.domain_weight * len(logits) * l_bn
        )
        grad, scale = scaled_gradient(
            loss, leaf, torch.tensor(1 / learning.images_per_epoch), scale
        )
        return ContextGradient(logits.detach(), grad, self.source.lowered(scale))

    def finished(self, rows: Sequence[int]) -> Tensor:
        self.source.finished.append([self.keys[row] for row in rows])
        self.denoiser_forward[list(rows)] += 2
        keys = [self.keys[row] for row in rows]
        context = self.context[list(rows)].packed()
        return self.source.finished_of(keys, context, self.source.with_tokens)


class Rows:
    """A source whose context is the rows themselves, one word long, and whose images are their own logits."""

    def __init__(
        self, state: TokenState, logits_of: LogitsOf, finished_of: LogitsOf | None = None
    ) -> None:
        self.state, self.logits_of, self.finished_of = state, logits_of, finished_of or logits_of
        self.with_tokens, self.scale = True, 1.0
        self.encoded: list[int] = []
        self.finished: list[list[ImageKey]] = []
        self.drawn: list[weakref.ref[Images]] = []

    def encode(self, classes: Sequence[int], with_tokens: bool) -> Context:
        self.with_tokens = with_tokens
        self.encoded.append(len(classes))
        places = [self.state.classes.index(number) for number in classes]
        return context_of(self.state.rows.detach()[places])

    def to_rows(
        self, classes: Sequence[int], by_context: Tensor, rows: Tensor, scale: float
    ) -> tuple[Tensor, float]:
        places = torch.tensor([self.state.classes.index(number) for number in classes])
        return torch.zeros_like(rows).index_add_(0, places, by_context), scale

    def lowered(self, scale: float) -> float:
        """The scale that a gradient ends with: as it was, unless a test overflows."""
        return scale

    def draw(self, keys: Sequence[ImageKey], context: Context) -> Images:
        images = Images(self, keys, context)
        self.drawn.append(weakref.ref(images))
        return images


def fixed_accuracy(right: Callable[[ImageKey, bool], bool]) -> LogitsOf:
    """Logits that are right where `right(key, with_tokens)` says so, with a little gradient by the context."""

    def logits_of(keys: Sequence[ImageKey], context: Tensor, with_tokens: bool) -> Tensor:
        votes = torch.zeros(len(keys), CLASSES)
        for vote, key in zip(votes, keys, strict=True):
            vote[
                key.class_index if right(key, with_tokens) else (key.class_index + 1) % CLASSES
            ] = 9.0
        return votes + context[:, :CLASSES] * 1e-3

    return logits_of


def noisy(weights: Tensor, size: float = 1.0) -> LogitsOf:
    """Logits of a row with each image's own noise."""

    def logits_of(keys: Sequence[ImageKey], context: Tensor, with_tokens: bool) -> Tensor:
        noise = torch.stack([torch.randn(WIDTH, generator=image_rng(0, key)) for key in keys])
        return (context + size * noise) @ weights

    return logits_of


def image_of(key: ImageKey, learning: TokenLearning) -> tuple[int, int]:
    """(epoch, image) of a learning key."""
    return divmod(-2 - key.index, learning.images_per_epoch)


def at_start(classes: Sequence[int] = (0, 1, 2)) -> TokenState:
    return TokenState.at_start(classes, torch.randn(len(classes), WIDTH))


@pytest.mark.parametrize(("hits", "stops"), [(14, False), (15, True)])
def test_a_class_stops_above_the_target_and_not_at_it(hits, stops):
    learning = replace(ALWAYS, target_accuracy=0.7, epochs=1)
    state = at_start()
    before = state.rows.detach().clone()
    right = fixed_accuracy(lambda key, with_tokens: image_of(key, learning)[1] < hits)
    (report,) = learn(state, Rows(state, right), learning, batch=7)
    assert [epoch.accuracy for epoch in report] == [hits / 20] * 3
    assert {epoch.outcome for epoch in report} == {
        Outcome.RECOGNISED if stops else Outcome.EPOCHS_USED_UP
    }
    assert torch.equal(state.rows.detach(), before) == stops


def test_classes_stop_one_by_one_and_a_stopped_row_stays():
    state = at_start()
    right = fixed_accuracy(lambda key, with_tokens: image_of(key, ALWAYS)[0] > key.class_index)
    snapshots = []
    learning = replace(ALWAYS, target_accuracy=0.7)
    for report in learn(state, Rows(state, right), learning, batch=28):
        snapshots.append((report, state.rows.detach().clone()))
    assert [[epoch.class_index for epoch in report] for report, _ in snapshots] == [
        [0, 1, 2],
        [1, 2],
        [2],
    ]
    first, second, third = (rows for _, rows in snapshots)
    assert torch.equal(first[0], third[0])
    assert torch.equal(second[1], third[1])
    assert not torch.equal(first[2], second[2])
    assert state.updates.tolist() == [0, 1, 2]


@pytest.mark.parametrize("updates", [1, 3])
def test_an_epoch_is_the_same_updates_in_any_micro_batches(updates):
    ends = []
    learning = replace(ALWAYS, epochs=1, domain_weight=0.0, updates_per_trajectory=updates)
    for batch in (3, 60):
        torch.manual_seed(1)
        state = at_start()
        list(learn(state, Rows(state, noisy(torch.randn(WIDTH, CLASSES))), learning, batch))
        ends.append(state.momentum)
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("domain_weight", [0.0, 0.5])
def test_the_gradient_is_that_of_the_mean_loss_of_the_class(domain_weight):
    """L_BN of a batch that two classes share pulls a class's row as if it were the class's own share of it alone."""
    state, weights = at_start((1, 2)), torch.randn(WIDTH, CLASSES)
    leaf = state.rows.detach().clone().requires_grad_()
    loss = cross_entropy(leaf @ weights, torch.tensor([1, 2]), reduction="sum")
    (loss + domain_weight * leaf.square().mean(1).sum()).backward()
    source = Rows(state, lambda keys, context, _: context @ weights)
    list(learn(state, source, replace(ALWAYS, epochs=1, domain_weight=domain_weight), batch=8))
    torch.testing.assert_close(state.momentum, 0.1 * leaf.grad, rtol=1e-5, atol=1e-8)


def test_classes_that_pass_without_a_token_are_left_alone():
    state = at_start()
    learning = replace(ALWAYS, skip_passing=True, epochs=2, target_accuracy=0.7)
    source = Rows(
        state, fixed_accuracy(lambda key, with_tokens: key.class_index == 1 and not with_tokens)
    )
    reports = list(learn(state, source, learning, batch=28))
    assert [(epoch.epoch, epoch.finished, epoch.outcome.name) for epoch in reports[0]] == [
        (0, 0.0, "LEARNING"),
        (0, 1.0, "PASSES_WITHOUT"),
        (0, 0.0, "LEARNING"),
    ]
    assert source.encoded == [3, 2, 2]
    assert state.epochs.tolist() == [2, 0, 2]


def test_without_skipping_the_plain_prompt_is_never_tried():
    state, tried = at_start(), set()
    logits_of = fixed_accuracy(lambda key, with_tokens: True)

    def watched(keys, context, with_tokens):
        tried.update((key.class_index, with_tokens) for key in keys)
        return logits_of(keys, context, with_tokens)

    list(learn(state, Rows(state, watched), replace(ALWAYS, target_accuracy=0.7), batch=28))
    assert tried == {(0, True), (1, True), (2, True)}


def test_predicted_images_stop_no_class_that_its_finished_images_do_not():
    """All predicted images pass; finished, only class 1's do, and only those that were predicted right are finished."""
    state = at_start()
    learning = replace(ALWAYS, target_accuracy=0.7, epochs=2)
    predicted = fixed_accuracy(lambda key, _: key.class_index > 0)
    finished = fixed_accuracy(lambda key, _: key.class_index == 1)
    source = Rows(state, predicted, finished)
    reports = list(learn(state, source, learning, batch=28))
    assert [(epoch.finished, epoch.outcome) for epoch in reports[0]] == [
        (None, Outcome.LEARNING),
        (1.0, Outcome.RECOGNISED),
        (0.0, Outcome.LEARNING),
    ]
    assert {key.class_index for keys in source.finished for key in keys} == {1, 2}
    state = at_start()
    list(
        learn(
            state,
            Rows(state, predicted, finished),
            replace(learning, stop_on="predicted"),
            batch=28,
        )
    )
    assert state.outcome.tolist() == [
        Outcome.EPOCHS_USED_UP,
        Outcome.RECOGNISED,
        Outcome.RECOGNISED,
    ]
    assert state.finished.isnan().all()


CHECKED = replace(ALWAYS, epochs=2, images_per_epoch=3, check_images=8, check_doublings=0)


def voted(vote: Callable[[Tensor, bool], float]) -> LogitsOf:
    """Logits of which the right one is `vote(row, with tokens)`, with a little gradient by the context."""

    def logits_of(keys: Sequence[ImageKey], context: Tensor, with_tokens: bool) -> Tensor:
        votes = torch.zeros(len(keys), CLASSES)
        for place, key in enumerate(keys):
            votes[place, key.class_index] = vote(context[place], with_tokens)
        return votes + context[:, :CLASSES] * 1e-3

    return logits_of


@pytest.mark.parametrize(
    ("plain", "start", "learned", "outcome", "kept"),
    [
        (0.0, 1.0, 2.0, Outcome.EPOCHS_USED_UP, "learned"),
        (0.0, 2.0, 1.0, Outcome.EPOCHS_USED_UP, "start"),
        (2.0, 1.0, 1.5, Outcome.NO_BETTER, "learned"),
        (1.0, 1.0, 1.1, Outcome.EPOCHS_USED_UP, "learned"),
    ],
)
def test_the_check_keeps_the_better_of_token_and_start_and_neither_without_gain(
    plain, start, learned, outcome, kept
):
    state = at_start((0, 2))
    start_rows = state.rows.detach().clone()

    def vote(row: Tensor, with_tokens: bool) -> float:
        if not with_tokens:
            return plain
        return start if any(torch.equal(row.detach(), one) for one in start_rows) else learned

    source = Rows(state, voted(vote))
    reports = list(learn(state, source, CHECKED, batch=5))
    assert [epoch.outcome for epoch in reports[-1]] == [outcome] * 2
    assert [epoch.epoch for epoch in reports[-1]] == [2, 2]
    assert torch.equal(state.rows, start_rows) == (kept == "start")
    assert len(reports) == 3
    assert list(learn(state, source, CHECKED, batch=5)) == []


def gaining(gains: dict[int, float]) -> LogitsOf:
    """Logits of a cross-entropy of 4, with a token of less by the class's gain +- 1."""

    def logits_of(keys: Sequence[ImageKey], context: Tensor, with_tokens: bool) -> Tensor:
        logits = context[:, :CLASSES] * 1e-9
        for place, key in enumerate(keys):
            gain = gains[key.class_index]
            own = torch.tensor(-4.0 + (gain + (-1) ** key.index if with_tokens else 0.0))
            others = (-own.exp()).log1p() - torch.tensor(CLASSES - 1.0).log()
            logits = logits.index_add(0, torch.tensor([place]), others.expand(1, CLASSES))
            at = torch.tensor([place]), torch.tensor([key.class_index])
            logits = logits.index_put(at, own[None] - others, accumulate=True)
        return logits

    return logits_of


@pytest.mark.parametrize(("gain", "helps"), [(2.0, True), (0.3, False)])
def test_a_gain_within_chance_keeps_no_token(gain, helps):
    """Of 8 differences with a mean of 0.3 and a deviation of 1.07 the mean is within two standard errors, 0.76."""
    state = at_start()
    source = Rows(state, gaining(dict.fromkeys(range(CLASSES), gain)))
    reports = list(learn(state, source, CHECKED, batch=28))
    assert {epoch.outcome == Outcome.NO_BETTER for epoch in reports[-1]} == {not helps}
    assert reports[-1][0].loss == pytest.approx(4.0 - gain, abs=1e-5)


def spread(apart: float) -> LogitsOf:
    """Logits that recognise every class; with a token surer, and `apart` from image to image instead of 1."""

    def logits_of(keys: Sequence[ImageKey], context: Tensor, with_tokens: bool) -> Tensor:
        logits = context[:, :CLASSES] * 1e-9
        for place, key in enumerate(keys):
            by = apart if with_tokens else 1.0
            sure = torch.tensor((6.0 if with_tokens else 3.0) + by * (key.index % 4))
            logits = logits.index_put(
                (torch.tensor([place]), torch.tensor([key.class_index])), sure, accumulate=True
            )
        return logits

    return logits_of


@pytest.mark.parametrize(
    ("apart", "outcome"),
    [(0.5, Outcome.EPOCHS_USED_UP), (0.1, Outcome.ALIKE), (0.0, Outcome.ALIKE)],
)
def test_a_token_whose_images_are_all_alike_is_refused(apart, outcome):
    state = at_start()
    reports = list(learn(state, Rows(state, spread(apart)), CHECKED, batch=28))
    assert {epoch.outcome for epoch in reports[-1]} == {outcome}
    assert [epoch.variety for epoch in reports[-1]] == pytest.approx([apart] * CLASSES, abs=1e-4)
    assert outcome.keeps_token == (outcome != Outcome.ALIKE)


def test_variety_is_not_known_of_few_recognised_images():
    """An ambiguous name's plain images mostly show something else: then nothing is to be compared with."""
    logits = 5 * torch.eye(3)[[0, 0, 0, 0, 0]] + torch.rand(5, 3)
    mistaken = logits.clone()
    mistaken[2:, 1] += 9
    assert variety(logits, logits, 0) == pytest.approx(1.0)
    assert isnan(variety(logits, mistaken, 0))
    assert isnan(variety(mistaken, logits, 0))


def test_the_check_reads_images_that_no_update_has_read_and_the_same_for_all():
    state = at_start()
    source = Rows(state, fixed_accuracy(lambda key, _: False))
    list(learn(state, source, replace(CHECKED, epochs=3), batch=4))
    looked = [key for keys in source.finished for key in keys]
    assert len(looked) == 3 * 8 * CLASSES
    assert len(set(looked)) == 8 * CLASSES
    read = {
        learning_key(number, epoch, image, 3)
        for number in range(3)
        for epoch in range(4)
        for image in range(3)
    }
    assert not read & set(looked)


@pytest.mark.parametrize(("doublings", "looked_at"), [(0, 8), (1, 16), (2, 32), (3, 64)])
def test_the_check_goes_on_for_the_classes_that_it_does_not_decide(doublings, looked_at):
    """Differences deviate by about 1: 8 images are sure of a mean of 2 or -2, and 64 of one of 0.3, but not 32."""
    state = at_start()
    source = Rows(state, gaining({0: 2.0, 1: -2.0, 2: 0.3}))
    learning = replace(CHECKED, check_doublings=doublings)
    reports = list(learn(state, source, learning, batch=28))
    decided = Outcome.EPOCHS_USED_UP if looked_at == 64 else Outcome.NO_BETTER
    expected = [Outcome.EPOCHS_USED_UP, Outcome.NO_BETTER, decided]
    assert [epoch.outcome for epoch in reports[-1]] == expected
    by_class = Counter(key.class_index for keys in source.finished for key in keys)
    assert by_class == {0: 3 * 8, 1: 3 * 8, 2: 3 * looked_at}
    assert len({key for keys in source.finished for key in keys}) == 8 + 8 + looked_at
    assert [epoch.loss for epoch in reports[-1]] == pytest.approx([2.0, 6.0, 3.7], abs=1e-5)


def test_the_check_works_on_rows_of_another_device_than_its_results():
    """'meta' plays a GPU: an operator of tensors on both would raise."""

    class OnCpu(Rows):
        def encode(self, classes: Sequence[int], with_tokens: bool) -> Context:
            self.with_tokens = with_tokens
            return context_of(torch.zeros(len(classes), WIDTH))

    state = TokenState.at_start((0, 1, 2), torch.randn(3, WIDTH).to("meta"))
    state.outcome.fill_(Outcome.EPOCHS_USED_UP)
    source = OnCpu(state, fixed_accuracy(lambda key, with_tokens: with_tokens))
    (report,) = learn(state, source, CHECKED, batch=28)
    assert [epoch.outcome for epoch in report] == [Outcome.EPOCHS_USED_UP] * 3
    assert state.rows.device.type == "meta"


def test_unet_evaluations_are_counted_class_by_class():
    """Class 0 stops after the first look, having been finished; the others draw twice and update four times."""
    state = at_start()
    learning = replace(ALWAYS, target_accuracy=0.7, epochs=2, updates_per_trajectory=2)
    source = Rows(state, fixed_accuracy(lambda key, _: key.class_index == 0))
    reports = list(learn(state, source, learning, batch=28))
    assert state.denoiser_forward.tolist() == [20 * (3 + 2 + 2), 20 * 2 * (3 + 2), 20 * 2 * (3 + 2)]
    assert state.denoiser_backward.tolist() == [20 * 2, 20 * 4, 20 * 4]
    assert reports[-1][0].denoiser_forward == 200
    assert state.updates.tolist() == [0, 4, 4]


def test_an_update_encodes_its_prompts_once_however_many_batches_it_reads():
    state = at_start()
    source = Rows(state, fixed_accuracy(lambda key, _: False))
    list(learn(state, source, replace(ALWAYS, epochs=2, updates_per_trajectory=3), batch=4))
    assert source.encoded == [3] * 6
    assert len(source.drawn) == 2 * 15


def test_images_held_at_once_do_not_grow_with_the_classes():
    """40 classes in cohorts of 4: batches of at most 4 images, and never more alive than one epoch of one cohort."""
    state = TokenState.at_start(range(40), torch.randn(40, 64))
    alive = []

    def logits_of(keys, context, with_tokens):
        assert len(keys) <= 4
        alive.append(sum(images() is not None for images in source.drawn))
        return context[:, :40] * 1e-3

    source = Rows(state, logits_of)
    list(learn(state, source, replace(ALWAYS, epochs=1, images_per_epoch=3), batch=4))
    assert len(source.drawn) == 10 * 3
    assert max(alive) <= 2 * 3
    assert (state.updates == 1).all()


def test_looks_at_finished_images_hold_one_batch_at_a_time():
    """The plain prompt's before learning, and those of the check: 20 and 8 images of 3 classes, at most 4 at once."""
    state, alive = at_start(), []

    def finished_of(keys, context, with_tokens):
        alive.append(sum(images() is not None for images in source.drawn))
        return context[:, :CLASSES] * 1e-3

    source = Rows(state, fixed_accuracy(lambda key, _: False), finished_of)
    learning = replace(
        CHECKED, skip_passing=True, images_per_epoch=20, epochs=1, stop_on="predicted"
    )
    list(learn(state, source, learning, batch=4))
    assert alive == [1] * (15 + 3 * 6)


def test_no_image_shares_its_seed_with_another_or_with_generation():
    keys = [learning_key(0, epoch, image, 20) for epoch in range(31) for image in range(20)]
    assert len(set(keys)) == len(keys)
    assert max(key.index for key in keys) == -2


def test_an_update_that_is_not_finite_is_skipped_and_counted():
    state, learning = at_start(), replace(ALWAYS, epochs=20)
    logits_of = fixed_accuracy(lambda key, with_tokens: False)

    def broken(keys, context, with_tokens):
        bad = [key.class_index == 2 and image_of(key, learning) == (1, 3) for key in keys]
        return logits_of(keys, context, with_tokens) * torch.tensor(
            [[float("nan") if is_bad else 1.0] for is_bad in bad]
        )

    before = state.rows.detach().clone()
    next(learn(state, Rows(state, broken), learning, batch=28))
    assert (state.skipped.tolist(), state.updates.tolist()) == ([0, 0, 1], [1, 1, 0])
    assert torch.equal(state.rows[2], before[2])
    assert not torch.equal(state.rows[0], before[0])


def test_too_many_skipped_updates_are_an_error():
    state = at_start((2,))
    source = Rows(state, lambda keys, context, _: context * float("inf"))
    with pytest.raises(
        GuidanceError,
        match=r"3 of 3 updates of class 2's token .* infinite, expected at most 10%, or 2 of the first 20: lower cfg",
    ):
        list(learn(state, source, replace(ALWAYS, epochs=1000), 28))
    assert state.rows.isfinite().all()


@pytest.mark.parametrize(
    ("skipped", "refused"), [([0, 1], None), ([0, 15, 29], None), ([0, 15, 28], 28)]
)
def test_skipped_updates_count_against_those_made_so_far(skipped, refused):
    """Two are allowed from the first update on, a third once there are 30."""
    state, learning = at_start((2,)), replace(ALWAYS, epochs=40)
    logits_of = fixed_accuracy(lambda key, _: False)

    def broken(keys, context, with_tokens):
        bad = [image_of(key, learning)[0] - 1 in skipped for key in keys]
        return logits_of(keys, context, with_tokens) * torch.tensor(
            [[torch.nan if b else 1.0] for b in bad]
        )

    with pytest.raises(GuidanceError, match="3 of 29 updates") if refused else nullcontext():
        list(learn(state, Rows(state, broken), learning, batch=28))
    assert state.epochs.tolist() == [40 if refused is None else refused + 1]


def test_a_lowered_scale_is_kept_with_the_state():
    """What a source finds out once is not found out again by the next, who goes on with the state."""
    state = at_start()
    asked: list[float] = []

    class Overflowing(Rows):
        def lowered(self, scale: float) -> float:
            asked.append(scale)
            return min(scale, 16.0)

    first, second = (Overflowing(state, fixed_accuracy(lambda key, _: False)) for _ in range(2))
    first.scale = second.scale = 64.0
    next(learn(state, first, ALWAYS, batch=28))
    state = copy.deepcopy(state)
    second.state = state
    next(learn(state, second, ALWAYS, batch=28))
    assert state.scale.item() == 16.0
    assert asked[0] == 64.0
    assert set(asked[1:]) == {16.0}


@pytest.mark.parametrize(
    ("optimizer", "width"), [("adam", WIDTH), ("adam8bit", WIDTH), ("adam8bit", 2100)]
)
def test_leaving_and_going_on_is_learning_in_one_go(optimizer, width):
    """Also with a shared optimiser, in 32 bit and, with 2 x 2,100 elements side by side, in 8."""
    weights = torch.randn(width, CLASSES) / width**0.5

    def logits_of(keys, context, with_tokens):
        noise = torch.stack([torch.randn(width, generator=image_rng(0, key)) for key in keys])
        return (context + noise) @ weights

    learning = replace(
        ALWAYS,
        skip_passing=True,
        target_accuracy=0.6,
        learning_rate=0.2,
        optimizer=optimizer,
        updates_per_trajectory=2,
        domain_weight=0.1,
    )
    whole = TokenState.at_start((0, 1, 2), torch.randn(3, width), optimizer)
    cut = TokenState.at_start(whole.classes, whole.rows, optimizer)
    rounds = len(list(learn(whole, Rows(whole, logits_of), learning, batch=2)))
    assert rounds > 4
    for _ in range(rounds):
        next(learn(cut, Rows(cut, logits_of), learning, batch=2))
        cut = copy.deepcopy(cut)
    assert list(learn(cut, Rows(cut, logits_of), learning, batch=2)) == []
    assert cut.joint.keys() == whole.joint.keys()
    assert all(torch.equal(cut.joint[name], whole.joint[name]) for name in whole.joint)
    for entry in fields(TokenState):
        mine, other = getattr(cut, entry.name), getattr(whole, entry.name)
        if isinstance(mine, Tensor):
            torch.testing.assert_close(mine, other, rtol=0, atol=0, equal_nan=True, msg=entry.name)


@pytest.mark.parametrize("optimizer", ["adam", "adam8bit"])
def test_learning_solves_a_problem_that_the_start_does_not(optimizer):
    """Rows must turn towards their class's direction; a wrong sign or a mixed-up row leaves accuracy at chance."""
    directions = torch.nn.functional.normalize(torch.randn(CLASSES, WIDTH), dim=1) * 3
    state = TokenState.at_start((0, 1, 2), torch.zeros(CLASSES, WIDTH), optimizer)
    source = Rows(state, noisy(directions.T, 0.3))
    learning = replace(
        ALWAYS, epochs=30, target_accuracy=0.9, learning_rate=0.1, optimizer=optimizer
    )
    reports = list(learn(state, source, learning, batch=28))
    assert min(epoch.accuracy for epoch in reports[0]) < 0.7
    assert state.outcome.tolist() == [Outcome.RECOGNISED] * CLASSES
    last = {epoch.class_index: epoch.loss for report in reports for epoch in report}
    assert all(last[epoch.class_index] < 0.5 * epoch.loss for epoch in reports[0])


def test_rows_start_on_the_prior_s_device(tiny_prior: Prior, monkeypatch):
    monkeypatch.setattr(Prior, "device", property(lambda self: torch.device("meta")))
    rows = initial_rows(tiny_prior, (1, 2), (), "random", seed=3)
    state = TokenState.at_start((1, 2), rows)
    assert {getattr(state, name).device.type for name in ON_DEVICE} == {"meta"}


@pytest.mark.parametrize("init", ["random", "a", "class name"])
def test_rows_start_where_the_setting_says(tiny_prior: Prior, init):
    table = tiny_prior.pipe.text_encoder.get_input_embeddings().weight
    rows = initial_rows(tiny_prior, (1, 2), ("dog", "elephant", "zoo"), init, seed=3)
    assert rows.shape == (2, 32)
    vocabulary = tiny_prior.pipe.tokenizer.get_vocab()
    if init == "random":
        many = initial_rows(tiny_prior, range(400), (), init, seed=3)
        assert abs(many.std() / table.std() - 1) < 0.05
        assert abs(many.mean() - table.mean()) < 0.05 * table.std()
        assert torch.equal(many[1:3], rows)
        assert not torch.equal(initial_rows(tiny_prior, (1, 2), (), init, seed=4), rows)
    elif init == "a":
        assert torch.equal(rows, table[[vocabulary["a</w>"]] * 2])
    else:
        for row, pieces in zip(
            rows, (tiny_prior.pipe.tokenizer.tokenize("elephant"), ("z", "o", "o</w>")), strict=True
        ):
            torch.testing.assert_close(row, table[[vocabulary[piece] for piece in pieces]].mean(0))
