"""A place with small data sets, every command that writes, and how a trial of one ends."""

import json
import os
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from engine.apps import demo
from engine.apps.cli import main
from engine.files import OURS
from engine.report import charts
from engine.settings import Sampling
from studies.reliability import bytes_of, half_written

CLASSIFIER = ["--classifier", "embedded:cartoon", "--device", "cpu"]
DRAWING = [*CLASSIFIER, "--prior", "embedded", "--classes", "dog", "horse"]
TWO_STEPS = ["--images-per-class", "1", "--steps", "2", "--batch", "2"]
MEASURING = ("distill", "prune", "quantise", "demo")
"""Commands whose files hold seconds: they are checked for being whole, not for their bytes."""
CRASHED = 99


@dataclass
class Count:
    """What came of the trials of one fault.

    Attributes:
        tried: what was tried, for a table.
        ways: how often trials ended in each of the promised ways.
        wrong: a line on each trial that ended otherwise.
    """

    tried: str
    ways: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def add(self, way: str, wrong: Sequence[str] = ()) -> None:
        """Count a trial that ended in this way, unless something was wrong with it."""
        if wrong:
            self.wrong.append(f"{way}: {'; '.join(wrong)}")
        else:
            self.ways[way] += 1

    def row(self) -> dict[str, Any]:
        promised = self.ways.total()
        return {
            "tried": self.tried,
            "times": promised + len(self.wrong),
            "as_promised": promised,
            "ways": dict(self.ways),
            "wrong": self.wrong,
        }


class Ended(NamedTuple):
    """How a process ended: its exit code, the last command's lines on stderr, and its number."""

    code: int
    said: list[str]
    pid: int

    def is_one_line(self) -> bool:
        """Whether there is one error, last, with nothing but warnings before it."""
        *before, last = self.said or [""]
        return last.startswith("error: ") and all(line.startswith("warning: ") for line in before)


class Running:
    """Commands, one after the other, in a forked process that ends at the first that fails."""

    def __init__(
        self,
        commands: Sequence[Sequence[str]],
        before: Callable[[], object] = lambda: None,
        stdout: int | None = None,
    ) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  # closed when the process has ended
        self._stdout = os.open(os.devnull, os.O_WRONLY) if stdout is None else stdout
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if not self.pid:
            os._exit(self._run(commands, before))
        os.close(self._stdout)

    def _run(self, commands: Sequence[Sequence[str]], before: Callable[[], object]) -> int:
        os.dup2(self._stdout, 1)
        os.dup2(self._said.fileno(), 2)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115  # until the process ends
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
        code = CRASHED
        try:
            before()
            for words in commands:
                os.ftruncate(2, os.lseek(2, 0, os.SEEK_SET))  # of the last command alone
                if code := main(words):
                    break
        except BaseException:  # noqa: BLE001  # whatever it is, the parent is to hear of it
            traceback.print_exc()
            code = CRASHED
        sys.stderr.flush()
        return code

    def wait(self) -> Ended:
        _, status = os.waitpid(self.pid, 0)
        self._said.seek(0)
        said = self._said.read().decode(errors="replace")
        self._said.close()
        return Ended(os.waitstatus_to_exitcode(status), said.splitlines(), self.pid)


def ended(
    commands: Sequence[Sequence[str]],
    before: Callable[[], object] = lambda: None,
    stdout: int | None = None,
) -> Ended:
    """How commands end in a process of their own. before: what is changed in it first."""
    return Running(commands, before, stdout).wait()


