"""The learning loop on problems small enough to check by hand, and its gradient on a real, tiny prior."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from engine.config import Sampling, TokenLearning
from engine.errors import GuidanceError
from engine.guidance.steer import Unguided
from engine.models import Prior
from engine.sampling.noise import ImageNoise
from engine.tokens.optimise import (
    DRAWN_FROM,
    Outcome,
    TokenState,
    adam_update,
    final_images,
    gradient_step,
    initial_rows,
    learn,
    learning_key,
)
from engine.tokens.table import TokenTable, attached
from engine.types import ImageKey, Step, image_rng

CLASSES, WIDTH = 3, 5
ALWAYS = TokenLearning(skip_passing=False, images_per_epoch=20, target_accuracy=1.0, epochs=5)


def fixed_accuracy(state: TokenState, right: Callable[[ImageKey, bool], bool]) -> Callable[..., Tensor]:
    """Logits that are right where `right(key, with_tokens)` says so, with a little gradient by the class's row."""

    def logits_of(keys: Sequence[ImageKey], with_tokens: bool) -> Tensor:
        rows = state.rows[[state.classes.index(key.class_index) for key in keys]]
        votes = torch.zeros(len(keys), CLASSES)
        for vote, key in zip(votes, keys, strict=True):
            vote[key.class_index if right(key, with_tokens) else (key.class_index + 1) % CLASSES] = 9.0
        return votes + rows[:, :CLASSES] * 1e-3

    return logits_of


def image_of(key: ImageKey, learning: TokenLearning) -> tuple[int, int]:
    """(epoch, image) of a learning key."""
    return divmod(-2 - key.index, learning.images_per_epoch)


def at_start(classes: Sequence[int] = (0, 1, 2)) -> TokenState:
    return TokenState.at_start(classes, torch.randn(len(classes), WIDTH))


def test_adam_is_torch_s_adam_row_by_row():
    state = at_start()
    leaves = [row.detach().clone().requires_grad_() for row in state.rows]
    optimisers = [torch.optim.Adam([leaf], lr=0.005) for leaf in leaves]
    for numbers in ([0, 1, 2], [0, 2], [2], [0, 1, 2]):
        grad = torch.randn(len(numbers), WIDTH)
        adam_update(state, numbers, grad, 0.005)
        for number, row in zip(numbers, grad, strict=True):
            leaves[number].grad = row
            optimisers[number].step()
    torch.testing.assert_close(state.rows.detach(), torch.stack(leaves).detach(), rtol=1e-6, atol=1e-7)
    assert state.updates.tolist() == [3, 2, 4]


@pytest.mark.parametrize(("hits", "stops"), [(14, False), (15, True)])
def test_a_class_stops_above_the_target_and_not_at_it(hits, stops):
    learning = replace(ALWAYS, target_accuracy=0.7, epochs=1)
    state = at_start()
    before = state.rows.detach().clone()
    right = lambda key, with_tokens: image_of(key, learning)[1] < hits  # noqa: E731
    (report,) = learn(state, fixed_accuracy(state, right), learning, batch=7)
    assert [epoch.accuracy for epoch in report] == [hits / 20] * 3
    assert {epoch.outcome for epoch in report} == {Outcome.RECOGNISED if stops else Outcome.EPOCHS_USED_UP}
    assert torch.equal(state.rows.detach(), before) == stops


def test_classes_stop_one_by_one_and_a_stopped_row_stays():
    state = at_start()
    right = lambda key, with_tokens: image_of(key, ALWAYS)[0] > key.class_index  # noqa: E731
    snapshots = []
    learning = replace(ALWAYS, target_accuracy=0.7)
    for report in learn(state, fixed_accuracy(state, right), learning, batch=28):
        snapshots.append((report, state.rows.detach().clone()))
    assert [[epoch.class_index for epoch in report] for report, _ in snapshots] == [[0, 1, 2], [1, 2], [2]]
    first, second, third = (rows for _, rows in snapshots)
    assert torch.equal(first[0], third[0])
    assert torch.equal(second[1], third[1])
    assert not torch.equal(first[1:], second[1:]) or not torch.equal(second[2], third[2])
    assert state.updates.tolist() == [0, 1, 2]


