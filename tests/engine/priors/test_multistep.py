"""PixArt and SANA with DPM++, as they are published."""

import copy
from typing import Any

import diffusers
import pytest
import torch

from engine import Alignment, GuidedScheduler, Sampling, generate
from engine.classifiers import Classifier
from engine.priors import load_prior
from engine.priors.architectures.families import PRIOR_ARCHITECTURES
from tests.engine.priors.test_drop_in import called
from tests.engine.priors.test_families import generators, own_loop, pipelines_loop


@pytest.fixture(params=["pixart-alpha", "pixart-sigma", "sana"])
def family(request: pytest.FixtureRequest, families: dict[str, Any]) -> Any:
    return families[request.param]


@pytest.fixture
def published(family: Any, new_pipe: Any) -> Any:
    """A tiny pipeline with the scheduler of its architecture."""
    part = PRIOR_ARCHITECTURES[family.architectures[0]].scheduler
    assert part.kind == "DPMSolverMultistepScheduler"
    new_pipe.scheduler = getattr(diffusers, part.kind)(**part.config)
    assert new_pipe.scheduler.config.solver_order == 2
    return new_pipe


@torch.no_grad()
def test_where_it_is_of_first_order_sampling_is_the_pipeline_s_own(
    family: Any, published: Any
) -> None:
    """Of second order it remembers its last step, which the engine's steps do not."""
    published.scheduler.register_to_config(solver_order=1)
    prior = load_prior(published, call=family.call)
    first, latents, images = pipelines_loop(family, published, prior.call, "", 4.0)
    torch.testing.assert_close(prior.noise(generators(), 4), first, atol=1e-6, rtol=0)
    z, _ = own_loop(prior, "", 4.0, first)
    largest = (
        latents.abs().max().clamp_min(1)
    )  # clean latents are divided by a signal of .006 first
    torch.testing.assert_close(z / largest, latents / largest, atol=1e-5, rtol=0)
    torch.testing.assert_close(prior.decode(latents), images, atol=family.image_error, rtol=0)


def test_its_levels_guide(family: Any, published: Any, classifier: Classifier) -> None:
    prior = load_prior(published, call=family.call)
    sampling = Sampling(steps=4, batch=2, cfg=3.0)

    def mean_l_bn(**settings: Any) -> float:
        made = list(generate(classifier, prior, ["dog"], 2, sampling=sampling, **settings))
        return sum(sample.l_bn for sample in made) / len(made)

    assert mean_l_bn(alignment=Alignment(scale=0.2)) < mean_l_bn(method="plain")


@torch.no_grad()
def test_the_pipeline_s_own_second_order_steps_are_guided(
    family: Any, published: Any, classifier: Classifier
) -> None:
    call = load_prior(published, call=family.call).call
    plain = called(family, published, call)
    images = []
    for scale in (0.0, 0.3):
        mine = copy.copy(published)
        mine.scheduler = GuidedScheduler(mine, classifier, Alignment(scale=scale), call=family.call)
        images.append(called(family, mine, call))
    assert torch.equal(images[0], plain)
    assert images[1].isfinite().all()
    assert not torch.allclose(images[1], plain, atol=1e-3)
