"""Runs that are killed at random moments, again and again: whether anything is lost, doubled or half-written.

    python bench/studies reliability            100 kills of generate, 40 each of a share, learn-tokens, a share of it
    python bench/studies reliability --smoke    2 of each, kept nowhere

Counts are written after each run that came to its end, so the study itself may be cut and started again.

Each run is forked from one process that has everything loaded, is sent SIGKILL after a random share of the time that an
undisturbed run takes, and is started again until it ends by itself. What it leaves must then be, byte for byte, what
the undisturbed run left, but for the measured part of run.json; and after each kill every file that counts must be
whole.
"""

import argparse
import json
import os
import random
import shutil
import signal
import tarfile
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from PIL import Image
from result_files import RESULTS
from safetensors import safe_open

from engine.classifiers import load_classifier
from engine.datasets.finish import finish
from engine.files import OURS
from engine.priors import load_prior
from engine.request import Execution
from engine.runners.asking import asked
from engine.runners.generate import generate
from engine.runners.learn_tokens import learn_tokens
from engine.runners.registry import runner_for
from engine.settings import Sampling, TokenLearning
from engine.settings.plain import to_plain
from studies.options import several
from studies.rows import Rows

LASTS = "an hour"
RESULT = RESULTS / "reliability.json"
MOST_KILLS_OF_A_RUN = 5
KILLS = {"generate": 100, "share": 40, "learn-tokens": 40, "learn-tokens --share": 40}
SHORT = replace(Sampling(), steps=3, batch=4)
LEARNING = TokenLearning(
    epochs=2,
    images_per_epoch=2,
    steps=0,
    updates_per_trajectory=1,
    init="class name",
    check_images=0,
    target_accuracy=1.0,
)


def works() -> dict[str, Callable[[Path], None]]:
    """What is run and killed, by its name: writes into a folder, and goes on where a killed one stopped."""
    classifier, prior = load_classifier("embedded:cartoon"), load_prior("embedded")
    settings: dict[str, Any] = {"images_per_class": 3, "sampling": SHORT, "memory": "8GB"}

    def generated(out: Path) -> None:
        for _ in generate(classifier, prior, out=out / "set", **settings):
            pass

    def share(out: Path, which: str) -> None:
        wanted = asked(classifier, prior, **settings)
        execution = replace(wanted.execution, share=which)
        for _ in runner_for(execution, out / "set", given=wanted.given).run(wanted.request):
            pass

    def shared(out: Path) -> None:
        """Two processes at once, which are killed together."""
        other = begun_fork(partial(share, which="2/2"), out)
        share(out, "1/2")
        ended_well(other)
        finish(out / "set")

    def learned(out: Path, share: str | None = None) -> None:
        learn_tokens(
            classifier,
            prior,
            classifier.labels[:3],
            LEARNING,
            sampling=replace(SHORT, batch=2),
            memory="8GB",
            out=out / "tokens.safetensors",
            share=share,
        )

    assert Execution().share is None
    return {
        "generate": generated,
        "share": shared,
        "learn-tokens": learned,
        "learn-tokens --share": partial(learned, share="1/1"),
    }


def in_a_fork(work: Callable[[Path], None], out: Path, kill_after: float | None) -> bool:
    """Run in a forked process, which is killed with all that it forked; whether it ended well by itself."""
    pid = begun_fork(work, out, group=True)
    if kill_after is not None:
        time.sleep(kill_after)
        os.killpg(pid, signal.SIGKILL)
    return ended_well(pid)


def begun_fork(work: Callable[[Path], None], out: Path, group: bool = False) -> int:
    """The number of a process that does some work. group: as the leader of a process group of its own."""
    pid = os.fork()
    if pid == 0:
        try:
            if group:
                os.setpgid(0, 0)
            work(out)
        except BaseException as error:  # noqa: BLE001  # whatever it is, the parent is to hear of it
            print(f"{type(error).__name__}: {error}", flush=True)
            os._exit(1)
        os._exit(0)
    if group:
        with suppress(OSError):  # the child was first
            os.setpgid(pid, pid)
    return pid


