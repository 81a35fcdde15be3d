"""Build what is published, install it where nothing of this repository is, and run it there.

python .ci/dist.py [--out out/dist] [--borrow]

The sdist is built from the tree, and from the sdist two wheels: one with the C++ kernels and a pure one (DDIS_PURE=1).
Each wheel and the sdist itself must hold what it should and nothing else; each is then installed into an environment of
its own in a temporary folder, which draws images. The first environment installs every dependency from nothing, with
constraints.txt, and the others read its packages.

--borrow checks less, in a minute or two: the first environment reads the packages of the Python that runs this script,
and the C++ kernels are built from the tree, where those of an earlier build are kept. Where DDIS_PURE is set, as make
does without a C++ compiler, the pure wheel alone is built.
"""

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"engine/": "engine/", "kernels/ddis_kernels/": "ddis_kernels/"}
"""Folders of the repository, and what they are called in a wheel."""
LEFT_OUT = ("bench/", "tests/", "docs/", ".ci/", ".github/")
SETUP = ("CMakeLists.txt", "LICENSE", "README.md", "pyproject.toml", "kernels/csrc/")
"""What an sdist is built from, besides the packages."""
HERE = (
    "import sys, engine, ddis_kernels as kernels\n"
    "sys.exit(not all(one.__file__.startswith(sys.prefix) for one in (engine, kernels)))"
)
DRAWN = ("generate", "--classifier", "embedded:photo", "--images-per-class", "1", "--steps", "2")
LONGEST_S = 1800
"""Of a single command: a download that hangs ends."""
DEMO = ("demo", "--images-per-class", "1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--out", type=Path, default=ROOT / "out" / "dist", help="folder of the files"
    )
    parser.add_argument(
        "--borrow", action="store_true", help="install no dependencies, keep object files"
    )
    asked = parser.parse_args()
    out = asked.out.resolve()
    sdist = build_sdist(out)
    check_sdist(sdist)
    pure = build_wheel(sdist, out / "pure", pure=True)
    check_wheel(pure, pure=True)
    wheel = pure
    if "DDIS_PURE" not in os.environ:
        wheel = build_wheel(ROOT if asked.borrow else sdist, out, pure=False)
        check_wheel(wheel, pure=False)
    with tempfile.TemporaryDirectory(prefix="ddis-dist-") as folder:
        place = Path(folder)
        lent = [path for path in sys.path if path.endswith("site-packages")] if asked.borrow else []
        whole = environment(place / "whole", wheel, lent)
        lent = lent or [str(site_packages(whole))]
        draw(whole, place / "whole-run", DRAWN)
        draw(whole, place / "whole-run", DEMO)
        if not asked.borrow:
            draw(environment(place / "sdist", sdist, lent), place / "sdist-run", DRAWN)
        plain = {"DDIS_KERNELS_BACKEND": "reference"}
        draw(environment(place / "pure", pure, lent), place / "pure-run", DRAWN, plain)
    compiled = "" if wheel == pure else f"{wheel.name}, "
    print(f"in {out}: {sdist.name}, {compiled}pure/{pure.name}; what was installed drew images")


