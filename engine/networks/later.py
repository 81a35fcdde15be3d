"""Spare a command what its imports need not do.

diffusers, transformers and accelerate import some packages wherever they are installed, and use them for few models or
for none of ours: bitsandbytes for quantised networks, parts of scipy for a few schedules and for the losses of object
detection, boto3 to configure a cloud's machines. The first brings half of torch's compiler with it, which would cost
every command seconds. And two of them read the file lists of all installed packages, a third of a second each.
"""

import importlib.metadata
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.metadata import Distribution
from importlib.util import find_spec
from types import ModuleType
from typing import Any

LATER = ("bitsandbytes", "boto3", "scipy.integrate", "scipy.optimize", "scipy.stats")
FUNCTIONS = {"scipy.optimize": ("linear_sum_assignment",)}
"""What is imported from such a module by name: a function that imports the module when it is called."""


@contextmanager
def imported_later(name: str) -> Iterator[None]:
    """Within, `import` of a module gives a stand-in: the module itself is imported when an attribute is used.

    Whoever keeps the stand-in can go on using it afterwards. Nothing changes where the module is not installed or has
    been imported before.
    """
    spec = None if name in sys.modules else _spec(name)
    if spec is None:
        yield
        return
    stand_in = _StandIn(spec)
    sys.modules[name] = stand_in
    try:
        yield
    finally:
        stand_in.step_aside()


def _spec(name: str) -> ModuleSpec | None:
    try:
        return find_spec(name)
    except ModuleNotFoundError:  # its parent
        return None


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
    """Which distributions each top-level package comes from, as `importlib.metadata` says it, in a tenth of the time.

    It reads the lists of files as text, and of their metadata the name alone.
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
        return {
            file.parts[0].removesuffix(".py")
            for file in distribution.files or ()
            if file.suffix == ".py"
        }
    files = (line.partition(",")[0].strip('"') for line in record.splitlines())
    return {file.partition("/")[0].removesuffix(".py") for file in files if file.endswith(".py")}


def _name(distribution: Distribution) -> str:
    metadata = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
    found = re.search(r"^Name: *(\S+)", metadata, re.MULTILINE)
    return found[1] if found else distribution.metadata["Name"]


@contextmanager
def imports_spared() -> Iterator[None]:
    """Within, imports do none of it; it may be entered again inside."""
    with ExitStack() as stack:
        for name in LATER:
            stack.enter_context(imported_later(name))
        stack.enter_context(packages_listed_once())
        yield


class _StandIn(ModuleType):
    """A module until one of its attributes is used."""

    def __init__(self, spec: ModuleSpec) -> None:
        super().__init__(spec.name)
        # What libraries and `inspect` ask of any module to see whether it is there and where it comes from.
        self.__spec__ = spec
        self.__file__ = spec.origin
        if spec.name in FUNCTIONS:
            self.__path__ = (
                spec.submodule_search_locations or []
            )  # `from ... import` looks here first

    def step_aside(self) -> None:
        """Let the next import give the module itself."""
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]

    def __getattr__(self, name: str) -> Any:
        if name in FUNCTIONS.get(self.__name__, ()):
            return partial(self._call, name)
        return self._own(name)

    def _own(self, name: str) -> Any:
        """An attribute of the module itself."""
        self.step_aside()
        return getattr(import_module(self.__name__), name)

    def _call(self, function: str, /, *args: Any, **kwargs: Any) -> Any:
        return self._own(function)(*args, **kwargs)
