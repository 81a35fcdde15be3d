"""From a command's arguments to the teacher and the sets; the plain prior's images are drawn where that is asked."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from engine.classifiers import Classifier, load_classifier
from engine.datasets.manifest import MANIFEST
from engine.datasets.run_record import made_with
from engine.downstream.comparison import check_out, keep_scores
from engine.downstream.origins import guided_by, origins
from engine.downstream.rows import Sets, load_sets
from engine.downstream.sources import PLAIN_IMAGES, Inputs, check_ahead, path_of
from engine.downstream.training import Logits, logits_on, means, scores, teacher_of
from engine.errors import ConfigError, ModelError, brief, check_type
from engine.events import Events
from engine.priors import Prior, load_prior
from engine.runners.generate import generate
from engine.settings import Sampling
from engine.settings.downstream import Comparison, Distillation, Streaming
from engine.settings.methods import Plain
from engine.settings.plain import from_plain

GENERATE = "generate"
"""In place of the folder of the plain prior's images: draw them."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """A teacher, the sets as it reads them, and what is measured of networks on them."""

    teacher: Classifier
    sets: Sets

    @cached_property
    def ask(self) -> Logits:
        """The teacher as a function of images."""
        return teacher_of(self.teacher)

    @cached_property
    def taught(self) -> Tensor:
        """The teacher's logits (N, K) on the images that all networks are measured on."""
        return logits_on(self.ask, self.sets.test, self.teacher.device)

    def measured(
        self, network: Logits, device: torch.device, keep: Path | None = None
    ) -> dict[str, float | None]:
        """What `scores` of a network on this device are on average.

        keep: the folder that keeps them image by image.
        """
        found = self._scores(logits_on(network, self.sets.test, device))
        if keep is not None:
            keep_scores(keep, found)
        return means(found)

    def measured_teacher(self) -> dict[str, float | None]:
        """The same of the teacher."""
        return means(self._scores(self.taught))

    def _scores(self, found: Tensor) -> dict[str, Tensor]:
        return scores(found, self.taught, self.sets.test, self.sets.tested)


def teacher_for(
    classifier: str | Path | nn.Module | Classifier, out: Path, events: Events
) -> Classifier:
    """The classifier of a comparison that writes to `out`. Raises EngineError's children for what does not fit."""
    check_type("events", events, Events, "Events, such as Events(print)")
    check_out(out)
    return classifier if isinstance(classifier, Classifier) else load_classifier(classifier)


def prepare(
    teacher: Classifier,
    inputs: Inputs,
    plain: str | Path | None,
    prior: str | Path | Prior,
    out: Path,
    comparison: Comparison,
    stored_labels: bool,
    events: Events,
) -> Prepared:
    """Check and load the sets of a comparison. Raises EngineError's children for what does not fit.

    plain: the folder of the plain prior's images, or GENERATE. Drawing may take long, so check all else first.
    """
    _check_domain(inputs)
    if plain is not None and str(plain) == GENERATE:
        plain = _drawn(teacher, inputs.folder, prior, out / PLAIN_IMAGES, events)
    inputs = replace(inputs, plain=path_of(plain))
    return Prepared(teacher, load_sets(teacher, inputs, comparison, stored_labels))


def check_updates(comparison: Comparison, distillation: Distillation) -> None:
    """Raise ConfigError where rows of other sizes would learn for other times."""
    if not comparison.equal_sizes and not distillation.updates:
        raise ConfigError(
            "equal_sizes is False and `updates` is 0, expected a number of updates: after as many epochs, a larger row "
            "has also learned for longer. Set `updates`."
        )


def check_streaming(streaming: Streaming, distillation: Distillation) -> None:
    """Raise ConfigError where a stream would not say how long a student learns, or have no labels."""
    if streaming.images_per_class and not distillation.updates:
        raise ConfigError(
            f"stream is {streaming.images_per_class} and `updates` is 0, expected a number of updates, over which the "
            "images are made: set `updates`."
        )
    if streaming.images_per_class and streaming.pool < distillation.batch:
        raise ConfigError(
            f"pool is {streaming.pool} and `batch` is {distillation.batch}, expected as many images to draw from as an "
            "update shows: raise `pool`, or lower `batch`."
        )
    if streaming.images_per_class and distillation.soft_labels != "online":
        raise ConfigError(
            f"stream is {streaming.images_per_class} and soft_labels is {distillation.soft_labels!r}, expected "
            "'online': the teacher looks at what is made. Set soft_labels to 'online'."
        )


def check_before_drawing(
    teacher: Classifier, inputs: Inputs, out: Path, images_per_class: int
) -> None:
    """Raise what `prepare` would before the folder's images are made, which takes long."""
    if out.resolve() == inputs.folder.resolve():
        raise ConfigError(
            f"out is {out}, the folder that the images are made in, expected another for networks and report: choose "
            "one."
        )
    check_out(out)
    _check_domain(inputs)
    check_ahead(teacher, inputs, images_per_class)


def prior_of(folder: Path, device: torch.device) -> Prior | str:
    """The prior that drew the folder, to draw plain images with; else in words why there are none to be drawn."""
    made = origins(folder)
    if not made:
        return "nothing tells what it was drawn with"
    if len(made) > 1:
        return "it was drawn in several runs"
    by = made[0].get("prior")
    if by is None:
        return "it was made without a prior"
    if guided_by(made[0]) is None:
        return "its own images are the plain prior's"
    try:
        found = load_prior(by["name"], device=device, local_files_only=True)
    except ModelError as error:
        return f"its prior {by['name']!r} cannot be loaded here ({brief(error)})"
    if found.fingerprint != by["fingerprint"]:
        return f"{by['name']!r} is not the prior any more that drew it"
    return found


def _check_domain(inputs: Inputs) -> None:
    real = [*inputs.real.values(), *([inputs.test] if inputs.test is not None else [])]
    if inputs.domain is not None and all(path.is_dir() for path in real):
        raise ConfigError(
            f"domain {inputs.domain!r} was given without original or test images in a parquet file, expected one: it "
            "chooses their rows. Leave it out, or give `original` or `test` as a parquet file."
        )


def _drawn(
    teacher: Classifier, folder: Path, prior: str | Path | Prior, out: Path, events: Events
) -> Path:
    """The images that the folder would hold without guidance and tokens: its prior, sampling, classes and seed."""
    if not (folder / MANIFEST).exists():
        raise ConfigError(
            f"{folder} is no finished data set folder, expected one that `ddis generate` wrote: check the path."
        )
    made_by = made_with(folder)
    if "prior" not in made_by:
        raise ConfigError(
            f"{folder} was made without a prior or in several runs, expected one run of one: plain images are those of "
            "the same prior. Name a folder of plain images instead, or leave the row out."
        )
    loaded = prior if isinstance(prior, Prior) else load_prior(prior, device=teacher.device)
    if made_by["prior"]["fingerprint"] != loaded.fingerprint:
        raise ConfigError(
            f"{folder} was drawn by the prior {made_by['prior']['name']!r}, expected it and not {loaded.name!r} for "
            "the plain images too: name it with `prior`."
        )
    images = generate(
        teacher,
        loaded,
        made_by["classes"],
        made_by["images_per_class"],
        method=Plain(sampling=from_plain(Sampling, made_by["method"]["sampling"])),
        seed=made_by["seed"],
        out=out,
        events=events,
    )
    for _ in images:
        pass
    return out
