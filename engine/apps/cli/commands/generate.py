"""`ddis generate`: a data set for a classifier."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from engine.apps.cli import requests
from engine.apps.cli.closing import report
from engine.apps.cli.command import MODELS, RESUMES, Call, Command, Preset, needed, preset
from engine.errors import ConfigError, counted
from engine.request import Execution, Request
from engine.settings.fields import setting
from engine.settings.selection import Selection


@dataclass(frozen=True, kw_only=True)
class Generate(Command):
    """Write a data set for a classifier."""

    module = "engine.runners.generate"
    options = (
        *MODELS,
        "request.method.*",
        "request.student.source",
        "request.student.architecture",
        "request.classes",
        "request.images_per_class",
        "request.seed",
        "request.runtime",
        "execution.*",
    )
    helps = MappingProxyType(
        {
            "request.classifier.source": "embedded:<domain>, hf:<id or folder>, timm:<name>, torchvision:<name>, "
            "onnx:<file>, or a checkpoint file with its architecture"
        }
    )
    needs = ("request.classifier.source",)
    common = (
        *("classifier", "out", "prompt", "classes", "images-per-class", "seed", "prior"),
        *("tiny-decoder", "method", "tokens", "preset", "alignment.scale", "steps", "cfg"),
        *("statistics", "architecture", "labels", "memory", "dtype", "device"),
    )
    interrupted = RESUMES

    request: Request = field(default_factory=Request)
    out: str = needed(
        "folder of the data set, resumed if it was interrupted; with --share or --ray also a URL"
    )
    preset: Preset = preset()
    over_generate: float | None = setting(
        None,
        "first make this many times the images that were asked for, in the folder OUT-all, then keep the better ones "
        "in OUT, as `ddis select` does; above 1",
        "FACTOR",
    )
    execution: Execution = field(default_factory=Execution)

    def __post_init__(self) -> None:
        if self.over_generate is not None and not 1 < self.over_generate < float("inf"):
            raise ConfigError(
                f"over_generate is {self.over_generate:g}, expected a number above 1: 2 makes twice as many images as "
                "are kept. Leave it out to keep all."
            )
        if self.execution.carried_out_by in ("share", "ray"):
            self._refuse_choice()

    def _refuse_choice(self) -> None:
        """Raise ConfigError where the better ones are to be kept of images that are made in parts."""
        if self.over_generate is not None:
            raise ConfigError(
                f"over_generate came with the runner {self.execution.carried_out_by!r}, which makes a data set in "
                "parts, expected one of them: a choice needs all images. Make the parts, then run `ddis finish` and "
                "`ddis select`."
            )

    def run(self, call: Call) -> dict[str, Any]:
        from engine.runners.registry import runner_class

        if hasattr(runner_class(self.execution.carried_out_by), "parts"):
            self._refuse_choice()
            return self._in_parts(call)
        folder = Path(self.out)
        if self.over_generate is not None:
            return self._over_generate(call, folder, self.over_generate)
        from engine.datasets.contact_sheet import SHEET
        from engine.datasets.run_record import read_run

        images = requests.images_of(self.request, self.execution, folder, call)
        made = sum(1 for _ in images)
        total = len(read_run(folder).labels) * self.request.images_per_class
        sheet = folder / SHEET
        call.screen.say(
            f"{counted(total, 'image')} in {folder}, {made} of them made now. Contact sheet: {sheet}"
        )
        report(call, folder, total)
        return {
            "folder": str(folder),
            "images": total,
            "made_now": made,
            "contact_sheet": str(sheet),
        }

    def _in_parts(self, call: Call) -> dict[str, Any]:
        """Make a share of the parts of a data set, and say how many of all are done."""
        from engine.datasets.parts import done_parts, read_division
        from engine.datasets.store import open_store

        parts = requests.parts_of(self.request, self.execution, self.out, call)
        made = sum(images for _, images in parts)
        store = open_store(self.out)
        division = read_division(store).division
        done = len(done_parts(store))
        left = division.parts - done
        call.screen.say(
            f"{counted(made, 'image')} made now; {done} of {division.parts} parts of {self.out} are done. "
            + (f"When the other {left} are, " if left else "To complete it, ")
            + f"run: ddis finish {self.out}"
        )
        return {"folder": self.out, "made_now": made, "parts": division.parts, "parts_done": done}

    def _over_generate(self, call: Call, folder: Path, factor: float) -> dict[str, Any]:
        """Make more images than are asked for in a folder beside `out`, and keep the better ones of each class."""
        from engine.datasets.contact_sheet import SHEET
        from engine.datasets.dataset import open_dataset
        from engine.datasets.run_record import RUN, check_selection, read_run
        from engine.evaluation.select import select, selected_from
        from engine.methods.models import Models

        wanted = self.request.images_per_class
        number = round(factor * wanted)
        if number == wanted:
            raise ConfigError(
                f"over_generate is {factor:g} with {counted(wanted, 'image')} a class, expected enough for one more "
                "to choose from: raise it, or --images-per-class."
            )
        if (folder / RUN).exists():
            check_selection(folder, read_run(folder), selection=True)
        out = folder.resolve()
        every = out.with_name(f"{out.name}-all")
        request = replace(self.request, images_per_class=number)
        classifier = Models(request, self.execution).classifier
        images = requests.images_of(request, self.execution, every, call, classifier)
        selection, begun = Selection(keep=wanted / number), read_run(every)
        labels = {int(number): label for number, label in begun.labels.items()}
        with open_dataset(folder, selected_from(begun.made, selection), labels):
            pass  # refuses now what it would refuse once all images are made
        made = sum(1 for _ in images)
        found = select(every, folder, selection, classifier, call.events)
        sheet = folder / SHEET
        call.screen.say(
            f"{counted(found['images'], 'image')} in {every}, {made} of them made now; the better {found['kept']} in "
            f"{folder}. Contact sheet: {sheet}"
        )
        report(call, folder, found["kept"])
        return {
            "folder": str(folder),
            "images": found["kept"],
            "made_now": made,
            "contact_sheet": str(sheet),
            "all": str(every),
            "all_images": found["images"],
        }
