"""The name `kernels` belongs to Hugging Face: transformers and diffusers look for a package of that name.

Our source folder `kernels/` is on the path of every process of an editable install. As long as it is bare, a regular
package wins over it and its spec has no origin; with an `__init__.py` it would be taken for theirs and break both.
"""

import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ORIGIN = "from importlib.util import find_spec; spec = find_spec('kernels'); print(spec and spec.origin or '')"


def origin_of_kernels(*, path: Path) -> str:
    """The file that `import kernels` would run in a fresh process started in `path`; empty for none."""
    done = subprocess.run(
        [sys.executable, "-c", ORIGIN], cwd=path, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_the_name_kernels_is_not_ours():
    origin = origin_of_kernels(path=ROOT)
    assert not origin or not Path(origin).is_relative_to(ROOT / "kernels")


def test_an_init_file_would_be_noticed(tmp_path):
    (tmp_path / "kernels").mkdir()
    assert origin_of_kernels(path=tmp_path) == origin_of_kernels(path=ROOT)
    (tmp_path / "kernels" / "__init__.py").touch()
    assert origin_of_kernels(path=tmp_path) == str(tmp_path / "kernels" / "__init__.py")


def test_bare_folders_stay_bare():
    """`tests/engine/__init__.py` would hide the real `engine` from pytest, as `kernels/__init__.py` would theirs."""
    packages = [ROOT / "kernels" / "__init__.py", *(ROOT / "tests").rglob("__init__.py")]
    assert [str(file.relative_to(ROOT)) for file in packages if file.exists()] == []


def test_no_script_is_called_kernels():
    """The folder of a script is first on its path: `kernels.py` beside it would be imported as theirs."""
    assert [str(file) for file in ROOT.glob("*/kernels.py")] == []


def test_libraries_that_look_for_the_name_import():
    """This process sees the bare folder too, unless a package of theirs wins over it."""
    assert find_spec("kernels") is not None
    for library, name in (
        ("diffusers", "StableDiffusionPipeline"),
        ("transformers", "CLIPTextModel"),
    ):
        assert hasattr(import_module(library), name)
