"""Spare a command what its imports need not do.

diffusers, transformers and accelerate import some packages wherever they are installed, and use them for few models or
for none of ours: bitsandbytes for quantised networks, parts of scipy for a few schedules and for the losses of object
detection, boto3 to configure a cloud's machines. The first brings half of torch's compiler with it, which would cost
every command seconds. And two of them read the file lists of all installed packages, a third of a second each, and one
all of its own models' files, twice.
"""

import importlib.metadata
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import Distribution
from threading import RLock
from types import ModuleType
from typing import Any

LATER = ("bitsandbytes", "boto3", "scipy.integrate", "scipy.optimize", "scipy.stats")
"""Within `imports_spared`, an import gives a stand-in: the module itself is imported when an attribute is used."""
FUNCTIONS = {"scipy.optimize": ("linear_sum_assignment",)}
"""What is imported from such a module by name: a function that imports the module when it is called."""

SCANNING, SCAN = "transformers.utils.import_utils", "create_import_structure_from_path"
"""The module that reads transformers' models to see what each defines, and its function."""

_lock = RLock()
_entered: list[ExitStack] = []


@contextmanager
def imports_spared() -> Iterator[None]:
    """Within, imports on any thread do none of it; it may be entered again inside, and by several threads.

    Whoever keeps a stand-in can go on using it afterwards. Nothing changes where a module is not installed or has been
    imported before.
    """
    with _lock:
        stack = ExitStack()
        if not _entered:
            stack.enter_context(_imported_later())
            stack.enter_context(packages_listed_once())
        _entered.append(stack)
    try:
        yield
    finally:
        with _lock:  # threads may leave in any order
            _entered.remove(stack)
            if _entered:
                _entered[0].push(stack.pop_all())
            else:
                stack.close()


@contextmanager
def _imported_later() -> Iterator[None]:
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in LATER:
            if isinstance(stand_in := sys.modules.get(name), _StandIn):
                stand_in.step_aside()


@contextmanager
def packages_listed_once() -> Iterator[None]:
    """Within, whoever asks which distribution a package comes from gets one list, which is made once."""
    original = importlib.metadata.packages_distributions
    importlib.metadata.packages_distributions = cache(packages_distributions)
    try:
        yield
    finally:
        importlib.metadata.packages_distributions = original


def packages_distributions() -> dict[str, list[str]]:
    """Which distributions each package with Python code comes from, by its top-level name.

    `importlib.metadata` says the same, and from Python 3.12 on also names what has no such code, in ten times the time:
    this reads the lists of files as text, and of the metadata the name alone.
    """
    found = defaultdict[str, list[str]](list)
    for distribution in importlib.metadata.distributions():
        declared = (distribution.read_text("top_level.txt") or "").split()
        for package in declared or _packages(distribution):
            found[package].append(_name(distribution))
    return dict(found)


def _packages(distribution: Distribution) -> set[str]:
    record = distribution.read_text("RECORD")
    if record is None:
        files = (str(file) for file in distribution.files or ())
    else:
        files = (line.partition(",")[0].strip('"') for line in record.splitlines())
    return {file.partition("/")[0].removesuffix(".py") for file in files if file.endswith(".py")}


def _name(distribution: Distribution) -> str:
    metadata = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
    found = re.search(r"^Name: *(\S+)", metadata, re.MULTILINE)
    return found[1] if found else distribution.metadata["Name"]


class _StandIn(ModuleType):
    """A module until one of its attributes is used."""

    def step_aside(self) -> None:
        """Let the next import give the module itself."""
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]

    def own(self, name: str) -> Any:
        """An attribute of the module itself."""
        self.step_aside()
        _wanted.add(self.__name__)
        return getattr(import_module(self.__name__), name)

    def __getattr__(self, name: str) -> Any:
        if name in FUNCTIONS.get(self.__name__, ()):
            return partial(self._call, name)
        return self.own(name)

    def _call(self, function: str, /, *args: Any, **kwargs: Any) -> Any:
        return self.own(function)(*args, **kwargs)


_wanted: set[str] = set()
"""Modules whose own attributes were asked for: they are imported as ever."""


class _Finder(MetaPathFinder):
    """Finds stand-ins for the modules of LATER."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        parent = sys.modules.get(fullname.rpartition(".")[0])
        if isinstance(parent, _StandIn):  # goes first, and may import this one
            path = parent.own("__path__")
            module = sys.modules.get(fullname)
            if module is None:
                return PathFinder.find_spec(fullname, path, target)
            spec = ModuleSpec(fullname, _Given(module))
            module.__spec__ = spec  # else the import takes that, and executes the module again
            return spec
        if fullname not in (*LATER, SCANNING) or fullname in _wanted:
            return None
        found = PathFinder.find_spec(fullname, path, target)
        if found is None:
            return None
        if fullname == SCANNING:
            return _scanning_once(found)
        stand_in = _StandIn(fullname)
        # What the import itself, libraries and `inspect` ask of any module.
        vars(stand_in).update(__file__=found.origin, __cached__=found.cached, __path__=[])
        return ModuleSpec(fullname, _Given(stand_in), origin=found.origin)


def _scanning_once(spec: ModuleSpec) -> ModuleSpec:
    """Let the module keep what it found in each folder: it keeps 128, and there are more, so it reads all again."""
    loader: Any = spec.loader
    execute = loader.exec_module

    def execute_and_keep(module: ModuleType) -> None:
        execute(module)
        scan = getattr(getattr(module, SCAN, None), "__wrapped__", None)
        if scan is not None:
            setattr(module, SCAN, cache(scan))

    loader.exec_module = execute_and_keep
    return spec


class _Given(Loader):
    """Gives a module that is there already, as it is."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module
        self.spec = module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec or module.__spec__
