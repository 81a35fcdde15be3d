"""A process that writes the same small data set into each folder it is told, in a child that a test can kill.

Reads lines "<folder> <n> <seconds>". The child kills itself before its n-th call that changes the disk, and is killed
after that many seconds; -1 is never. Answers with the child's exit code. Forking from here, where all
is imported, costs milliseconds.
"""

import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from engine.datasets.dataset import open_dataset
from engine.types import ImageKey, Sample, image_rng

LABELS = ("dog", "../elephant", "con")
IMAGES = (2, 1, 1)
CONFIG = {"alignment": {"scale": 0.25}, "seed": 0}


def sample(key: ImageKey) -> Sample:
    rng = image_rng(0, key)
    logits = torch.randn(len(LABELS), generator=rng)
    return Sample(
        key=key,
        label=LABELS[key.class_index],
        seed=0,
        prompt=f"a {LABELS[key.class_index]}",
        token="",
        image=torch.rand(3, 32, 32, generator=rng),
        logits=logits,
        l_bn=float(logits.norm()),
        confidence=float(logits.softmax(0)[key.class_index]),
        group="0",
    )


def write(folder: Path) -> None:
    keys = [
        ImageKey(number, index) for number, count in enumerate(IMAGES) for index in range(count)
    ]
    with open_dataset(folder, CONFIG, LABELS) as writer:
        for key in keys:
            if key not in writer.done:
                writer.add(sample(key))
        writer.finish({"seconds": float(os.getpid())})


def die_before_call(number: int) -> None:
    """Kill this process before its `number`-th call of anything that changes the disk; -1 is never."""
    calls = 0

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            if calls == number:
                os.kill(os.getpid(), signal.SIGKILL)
            calls += 1
            return function(*args, **kwargs)

        return call

    for name in ("fsync", "replace", "unlink", "mkdir", "truncate"):
        setattr(os, name, counted(getattr(os, name)))


def answer(word: object) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))  # what libraries load on first use is then there for every child
    answer("ready")
    for line in sys.stdin:
        folder, call, seconds = line.rsplit(maxsplit=2)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                die_before_call(int(call))
                write(Path(folder))
                code = 0
            finally:
                if code:
                    traceback.print_exc()
                os._exit(code)
        if float(seconds) >= 0:
            time.sleep(float(seconds))
            os.kill(child, signal.SIGKILL)  # not waited for yet: its number is still its own
        answer(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


if __name__ == "__main__":
    main()
