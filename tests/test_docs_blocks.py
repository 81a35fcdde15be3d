"""Every code block of the README and of docs/ does what it says.

A page is read from top to bottom in one folder, and each block is run: shell lines, Python, configuration files. The
comment `<!-- test: ... -->` before a block holds YAML that says what differs from what a reader sees:

    replace: {old: new}     smaller numbers, a model that ships in place of one from the hub
    needs: [FOLDER]         files that a reader would bring; `BROUGHT` makes them
    save: mine.yaml         the file that a configuration is saved as
    parse: reason           not run: words and names are only checked; {part of a line: reason} for single lines
    slow: true              run by `make test-slow` alone, only checked in `make test`; [part of a line]: single lines
    equal: [a, b]           folders whose images are the same afterwards

A block of language `text` is output, a formula or a layout, and is not run.
"""

import ast
import inspect
import io
import json
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass, field
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from engine.apps.cli import main
from engine.apps.cli.options import options_of
from engine.apps.cli.registry import COMMANDS
from engine.apps.cli.settings import understand
from engine.settings.sources import EMBEDDED as SHIPPED

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(
    r"(?:<!-- test:(?P<how>(?:(?!-->).)*)-->\n)?```(?P<kind>[^\n]*)\n(?P<text>.*?)```", re.DOTALL
)
INLINE = re.compile(r"(?<!`)`(ddis [^`]+)`")
KINDS = ("bash", "python", "yaml", "text")
LABELS = ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")