def test_an_epoch_is_the_same_update_in_any_micro_batches():
    ends = []
    for batch in (3, 60):
        torch.manual_seed(1)
        state = at_start()
        weights = torch.randn(WIDTH, CLASSES)

        def logits_of(keys, with_tokens, state=state, weights=weights):
            noise = torch.stack([torch.randn(WIDTH, generator=image_rng(0, key)) for key in keys])
            return (state.rows[[key.class_index for key in keys]] + noise) @ weights

        list(learn(state, logits_of, replace(ALWAYS, epochs=1), batch))
        ends.append(state.momentum)
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-5, atol=1e-7)


def test_the_gradient_is_that_of_the_mean_loss_of_the_class():
    state, weights = at_start((1,)), torch.randn(WIDTH, CLASSES)
    leaf = state.rows.detach().clone().requires_grad_()
    cross_entropy(leaf @ weights, torch.tensor([1])).backward()
    list(
        learn(
            state, lambda keys, _: state.rows[[0] * len(keys)] @ weights, replace(ALWAYS, epochs=1), batch=8
        )
    )
    torch.testing.assert_close(state.momentum, 0.1 * leaf.grad, rtol=1e-5, atol=1e-8)


def test_classes_that_pass_without_a_token_are_left_alone():
    state, seen = at_start(), []
    learning = replace(ALWAYS, skip_passing=True, epochs=2, target_accuracy=0.7)
    logits_of = fixed_accuracy(state, lambda key, with_tokens: key.class_index == 1 and not with_tokens)

    def watched(keys, with_tokens):
        seen.extend((key.class_index, with_tokens) for key in keys)
        return logits_of(keys, with_tokens)

    reports = list(learn(state, watched, learning, batch=28))
    assert [(epoch.epoch, epoch.outcome.name) for epoch in reports[0]] == [
        (0, "LEARNING"), (0, "PASSES_WITHOUT"), (0, "LEARNING"),
    ]  # fmt: skip
    assert (1, True) not in seen
    assert state.epochs.tolist() == [2, 0, 2]


def test_without_skipping_the_plain_prompt_is_never_tried():
    state, tried = at_start(), set()
    logits_of = fixed_accuracy(state, lambda key, with_tokens: True)

    def watched(keys, with_tokens):
        tried.update((key.class_index, with_tokens) for key in keys)
        return logits_of(keys, with_tokens)

    list(learn(state, watched, replace(ALWAYS, target_accuracy=0.7), batch=28))
    assert tried == {(0, True), (1, True), (2, True)}


def test_no_image_shares_its_seed_with_another_or_with_generation():
    keys = [learning_key(0, epoch, image, 20) for epoch in range(31) for image in range(20)]
    assert len(set(keys)) == len(keys)
    assert max(key.index for key in keys) == -2


def test_an_update_that_is_not_finite_is_skipped_and_counted():
    state, learning = at_start(), replace(ALWAYS, epochs=20)
    logits_of = fixed_accuracy(state, lambda key, with_tokens: False)

    def broken(keys, with_tokens):
        bad = [key.class_index == 2 and image_of(key, learning) == (1, 3) for key in keys]
        return logits_of(keys, with_tokens) * torch.tensor(
            [[float("nan") if is_bad else 1.0] for is_bad in bad]
        )

    before = state.rows.detach().clone()
    next(learn(state, broken, learning, batch=28))
    assert (state.skipped.tolist(), state.updates.tolist()) == ([0, 0, 1], [1, 1, 0])
    assert torch.equal(state.rows[2], before[2])
    assert not torch.equal(state.rows[0], before[0])


def test_too_many_skipped_updates_are_an_error():
    state = at_start((2,))
    endless = learn(
        state, lambda keys, _: state.rows[[0] * len(keys)] * float("inf"), replace(ALWAYS, epochs=20), 28
    )
    with pytest.raises(
        GuidanceError,
        match=r"3 updates of class 2's token .* NaN or infinite, expected at most 10% of 20: lower cfg",
    ):
        list(endless)
    assert state.rows.isfinite().all()


