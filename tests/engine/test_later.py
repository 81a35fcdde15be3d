"""A command imports no package that it does not use; whoever uses one has it itself; packages are listed once."""

import importlib.metadata
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from engine.networks.later import imports_spared, packages_distributions, packages_listed_once

pytest.importorskip("bitsandbytes")
UTILS = "diffusers.quantizers.bitsandbytes.utils"
WITHIN = "from engine.networks.later import imports_spared\nwith imports_spared():\n    "


def printed(code: str, path: str = "") -> str:
    """What a fresh process prints after importing sys and running some code. path: a folder that is searched first."""
    code = f"import sys\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": path} if path else None,
    )
    return done.stdout.strip()


@pytest.fixture
def small_package(tmp_path: Path) -> str:
    """A folder with a package of the same name and shape, which takes no seconds to import."""
    (tmp_path / "bitsandbytes").mkdir()
    (tmp_path / "bitsandbytes" / "__init__.py").write_text("from . import nn\n")
    (tmp_path / "bitsandbytes" / "nn.py").write_text("class Linear8bitLt: pass\n")
    return str(tmp_path)


@pytest.fixture(scope="module")
def libraries() -> list[str]:
    """What one process prints that imports the libraries: by two commands, as a library that looks, and by use."""
    code = (
        "from engine.apps.cli.program import import_heavy\n"
        "from engine.apps.cli.registry import COMMANDS\n"
        "from engine.networks.later import LATER\n"
        "for command in ('plan', 'generate'):\n"
        "    import_heavy(COMMANDS[command].module)\n"
        "    print('diffusers.quantizers.auto' in sys.modules, any(name in sys.modules for name in LATER))\n"
        f"{WITHIN}from diffusers.utils import is_bitsandbytes_available as there; import {UTILS} as utils\n"
        "    from importlib.util import find_spec; print(there(), find_spec('bitsandbytes').name)\n"
        "print('bitsandbytes' in sys.modules, 'bitsandbytes.nn' in sys.modules)\n"
        "layer = utils.bnb.nn.Linear8bitLt\n"
        "import bitsandbytes; print(layer is bitsandbytes.nn.Linear8bitLt, hasattr(utils.bnb, 'no'))"
    )
    return printed(code).splitlines()


def test_no_command_spends_time_on_it(libraries: list[str]) -> None:
    """Nor does a library that looks through all modules, as `inspect` does while torch is imported."""
    assert libraries[:2] == ["True False"] * 2


def test_a_library_that_looks_for_it_finds_it(libraries: list[str]) -> None:
    assert libraries[2] == "True bitsandbytes"


def test_diffusers_does_without_it_until_it_is_used(libraries: list[str]) -> None:
    assert libraries[3:] == ["False False", "True False"]


@pytest.mark.parametrize(
    "use",
    [
        "import bitsandbytes; found = bitsandbytes.nn.Linear8bitLt",
        "from bitsandbytes.nn import Linear8bitLt as found",
        "from bitsandbytes import nn; found = nn.Linear8bitLt",
    ],
)
def test_it_may_be_used_at_once(use: str, small_package: str) -> None:
    code = f"{WITHIN}{use}\nimport bitsandbytes; print(found.__name__, bitsandbytes.__file__)"
    name, file = printed(code, small_package).split()
    assert (name, file.endswith("__init__.py")) == ("Linear8bitLt", True)


@pytest.mark.parametrize("before", ["import bitsandbytes", "sys.modules['bitsandbytes'] = None"])
def test_what_is_there_already_stays(before: str, small_package: str) -> None:
    code = (
        f"{before}\nbefore = sys.modules['bitsandbytes']\n"
        f"{WITHIN}print(sys.modules['bitsandbytes'] is before)\n"
        "print(sys.modules['bitsandbytes'] is before)"
    )
    assert printed(code, small_package) == "True\nTrue"


@pytest.mark.parametrize(
    ("taken", "used"),
    [
        (
            "from scipy.optimize import linear_sum_assignment as f",
            "f([[4, 1], [2, 3]])[1].tolist()",
        ),
        (
            "import scipy.optimize",
            "scipy.optimize.linear_sum_assignment([[4, 1], [2, 3]])[1].tolist()",
        ),
        ("from scipy.optimize import OptimizeResult as R", "isinstance(R(x=1), dict) and [1, 0]"),
        ("import scipy.stats", "[int(scipy.stats.norm.cdf(9)), 0]"),
        ("from scipy import integrate", "[round(integrate.quad(lambda x: 2 * x, 0, 1)[0]), 0]"),
        ("from scipy.stats._continuous_distns import norm", "[int(norm.cdf(9)), 0]"),
        (
            "import scipy.optimize._zeros_py as child",
            "(child.brentq is __import__('scipy.optimize').optimize.brentq) * [1, 0]",
        ),
    ],
)
def test_parts_of_scipy_work_as_ever(taken: str, used: str) -> None:
    """Taken while imports are spared, used within or afterwards."""
    for place in ("", "    "):
        assert printed(f"{WITHIN}{taken}\n{place}print({used})") == "[1, 0]"


def test_transformers_reads_its_models_once() -> None:
    """And defines what it defines otherwise."""
    count = (
        "import transformers.models; from transformers.utils import import_utils as utils\n"
        "{}print(utils.create_import_structure_from_path.cache_info().misses, sorted(dir(transformers))[::500])"
    )
    spared = printed(f"{WITHIN}{count.format('    ')}")
    plain = printed(count.format(""))
    (once, *names), (twice, *same) = (said.split(" ", 1) for said in (spared, plain))
    assert names == same
    assert int(twice) > 1.5 * int(once)


def test_packages_are_listed_once() -> None:
    before = importlib.metadata.packages_distributions
    with packages_listed_once():
        found = importlib.metadata.packages_distributions()
        assert importlib.metadata.packages_distributions() is found
    assert importlib.metadata.packages_distributions is before
    listed = before()
    assert len(found) > 100
    for package, names in found.items():
        assert sorted(set(names)) == sorted(set(listed[package]))
    if sys.version_info < (3, 12):  # later ones list what has no Python code too
        assert found.keys() == listed.keys()


def test_several_threads_may_spare_imports_at_once() -> None:
    """They leave in any order, and nothing of it is left behind the last."""
    before, finders = importlib.metadata.packages_distributions, list(sys.meta_path)
    inside, go = threading.Barrier(5), [threading.Event() for _ in range(4)]

    def spare(number: int) -> None:
        with imports_spared():
            inside.wait()
            go[number].wait()

    threads = [threading.Thread(target=spare, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    inside.wait()
    for number in (0, 2, 1, 3):
        assert importlib.metadata.packages_distributions is not before
        go[number].set()
        threads[number].join()
    assert importlib.metadata.packages_distributions is before
    assert sys.meta_path == finders


def test_packages_of_an_old_distribution_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has neither RECORD nor top_level.txt, as what a system's packages install."""
    folder = tmp_path / "Old_Thing-1.0.egg-info"
    folder.mkdir()
    (folder / "PKG-INFO").write_text("Metadata-Version: 1.0\nName: Old-Thing\nVersion: 1.0\n")
    (folder / "SOURCES.txt").write_text("old_thing/__init__.py\nsingle.py\nREADME.txt\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = packages_distributions()
    assert found["old_thing"] == found["single"] == ["Old-Thing"]
    assert "README.txt" not in found
