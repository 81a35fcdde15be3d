"""How a run fits into a memory budget: decided from shapes alone, before a weight is loaded.

Each phase of a run is counted on tensors of 'meta' (`phases`, `count`), as it is and with each way of saving memory:
parts of a batch, checkpointing, weights moved off the device while they rest. Of all that fits, the cheapest is
planned, so a larger budget never plans a slower run. What an image depends on (dtype, decoder, its size) is asked for
and never traded; a budget changes images through rounding alone (`engine.methods.kind`). So no plan quantises a prior
by itself, which would change them a little; a budget that is too small without is answered with what NF4 would take.

Predicted peak = weights on the device + counted peak + cuBLAS workspaces. A budget is filled to 95 %: the rest is for
rounding by torch's allocator and the workspaces of convolutions, which cannot be counted. CUDA's own context, about
0.4 GB, lies outside of torch and of the budget; on a card of 12 GiB it fits beside a budget of 12 GB.
"""

import json
import warnings
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine.classifiers import Classifier
from engine.errors import ConfigError
from engine.memory.attention import chosen_attention
from engine.memory.budget import (
    AUTO,
    BudgetError,
    MemoryWarning,
    device_bytes,
    in_words,
    parse_budget,
)
from engine.memory.costs import LEARNING, USABLE, Costs
from engine.memory.graphs import REPLAYED, eager_because, peak_with_graphs
from engine.memory.layout import chosen_layouts
from engine.memory.remedies import remedies
from engine.memory.subject import device_of, loaded_bytes, subject_of
from engine.memory.weights import sizes_of
from engine.priors import Prior
from engine.priors.size import in_px
from engine.settings import AUTO_ATTENTION, Alignment, Sampling, TokenLearning
from engine.settings.sampling import MOST_TOGETHER


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a run uses memory.

    image_px, image_width_px: height and width of the images. micro_batch: how many images of a batch go through each
    phase at once; 0 where a phase of token learning (cat, rows) does not happen or does not fit. checkpoint: phases
    whose backward recomputes activations. staged: phases whose gradient passes the decoder first and then the denoiser,
    one graph at a time. offload: parts that are on the device only while they work. tile: side in latents of the tiles
    in which the full VAE decodes finished images, 0 for whole ones; tiles show slightly, and are planned only where not
    one whole image fits. channels_last: the networks whose channels are innermost in memory (`layout`). eager_because:
    why denoiser and guidance are not replayed from CUDA graphs, "" where they are; graph_bytes: what these hold besides
    the other phases. peak_bytes: predicted, by phase, without that; empty where memory was so plentiful that nothing
    was counted. largest_batch: the most images that go through all phases of `generate` undivided. smallest_bytes: the
    smallest budget that can be met. quantise: how the prior's linear layers are. weights_bytes: of each network, by how
    it may be quantised ('none' for its dtype); empty where nothing was counted. cost: roughly the seconds that a large
    GPU takes for a batch; for comparing plans of one request."""

    prior: str
    classifier: str
    device: str
    dtype: str
    image_px: int
    image_width_px: int
    batch: int
    budget_bytes: int
    attention: str
    decoder: str
    decode_px: int
    micro_batch: dict[str, int]
    checkpoint: tuple[str, ...]
    staged: tuple[str, ...]
    offload: tuple[str, ...]
    tile: int
    channels_last: tuple[str, ...]
    eager_because: str
    graph_bytes: int
    peak_bytes: dict[str, int]
    largest_batch: int
    smallest_bytes: int
    quantise: str
    weights_bytes: dict[str, dict[str, int]]
    cost: float

    @property
    def generate_bytes(self) -> int:
        """The predicted peak of `generate`: the highest of its phases. 0 where nothing was counted."""
        peaks = {phase: peak for phase, peak in self.peak_bytes.items() if phase not in LEARNING}
        return peak_with_graphs(peaks, self.graph_bytes)

    def to_json(self) -> dict[str, Any]:
        """The plan as values that JSON can hold."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Plan":
        """The inverse of `to_json`. Raises ConfigError for anything else."""
        names = {entry.name for entry in fields(cls)}
        if not isinstance(values, dict) or values.keys() != names:
            odd = (
                sorted(names.symmetric_difference(values))
                if isinstance(values, dict)
                else [type(values).__name__]
            )
            raise ConfigError(
                f"a memory plan has other fields than it should ({', '.join(odd)}), expected what Plan.to_json wrote: "
                "plan again with this version."
            )
        tuples: dict[str, Any] = {
            name: tuple(v) if isinstance(v, list) else v for name, v in values.items()
        }
        return cls(**tuples)


