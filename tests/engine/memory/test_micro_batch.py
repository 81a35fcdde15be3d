"""Parts of phases, and what happens when memory runs out."""

import warnings

import pytest
import torch

from engine.memory.budget import MemoryWarning
from engine.memory.micro_batch import MicroBatches, OutOfMemoryError, is_out_of_memory


def allocator_error() -> RuntimeError:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    return caught.value


def test_the_words_of_torchs_allocators_are_known() -> None:
    assert is_out_of_memory(allocator_error())
    assert is_out_of_memory(
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    )
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"))
    for way in ("GET", "FIND"):
        words = f"{way} was unable to find an engine to execute this computation"
        assert is_out_of_memory(RuntimeError(words))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_parts_keep_their_order_and_halve_until_they_fit() -> None:
    parts, seen = MicroBatches({"decode": 6}), []

    def work(rows: torch.Tensor, names: list[str]) -> tuple[list[int], list[str]]:
        seen.append(len(rows))
        if len(rows) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return rows.tolist(), names

    with pytest.warns(
        MemoryWarning, match=r"ran out in phase 'decode' with 6 images at once .*going on with 3"
    ):
        found = parts.split("decode", work, torch.arange(7), list("abcdefg"))
    assert seen == [6, 3, 1, 1, 1, 1, 1, 1, 1]
    assert [row for rows, _ in found for row in rows] == list(range(7))
    assert "".join(name for _, names in found for name in names) == "abcdefg"
    assert parts.sizes == {"decode": 1}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert parts.split("text", len, list("abc")) == [3]  # another phase is as it was


def test_what_a_failed_attempt_held_is_free_when_the_next_begins() -> None:
    alive: list[int] = []

    class Held:
        count = 0

        def __init__(self) -> None:
            Held.count += 1

        def __del__(self) -> None:
            Held.count -= 1

    def work(size: int) -> int:
        alive.append(Held.count)
        held = Held()
        if size > 1:
            raise MemoryError(f"{held}")
        return size

    with pytest.warns(MemoryWarning):
        assert MicroBatches().attempt("guidance", 8, work) == 1
    assert alive == [0, 0, 0, 0]


def test_one_image_that_does_not_fit_is_an_error_that_says_so() -> None:
    def work(size: int) -> None:
        raise allocator_error()

    with (
        pytest.warns(MemoryWarning),
        pytest.raises(
            OutOfMemoryError,
            match=r"phase 'sampling' with one image at a time .*, expected room for one: see",
        ),
    ):
        MicroBatches().attempt("sampling", 2, work)


def test_other_errors_are_raised_at_once() -> None:
    parts = MicroBatches()
    with pytest.raises(RuntimeError, match="shapes"):
        parts.split("text", lambda rows: (_ for _ in ()).throw(RuntimeError("shapes")), [1, 2])
    assert parts.sizes == {}


def test_what_can_be_released_is_before_a_size_is_halved() -> None:
    seen: list[int] = []
    held = [True]

    def release() -> bool:
        return bool(held) and held.pop()

    def work(size: int) -> int:
        seen.append(size)
        if held or size > 3:
            raise MemoryError
        return size

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert MicroBatches({"guidance": 3}, release).attempt("guidance", 6, work) == 3
    assert seen == [3, 3]
    with pytest.warns(MemoryWarning, match="going on with 3"):
        assert MicroBatches(None, release).attempt("guidance", 6, work) == 3
