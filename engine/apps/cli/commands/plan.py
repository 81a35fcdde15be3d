"""`ddis plan`: a run's memory before it starts."""

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from engine.apps.cli import requests
from engine.apps.cli.command import MODELS, WITH_PRIOR, Call, Command, Preset, preset
from engine.errors import counted
from engine.request import Execution, Request
from engine.settings.fields import setting

if TYPE_CHECKING:
    from engine.memory.plan import Plan as MemoryPlan

DOES = {
    "text": "prompts become contexts",
    "sampling": "a step of the denoiser",
    "guidance": "a gradient through decoder and classifier",
    "decode": "finished images",
    "polish": "a move of finished images' pixels, by a gradient through the classifier",
    "cat": "learning tokens: the gradient back to the contexts",
    "rows": "learning tokens: on to the tokens' embeddings",
}
"""What happens in each phase."""
RECOMPUTED = {
    "guidance": "guidance recomputes its decoder's activations in the backward pass",
    "cat": "token learning recomputes activations in the backward pass",
}


@dataclass(frozen=True, kw_only=True)
class Plan(Command):
    """Show how a run fits into a memory budget, without loading the prior's weights."""

    module = "engine.memory.plan"
    options = (
        *MODELS,
        "request.method.name",
        "request.method.alignment.*",
        "request.method.sampling.steps",
        "request.method.sampling.cfg",
        "request.method.sampling.batch",
        "request.classes",
        "request.images_per_class",
        "execution.memory",
        "execution.attention",
        "execution.graphs",
    )
    needs = ("request.classifier.source",)
    methods = WITH_PRIOR
    common = (
        *("classifier", "prior", "memory", "batch", "image-px", "dtype", "device", "method"),
        *("preset", "steps", "cfg", "architecture", "labels", "attention"),
        *("classes", "images-per-class"),
        "learn-tokens",
    )

    request: Request = field(default_factory=Request)
    image_px: int | None = setting(None, "side of the images; by default the prior's own", "N")
    learn_tokens: bool = setting(
        False, "plan `ddis learn-tokens` too, whose phases take the longest to count"
    )
    preset: Preset = preset()
    execution: Execution = field(default_factory=Execution)

    def run(self, call: Call) -> dict[str, Any]:
        from engine.memory.budget import in_words
        from engine.memory.costs import USABLE
        from engine.priors.size import in_px

        planned = requests.plan_of(
            self.request, self.execution, self.image_px, learn_tokens=self.learn_tokens
        )
        cfg = requests.drawing(self.request).sampling.cfg
        does = DOES | {"sampling": f"{DOES['sampling']}, with{'out' * (cfg == 1)} CFG"}
        fits = {
            phase: str(number or "does not fit") for phase, number in planned.micro_batch.items()
        }
        call.screen.table(
            f"{planned.prior} with {planned.classifier} in {planned.dtype} on {planned.device}: "
            f"batches of {counted(planned.batch, 'image')} of "
            f"{in_px(planned.image_px, planned.image_width_px)} within {in_words(planned.budget_bytes)}",
            ["phase", "what it does", "images at once", "predicted peak"],
            [
                [phase, does[phase], fits[phase], in_words(peak)]
                for phase, peak in planned.peak_bytes.items()
            ],
            result=True,
        )
        if planned.decoder == "tiny" and self.request.prior.tiny_decoder is None:
            _tiny_decoder(self.request.prior.source, call)
        say = partial(call.screen.say, result=True)
        say(_device(planned, self.execution))
        _weights(planned, call)
        for name in planned.checkpoint:
            say(RECOMPUTED[name])
        if planned.staged:
            say("learning tokens: the gradient passes VAE and denoiser one after the other")
        if planned.tile:
            say(
                f"the full VAE decodes in tiles of {planned.tile} latents, whose borders are seen a little"
            )
        seen = (
            f"{planned.decoder} decoder at {planned.decode_px} px"
            if planned.decode_px
            else "nothing: no guidance"
        )
        say(
            f"attention: {planned.attention}; guidance sees through: {seen}\n{_speed(planned)}\n"
            f"largest --batch that no phase splits: {planned.largest_batch}; smallest budget: "
            f"{in_words(planned.smallest_bytes)} ({100 * (1 - USABLE):.0f} % of it stays free)"
        )
        if not self.learn_tokens:
            say("planned for `ddis generate`; --learn-tokens plans learning tokens too")
        return planned.to_json()


def _device(planned: "MemoryPlan", execution: Execution) -> str:
    """For which device the plan is, and why."""
    import torch

    if execution.device is not None:
        return f"planned for {planned.device}, as --device says"
    if torch.cuda.is_available():
        return f"planned for {planned.device}, the GPU of this machine"
    if planned.device.startswith("cuda"):
        return (
            "planned for a GPU, though torch sees none here: a budget in bytes is taken for one. "
            "--device cpu plans for this machine's main memory"
        )
    return "planned for the CPU: torch sees no GPU here. --memory 12GB plans for a GPU of another machine"


def _tiny_decoder(prior: str, call: Call) -> None:
    """Say what a prior needs that has weights, where an architecture brought its family's tiny decoder."""
    from engine.priors.architectures.families import PRIOR_ARCHITECTURES
    from engine.priors.tiny_decoder import VARIANTS
    from engine.priors.tiny_sources import published_as
    from engine.settings.sources import ARCHITECTURE

    if not prior.startswith(ARCHITECTURE):
        return
    tiny = PRIOR_ARCHITECTURES[prior.removeprefix(ARCHITECTURE)].tiny
    by_file = tiny is not None and tiny.kind in VARIANTS and published_as(tiny.kind) is None
    give = "FILE, which docs/priors.md names," if by_file else "auto"
    call.screen.say(
        "guidance is planned through the tiny decoder of the prior's family: generate with --tiny-decoder "
        f"{give} too, or plan with --tiny-decoder none",
        result=True,
    )


def _weights(planned: "MemoryPlan", call: Call) -> None:
    """The table of the networks: their sizes by precision, the chosen one marked, and where they are."""
    from engine.memory.budget import in_words

    columns = {"none": planned.dtype, "nf4": "nf4", "int8": "int8"}

    def size(sizes: dict[str, int], kind: str) -> str:
        if kind not in sizes:
            return ""
        chosen = kind == (planned.quantise if planned.quantise in sizes else "none")
        return f"{in_words(sizes[kind])}{' *' if chosen else ''}"

    call.screen.table(
        "weights by precision; * is planned, --prior.quantise chooses another",
        ["network", *columns.values(), "on the device"],
        [
            [
                name,
                *(size(sizes, kind) for kind in columns),
                "while it works" if name in planned.offload else "always",
            ]
            for name, sizes in planned.weights_bytes.items()
        ],
        result=True,
    )


def _speed(planned: "MemoryPlan") -> str:
    """The layout of the networks, and whether graphs are replayed."""
    layout = " and ".join(planned.channels_last) or "no network"
    graphs = (
        f"not used, as {planned.eager_because}"
        if planned.eager_because
        else "of denoiser and guidance"
    )
    return f"channels_last: {layout}; CUDA graphs: {graphs}"