def plan(
    prior: str | Path | Prior,
    classifier: str | Path | nn.Module | Classifier,
    budget: str | int = AUTO,
    image_px: int | None = None,
    *,
    batch: int = Sampling().batch,
    alignment: Alignment | None = Alignment(),
    sampling: Sampling = Sampling(),
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    attention: str = AUTO_ATTENTION,
    tokens: bool | TokenLearning = True,
    full: bool = True,
    graphs: bool = True,
) -> Plan:
    """Plan a run of `generate`, and of `learn_tokens` unless `tokens` is False, within a memory budget.

    Args:
        prior: a prior, or anything that `load_prior` accepts. If named, only its configuration files are read.
        classifier: a classifier, or anything that `load_classifier` accepts.
        budget: '12GB', '11.5GiB', a number of bytes, or 'auto' for the free memory of the device.
        image_px: side of the images; by default the prior's own.
        batch: number of images that are sampled together.
        alignment: settings of guidance; None for none.
        sampling: settings of the sampler.
        dtype: of networks that are not loaded yet, and, if given, of a loaded prior; by default float16 on CUDA and
            float32 on the CPU.
        device: by default that of a loaded prior; otherwise 'cuda' for a budget in bytes, even without a GPU here.
        attention: as for `generate`.
        tokens: settings of token learning. True plans for the settings that take most, whether or not they fit.
        full: also find `largest_batch` and `smallest_bytes`, which takes longer; otherwise they are 0.
        graphs: whether CUDA graphs may be used.

    Raises:
        BudgetError: the budget is malformed, or too small; the message names the smallest that suffices.
        ConfigError: a setting is invalid.

    Warns:
        MemoryWarning: the budget exceeds the memory of the device.
    """
    place_on = device_of(prior, budget, device)
    nbytes = parse_budget(budget, place_on)
    if place_on.type == "cpu" and str(budget).strip().lower() == AUTO:
        # The models are in what is used, and in each phase's peak.
        nbytes += loaded_bytes(prior, classifier)
    has = device_bytes(place_on)
    if has is not None and nbytes > has:
        warnings.warn(
            f"the memory budget is {in_words(nbytes)} and {place_on} has {in_words(has)}, expected no more than that: "
            "the run may end out of memory. Give what it has, or 'auto'.",
            MemoryWarning,
            stacklevel=2,
        )
    if not 1 <= batch <= MOST_TOGETHER:
        raise ConfigError(
            f"batch is {batch}, expected 1 to {MOST_TOGETHER}: give the images that are sampled together."
        )
    learns = tokens if isinstance(tokens, TokenLearning) else None
    subject = subject_of(prior, classifier, alignment, sampling, dtype, place_on, learns)
    if image_px is not None:
        subject = subject.at(image_px)
    attention = chosen_attention(attention, place_on, subject.prior.dtype)
    costs = Costs(subject, place_on, batch, sampling.steps, learning=learns is not None)
    chosen = costs.cheapest(nbytes)
    smallest = costs.smallest() if full or chosen is None else 0
    if chosen is None:
        raise BudgetError(
            f"a memory budget of {in_words(nbytes)} is too small for prior {subject.prior.name!r} with classifier "
            f"{subject.classifier.name!r} at {in_px(*subject.prior.image_size)} on {place_on}, expected at least "
            f"{in_words(smallest)}: give that; or choose {remedies(costs, smallest)}."
        )
    cases = dict(chosen.cases)
    unfit: set[str] = set()
    if tokens is True:
        for phase, (case, fits) in costs.learning_cases(nbytes, chosen.offload).items():
            cases[phase] = case
            unfit |= set() if fits else {phase}
    decoder = subject.decoder()
    micro_batch = {
        **dict.fromkeys(LEARNING, 0),
        **{phase: case.part if phase not in unfit else 0 for phase, case in cases.items()},
    }
    fit = [case for phase, case in cases.items() if phase not in unfit]
    checkpoint = tuple(case.phase for case in fit if case.checkpoint)
    peaks = {phase: costs.peak(case, chosen.offload) for phase, case in cases.items()}
    held = max(costs.counted(cases[phase]).peak_bytes for phase in REPLAYED if phase in cases)
    eager = eager_because(
        graphs,
        place_on,
        learns is not None,
        batch,
        micro_batch,
        checkpoint,
        chosen.offload,
        int(USABLE * nbytes),
        held,
        {phase: peaks[phase] for phase in costs.phases},
    )
    return Plan(
        prior=subject.prior.name,
        classifier=subject.classifier.name,
        device=str(place_on),
        dtype=str(subject.prior.dtype).removeprefix("torch."),
        image_px=subject.prior.image_size[0],
        image_width_px=subject.prior.image_size[1],
        batch=batch,
        budget_bytes=nbytes,
        attention=attention,
        decoder=decoder.kind if decoder else "none",
        decode_px=decoder.px if decoder else 0,
        micro_batch=micro_batch,
        checkpoint=checkpoint,
        staged=tuple(case.phase for case in fit if case.staged),
        offload=chosen.offload,
        tile=cases["decode"].tile,
        channels_last=chosen_layouts(place_on, subject.prior, subject.classifier),
        eager_because=eager,
        graph_bytes=0 if eager else held,
        peak_bytes=peaks,
        largest_batch=costs.largest_batch(nbytes, chosen.offload) if full else 0,
        smallest_bytes=smallest,
        quantise=subject.prior.quantise,
        weights_bytes=sizes_of(subject),
        cost=chosen.cost,
    )
