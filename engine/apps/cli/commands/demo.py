"""`ddis demo`: what the method does, on the models that ship."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from engine.apps.cli.command import Call, Command, local
from engine.settings.fields import setting

ALIKE = 0.05
"""Times that differ by less than this share are within what they vary by."""


@dataclass(frozen=True, kw_only=True)
class Demo(Command):
    """Draw plain, CAT, DAG, both, and DAG with a tuned prompt side by side, on the embedded models."""

    module = "engine.apps.demo"
    interrupted = "the same command starts over, but for what --learn has learned so far."

    domain: str = setting("cartoon", "which embedded classifier", "NAME")
    images_per_class: int = setting(2, "images of each class and row")
    learn: bool = setting(False, "learn the tokens instead of taking those that ship")
    seed: int = setting(0, "seed of the images")
    out: Path = local("folder", "FOLDER", default=Path("out/demo"))

    def run(self, call: Call) -> dict[str, Any]:
        from engine.apps.demo import demo

        report = demo(
            self.out, self.domain, self.images_per_class, self.learn, self.seed, call.events
        )
        self._tell(report, call)
        return report

    def _tell(self, report: dict[str, Any], call: Call) -> None:
        """Print the rows, and where the pictures are."""
        judged = ("", "judge: class", f"judge: {self.domain}", "teacher: class", "L_BN", "seconds")
        lines = [
            [
                row,
                f"{r['judge_class']:.0%}",
                f"{r['judge_domain']:.0%}",
                f"{r['teacher_class']:.0%}",
                f"{r['l_bn']:.1f}",
                f"{r['seconds']:.1f}",
            ]
            for row, r in report["rows"].items()
        ]
        title = "Equal seeds; shares of images that judge and teacher see so"
        say = partial(call.screen.say, result=True)
        call.screen.table(title, [*judged], lines, result=True)
        with_tokens = ", ".join(report["tokens"])
        say(
            f"class tokens used for: {with_tokens or 'no class, as none ship for this classifier; --learn learns them'}"
        )
        say(
            f"prompt that suits the classifier best: {report['prompt']!r}; the other rows' prompt names no style"
        )
        say(
            "a better row may have a higher L_BN: it sums the layers' distances, and one layer can rule it"
        )
        part = report["guidance_by_classifier"]
        say(
            f"report: {self.out / 'demo.json'}\ncurve of L_BN: {report['curve']}\n"
            f"L_BN and its gradient with respect to the images: {part['fused_ms']:.1f} ms by the fused kernels, "
            f"{part['hooks_ms']:.1f} ms by hooks: {_as_fast(part['fused_ms'], part['hooks_ms'])}\n"
            f"contact sheet: {report['contact_sheet']}"
        )


def _as_fast(fused_ms: float, hooks_ms: float) -> str:
    """How fast the fused kernels are compared with hooks, in words."""
    times = hooks_ms / fused_ms
    return "about as fast" if abs(times - 1) <= ALIKE else f"{times:.2f} times as fast"
