"""What every test can rely on: a seed, one thread, no network, and fresh memory that is full of NaN."""

import gc
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
BENCH = ROOT / "bench"

# Both are read when a library is imported, so they are set before any test module is.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # the GPU kernels then run on CPU tensors


def _write_into_memory() -> None:
    """Put the temporary folders of tests into memory where there is room.

    The engine waits for the disk after each file that it writes, which a killed process does not depend on: on a disk
    that is half of the time of tests that kill one.
    """
    memory = Path("/dev/shm")
    if memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 4e9:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(memory))


_write_into_memory()


# Imports leave no garbage, and looking for it would take an eighth of their time.
gc.disable()


LONGEST = (
    "engine/priors/test_whole_runs.py",
    "engine/embedded/test_recipe.py",
    "engine/onnx/test_onnx_runtime.py",
    "engine/priors/test_other_ways_of_running.py",
    "engine/apps/test_cli_start.py",
    "engine/priors/test_quantised_priors.py",
    "engine/tokens/test_optimise.py",
    "engine/onnx/test_gradient_graph.py",
    "engine/apps/studio/test_page.py",
    "engine/apps/test_cli.py",
    "engine/apps/test_cli_faults.py",
    "engine/runners/test_faults.py",
    "engine/runners/test_local_runner.py",
    "engine/runners/test_generate.py",
    "engine/cluster/test_tokens.py",
    "bench/gpu/test_runner.py",
    "engine/test_later.py",
    "engine/apps/test_demo.py",
    "engine/apps/studio/test_session.py",
    "bench/studies/test_studies.py",
)
"""The files that take longest: begun first, so that at the end no process waits for another's."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; the order is otherwise as it was."""
    order = {ROOT / "tests" / file: number for number, file in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path, len(order)))


def pytest_collection_finish() -> None:
    """Take what was imported out of garbage collection, which a test would else pay for each time it collects.

    These are millions of objects that stay to the end. What a test makes is collected as ever.
    """
    gc.freeze()
    gc.enable()


def _define_missing_torchvision_operators() -> torch.library.Library | None:
    """Let a torchvision built for CUDA import beside a CPU torch, as the environment of `make test-timm` needs.

    Its binary cannot load there, so its Python half finds no schemas to attach to. No test calls these operators.
    """
    if find_spec("torchvision") is None or torch.version.cuda is not None:
        return None
    try:
        import_module("torchvision")
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import_module("torchvision")
        return library
    return None


_TORCHVISION = (
    _define_missing_torchvision_operators()
)  # operators live as long as their library object


@pytest.fixture(autouse=True)
def _same_start():
    """Seed, thread count and NaN-filled memory, equal for every test and restored after it.

    One thread, because the models of the tests are tiny. A test of threading sets its own number.
    """
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.manual_seed(0)
    np.random.seed(0)  # libraries draw from the global one
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)


@pytest.fixture
def bench_script() -> Iterator[Callable[[str], ModuleType]]:
    """bench_script("studies.tune"): a module of bench/, new in every test.

    A process of its own would import the libraries again, for longer than most scripts take here.
    """
    before = {*sys.modules}
    yield import_module
    for name in {*sys.modules} - before:
        if BENCH in Path(getattr(sys.modules[name], "__file__", None) or "").parents:
            del sys.modules[name]


@pytest.fixture
def browser() -> Iterator[Any]:
    """A headless Chromium that playwright drives, closed in the end."""
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip("no Chromium on the path: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of the PACS and CIFAR-10 parquet files: `$DDIS_DATA`, else `shared/data` beside the repository."""
    folder = Path(os.environ.get("DDIS_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no data in {folder}: set DDIS_DATA to the folder of the parquet files")
    return folder


@pytest.fixture(scope="session")
def third_party_models(data_folder: Path) -> Path:
    """The folder of other people's checkpoints: `models` beside the data folder."""
    folder = data_folder.parent / "models"
    if not folder.is_dir():
        pytest.skip(f"no third-party checkpoints in {folder}")
    return folder
