"""Every family's own pipeline with a guided scheduler, beside the engine's loop."""

import copy
import functools
import re
from pathlib import Path
from typing import Any
from unittest.mock import patch

import diffusers
import pytest
import torch
from diffusers import AutoencoderTiny, DDIMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

import engine
from engine import Alignment, Classifier, GuidedScheduler, guiding_callback, load_prior
from engine.errors import ModelError
from engine.guidance.assembly import guidance_of
from engine.guidance.decoder import decoder_of
from engine.priors.steps import EXPLODING
from engine.sampling.loop import sample
from tests.engine.priors.conftest import FAMILIES, built, fitting_tiny

PROMPTS = ["a dog", "a red cat"]
STEPS, CFG = 3, 3.0
GUIDED = Alignment(scale=0.3)
WORDS = {"sdxl": "stable-diffusion-xl", "flux-dev": "FLUX.1-dev"}
"""What the guide's code says of families."""
GUIDE = Path(__file__).parents[3] / "docs" / "drop-in.md"


@pytest.fixture(scope="module")
def first_order(pipe: Any) -> Any:
    """The family's pipeline; one whose solver remembers steps gets a scheduler that does not."""
    mine = copy.copy(pipe)
    if type(pipe.scheduler).__name__ == "DPMSolverMultistepScheduler":
        flows = pipe.scheduler.config.prediction_type == "flow_prediction"
        mine.scheduler = (
            FlowMatchEulerDiscreteScheduler(shift=3.0)
            if flows
            else DDIMScheduler(clip_sample=False, set_alpha_to_one=False)
        )
    return mine


def called(family: Any, pipe: Any, call: dict[str, Any], **more: Any) -> Tensor:
    """Two images of a pipeline, the same each time."""
    more = {family.cfg: CFG - family.less} | more
    if family.cfg == "true_cfg_scale":
        more["negative_prompt"] = ["", ""]
    return pipe(
        prompt=list(PROMPTS),
        num_inference_steps=STEPS,
        generator=[torch.Generator().manual_seed(number) for number in range(2)],
        output_type="pt",
        **{**call, **more},
    ).images


def guided(pipe: Any, classifier: Classifier, call: dict[str, Any], alignment: Alignment) -> Any:
    mine = copy.copy(pipe)
    mine.scheduler = GuidedScheduler(mine, classifier, alignment, call=call)
    return mine


def first_latents(family: Any, pipe: Any, call: dict[str, Any]) -> Tensor:
    """What the scheduler is handed at the first step."""
    seen: list[Tensor] = []
    own = pipe.scheduler.step

    @functools.wraps(own)
    def watched(output: Tensor, timestep: Tensor, z: Tensor, *args: Any, **more: Any) -> Any:
        seen.append(z)
        return own(output, timestep, z, *args, **more)

    with patch.object(pipe.scheduler, "step", watched):
        called(family, pipe, call)
    return seen[0]


@pytest.mark.shows("drop-in")
@torch.no_grad()
def test_a_guided_pipeline_makes_what_the_own_loop_makes(
    family: Any, first_order: Any, classifier: Classifier
) -> None:
    prior = load_prior(first_order, call=family.call)
    plain = called(family, first_order, prior.call)
    off = guided(first_order, classifier, family.call, Alignment(scale=0))
    assert torch.equal(called(family, off, prior.call), plain)
    images = called(family, guided(first_order, classifier, family.call, GUIDED), prior.call)
    assert not torch.allclose(images, plain, atol=1e-3)
    z, schedule = first_latents(family, first_order, prior.call), prior.schedule(STEPS)
    if type(first_order.scheduler).__name__ in EXPLODING:
        z = z * schedule[0].signal
    denoise = prior.denoiser(prior.encode(PROMPTS, ""), CFG)
    decoder = decoder_of(GUIDED, prior, classifier.preprocess)
    move = guidance_of(classifier, GUIDED, decoder, None).move
    own = prior.decode(sample(z, denoise, schedule, move))
    torch.testing.assert_close(images, own, atol=1e-5, rtol=0)


@torch.no_grad()
def test_packed_latents_are_unpacked_at_the_size_of_the_call(
    family: Any, first_order: Any, classifier: Classifier
) -> None:
    """A wide image and a high one have latents of one shape."""
    prior = load_prior(first_order, call=family.call)
    if len(prior.latent_shape(1)) != 3:
        pytest.skip("its latents are not packed")
    mine = guided(first_order, classifier, family.call, GUIDED)
    found = []
    for height, width in ((16, 64), (64, 16)):
        size = {"height": height, "width": width}
        sized = prior.called_with(**size)
        images = called(family, mine, prior.call, **size)
        z, schedule = first_latents(family, first_order, prior.call | size), sized.schedule(STEPS)
        denoise = sized.denoiser(sized.encode(PROMPTS, ""), CFG)
        decoder = decoder_of(GUIDED, sized, classifier.preprocess)
        move = guidance_of(classifier, GUIDED, decoder, None).move
        own = sized.decode(sample(z, denoise, schedule, move))
        assert images.shape == (2, 3, height, width)
        torch.testing.assert_close(images, own, atol=1e-5, rtol=0)
        found.append(z.shape)
    assert found[0] == found[1]
    z = torch.zeros(found[0])
    mine.scheduler.set_timesteps(**({"sigmas": [1.0, 0.5]} | _shift(mine.scheduler)))
    with pytest.raises(ModelError, match=r"are packed and its scheduler was not called by the"):
        mine.scheduler.step(z, mine.scheduler.timesteps[0], z)


def _shift(scheduler: Any) -> dict[str, float]:
    return {"mu": 1.0} if scheduler.config.use_dynamic_shifting else {}


def test_pipelines_without_callbacks_say_so(family: Any, pipe: Any, classifier: Classifier) -> None:
    if family.name.startswith("pixart"):
        with pytest.raises(ModelError, match=r"takes no callback_on_step_end, expected .*: guide"):
            guiding_callback(pipe, classifier)
    else:
        guiding_callback(pipe, classifier)


BLOCKS = re.findall(r"```python\n(.*?)```", GUIDE.read_text("utf-8"), re.DOTALL)


@pytest.mark.parametrize("code", BLOCKS, ids=range(len(BLOCKS)))
def test_the_guide_s_code_runs(code: str, classifier: Classifier) -> None:
    """Each block, on the tiny pipeline of the family that it downloads."""
    family = next(family for family in FAMILIES if WORDS.get(family.name, "-") in code)
    pipe = built(family)
    pipe.to = lambda *_, **__: pipe
    small = {**family.call, "num_inference_steps": 2}
    code = re.sub(r", num_inference_steps=\d+", "", code).replace("pipe(", "pipe(**small, prompt=")
    shown: dict[str, Any] = {"small": small}
    tiny, decoded = fitting_tiny(pipe), AutoencoderTiny.decode
    passes: list[Any] = []

    def counted(self: AutoencoderTiny, *args: Any, **more: Any) -> Any:
        passes.append(self)
        return decoded(self, *args, **more)

    with (
        patch.object(diffusers.DiffusionPipeline, "from_pretrained", lambda *_, **__: pipe),
        patch.object(engine, "load_classifier", lambda *_, **__: classifier, create=True),
        patch("engine.drop_in.guide.load_tiny", lambda source, *_, **__: source and tiny),
        patch.object(AutoencoderTiny, "decode", counted),
    ):
        exec(code, shown)
    assert bool(passes) == ("tiny=" in code)
    assert len(shown["images"]) == 8
    assert isinstance(pipe.scheduler, GuidedScheduler) == ("GuidedScheduler" in code)
