"""Spare a command what its imports need not do.

diffusers imports bitsandbytes wherever it is installed, and uses it for quantised networks alone. It brings half of
torch's compiler with it, which would cost every command seconds. And both diffusers and transformers read the file
lists of all installed packages, a third of a second each.
"""

import importlib.metadata
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

PACKAGE = "bitsandbytes"


@contextmanager
def bitsandbytes_later() -> Iterator[None]:
    """Within, `import bitsandbytes` gives a stand-in: the package itself is imported when an attribute is used.

    Whoever keeps the stand-in can go on using it afterwards. Nothing changes where the package is not installed or has
    been imported before.
    """
    spec = None if PACKAGE in sys.modules else find_spec(PACKAGE)
    if spec is None:
        yield
        return
    stand_in = _StandIn(spec)
    sys.modules[PACKAGE] = stand_in
    try:
        yield
    finally:
        stand_in.step_aside()


@contextmanager
def packages_listed_once() -> Iterator[None]:
    """Within, whoever asks which distribution a package comes from gets one list, which is made once."""
    original = importlib.metadata.packages_distributions
    importlib.metadata.packages_distributions = cache(original)
    try:
        yield
    finally:
        importlib.metadata.packages_distributions = original


@contextmanager
def imports_spared() -> Iterator[None]:
    """Within, imports do neither; it may be entered again inside."""
    with bitsandbytes_later(), packages_listed_once():
        yield


class _StandIn(ModuleType):
    """bitsandbytes until one of its attributes is used."""

    def __init__(self, spec: ModuleSpec) -> None:
        super().__init__(PACKAGE)
        # What libraries and `inspect` ask of any module to see whether it is there and where it comes from.
        self.__spec__ = spec
        self.__file__ = spec.origin

    def step_aside(self) -> None:
        """Let the next import give the package itself."""
        if sys.modules.get(PACKAGE) is self:
            del sys.modules[PACKAGE]

    def __getattr__(self, name: str) -> Any:
        self.step_aside()
        return getattr(import_module(PACKAGE), name)