def ended_well(pid: int) -> bool:
    """Wait for a process; whether it ended by itself. Raises RuntimeError where it ended with an error."""
    _, status = os.waitpid(pid, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise RuntimeError("a run that was started again ended with an error")
    return os.WIFEXITED(status)


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Every file by name, run.json without what was measured."""
    files = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(f"{OURS}part-")
    }
    for name in files:
        if name.endswith("run.json"):
            record = json.loads(files[name])
            files[name] = json.dumps({**record, "measured": None, "sha256": None}).encode()
    return files


def members_of(tar: Path) -> list[str]:
    """The names in a tar; raises where it is cut short, also between two members."""
    if not tar.read_bytes().endswith(bytes(2 * tarfile.BLOCKSIZE)):
        raise tarfile.ReadError("no end of the archive")
    with tarfile.open(tar) as opened:
        return opened.getnames()


def half_written(folder: Path) -> list[str]:
    """Files that count and cannot be read."""
    opened: dict[str, Callable[[Path], Any]] = {
        ".png": lambda path: Image.open(path).load(),
        ".parquet": pq.read_table,
        ".tar": members_of,
        ".json": lambda path: json.loads(path.read_bytes()),
        ".safetensors": lambda path: safe_open(path, "pt"),
        ".progress": lambda path: safe_open(path, "pt"),
    }
    wrong = []
    for path in folder.rglob("*"):
        if path.is_file() and not path.name.startswith(OURS) and path.suffix in opened:
            try:
                opened[path.suffix](path)
            except Exception as error:  # noqa: BLE001  # any failure to read is what is counted
                wrong.append(f"{path.name}: {error}")
    return wrong


NONE_YET = {"kills": 0, "runs": 0, "equal": 0, "half_written": [], "leftovers": 0}


def killed(
    name: str,
    work: Callable[[Path], None],
    kills: int,
    before: Mapping[str, Any] = NONE_YET,
    keep: Callable[[dict[str, Any]], object] = lambda _: None,
) -> dict[str, Any]:
    """Kill runs until `kills` signals were sent while one was under way. Raises nothing: it counts.

    before: what an earlier call counted. keep: called with the counts after each run that came to its end.
    """
    found: dict[str, Any] = {**before, "half_written": [*before["half_written"]]}
    if found["kills"] >= kills:
        return found
    with tempfile.TemporaryDirectory() as place:
        calm = Path(place) / "calm"
        calm.mkdir()
        began = time.monotonic()
        in_a_fork(work, calm, None)
        seconds = time.monotonic() - began
        expected = bytes_of(calm)
        while found["kills"] < kills:
            out = Path(place) / f"{found['runs']}"
            out.mkdir()
            rng = random.Random(f"{name} {found['runs']}")
            sent = 0
            while sent < min(MOST_KILLS_OF_A_RUN, kills - found["kills"]) and not in_a_fork(
                work, out, rng.uniform(0, seconds)
            ):
                sent += 1
                found["half_written"] += half_written(out)
            in_a_fork(work, out, None)
            found["kills"] += sent
            found["runs"] += 1
            found["equal"] += bytes_of(out) == expected
            found["leftovers"] += sum(1 for _ in out.rglob(f"{OURS}part-*"))
            keep(found)
            shutil.rmtree(out)
        print(name, found, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    several(parser, "--only", KILLS)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULT)
    chosen = parser.parse_args()
    torch.set_num_threads(1)  # a forked process has no other
    made = works()
    if chosen.smoke:
        for name in chosen.only:
            killed(name, made[name], 2)
        return
    settings = {"sampling": asdict(SHORT), "learning": to_plain(LEARNING)}
    rows = Rows(chosen.out, settings, "cpu", KILLS)
    for name in chosen.only:
        before = NONE_YET | rows.kept(name)
        killed(name, made[name], KILLS[name], before, partial(rows.add, name))


if __name__ == "__main__":
    main()
