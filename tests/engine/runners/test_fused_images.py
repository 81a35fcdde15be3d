"""Images that fused guidance makes are those of the reference, which measures by hooks."""

from functools import partial

import pytest
import torch

from engine.classifiers import Classifier
from engine.guidance import assembly
from engine.guidance.objective import Objective
from engine.priors import Prior
from engine.runners.generate import generate
from engine.settings import Alignment, Sampling

PAPER = Alignment.paper(2.0)


def guided(alignment: Alignment | None) -> dict[str, object]:
    """Arguments of `generate` for some guidance, or for none."""
    return {"method": "plain"} if alignment is None else {"alignment": alignment}


@pytest.mark.parametrize("alignment", [Alignment(), PAPER], ids=["ours", "paper"])
def test_generate_fuses_and_its_images_equal_the_references(
    small_prior: Prior,
    classifier: Classifier,
    alignment: Alignment,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def images(settings: Alignment | None) -> torch.Tensor:
        run = generate(
            classifier, small_prior, None, 1, **guided(settings), sampling=Sampling(steps=5)
        )
        return torch.stack([sample.image for sample in run])

    plain, fused = images(None), images(alignment)
    monkeypatch.setattr(assembly, "Objective", partial(Objective, fused=False))
    reference = images(alignment)
    assert (fused - plain).abs().max() > 0.02
    torch.testing.assert_close(fused, reference, atol=1e-3, rtol=0)


def test_generate_does_fuse(
    small_prior: Prior, classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference's hooks would be seen on the layers."""
    hooked: list[int] = []
    layer = classifier.statistics.taps[0].layer
    classifier.network.conv1.register_forward_hook(
        lambda *_: hooked.append(len(layer._forward_pre_hooks))
    )
    list(generate(classifier, small_prior, ["dog"], 1, sampling=Sampling(steps=3)))
    # Its layout is tried, it is watched, guides two steps, and hooks judge the finished image.
    assert hooked == [0, 0, 0, 0, 1]