def test_leaving_and_going_on_is_learning_in_one_go():
    weights = torch.randn(WIDTH, CLASSES)

    def problem(state):
        def logits_of(keys, with_tokens):
            noise = torch.stack([torch.randn(WIDTH, generator=image_rng(0, key)) for key in keys])
            return (state.rows[[state.classes.index(key.class_index) for key in keys]] + noise) @ weights

        return logits_of

    learning = replace(ALWAYS, skip_passing=True, target_accuracy=0.6, learning_rate=0.2)
    whole = at_start()
    cut = TokenState.at_start(whole.classes, whole.rows)
    rounds = len(list(learn(whole, problem(whole), learning, batch=2)))
    for _ in range(rounds):
        next(learn(cut, problem(cut), learning, batch=2))
        cut = copy.deepcopy(cut)
    assert list(learn(cut, problem(cut), learning, batch=2)) == []
    for entry in fields(TokenState):
        mine, other = getattr(cut, entry.name), getattr(whole, entry.name)
        assert mine == other if entry.name == "classes" else torch.equal(mine, other), entry.name


def test_learning_solves_a_problem_that_the_start_does_not():
    """Rows must turn towards their class's direction; a wrong sign or a mixed-up row leaves accuracy at chance."""
    directions = torch.nn.functional.normalize(torch.randn(CLASSES, WIDTH), dim=1) * 3
    state = TokenState.at_start((0, 1, 2), torch.zeros(CLASSES, WIDTH))

    def logits_of(keys, with_tokens):
        noise = torch.stack([torch.randn(WIDTH, generator=image_rng(0, key)) for key in keys]) * 0.3
        return (state.rows[[key.class_index for key in keys]] + noise) @ directions.T

    learning = replace(ALWAYS, epochs=30, target_accuracy=0.9, learning_rate=0.1)
    reports = list(learn(state, logits_of, learning, batch=28))
    assert min(epoch.accuracy for epoch in reports[0]) < 0.7
    assert state.outcome.tolist() == [Outcome.RECOGNISED] * CLASSES
    last = {epoch.class_index: epoch.loss for report in reports for epoch in report}
    assert all(last[epoch.class_index] < 0.5 * epoch.loss for epoch in reports[0])


@pytest.mark.parametrize("init", ["random", "a", "class name"])
def test_rows_start_where_the_setting_says(tiny_prior: Prior, init):
    table = tiny_prior.text_encoder.get_input_embeddings().weight
    rows = initial_rows(tiny_prior, (1, 2), ("dog", "elephant", "zoo"), init, seed=3)
    assert rows.shape == (2, 32)
    vocabulary = tiny_prior.tokenizer.get_vocab()
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
            rows, (tiny_prior.tokenizer.tokenize("elephant"), ("z", "o", "o</w>")), strict=True
        ):
            torch.testing.assert_close(row, table[[vocabulary[piece] for piece in pieces]].mean(0))


def double(prior: Prior) -> Prior:
    """A copy of a prior in float64."""
    parts = ("text_encoder", "unet", "vae")
    return replace(prior, **{name: copy.deepcopy(getattr(prior, name)).double() for name in parts})


