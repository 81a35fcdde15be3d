"""`python bench/studies`: lists the studies, and says so where a name is none."""

import re
import subprocess
import sys
from pathlib import Path

STUDIES = Path(__file__).resolve().parents[3] / "bench" / "studies"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, STUDIES, *arguments], capture_output=True, text=True, check=False
    )


def test_every_study_is_listed_with_what_it_does() -> None:
    done = run()
    assert done.returncode == 0
    listed = done.stdout.split("\n\n")[-1].splitlines()
    modules = {file.stem for file in STUDIES.glob("[!_]*.py")}
    assert {line.split()[0] for line in listed} == modules - {
        "options",
        "rows",
        "small_vit",
    }  # no studies themselves
    assert all(len(line.split()) > 3 for line in listed)
    lasts = [line[22:33].strip() for line in listed]
    assert all(re.fullmatch(r"minutes|an hour|\d+ (minutes|hours)", length) for length in lasts)


def test_a_name_that_is_no_study_is_an_error() -> None:
    done = run("evidense")
    assert done.returncode == 1
    assert "evidence" in done.stdout
    assert "there is no study 'evidense'" in done.stderr


def test_a_study_gets_its_own_arguments() -> None:
    done = run("golden", "--help")
    assert done.returncode == 0
    assert "BASE" in done.stdout.upper()
    assert "--keep" in done.stdout


def test_an_option_of_many_names_lists_them_once() -> None:
    listed = " ".join(run("evidence", "--help").stdout.split())
    assert listed.count("DeepInversion, 2,000 iterations") == 1
    assert "--methods METHOD [METHOD ...]" in listed
