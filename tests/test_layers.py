"""Imports obey the arrow: data goes one way through the rooms, and a room imports only what stands left of it.

Read from the source, so that an import inside a function counts as well.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from importlib.util import resolve_name
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

LEAVES = {
    *("errors", "events", "facts", "files", "image_key", "locks"),
    *("prompts", "request", "settings", "types", "urls"),
}
"""What anything may import. They import only each other."""

MODELS = {"networks", "classifiers", "priors", "embedded"}
MAKING = MODELS | {"guidance", "sampling", "tokens", "memory", "methods", "lora"}
MAY_IMPORT: dict[str, set[str]] = {
    **{leaf: set() for leaf in LEAVES},
    "networks": set(),
    "classifiers": {"networks"},
    "priors": {"networks"},
    "embedded": {"networks", "classifiers", "priors", "datasets"},  # its recipe writes sheets
    "datasets": set(),
    "report": {"datasets"},
    "guidance": MODELS,
    "sampling": MODELS | {"guidance"},
    "tokens": MODELS | {"guidance", "sampling"},
    "memory": MODELS | {"guidance", "sampling", "tokens"},  # counts what learning runs
    "drop_in": MODELS | {"guidance", "memory"},  # guidance for pipelines that sample themselves
    "onnx": MODELS | {"guidance", "sampling"},  # another engine for what the sampler is given
    "methods": MODELS | {"guidance", "sampling", "tokens", "memory", "onnx"},
    "lora": MAKING - {"lora"},  # guidance distilled into the prior
    "evaluation": MAKING | {"datasets"},
    "runners": MAKING | {"datasets", "evaluation", "onnx"},
    "cluster": MAKING | {"datasets", "runners"},
    "downstream": MAKING | {"datasets", "evaluation", "onnx", "runners"},
}
JOINERS = {"__init__", "__main__", "apps"}
"""The public face and the programs that people start join all rooms; nothing imports them but each other."""

OPTIONAL = {
    "bitsandbytes",
    "gradio",
    "onnx",
    "onnx2fx",
    "onnxruntime",
    "onnxscript",
    "peft",
    "ray",
    "timm",
    "torch_fidelity",
    "torch_pruning",
    "torchvision",
    "triton",
    "xformers",
}
MOST_LINES = 250
IMPORTS = (ast.Import, ast.ImportFrom)
FOREIGN_TO_KERNELS = {"engine", "diffusers", "transformers"}


def imported_modules(source: str, package: str) -> Iterator[tuple[str, int]]:
    """Absolute name and line of each import in a module of `package`; `from a import b` gives a.b."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = (
                resolve_name("." * node.level + (node.module or ""), package)
                if node.level
                else node.module
            )
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)


def room_of(module: str) -> str:
    """'engine.priors.prior' -> 'priors'. A public name (`from engine import generate`) is in '__init__'."""
    _, room, *rest = module.split(".") if "." in module else (module, "__init__")
    return room if rest or room in {*MAY_IMPORT, *JOINERS} else "__init__"


