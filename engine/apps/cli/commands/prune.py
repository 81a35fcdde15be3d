"""`ddis prune`: what a folder is worth to a network that lost channels."""

from dataclasses import dataclass, field
from typing import Any

from engine.apps.cli.command import Call
from engine.apps.cli.comparison import Comparing
from engine.settings.downstream import Distillation, Pruning


@dataclass(frozen=True, kw_only=True)
class Prune(Comparing):
    """Cut channels off the classifier and teach it again on a data set folder, compared with other sets."""

    module = "engine.downstream.prune"
    common = (
        *("classifier", "out", "ratio", "epochs", "original", "test", "domain", "plain"),
        *("no-plain", "images-per-class", "tokens", "prior", "seeds", "device"),
    )

    pruning: Pruning = field(default_factory=Pruning)
    fine_tuning: Distillation = field(default_factory=Distillation.fine_tuning)

    def run(self, call: Call) -> dict[str, Any]:
        from engine.downstream.inputs import check_updates
        from engine.downstream.prune import prune, pruning_library

        check_updates(self.comparison, self.fine_tuning)
        return self.compare(
            call,
            prune,
            "Pruned networks",
            lambda _: pruning_library(),
            pruning=self.pruning,
            distillation=self.fine_tuning,
        )
