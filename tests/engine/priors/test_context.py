"""Contexts go by image, whatever a pipeline's encode_prompt returns."""

import pytest
import torch

from engine.errors import ModelError
from engine.priors import Context

WIDE, POOLED = torch.randn(3, 5, 2), torch.randn(3, 4)
NULL, NULL_POOLED = torch.randn(1, 5, 2), torch.randn(1, 4)
IDS = torch.zeros(3, 7)
"""As many rows as there are prompts, but none of them a prompt's."""


@pytest.fixture
def context() -> Context:
    """Two calls: pairs, and what all images share; then one that guidance alone makes."""
    plain = [(WIDE, None, POOLED, IDS)]
    guided = [(WIDE[:1], NULL, POOLED[:1], IDS), (NULL_POOLED, IDS)]
    return Context.of(plain, guided, 3)


def owners(context: Context) -> list[list[str]]:
    return [[entry.owner for entry in call] for call in context.calls]


def test_owners_show_in_how_results_differ(context: Context) -> None:
    assert owners(context) == [["prompt", "negative", "prompt", "shared"], ["negative", "shared"]]
    (wide, null, pooled, ids), (second, _) = context.results()
    assert torch.equal(wide, WIDE)
    assert torch.equal(pooled, POOLED)
    assert ids is IDS
    assert torch.equal(null, NULL.expand(3, 5, 2))
    assert torch.equal(second, NULL_POOLED.expand(3, 4))


def test_images_are_chosen_and_joined(context: Context) -> None:
    for rows in (slice(1, 3), [1, 2], torch.tensor([1, 2])):
        some = context[rows]
        assert len(some) == 2
        (wide, null, pooled, ids), _ = some.results()
        assert torch.equal(wide, WIDE[1:])
        assert torch.equal(pooled, POOLED[1:])
        assert null.shape == (2, 5, 2)
        assert ids is IDS
    back = Context.join([context[2:], context[:2]])[[1, 2, 0]]
    for one, other in zip(back.results(), context.results(), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_lists_go_by_image_too() -> None:
    """As of Z-Image: a tensor of its own length for each prompt."""
    prompts = [torch.randn(length, 2) for length in (2, 3)]
    null = [torch.randn(4, 2)]
    context = Context.of([(prompts, [])], [(prompts[:1], null)], 2)
    assert owners(context) == [["prompt", "negative"]]
    ((chosen, empty),) = context[[1]].results()
    assert len(chosen) == 1
    assert chosen[0] is prompts[1]
    assert empty[0] is null[0]
    ((joined, _),) = Context.join([context[1:], context[:1]]).results()
    assert [len(tensor) for tensor in joined] == [3, 2]


def test_what_gradients_reach_is_packed_into_one_tensor(context: Context) -> None:
    packed = context.packed()
    assert packed.shape == (3, 5 * 2 + 4)
    rows = packed.clone().requires_grad_()
    (wide, null, pooled, _), _ = context.with_packed(rows).results()
    assert torch.equal(wide, WIDE)
    assert torch.equal(pooled, POOLED)
    (grad,) = torch.autograd.grad(wide.sum() + 2 * pooled.sum() + null.sum(), rows)
    assert torch.equal(grad, torch.cat([torch.ones(3, 10), torch.full((3, 4), 2.0)], 1))


def test_packed_rows_get_the_dtypes_they_had() -> None:
    context = Context.of([(WIDE.half(), POOLED)], None, 3)
    wide, pooled = next(context.with_packed(context.packed().double()).results())
    assert (wide.dtype, pooled.dtype) == (torch.float16, torch.float32)
    assert torch.equal(wide, WIDE.half())


def test_the_negative_prompt_takes_the_prompts_places(context: Context) -> None:
    (wide, _, pooled, ids), _ = context.null().results()
    assert torch.equal(wide, NULL.expand(3, 5, 2))
    assert torch.equal(pooled, NULL_POOLED.expand(3, 4))
    assert ids is IDS


def test_without_a_negative_prompt_there_is_no_null_branch() -> None:
    context = Context.of([(WIDE, None)], None, 3)
    with pytest.raises(ModelError, match="1 entries for its prompts and 0 for a negative one, exp"):
        context.null()