def by_hand(prior: Prior, row: Tensor, z: Tensor, steps: int, cfg: float, first_with_graph: int) -> Tensor:
    """Images of 'a S dog' by diffusers' own scheduler and the textbook's CFG, S the last row of a larger embedding."""
    tokenizer, encoder = copy.deepcopy(prior.tokenizer), copy.deepcopy(prior.text_encoder)
    tokenizer.add_tokens(["<ddis-dog>"])
    ids = tokenizer(["a <ddis-dog> dog", ""], padding="max_length", return_tensors="pt").input_ids
    larger = torch.cat([encoder.get_input_embeddings().weight, row[None]])
    encoder.get_input_embeddings().register_forward_pre_hook(
        lambda _, inputs: (inputs[0].clamp(max=len(larger) - 2),)
    )
    encoder.get_input_embeddings().register_forward_hook(lambda *_: larger[ids])
    words, nothing = encoder(ids).last_hidden_state
    scheduler = copy.deepcopy(prior.scheduler)
    scheduler.set_timesteps(steps)
    for number, timestep in enumerate(scheduler.timesteps):
        with torch.set_grad_enabled(number >= first_with_graph):
            noise, free = (
                prior.unet(z, timestep, encoder_hidden_states=text.expand(len(z), -1, -1)).sample
                for text in (words, nothing)
            )
            z = scheduler.step(free + cfg * (noise - free), timestep, z).prev_sample
    return (prior.vae.decode(z / prior.vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)


def latent_noise(keys: list[ImageKey]) -> ImageNoise:
    return ImageNoise(0, keys, (4, 4, 4), dtype=torch.float64)


def test_the_gradient_comes_through_the_last_step_alone(tiny_prior: Prior):
    prior, sampling = double(tiny_prior), Sampling(steps=3, cfg=4.0, eta=0.0)
    keys = [ImageKey(0, 0), ImageKey(0, 1)]
    row, z = torch.randn(32, dtype=torch.float64), latent_noise(keys).draw()
    readout = torch.randn(3, 32, 32, CLASSES, dtype=torch.float64)

    def gradient(images: Tensor, leaf: Tensor) -> Tensor:
        loss = cross_entropy(torch.einsum("nchw,chwk->nk", images, readout), torch.tensor([0, 0]))
        return torch.autograd.grad(loss, leaf)[0]

    leaf = row[None].clone().requires_grad_()
    table = TokenTable(leaf, (0,), ("dog",), ("<ddis-dog>",), prior.fingerprint, "")
    with attached(prior, table) as speaking:
        images = final_images(speaking, ["a <ddis-dog> dog"] * 2, latent_noise(keys), sampling, Unguided())
        ours = gradient(images, leaf)[0]
    twins = [row.clone().requires_grad_() for _ in range(2)]
    last, whole = (
        gradient(by_hand(prior, twin, z, 3, 4.0, first), twin)
        for twin, first in zip(twins, (2, 0), strict=True)
    )
    assert ours.norm() > 0
    assert (ours - last).norm() < 1e-6 * last.norm()
    assert (ours - whole).norm() > 1e-2 * whole.norm()


def test_the_steer_acts_in_the_steps_without_a_graph_too(tiny_prior: Prior):
    class Shift(Unguided):
        def __init__(self) -> None:
            self.seen: list[tuple[int, bool]] = []

        def before(self, z: Tensor, step: Step) -> Tensor:
            self.seen.append((step.index, torch.is_grad_enabled()))
            return z

    steer, noise = Shift(), ImageNoise(0, [ImageKey(0, 0)], tiny_prior.latent_shape)
    final_images(tiny_prior, ["a dog"], noise, Sampling(steps=4, cfg=1.0), steer)
    assert steer.seen == [(0, False), (1, False), (2, False), (3, True)]


def test_a_drawn_step_ends_sampling_and_carries_the_gradient(tiny_prior: Prior):
    prior, sampling = double(tiny_prior), Sampling(steps=5, cfg=4.0)
    leaf = torch.randn(1, 32, dtype=torch.float64).requires_grad_()
    table = TokenTable(leaf, (0,), ("dog",), ("<ddis-dog>",), prior.fingerprint, "")
    seen: list[tuple[Step, Tensor]] = []
    with attached(prior, table) as speaking:
        arguments = speaking, ["a <ddis-dog> dog"], latent_noise([ImageKey(0, 0)]), sampling, Unguided()
        early = final_images(*arguments, lambda *step: seen.append(step), at=2)
        assert [step.index for step, _ in seen] == [0, 1]
        assert torch.autograd.grad(early.mean(), leaf)[0].norm() > 0
        seen.clear()
        again = speaking, ["a <ddis-dog> dog"], latent_noise([ImageKey(0, 0)]), sampling, Unguided()
        whole = final_images(*again, lambda *step: seen.append(step))
    torch.testing.assert_close(early, prior.decode(seen[2][1]), rtol=0, atol=1e-9)
    assert not torch.allclose(early, whole, atol=1e-3)


@pytest.mark.parametrize("steps", [1, 2, 15, 30])
def test_the_gradient_s_step_is_the_last_or_drawn_from_the_early_ones(steps: int):
    rng = torch.Generator().manual_seed(0)
    assert gradient_step("last", steps, rng) == steps - 1
    drawn = {gradient_step("drawn", steps, rng) for _ in range(500)}
    first, end = (round(share * steps) for share in DRAWN_FROM)
    assert drawn == set(range(first, max(end, first + 1)))
    assert max(drawn) < steps
