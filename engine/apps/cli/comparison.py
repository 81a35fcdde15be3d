"""What `ddis distill`, `prune` and `quantise` have in common: a folder compared with other sets of images."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from engine.apps.cli import requests
from engine.apps.cli.command import (
    RESUMES,
    WITH_PRIOR,
    Call,
    Command,
    Preset,
    local,
    needed,
    preset,
    switch,
)
from engine.apps.cli.compared import tell
from engine.errors import ConfigError
from engine.request import Execution, Request
from engine.settings.downstream import Comparison

GENERATE, NONE = "generate", "none"
DRAWING = {
    "request.method.name": "--method",
    "request.method.tokens": "--tokens",
    "request.method.alignment.scale": "--alignment.scale",
    "request.method.sampling.steps": "--steps",
    "request.method.sampling.cfg": "--cfg",
    "request.seed": "--generate-seed",
    "preset": "--preset",
}
"""Options of a folder that is made first; without it they would have no effect."""
TAUGHT = ("distillation", "fine_tuning")
"""Sections that say how long networks learn."""


@dataclass(frozen=True, kw_only=True)
class Comparing(Command):
    """A command that compares a data set folder with other sets of images."""

    options = (
        "request.classifier.*",
        "request.prior.source",
        "request.method.name",
        "request.method.tokens",
        "request.method.alignment.scale",
        "request.method.sampling.steps",
        "request.method.sampling.cfg",
        "request.seed",
        "execution.device",
        "comparison.*",
        "distillation.*",
        "fine_tuning.*",
        "pruning.*",
        "streaming.*",
        "quantisation.*",
    )
    names = MappingProxyType(
        {"request.seed": "generate-seed", "streaming.images_per_class": "stream"}
    )
    needs = ("request.classifier.source",)
    methods = WITH_PRIOR
    interrupted = RESUMES

    folder: Path = needed(
        "a finished folder of `ddis generate`, or with --images-per-class one to be made",
        positional=True,
    )
    out: Path = needed("folder of networks and report; resumed if it was interrupted")
    original: Path | None = local(
        "row of original images: a folder with one folder a class, or a parquet file with image and label",
        "PATH",
    )
    test: Path | None = local(
        "real images that accuracy is measured on, as --original; by default agreement with the classifier on a "
        "held-out part of the folder",
        "PATH",
    )
    domain: str | None = local(
        "only this domain of parquet files of original and test images", "NAME"
    )
    rows: tuple[str, ...] = local(
        "further rows to compare, each another set of images as --original, such as 'other=PATH'",
        "NAME=PATH",
        default=(),
    )
    plain: str | None = local(
        "row of the plain prior: a folder of `ddis generate --method plain`; generate: draw one as the folder was "
        "drawn; none: no such row; by default generate, where the folder's prior is there",
        "SOURCE",
    )
    no_plain: bool = switch("as --plain none")
    images_per_class: int | None = local(
        "generate the folder first, with N images of each class and as --prior, --tokens and so on say; resumed if it "
        "was interrupted",
        "N",
    )
    preset: Preset = preset()
    request: Request = field(default_factory=Request)
    comparison: Comparison = field(default_factory=Comparison)
    execution: Execution = field(default_factory=Execution)

    def compare(
        self,
        call: Call,
        task: Callable[..., dict[str, Any]],
        title: str,
        check: Callable[[Any], object],
        **settings: Any,
    ) -> dict[str, Any]:
        """Run one comparison. A folder that is made first waits for `check` of the classifier."""
        from engine.downstream.comparison import finished_runs

        self._check_effects(call)
        classifier = requests.load_classifier_of(self.request.classifier, self.execution)
        if self.images_per_class is not None:
            self._make_folder(classifier, check, call)
        plain, prior = self._plain_row(classifier, call)
        done = finished_runs(self.out)
        report = task(
            self.folder,
            classifier,
            out=self.out,
            original=self.original,
            plain=plain,
            prior=prior,
            test=self.test,
            domain=self.domain,
            rows=self._further_rows(),
            comparison=self.comparison,
            events=call.events,
            **settings,
        )
        tell(report, title, call)
        if finished_runs(self.out) == done:
            call.screen.say(f"{self.out} was finished already: nothing was computed")
        call.screen.say(f"report: {self.out / 'report.json'}")
        return report

    def _further_rows(self) -> dict[str, Path]:
        """The sets of `rows` by name."""
        named = {}
        for entry in self.rows:
            name, given, path = entry.partition("=")
            if not (name and given and path) or name in named:
                raise ConfigError(
                    f"rows has {entry!r}, expected names, each once, with a path: write 'other=PATH'."
                )
            named[name] = Path(path).expanduser()
        return named

    def _source_of_plain(self) -> str | None:
        return NONE if self.no_plain else self.plain

    def _check_effects(self, call: Call) -> None:
        """Raise ConfigError for an option that nothing would read."""
        made, plain = self.images_per_class is not None, self._source_of_plain()
        unread = [] if made else [flag for path, flag in DRAWING.items() if path in call.given]
        came = "without --images-per-class"
        expected = "it: a folder that is there was made with its own settings"
        prior = "request.prior.source" in call.given
        if not unread and prior and not made and plain not in (None, GENERATE):
            unread = ["--prior"]
            came = f"with --plain {plain}"
            expected = "--plain generate or --images-per-class: nothing else is drawn"
        if not unread and "comparison.held_out" in call.given and self.test is not None:
            unread = ["--held-out"]
            came, expected = "with --test", "one of them: with test images nothing is held out"
        for section in TAUGHT:
            if not unread and f"{section}.epochs" in call.given and getattr(self, section).updates:
                unread = ["--epochs"]
                came = f"with --updates {getattr(self, section).updates}"
                expected = "one of them: updates replace epochs"
        if unread:
            raise ConfigError(
                f"{', '.join(unread)} came {came}, expected {expected}. Leave {'it' if len(unread) == 1 else 'them'} "
                "out."
            )

    def _make_folder(self, classifier: Any, check: Callable[[Any], object], call: Call) -> None:
        """Make the folder, or what is missing of it, once all that is compared with it has been looked at."""
        from engine.downstream.inputs import check_before_drawing
        from engine.downstream.sources import Inputs

        assert self.images_per_class is not None
        plain = self._source_of_plain()
        inputs = Inputs(
            folder=self.folder,
            original=self.original,
            plain=None if plain in (None, GENERATE, NONE) else Path(plain),
            test=self.test,
            domain=self.domain,
            more=self._further_rows(),
        )
        check_before_drawing(classifier, inputs, self.out, self.images_per_class)
        check(classifier)
        request = replace(self.request, images_per_class=self.images_per_class)
        requests.write_folder(request, self.execution, classifier, self.folder, call)

    def _plain_row(self, classifier: Any, call: Call) -> tuple[str | None, Any]:
        """Where the plain prior's images are, or 'generate', or None for no such row; and the prior that draws them."""
        from engine.datasets.dataset import has_manifest
        from engine.downstream.inputs import prior_of
        from engine.downstream.origins import origins

        plain = self._source_of_plain()
        prior = self.request.prior.source if "request.prior.source" in call.given else None
        if plain == NONE:
            return None, "embedded"
        if plain is not None or (prior is not None and self.images_per_class is None):
            named = [made["prior"]["name"] for made in origins(self.folder) if "prior" in made]
            return plain or GENERATE, prior or next(iter(named), "embedded")
        if not has_manifest(self.folder):
            return None, "embedded"  # the comparison says what is wrong with the folder
        found = prior_of(self.folder, classifier.device)
        if isinstance(found, str):
            call.screen.say(
                f"no row of the plain prior for {self.folder}: {found}. --plain FOLDER gives one"
            )
            return None, "embedded"
        return GENERATE, found
