"""Which networks run channels_last, and that they do."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from engine.classifiers import Classifier
from engine.memory import layout
from engine.memory.layout import BLOCKS, block_ms, chosen_layouts, lay_out
from engine.memory.plan import plan
from engine.priors import Prior, load_prior
from engine.runners.generate import generate
from engine.settings import Sampling

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


def is_channels_last(network: nn.Module) -> bool:
    kernels = [value for value in network.parameters() if value.dim() == 4 and min(value.shape) > 1]
    return all(value.is_contiguous(memory_format=torch.channels_last) for value in kernels)


def test_a_network_runs_channels_last_where_its_block_is_clearly_faster(
    small_prior: Prior, monkeypatch: pytest.MonkeyPatch
) -> None:
    prior = small_prior
    last = {"unet": 9.0, "vae": 9.9, "tiny": 12.0, "classifier": 1.0}
    monkeypatch.setattr(
        layout, "block_ms", lambda name, how, *_: last[name] if how is torch.channels_last else 10.0
    )
    assert chosen_layouts(CUDA, prior) == ()  # it is not in this machine
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert chosen_layouts(CUDA, prior) == ("unet", "classifier")
    replaced = prior.replaced(unet=None, transformer=prior.network)
    assert chosen_layouts(CUDA, replaced) == ("classifier",)  # blocks of a UNet say nothing of it
    assert chosen_layouts(CPU, prior) == ()


@pytest.mark.parametrize("name", list(BLOCKS))
def test_a_block_is_timed_in_the_layout_that_is_named(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    build, shape = BLOCKS[name]
    seen: list[torch.Tensor] = []

    def watched() -> nn.Module:
        block = build()
        block.register_forward_hook(lambda module, inputs, output: seen.append(output))
        return block

    monkeypatch.setitem(BLOCKS, name, (watched, (1, shape[1], 6, 6)))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    before = torch.get_rng_state()
    for how in (torch.channels_last, torch.contiguous_format):
        seen.clear()
        assert block_ms(name, how, CPU, torch.float32) > 0
        assert seen[0].is_contiguous(memory_format=how)
        assert seen[0].requires_grad == (name != "unet")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_run_lays_its_networks_out_as_planned(small_prior: Prior, classifier: Classifier) -> None:
    """And makes the same images, but for rounding."""
    own = load_prior("embedded", device="cpu")
    sampling = Sampling(steps=3, batch=2)
    planned = plan(own, classifier, "10GB", batch=2, tokens=False, full=False)
    assert planned.channels_last == ()

    def images(channels_last: tuple[str, ...]) -> torch.Tensor:
        memory = replace(planned, channels_last=channels_last)
        made = generate(classifier, own, ["dog", "horse"], 1, sampling=sampling, memory=memory)
        return torch.stack([sample.image for sample in made])

    before = images(())
    assert not is_channels_last(own.network)
    after = images(("unet", "vae", "classifier"))
    assert all(map(is_channels_last, (own.network, own.vae, classifier.network)))
    torch.testing.assert_close(after, before, atol=0.02, rtol=0)
    lay_out(("tiny",), own.replaced(tiny=None), classifier)
