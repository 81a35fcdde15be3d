"""What is said where the hub answers with an error, in the exceptions that huggingface_hub itself raises."""

from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import httpx2
import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import hf_raise_for_status
from safetensors.torch import save_file
from torch import zeros

from engine.errors import ModelError
from engine.networks.hub import fetch
from engine.priors import load_prior

Answer = Callable[..., None]
MODEL = "someone/model"
BAD_TOKEN = {"X-Error-Message": "Invalid credentials in Authorization header"}


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Answer:
    """answer(403, header=...): from now on the hub answers so, and nothing is in the cache."""

    def answering(status: int, headers: dict[str, str] | None = None) -> None:
        request = httpx2.Request("GET", f"https://huggingface.co/api/models/{MODEL}")
        response = httpx2.Response(status, headers=headers, request=request)

        def refuse(*_: object, **__: object) -> NoReturn:
            hf_raise_for_status(response)
            raise AssertionError("no error was raised")

        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(HfApi, "repo_info", refuse)

    return answering


@pytest.mark.parametrize(
    ("status", "headers", "message"),
    [
        (401, BAD_TOKEN, r"answered 401 for .*, expected a token .*`hf auth login`.*co/someone/mo"),
        (403, {}, r"answered 403 for 'someone/model', expected a token .*`hf auth login`"),
        (429, {}, r"answered 429 for 'someone/model', expected its files: wait and try again"),
        (503, {}, r"answered 503 for 'someone/model', expected its files: wait and try again"),
        (418, {}, r"did not give 'someone/model' \(HfHubHTTPError: .*418.*expected its files: try"),
    ],
)
def test_what_the_hub_answered_is_said(
    answer: Answer, status: int, headers: dict[str, str], message: str
) -> None:
    answer(status, headers)
    with pytest.raises(ModelError, match=message) as caught:
        fetch(MODEL, ["*.json"])
    assert "was not reached" not in str(caught.value)
    assert isinstance(caught.value.__cause__, HfHubHTTPError)


def test_so_it_is_for_the_configs_of_a_single_file(answer: Answer, tmp_path: Path) -> None:
    """A machine with network, as the message for a hub that was not reached asks for, would not help."""
    answer(429)
    file = tmp_path / "m.safetensors"
    save_file({"model.diffusion_model.out.2.bias": zeros(4)}, file)
    with pytest.raises(ModelError, match=r"the hub answered 429 for 'stable-diffusion-v1-5/"):
        load_prior(file)
