"""Compare the images of two commits, byte by byte: a rebuild moves code and changes none of them.

    python bench/studies golden BASE_COMMIT [--head COMMIT] [--only default onnx] [--keep FOLDER]

Each commit is checked out into a temporary folder and installed there from its own wheel, so that its own kernels and
weights run. Both then make the same small runs on the embedded models, one after the other on one thread, and every PNG
is compared. Exit code 0: all equal. Needs what `make install-dev` installs.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

from studies.options import several

LASTS = "minutes"
REPOSITORY = Path(__file__).resolve().parents[2]
CASES = {
    "default": "generate(TEACHER, **ASKED)",
    "paper": "generate(TEACHER, **ASKED, alignment=Alignment.paper(), sampling=replace(Sampling.paper(), steps=6))",
    "plain": "generate(TEACHER, **ASKED, method='plain')",
    "cat-dag": "generate('embedded:cartoon', **ASKED, tokens=TOKENS)",
    "micro-batches": "generate(TEACHER, **ASKED, memory=SMALL)",
    "onnx": "generate(TEACHER, **ASKED, runtime='onnx', onnx_cache=WORK / 'graphs')",
    "deepinversion": "generate(TEACHER, **UNGUIDED, method=DeepInversion(iterations=12))",
    "plugin-inversion": "generate(TEACHER, **UNGUIDED, method=PlugInInversion(iterations=3))",
    "natural-inversion": "generate(TEACHER, **UNGUIDED, method=NaturalInversion(iterations=12))",
}
"""Calls whose images must not change. A name on the left is what `--only` takes."""

SCRIPT = """
import sys
sys.meta_path = [finder for finder in sys.meta_path if "ScikitBuild" not in type(finder).__name__]
sys.path.insert(0, {site!r})
from dataclasses import replace
from pathlib import Path
import torch
torch.set_num_threads(1)
import engine
assert Path(engine.__file__).is_relative_to({site!r}), engine.__file__
from engine import Alignment, DeepInversion, NaturalInversion, PlugInInversion, Sampling, generate
TEACHER, WORK = "embedded:photo", Path({work!r})
TOKENS = next(Path(engine.__file__).parent.rglob("weights/tokens/*.safetensors"), None)
SMALL = "300MB"
for case, call in {calls!r}.items():
    UNGUIDED = dict(classes=["dog", "house"], images_per_class=2, seed=3, out=WORK / case)
    ASKED = UNGUIDED if case == "paper" else UNGUIDED | dict(sampling=Sampling(steps=6))
    for image in eval(call):
        pass
    print(case, flush=True)
"""


def install(commit: str, folder: Path) -> Path:
    """The packages of a commit, built and unpacked into a folder of their own."""
    source, site = folder / "source", folder / "site"
    source.mkdir(parents=True)
    archive = subprocess.run(
        ["git", "archive", commit], cwd=REPOSITORY, check=True, stdout=subprocess.PIPE
    )
    subprocess.run(["tar", "-x"], cwd=source, check=True, input=archive.stdout)
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--no-build-isolation",
            "--target",
            str(site),
            str(source),
        ],
        check=True,
    )
    return site


def images_of(site: Path, cases: Sequence[str], work: Path) -> dict[str, dict[str, str]]:
    """The digest of each PNG that the cases make with the packages in `site`, by case and path."""
    work.mkdir(parents=True)
    script = SCRIPT.format(
        site=str(site), work=str(work), calls={case: CASES[case] for case in cases}
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    subprocess.run([sys.executable, "-c", script], check=True, cwd=work, env=environment)
    return {
        case: {
            str(path.relative_to(work / case)): blake2b(path.read_bytes()).hexdigest()
            for path in sorted((work / case / "images").rglob("*.png"))
        }
        for case in cases
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("base", help="the commit to compare with")
    parser.add_argument(
        "--head", default="HEAD", help="the commit that is compared (default: HEAD)"
    )
    several(parser, "--only", CASES)
    parser.add_argument(
        "--keep", type=Path, help="a new folder for both sets of images (default: a temporary one)"
    )
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (chosen.keep or Path(temporary)).resolve()
        base, head = (
            images_of(install(commit, folder / name), chosen.only, folder / name / "work")
            for name, commit in (("base", chosen.base), ("head", chosen.head))
        )
    changed = 0
    for case in chosen.only:
        paths = base[case].keys() | head[case].keys()
        differing = sorted(path for path in paths if base[case].get(path) != head[case].get(path))
        changed += bool(differing or not paths)
        verdict = (
            f"CHANGED: {', '.join(differing)}" if differing else "equal" if paths else "NO IMAGES"
        )
        print(f"{case}: {len(paths)} images, {verdict}", flush=True)
    return 1 if changed else 0