@dataclass(frozen=True, kw_only=True)
class How:
    """What the comment before a block says; see the top of this file."""

    replace: dict[str, str] = field(default_factory=dict)
    needs: Sequence[str] = ()
    save: str = ""
    parse: str | dict[str, str] = ""
    slow: bool | Sequence[str] = False
    equal: Sequence[str] = ()


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text as it is run, what its comment says, and the line it begins at."""

    kind: str
    text: str
    how: How
    line: int

    def runs(self, part: str, slow: bool) -> bool:
        """Whether a part of the block is run, and not only checked. slow: in the slow lane."""
        parse, late = self.how.parse, self.how.slow
        if parse if isinstance(parse, str) else any(word in part for word in parse):
            return False
        return slow or not (late if isinstance(late, bool) else any(word in part for word in late))


def blocks_of(page: Path) -> list[Block]:
    """The blocks of a page, with replacements made. A replacement that is no part of its block is an error."""
    text, found = page.read_text(), []
    for match in FENCE.finditer(text):
        how = How(**(yaml.safe_load(match["how"] or "{}") or {}))
        code, line = match["text"], text[: match.start("kind")].count("\n") + 1
        for old, new in how.replace.items():
            assert old in code, (
                f"{page.name}:{line} replaces {old!r}, which the block does not hold"
            )
            code = code.replace(old, str(new).replace("EMBEDDED", str(SHIPPED / "prior")))
        found.append(Block(match["kind"], code, how, line))
    assert text.count("\n```") == 2 * len(found), f"{page.name} has a fence that is not read"
    return found


def bring_folder(where: Path) -> None:
    """A data set of ours: an image of each of seven classes."""
    words = ["--classifier", "embedded:photo", "--images-per-class", "2", "--steps", "2", "--out"]
    assert main(["generate", *words, str(where), "--quiet"]) == 0


def bring_images(where: Path) -> None:
    """Class folders of images that nobody drew."""
    for number in range(28):
        folder = where / LABELS[number % len(LABELS)]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.randint(0, 255, (8, 8, 3), "uint8")).save(
            folder / f"{number}.png"
        )


def bring_vit(where: Path) -> None:
    """A vision transformer as transformers saves it."""
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    labels = dict(enumerate(LABELS))
    config = ViTConfig(**sizes, intermediate_size=32, image_size=16, patch_size=8, id2label=labels)
    ViTForImageClassification(config).save_pretrained(where)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(where)


def bring_settings(where: Path) -> None:
    """The settings of a short run."""
    method = {"name": "ddis", "sampling": {"steps": 2}}
    source = {"source": "embedded:photo"}
    request = {"classifier": source, "images_per_class": 1, "method": method}
    where.parent.mkdir(parents=True, exist_ok=True)
    where.write_text(json.dumps({"request": request}))


BROUGHT: dict[str, Callable[[Path], None]] = {
    "photo.yaml": bring_settings,
    "FOLDER": bring_folder,
    "training-images": bring_images,
    "my-vit": bring_vit,
}


class Reader:
    """Who does what a page says, in the current folder. slow: in the slow lane."""

    def __init__(self, page: Path, slow: bool):
        self.page, self.slow = page, slow

    def do(self, block: Block) -> None:
        """Run a block, or check the parts of it that are not to be run."""
        if block.runs(block.text, self.slow):
            for name in block.how.needs:
                if not Path(name).exists():
                    BROUGHT[name](Path(name))
        {"bash": self._shell, "python": self._python, "yaml": self._yaml}[block.kind](block)
        if block.how.equal and block.runs(block.text, self.slow):
            same_images(*map(Path, block.how.equal))

    def _shell(self, block: Block) -> None:
        lines = re.sub(r"\\\n", " ", block.text).replace("&&", "\n").splitlines()
        for line in lines:
            words = shlex.split(line, comments=True)
            if not words:
                continue
            assert not re.search(r"\$|\.\.\.", line), f"{line} needs a replacement"
            if block.runs(line, self.slow):
                assert words[0] == "ddis", f"{line} is not run, so its comment must say why"
                ran(words[1:])
            elif "ddis" in words:
                parsed(words[words.index("ddis") + 1 :])
            else:
                self._other_program(words)

    def _other_program(self, words: list[str]) -> None:
        """Check the words of a program that is not ours."""
        match words:
            case ["make", *targets]:
                assert all(f"\n{target.split('=')[0]}:" in MAKEFILE for target in targets)
            case ["sbatch", *_, "--wrap", command]:
                parsed(shlex.split(command)[1:])
            case ["pip", "install", package]:
                assert {*re.findall(r"[\w-]+", package)} - {"ddis"} <= EXTRAS
            case _:
                known = words[0] in ("export", "hf") or words[:2] == [
                    "source",
                    ".venv/bin/activate",
                ]
                assert known, f"{words[0]} is a program that nobody checks"

    def _python(self, block: Block) -> None:
        tree = ast.parse(block.text)
        if not block.runs(block.text, self.slow):
            check_names(tree)
            return
        code = compile("\n" * block.line + block.text, str(self.page), "exec")
        exec(code, {"__name__": "page"})

    def _yaml(self, block: Block) -> None:
        Path(block.how.save).write_text(block.text)
        given = yaml.safe_load(block.text)["request"]
        missing = [] if "classifier" in given else ["--classifier", "embedded:photo"]
        parsed(["generate", "--config", block.how.save, "--out", "o", *missing])


MAKEFILE = (ROOT / "Makefile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = {*PROJECT["optional-dependencies"]}


def ran(words: list[str]) -> None:
    """Run `ddis` in this process, with what it prints in a file where the words end in `> file`."""
    stream = nullcontext()
    if ">" in words:
        *words, _, name = words
        file = Path(name).expanduser()
        file.parent.mkdir(parents=True, exist_ok=True)
        stream = redirect_stdout(io.StringIO())
    with stream as printed:
        assert main([*words, *(["--quiet"] if words[0] in COMMANDS else [])]) == 0, words
    if printed is not None:
        file.write_text(printed.getvalue())


def parsed(words: list[str]) -> None:
    """Check a command line as `ddis` does before it imports anything heavy.

    A configuration file that only the slow lane writes is taken for that of a short run.
    """
    name = command_of(words)
    if "--config" in words and not Path(words[words.index("--config") + 1]).exists():
        words = [
            "later.json" if before == "--config" else word
            for before, word in pairwise(["", *words])
        ]
        bring_settings(Path("later.json"))
    assert understand(name, words[len(name.split()) :], COMMANDS) is not None


def command_of(words: list[str]) -> str:
    """The command that words begin with."""
    (name,) = (name for name in COMMANDS if words[: len(name.split())] == name.split())
    return name


def check_names(tree: ast.Module) -> None:
    """Resolve what a block imports of the engine, and hold its calls against their signatures."""
    known: dict[str, Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] == "engine":
            module = import_module(str(node.module))
            known |= {
                alias.asname or alias.name: getattr(module, alias.name) for alias in node.names
            }
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in known:
            names = [keyword.arg for keyword in node.keywords if keyword.arg]
            inspect.signature(known[node.func.id]).bind(*node.args, **dict.fromkeys(names))
    assert known


def same_images(one: Path, other: Path) -> None:
    """Assert that two folders hold the same images, byte by byte."""
    pictures = sorted((one / "images").rglob("*.png"))
    assert pictures
    for picture in pictures:
        twin = other / picture.relative_to(one)
        assert twin.read_bytes() == picture.read_bytes(), twin


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder that a page is read in, which is the reader's home too."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(page: Path, *, slow: bool) -> None:
    """Do what a page says."""
    reader = Reader(page, slow)
    for block in blocks_of(page):
        if block.kind == "text":
            continue
        try:
            reader.do(block)
        except BaseException as error:
            error.add_note(f"in the block at {page.name}:{block.line}:\n{block.text}")
            raise


def pages(slow: bool) -> list[Any]:
    """The pages with blocks to run: all, or those that have slow ones."""
    chosen = []
    for page in PAGES:
        blocks = [block for block in blocks_of(page) if block.kind != "text"]
        if any(block.how.slow or not slow for block in blocks):
            chosen.append(pytest.param(page, id=page.stem))
    return chosen


@pytest.mark.parametrize("page", pages(slow=False))
def test_what_a_page_says_works(page: Path, home: Path) -> None:
    read(page, slow=False)


@pytest.mark.slow
@pytest.mark.parametrize("page", pages(slow=True))
def test_all_that_a_page_says_works(page: Path, home: Path) -> None:
    read(page, slow=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_has_a_language(page: Path) -> None:
    for block in blocks_of(page):
        assert block.kind in KINDS, (
            f"{page.name}:{block.line} has no language, expected one of {KINDS}"
        )
        assert block.kind != "text" or "ddis " not in block.text, (
            f"{page.name}:{block.line} is a command"
        )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_within_sentences_exist(page: Path) -> None:
    """What stands between backticks names a command and options of it."""
    for line in INLINE.findall(page.read_text()):
        words = line.split()[1:]
        if words[0] in ("...", "COMMAND", "--help", "--version", "--completion"):
            continue
        name = command_of(words)
        flags = {word for word in words if re.match("--[a-z]", word)}
        assert flags <= {f"--{option.flag}" for option in options_of(COMMANDS[name])}, line
