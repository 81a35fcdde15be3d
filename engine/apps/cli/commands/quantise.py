"""`ddis quantise`: what a folder is worth as calibration data."""

from dataclasses import dataclass, field
from typing import Any

from engine.apps.cli.command import Call
from engine.apps.cli.comparison import Comparing
from engine.settings.downstream import Quantisation


@dataclass(frozen=True, kw_only=True)
class Quantise(Comparing):
    """Bring the classifier to int8, calibrated on a data set folder, compared with other sets."""

    module = "engine.downstream.quantise"
    common = (
        *("classifier", "out", "calibration-images", "calibration", "original", "test", "domain"),
        *("plain", "no-plain", "images-per-class", "tokens", "prior", "seeds", "device"),
    )

    quantisation: Quantisation = field(default_factory=Quantisation)

    def run(self, call: Call) -> dict[str, Any]:
        from engine.downstream.quantise import check_packages, quantise

        return self.compare(
            call,
            quantise,
            "int8 networks",
            lambda _: check_packages(),
            quantisation=self.quantisation,
        )