def violations(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """What is wrong with the imports of one module of the engine, a sentence each."""
    room = "__init__" if module == "engine" else module.split(".")[1]
    if room not in {*MAY_IMPORT, *JOINERS}:
        return [f"{module}: '{room}' has no place in the arrow: give it one in MAY_IMPORT"]
    allowed = {room, *LEAVES, *MAY_IMPORT.get(room, {*MAY_IMPORT, *JOINERS})}
    package = module if is_package else module.rpartition(".")[0]
    return [
        f"{module}:{line}: {room} must not import {name}"
        for name, line in imported_modules(source, package)
        if name.split(".")[0] == "engine" and room_of(name) not in allowed
    ]


def modules(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*.py") if "__pycache__" not in file.parts)


def module_name(file: Path, root: Path) -> str:
    parts = file.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def loaded_by(statement: str) -> frozenset[str]:
    """Top-level packages in `sys.modules` of a fresh process after `statement`."""
    code = f"{statement}; import sys; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return frozenset(done.stdout.split())


def test_engine_obeys_the_arrow():
    files = modules(ROOT / "engine")
    assert len(files) > 10
    assert [
        sentence
        for file in files
        for sentence in violations(
            file.read_text("utf-8"), module_name(file, ROOT), is_package=file.name == "__init__.py"
        )
    ] == []


def test_a_module_of_the_engine_is_read_in_one_sitting():
    lengths = {
        module_name(file, ROOT): len(file.read_text("utf-8").splitlines())
        for file in modules(ROOT / "engine")
    }
    assert {name: lines for name, lines in lengths.items() if lines > MOST_LINES} == {}


def test_the_arrow_has_no_circles():
    order = tuple(
        TopologicalSorter(MAY_IMPORT).static_order()
    )  # raises CycleError where there is one
    assert order.index("priors") < order.index("guidance") < order.index("runners")


@pytest.mark.parametrize(
    ("module", "source", "culprit"),
    [
        ("engine.priors.prior", "import engine.guidance.move", "engine.guidance.move"),
        ("engine.guidance.move", "from engine.sampling import loop", "engine.sampling.loop"),
        (
            "engine.guidance.move",
            "from ..sampling.loop import sample",
            "engine.sampling.loop.sample",
        ),
        (
            "engine.sampling.loop",
            "def f():\n    from engine.runners import generate",
            "engine.runners.generate",
        ),
        (
            "engine.datasets.dataset",
            "from engine.priors import Prior",
            "engine.priors.Prior",
        ),
        ("engine.settings.sampling", "from engine.priors import prior", "engine.priors.prior"),
        ("engine.runners.generate", "from engine import generate", "engine.generate"),
        ("engine.runners.generate", "from engine.apps.cli import main", "engine.apps.cli.main"),
        ("engine.tokens.table", "from engine.memory.plan import plan", "engine.memory.plan.plan"),
    ],
)
def test_an_import_against_the_arrow_is_found(module, source, culprit):
    (found,) = violations(source, module)
    assert found.endswith(f"must not import {culprit}")


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "engine.guidance.move",
            "from engine.classifiers.base import Classifier\nfrom engine.errors import *",
        ),
        (
            "engine.embedded.train.prior",
            "from ...priors.prior import Prior\nfrom .loop import train",
        ),
        (
            "engine.priors.prior",
            "import torch\nimport ddis_kernels\nfrom engine import errors, prompts",
        ),
        ("engine.evaluation.metrics", "from engine.datasets.manifest import read"),
        ("engine.apps.cli", "from engine import generate\nfrom engine.runners import learn_tokens"),
    ],
)
def test_an_import_along_the_arrow_passes(module, source):
    assert violations(source, module) == []


def test_no_modules_import_each_other():
    """Not even in one room. What is imported within a function, or for types alone, is no circle."""
    files = {module_name(file, ROOT): file for file in modules(ROOT / "engine")}
    graph = {}
    for name, file in files.items():
        imports = [part for part in ast.parse(file.read_text()).body if isinstance(part, IMPORTS)]
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        found = imported_modules(ast.unparse(ast.Module(imports, [])), package)
        named = {one if one in files else one.rpartition(".")[0] for one, _ in found}
        graph[name] = named & (files.keys() - {name})
    order = list(TopologicalSorter(graph).static_order())  # raises CycleError, which names them
    assert len(order) == len(files)


def test_a_new_room_must_be_given_its_place():
    (found,) = violations("", "engine.attic.box")
    assert "'attic' has no place" in found


def test_the_kernels_know_nothing_of_the_engine():
    names = {
        name.split(".")[0]
        for file in modules(ROOT / "kernels" / "ddis_kernels")
        for name, _ in imported_modules(
            file.read_text("utf-8"), module_name(file.parent, ROOT / "kernels")
        )
    }
    assert "torch" in names
    assert names & FOREIGN_TO_KERNELS == set()


def test_importing_the_kernels_loads_nothing_else_of_ours():
    loaded = loaded_by("import ddis_kernels")
    assert "ddis_kernels" in loaded
    assert loaded & FOREIGN_TO_KERNELS == set()


@pytest.mark.parametrize(
    ("package", "brought_along"),
    [("ddis_kernels", "import torch"), ("engine", "pass")],
)
def test_optional_packages_load_only_when_used(package, brought_along):
    """Not held against us: what torch brings along, and triton, needed by its decorators."""
    assert (loaded_by(f"import {package}") - loaded_by(brought_along)) & (
        OPTIONAL - {"triton"}
    ) == set()


@pytest.mark.slow
def test_every_module_of_the_engine_imports_without_the_optional_packages():
    """Blocked, not only unused: a module-level import of one would raise here."""
    names = [
        module_name(file, ROOT) for file in modules(ROOT / "engine") if file.name != "__main__.py"
    ]
    block = f"import sys; sys.modules.update(dict.fromkeys({sorted(OPTIONAL)}))"
    assert "engine" in loaded_by(f"{block}; import {', '.join(names)}")
