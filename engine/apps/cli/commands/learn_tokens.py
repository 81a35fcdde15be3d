"""`ddis learn-tokens`: a class alignment token (CAT) for each class."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from shlex import quote
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from engine.apps.cli import requests
from engine.apps.cli.command import (
    ALIGNMENT,
    MODELS,
    RESUMES,
    WITH_PRIOR,
    Call,
    Command,
    local,
    needed,
    of_preset,
)
from engine.errors import ConfigError, counted
from engine.facts import facts_of
from engine.request import Execution, Request
from engine.settings.methods import DDIS, Plain
from engine.settings.plain import to_plain
from engine.settings.tokens import TokenLearning

if TYPE_CHECKING:
    from engine.tokens.table import TokenTraining

GUIDED = ("request.method.name", "request.method.alignment")
"""Paths of flags that ask for guided images, or for plain ones."""
COLUMNS = ("class", "start", "outcome", "epochs", "seen", "loss", "forward", "backward")


@dataclass(frozen=True, kw_only=True)
class LearnTokens(Command):
    """Learn a class alignment token (CAT) for each class."""

    module = "engine.runners.learn_tokens"
    options = (
        *MODELS,
        "request.method.name",
        *ALIGNMENT,
        "request.method.sampling.*",
        "request.classes",
        "request.seed",
        "execution.memory",
        "execution.attention",
        "execution.share",
        "execution.cluster.*",
        "execution.mixed",
        "learning.*",
    )
    helps = MappingProxyType(
        {
            "execution.share": "learn only share I of N of the classes, as 3/16: one of N processes with the same "
            "token file; the one that learns the last classes writes it"
        }
    )
    needs = ("request.classifier.source",)
    methods = WITH_PRIOR
    common = (
        *("classifier", "out", "textual-inversion", "classes", "seed", "prior", "method", "preset"),
        *("learning.epochs", "learning.images-per-epoch", "learning.steps", "alignment.scale"),
        *("steps", "cfg", "architecture", "labels", "memory", "device"),
    )
    interrupted = RESUMES

    request: Request = field(default_factory=Request)
    out: Path = needed("token file (.safetensors); resumed if it was interrupted", "FILE")
    textual_inversion: Path | None = local(
        "also write one file a class here, for diffusers", "FOLDER"
    )
    preset: Literal["default", "paper", "instead"] = local(
        "default: ours; paper: DDIS as published, its guidance, sampling and learning; instead: tokens in place of "
        "names that the prior takes for something else, such as 'mail bag', learned in plain images unless --method "
        "says otherwise",
        default="default",
    )
    learning: TokenLearning = field(default_factory=TokenLearning)
    execution: Execution = field(default_factory=Execution)

    @classmethod
    def preset_values(cls, given: Mapping[str, Any], method: str) -> dict[str, Any]:
        if given.get("preset") == "instead":
            return {"learning": to_plain(TokenLearning.instead())}
        if given.get("preset") == "paper":
            return of_preset(given, method, learning=TokenLearning)
        return {}

    def run(self, call: Call) -> dict[str, Any]:
        from engine.runners.learn_tokens import learn_tokens
        from engine.tokens.textual_inversion import export_textual_inversion

        method = self.method_of(call)
        table = learn_tokens(
            replace(
                self.request, method=replace(method, tokens=None), student=None, runtime="torch"
            ),
            learning=self.learning_of(call),
            device=self.execution.device,
            memory=self.execution.memory,
            attention=self.execution.attention,
            out=self.out,
            share=self.execution.share,
            cluster=self.execution.cluster,
            mixed=self.execution.mixed,
            events=call.events,
        )
        if not self.out.exists():
            learned = len(table.training)
            wanted = len(facts_of(table.run)["classes"])
            call.screen.say(
                f"the tokens of {learned} of {wanted} classes are learned; the share that learns the last ones writes "
                f"{self.out}"
            )
            return {"file": str(self.out), "learned": learned, "of_classes": wanted}
        labels = facts_of(table.run)["classes"]
        trainings = dict(zip(labels, table.training.values(), strict=True))
        rows = [_row(label, training) for label, training in trainings.items()]
        call.screen.table(
            f"Tokens in {self.out}; seen: share of the last images that the classifier recognises; forward, backward: "
            "passes of one latent through the denoiser",
            [*COLUMNS],
            rows,
            result=True,
        )
        call.screen.say(self._closing(len(table.classes), len(labels)))
        folder = self.textual_inversion
        exported = export_textual_inversion(table, folder) if folder is not None else {}
        return {
            "file": str(self.out),
            "classes": {label: asdict(training) for label, training in trainings.items()},
            "textual_inversion": {label: str(file) for label, file in exported.items()},
        }

    def method_of(self, call: Call) -> DDIS | Plain:
        """What draws the images that tokens are learned in: those in place of a name see no guidance.

        It makes the classifier see the class in images that show something else, so that a token has less to learn.
        """
        method = self.request.method
        assert isinstance(method, DDIS | Plain)  # no other is offered
        guided = any(path.startswith(GUIDED) for path in call.given)
        return method if guided or self.preset != "instead" else Plain(sampling=method.sampling)

    def _closing(self, found: int, wanted: int) -> str:
        """How many of the classes got a token, and how images are drawn with them."""
        if not found:
            which = (
                "the class got no token: it keeps its"
                if wanted == 1
                else f"none of {counted(wanted, 'class')} got a token: all keep their"
            )
            return f"{which} plain prompt, and {self.out} changes no image"
        others = "" if found == wanted else "; the others keep their plain prompt"
        return (
            f"{found} of {counted(wanted, 'class')} got a token{others}. To draw with them: ddis generate ... --tokens "
            f"{quote(str(self.out))}"
        )

    def learning_of(self, call: Call) -> TokenLearning:
        """The settings of learning. `--steps` alone is the number of steps of learning as well.

        Raises ConfigError where it came with another number for learning, which would leave it without effect.
        """
        steps = requests.drawing(self.request).sampling.steps
        if "request.method.sampling.steps" not in call.given:
            return self.learning
        if "learning.steps" in call.given and self.learning.steps not in (0, steps):
            raise ConfigError(
                f"--steps {steps} came with --learning.steps {self.learning.steps}, expected one of them: tokens are "
                "learned with the latter alone. Leave --steps out."
            )
        return replace(self.learning, steps=0)


def _row(label: str, training: "TokenTraining") -> list[str]:
    """A token as a line of the table, without a start where nothing was learned."""
    start = training.start if training.epochs else ""
    return [
        label,
        f"{start}, unmoved" if start and not training.moved else start,
        training.outcome,
        str(training.epochs),
        f"{training.accuracy:.0%}",
        f"{training.loss:.2f}",
        str(training.denoiser_forward),
        str(training.denoiser_backward),
    ]
