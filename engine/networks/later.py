"""bitsandbytes is imported when something uses it, not when diffusers is: it brings half of torch's compiler.

diffusers imports it in one module, where it is installed, and uses it for quantised networks alone. That module gets a
stand-in, which imports the package at the first use. Without this, each command would spend seconds on it.
"""

import logging
import sys
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

PACKAGE = "bitsandbytes"
IMPORTER = "diffusers.quantizers.bitsandbytes.utils"


def bitsandbytes() -> ModuleType:
    """Import bitsandbytes, without its remark on a CPU kernel that nothing here uses. Raises ImportError."""
    logging.getLogger(f"{PACKAGE}.backends.cpu.ops").setLevel(logging.ERROR)
    return import_module(PACKAGE)


def import_later() -> None:
    """From now on, diffusers' import of bitsandbytes waits for the first use of it."""
    if IMPORTER not in sys.modules and not any(isinstance(one, _Finder) for one in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Later(ModuleType):
    """Stands for bitsandbytes until one of its attributes is asked for."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(bitsandbytes(), name)


class _Finder(MetaPathFinder):
    """Finds the module of diffusers that imports bitsandbytes, with a loader of ours."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        if fullname != IMPORTER:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None and PACKAGE not in sys.modules:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(Loader):
    """Runs a module with the stand-in in place of bitsandbytes."""

    def __init__(self, own: Loader) -> None:
        self.own = own

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.own.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        there = find_spec(PACKAGE)
        if there is None:
            self.own.exec_module(module)
            return
        stand_in = _Later(PACKAGE)
        stand_in.__spec__ = there
        sys.modules[PACKAGE] = stand_in
        try:
            self.own.exec_module(module)
        finally:
            if sys.modules.get(PACKAGE) is stand_in:
                del sys.modules[PACKAGE]
