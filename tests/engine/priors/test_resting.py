"""Networks that rest in main memory: where they are while they work, and after."""

import pytest
import torch
from torch import nn

from engine.priors.resting import on_device, one_at_a_time


class Noting(nn.Module):
    """A network that notes where it is moved to and when it is called."""

    def __init__(self, name: str, seen: list[str], fails: bool = False) -> None:
        super().__init__()
        self.name, self.seen, self.fails = name, seen, fails

    def to(self, device: torch.device) -> "Noting":  # type: ignore[override]
        self.seen.append(f"{self.name} to {device}")
        return self

    def forward(self) -> None:
        self.seen.append(f"{self.name} works")
        if self.fails:
            raise ValueError("no")


META = torch.device("meta")


def test_each_is_there_while_it_is_called_and_leaves_before_the_next_comes() -> None:
    seen: list[str] = []
    first, second = Noting("first", seen), Noting("second", seen)
    with one_at_a_time([first, second], META):
        first()
        second()
    assert seen == [
        *("first to meta", "first works", "first to cpu"),
        *("second to meta", "second works", "second to cpu"),
    ]
    seen.clear()
    first()
    assert seen == ["first works"]


def test_one_that_fails_leaves_as_well() -> None:
    seen: list[str] = []
    broken = Noting("broken", seen, fails=True)
    with pytest.raises(ValueError, match="no"), one_at_a_time([broken], META):
        broken()
    assert seen[-1] == "broken to cpu"
    with pytest.raises(ValueError, match="no"), on_device([broken], META):
        raise ValueError("no")
    assert seen[-2:] == ["broken to meta", "broken to cpu"]
