"""Devices by name."""

import pytest
import torch

from engine.memory.subject import device_of
from engine.networks.frozen import default_device, indexed


@pytest.fixture
def second_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with two GPUs, the second of which is the current one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)


@pytest.mark.usefixtures("second_gpu")
def test_cuda_is_the_current_gpu_by_its_number() -> None:
    """Some calls of torch refuse a bare "cuda"."""
    expected = torch.device("cuda", 1)
    assert (
        indexed(torch.device("cuda")) == default_device("cuda") == default_device(None) == expected
    )
    assert device_of(None, "4GB", "cuda") == device_of(None, "4GB", None) == expected
    assert default_device("cuda:0") == torch.device("cuda", 0)
    assert indexed(torch.device("cpu")) == torch.device("cpu")


def test_a_gpu_that_is_not_there_has_no_number() -> None:
    assert indexed(torch.device("cuda")) == device_of(None, "4GB", None) == torch.device("cuda")