class Place:
    """A folder with a data set of four images as a folder and in parts, another data set, and room for trials."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        plain = [*DRAWING, "--method", "plain", "--images-per-class", "2", "--steps", "1"]
        small = [*plain, "--batch", "2", "--quiet"]
        # In this process, so that every trial is forked with all that a command loads.
        for words in (
            ["generate", *small, "--out", f"{folder / 'set'}"],
            ["generate", *small, "--out", f"{folder / 'other'}", "--seed", "1"],
            ["generate", *small, "--out", f"{folder / 'parts'}", "--share", "1/1"],
            ["finish", f"{folder / 'parts'}", "--quiet"],
        ):
            if main(words):
                raise SystemExit(f"ddis {' '.join(words)} did not end well; see above")
        demo.Sampling = lambda: Sampling(steps=2)  # type: ignore[misc,assignment]  # it has no option
        # Half of a short run's time would go into the charts of its page.
        charts._svg = lambda figure: "<svg></svg>"
        self._trials = 0

    def room(self) -> Path:
        """A new and empty folder for one trial."""
        self._trials += 1
        room = self.folder / f"{self._trials}"
        room.mkdir()
        return room

    def commands(self, room: Path) -> dict[str, list[list[str]]]:
        """Every command that writes, into `room`, by the name that a table has; some are several in turn."""
        images, out, file = (
            f"{self.folder / 'set'}",
            f"{room / 'out'}",
            f"{room / 'out.safetensors'}",
        )
        features = ["--features", "classifier:embedded:cartoon", "--device", "cpu"]
        compared = [*features, "--reference", f"{self.folder / 'other'}", "--prd-clusters", "2"]
        compared += ["--resamples", "5", "--density-neighbours", "1"]
        short = ["--seeds", "1", "--epochs", "1", "--no-plain"]
        generate = ["generate", *DRAWING, *TWO_STEPS, "--out", out]
        in_two = [*generate, "--batch", "1"]
        learn = ["learn-tokens", *DRAWING, "--out", file, "--steps", "2", "--learning.epochs", "2"]
        learn += ["--learning.images-per-epoch", "2", "--learning.init", "class name"]
        learn += ["--learning.check-images", "0", "--learning.updates-per-trajectory", "1"]
        lora = ["learn-lora", *DRAWING, "--out", file, "--steps", "2", "--images-per-class", "1"]
        tune = ["tune", *DRAWING, "--out", f"{out}.json", "--steps", "2", "--images-per-class", "1"]
        found = {
            "generate": [generate],
            "generate --share, finish": [
                [*in_two, "--share", "1/2"],
                [*in_two, "--share", "2/2"],
                ["finish", out],
            ],
            "generate --share": [[*generate, "--share", "1/1"], ["finish", out]],
            "learn-tokens": [learn],
            "learn-tokens --share": [[*learn, "--learning.side-by-side", "1", "--share", "1/1"]],
            "learn-lora": [[*lora, "--lora.epochs", "1"]],
            "tune": [[*tune, "--scales", "0.1", "0.5"]],
            "report": [["report", images, "--out", f"{out}.html"]],
            "select": [["select", images, "--out", out, "--by", "energy"]],
            "export": [["export", images, "--out", out, "--images-per-shard", "2"]],
            "fit": [["fit", images, "--out", out, "--epochs", "1", "--device", "cpu"]],
            "statistics": [
                ["statistics", "embedded:cartoon", images, "--out", file, "--device", "cpu"]
            ],
            "evaluate --out": [["evaluate", images, *compared, "--out", f"{out}.json"]],
            "evaluate --save-statistics": [
                ["evaluate", images, *features, "--save-statistics", file]
            ],
            "distill": [
                ["distill", images, *CLASSIFIER, "--out", out, *short, "--student", "resnet8"]
            ],
            "prune": [["prune", images, *CLASSIFIER, "--out", out, *short]],
            "quantise": [["quantise", images, *CLASSIFIER, "--out", out, "--no-plain"]],
            "demo": [["demo", "--out", out, "--images-per-class", "1"]],
        }
        return {name: [[*words, "--quiet"] for words in many] for name, many in found.items()}

    def undisturbed(self, name: str) -> dict[str, bytes]:
        """The files of a run that nothing disturbs."""
        room = self.room()
        if (calm := ended(self.commands(room)[name])).code:
            raise SystemExit(f"{name} did not end well: {calm.said}")
        return files_in(room)


def files_in(room: Path) -> dict[str, bytes]:
    """Every file by name, without what was measured: the end of run.json, and the page about a run."""
    return {name: data for name, data in bytes_of(room).items() if not name.endswith("report.html")}


def wrongs(name: str, room: Path, expected: dict[str, bytes]) -> Iterator[str]:
    """What is wrong with the files that a command has written in the end."""
    yield from half_written(room)
    yield from (f"{path.name} was left" for path in room.rglob(f"{OURS}*"))
    found = files_in(room)
    if found.keys() != expected.keys():
        yield f"other files: {sorted(found.keys() ^ expected.keys())}"
    elif name not in MEASURING:
        yield from (f"{file} has other bytes" for file in found if found[file] != expected[file])


@contextmanager
def a_place() -> Iterator[Place]:
    """A place that is deleted at the end."""
    with tempfile.TemporaryDirectory() as folder:
        yield Place(Path(folder))


def as_json(path: Path) -> Any:
    return json.loads(path.read_bytes())
