"""What a user may write as a budget."""

import pytest
import torch

from engine.memory.budget import BudgetError, free_bytes, in_words, parse_budget

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("budget", "nbytes"),
    [
        ("12GB", 12_000_000_000),
        ("11.5GiB", 12_348_030_976),
        (" 800 mb ", 800_000_000),
        ("1e", None),
        ("4096", 4096),
        (4096, 4096),
        ("2kib", 2048),
        ("0GB", None),
        ("-1GB", None),
        ("12Gb", None),
        ("12 parsecs", None),
        ("GB", None),
        ("nan", None),
        ("", None),
    ],
)
def test_budgets(budget: str | int, nbytes: int | None) -> None:
    if nbytes is not None:
        assert parse_budget(budget, CPU) == nbytes
        return
    with pytest.raises(BudgetError, match=r"^memory is .*, expected .*: (write it so|give what)"):
        parse_budget(budget, CPU)


def test_auto_is_what_is_free() -> None:
    assert 10**6 < parse_budget("auto", CPU) <= 1.5 * free_bytes(CPU)


@pytest.mark.parametrize("nbytes", [1, 999, 1001, 123_456, 999_999_999, 2_726_684_209, 10**12 + 1])
def test_words_read_back_are_no_less(nbytes: int) -> None:
    assert nbytes <= parse_budget(in_words(nbytes), CPU) <= 1.011 * nbytes