def build_sdist(out: Path) -> Path:
    """Build the sdist of the tree into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    build = "import sys; from scikit_build_core.build import build_sdist; build_sdist(sys.argv[1])"
    run([sys.executable, "-c", build, out], ROOT)
    return newest(out, "*.tar.gz")


def build_wheel(source: Path, out: Path, *, pure: bool) -> Path:
    """Build a wheel of an sdist or of the tree into `out`, with the packages for building that are here."""
    out.mkdir(parents=True, exist_ok=True)
    words = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", out, source]
    run([sys.executable, "-m", "pip", *words], out, {"DDIS_PURE": "1"} if pure else {})
    return newest(out, "*.whl")


def check_sdist(sdist: Path) -> None:
    """Check that an sdist holds all that a wheel is built from, and nothing of tests and benchmarks."""
    with tarfile.open(sdist) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    check_names(sdist, names, set(tracked(*PACKAGES, *SETUP)))


def check_wheel(wheel: Path, *, pure: bool) -> None:
    """Check that a wheel holds every file of the packages: weights, templates, marks that it is typed."""
    with zipfile.ZipFile(wheel) as file:
        names = {*file.namelist()}
    wanted = {
        name.replace(folder, called, 1)
        for folder, called in PACKAGES.items()
        for name in tracked(folder)
    }
    check_names(wheel, names, wanted)
    for called in PACKAGES.values():
        expect(f"{called}py.typed" in names, f"{wheel.name} has no {called}py.typed")
    compiled = any(
        name.startswith("ddis_kernels/_cpu.") and name.endswith((".so", ".pyd")) for name in names
    )
    expect(compiled != pure, f"{wheel.name} has {'' if compiled else 'no '}C++ kernels")
    expect(
        pure == wheel.name.endswith("-py3-none-any.whl"),
        f"{wheel.name} has the tag of the other kind",
    )
    tops = {name.split("/")[0] for name in names}
    others = {top for top in tops if not top.endswith(".dist-info")} - {"engine", "ddis_kernels"}
    expect(not others, f"{wheel.name} has {sorted(others)} beside its packages")


def check_names(file: Path, names: set[str], wanted: set[str]) -> None:
    """Check that all wanted names are there, and none of LEFT_OUT."""
    expect(not wanted - names, f"{file.name} lacks {sorted(wanted - names)[:5]}")
    stray = sorted(name for name in names if name.startswith(LEFT_OUT))
    expect(not stray, f"{file.name} holds {stray[:5]}")


def environment(folder: Path, package: Path, lent: list[str]) -> Path:
    """Make an environment with a package in it. lent: folders of packages that it reads; none: it gets its own."""
    run([sys.executable, "-m", "venv", "--without-pip", folder])
    if lent:
        (site_packages(folder) / "lent.pth").write_text("\n".join(lent) + "\n")
    pip = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install", "--quiet"]
    pip += ["--constraint", ROOT / "constraints.txt"]
    if lent:
        run([*pip, "--ignore-installed", "--no-deps", "--no-build-isolation", package])
        return folder
    index = os.environ.get("TORCH_INDEX")
    more = ["--extra-index-url", index] if index else []
    run(
        [*pip, *more, "torch"]
    )  # first and alone: of equal versions, pip takes the one that the index marks +cpu
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    run([*pip, *more, package, *build])  # the sdist is built with what is here
    return folder


def draw(
    environment: Path, folder: Path, words: tuple[str, ...], env: dict[str, str] | None = None
) -> None:
    """Run `ddis` of an environment in a folder of its own, and check that it is the installed one and draws."""
    folder.mkdir(exist_ok=True)
    run([environment / "bin" / "python", "-c", HERE], folder, env)
    run([environment / "bin" / "ddis", *words, "--out", words[0], "--quiet"], folder, env)
    sheet = folder / words[0] / "contact_sheet.png"
    expect(sheet.is_file(), f"`ddis {words[0]}` wrote no {sheet}")


def tracked(*folders: str) -> list[str]:
    """The files of these folders that git knows."""
    listed = run(["git", "ls-files", *folders], ROOT)
    return listed.splitlines()


def site_packages(environment: Path) -> Path:
    return next((environment / "lib").glob("python*/site-packages"))


def newest(folder: Path, pattern: str) -> Path:
    return max(folder.glob(pattern), key=lambda path: path.stat().st_mtime)


def run(words: list[object], folder: Path | None = None, env: dict[str, str] | None = None) -> str:
    """Run a command and return what it prints; end with its errors where it fails."""
    done = subprocess.run(
        [str(word) for word in words],
        cwd=folder,
        env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": ""} | (env or {}),
        capture_output=True,
        text=True,
        timeout=LONGEST_S,
    )
    expect(not done.returncode, f"{' '.join(map(str, words))} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def expect(there: bool, otherwise: str) -> None:
    if not there:
        raise SystemExit(otherwise)


if __name__ == "__main__":
    main()
