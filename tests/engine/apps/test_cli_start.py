"""The command answers before heavy libraries load, and ends as it should: interrupted, unread, or by a mistake."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from subprocess import PIPE

import pytest

import engine
from engine.apps.cli import main
from engine.apps.cli.interruption import GRACE_S

ROOT = Path(__file__).resolve().parents[3]
HEAVY = {"torch", "diffusers", "transformers", "numpy", "rich", "matplotlib", "pyarrow"}


def loaded_by(code: str) -> set[str]:
    """Top-level modules of a fresh process after some code."""
    code = f"{code}\nimport sys; print('\\n', *{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "words",
    [
        *(
            "--help",
            "--version",
            "--completion bash",
            "generate --help",
            "generate --hlep",
            "generat",
        ),
        *("plan --classifier arch:resnet5", "plan --classifier arch:resnet50 --prior arch:sd21"),
        *("generate --out o --classifier resnet", "generate --out o --classifier tim:resnet"),
    ],
)
def test_what_needs_no_torch_loads_none(words: str) -> None:
    answers = words.endswith("--help") or words.startswith("--")  # the others are mistakes
    code = (
        f"from engine.apps.cli import main\nassert main({words.split()!r}) == {0 if answers else 2}"
    )
    loaded = loaded_by(code)
    assert "engine" in loaded
    assert loaded & HEAVY == set()


def test_the_package_loads_what_is_used() -> None:
    assert loaded_by("import engine\ndir(engine)") & HEAVY == set()
    assert loaded_by("from engine import Alignment, Comparison, DeepInversion") & HEAVY == set()
    assert "torch" in loaded_by("from engine import Sample")


def test_every_public_name_is_there() -> None:
    assert {*engine.__all__} <= {*dir(engine)}
    for name in engine.__all__:
        assert getattr(engine, name).__name__.lstrip("_").startswith(name) or name == "profile"
    with pytest.raises(AttributeError, match="module 'engine' has no attribute 'generat'"):
        _ = engine.generat


@pytest.mark.slow
def test_no_library_remarks_on_being_imported() -> None:
    code = "import engine; [getattr(engine, name) for name in engine.__all__]"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_version_and_completion_are_what_they_say(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"ddis {version('ddis')}\n"
    assert main(["--completion", "bash"]) == 0
    script = capsys.readouterr().out
    assert "alignment.scale" in script
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_behind_the_output_is_one_error() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "engine", "--version"], stdout=full, stderr=PIPE, text=True
        )
    assert done.returncode == 2
    assert done.stderr.startswith("error: what is printed cannot be written (No space left")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("words", [["--version"], ["nope"]])
def test_where_nothing_can_be_said_the_exit_code_says_it(words: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "engine", *words], stdout=full, stderr=full)
    assert done.returncode == 2


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Gives a process that runs `ddis demo`, whose work is `run`; it prints 'begun' when it is in it.

    What the demo needs is imported before only if `heavy`. Ctrl-C reaches the process also where the tests themselves
    run in the background, and it does not outlive its test.
    """
    processes = []

    def started(
        run: str, words: str = "demo --out out", heavy: bool = False
    ) -> "subprocess.Popen[str]":
        code = (
            "import signal, sys\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "from engine.apps.cli import main\nfrom engine.apps.cli.commands.demo import Demo\n"
            f"def run(self, call):\n    print('begun', flush=True)\n    {run}\n"
            f"Demo.run = run\n{'' if heavy else 'Demo.module = None'}\n"
            f"sys.exit(main({words.split()!r}))"
        )
        command = [sys.executable, "-c", code]
        processes.append(subprocess.Popen(command, stdout=PIPE, stderr=PIPE, text=True))
        return processes[-1]

    yield started
    for process in processes:
        process.kill()


LONG = {
    "python": "while True: pass",
    "one call into C": "import hashlib; hashlib.pbkdf2_hmac('sha512', b'x', b'x', 2**31 - 1)",
    "swallowed": (
        "import time\n    while True:\n        try: time.sleep(60)\n        except BaseException: pass"
    ),
    "another error": (
        "import time\n    try: time.sleep(60)\n    except BaseException: raise ImportError('cut')"
    ),
}


@pytest.mark.parametrize("what", LONG)
def test_an_interruption_ends_the_process_wherever_it_is(start: Start, what: str) -> None:
    assert GRACE_S < 2
    process = start(LONG[what], heavy=what == "one call into C")
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    process.send_signal(2)
    began = time.monotonic()
    _, said = process.communicate(timeout=60)
    assert (
        time.monotonic() - began < 10 * GRACE_S
    )  # two seconds, on a machine that has them to give
    assert process.returncode == 130
    assert said.strip() == (
        "interrupted: the same command starts over, but for what --learn has learned so far."
    )


def test_an_interrupted_import_says_what_to_do(start: Start) -> None:
    process = start("import time; import torch; time.sleep(60)")
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(2)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, len(said.splitlines())) == (130, 1)
    assert "Traceback" not in said


@pytest.mark.parametrize("words", ["--help", "generate --help-all", "--completion bash"])
def test_a_closed_pipe_ends_quietly(words: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "engine", *words.split()]
    done = subprocess.run(command, stdout=writing, stderr=PIPE, text=True, timeout=60)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_results_that_nobody_reads_end_quietly(start: Start) -> None:
    # Many lines: where one is cut short, an unbuffered stdout (PYTHONUNBUFFERED) drops the rest without an error.
    lines = "for _ in range(999): call.screen.say('word ' * 99, result=True)\n    return {}"
    process = start(lines)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    process.stdout.close()
    assert process.stderr is not None
    said = process.stderr.read()
    assert (process.wait(timeout=60), said) == (141, "")
