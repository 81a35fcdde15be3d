"""Disks that are full or may not be written, and two that write at once."""

import errno
import os
import random
import stat
import time
from collections.abc import Callable, Iterable, Sequence
from ctypes import CDLL, c_uint32
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from shutil import copytree, rmtree
from typing import Any

from engine.files import TEMPORARY, whole_file
from studies.fault_kinds.trials import Count, Place, Running, ended, half_written, wrongs

ROOM = "expected room on the disk: free some and call again"


def fills_up(at: int, log: Path | None = None) -> Callable[[], None]:
    """From the `at`-th time that a file or folder is put on the disk, there is no room; 0: there always is.

    Half of what the file got since the last time stays, as on a disk that fills up during a write.
    log: a file that grows by a byte each time.
    """
    real, times, synced = os.fsync, [0], dict[int, int]()

    def fsync(descriptor: int) -> None:
        times[0] += 1
        if log:
            with log.open("ab") as counted:
                counted.write(b".")
        found = os.fstat(descriptor)
        if at and times[0] >= at:
            if stat.S_ISREG(found.st_mode):
                before = min(synced.get(found.st_ino, 0), found.st_size)
                os.ftruncate(descriptor, (before + found.st_size) // 2)
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)
        synced[found.st_ino] = found.st_size

    def begin() -> None:
        os.fsync = fsync

    return begin


def some(every: Sequence[int], most: int) -> Iterable[int]:
    """At most this many, spread over all, with the first and the last."""
    if len(every) <= most:
        return every
    return sorted({every[round(i * (len(every) - 1) / (most - 1))] for i in range(most)})


def disk_full(place: Place, name: str, most: int) -> Count:
    """Run a command with a disk that is full from each of its writes on, and then again with room."""
    log = place.room() / "log"
    calm = place.room()
    if (first := ended(place.commands(calm)[name], fills_up(0, log))).code:
        raise SystemExit(f"{name} did not end well: {first.said}")
    writes, expected = log.stat().st_size, place.undisturbed(name)
    which = f"each of its {writes}" if writes <= most else f"{most} of its {writes}"
    count = Count(f"`{name}`, full from {which} writes on")
    for at in some(range(1, writes + 1), most):
        room = place.room()
        cut = ended(place.commands(room)[name], fills_up(at))
        no_report = cut.code == 0 and any("warning: no report: " in line for line in cut.said)
        wrong = [f"{part} half-written" for part in half_written(room)]
        wrong += [f"{path.name} left" for path in room.rglob(f"{TEMPORARY}*") if path.is_file()]
        if not no_report and (cut.code != 2 or not cut.is_one_line()):
            wrong.append(f"code {cut.code}, {cut.said[-3:]}")
        if not any(ROOM in line for line in cut.said):
            wrong.append("without a word on room")
        if (again := ended(place.commands(room)[name])).code:
            wrong.append(f"again: code {again.code}, {again.said[-3:]}")
        wrong += wrongs(name, room, expected)
        count.add("one warning, and no report" if no_report else "one line", wrong)
        rmtree(room)
    return count


def read_only(place: Place) -> Count:
    """Every command, by a user without the right to write to its output."""
    tried = place.commands(place.folder)
    count = Count(f"{len(tried) + 1} commands, `finish` of finished parts among them")
    for name in [*tried, "finish"]:
        room = place.room()
        commands = [["finish", f"{room / 'parts'}", "--quiet"]]
        if name == "finish":
            copytree(place.folder / "parts", room / "parts")
        else:
            commands = place.commands(room)[name]
        before = {path: path.is_file() and path.read_bytes() for path in room.rglob("*")}
        for path in [room, *before]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        found = ended(commands, without_rights_of_root)
        wrong = [] if found.is_one_line() and found.code == 2 else [f"{found.code}, {found.said}"]
        if not any("expected a folder that this user may write to" in line for line in found.said):
            wrong.append(f"no word on rights: {found.said[-1:]}")
        if before != {path: path.is_file() and path.read_bytes() for path in room.rglob("*")}:
            wrong.append("something was written")
        count.add("one line", [f"{name}: {line}" for line in wrong])
    return count


def without_rights_of_root() -> None:
    """Give up what root may do beyond other users, such as writing where no one may; other users lose nothing."""
    version, this_process = 0x20080522, 0
    header, none = (c_uint32 * 2)(version, this_process), (c_uint32 * 6)()
    if CDLL(None).capset(header, none):
        raise OSError("capset failed")


def two_writers(place: Place, rounds: int) -> Count:
    """Two processes that write one file by `whole_file` at the same moment."""
    count = Count("`whole_file`, two processes at one moment")
    room = place.room()
    file, context = room / "file", get_context("fork")
    contents = [letter * 200_000 for letter in (b"a", b"b")]
    barrier, failed = context.Barrier(3), context.Value("i", 0)

    def write(content: bytes) -> None:
        for _ in range(rounds):
            barrier.wait()
            try:
                with whole_file(file) as opened:
                    opened.write(content[:100_000])
                    opened.write(content[100_000:])
            except Exception:  # noqa: BLE001  # any failure is what is counted
                with failed.get_lock():
                    failed.value += 1
            barrier.wait()

    writers = [context.Process(target=write, args=(content,)) for content in contents]
    for writer in writers:
        writer.start()
    for _ in range(rounds):
        failed.value = 0
        barrier.wait()
        barrier.wait()
        wrong = ["one failed"] * failed.value
        wrong += [] if file.read_bytes() in contents else ["the file is not whole"]
        wrong += [f"{path.name} left" for path in room.iterdir() if path != file]
        count.add("both wrote it whole", wrong)
    for writer in writers:
        writer.join()
    return count


def two_processes(place: Place, name: str, rounds: int) -> Count:
    """Two equal commands on one folder or file, the second a random moment after the first."""
    count = Count("the same command twice at once")
    expected, rng = place.undisturbed(name), random.Random(name)
    for _ in range(rounds):
        room = place.room()
        commands = place.commands(room)[name]
        delay = rng.uniform(0, 0.3)
        first = Running(commands)
        second = Running(commands, partial(time.sleep, delay))
        found = sorted((first.wait(), second.wait()))
        codes = [one.code for one in found]
        wrong: list[Any] = []
        way = "both ended well"
        if codes == [0, 2]:
            way = "one was refused by name"
            if f"is in use by process {found[0].pid} on " not in "".join(found[1].said):
                wrong.append(found[1].said[-1:])
            if "is not empty, expected a new folder" in "".join(found[1].said):  # it came later
                way, wrong = "one found the other's files, and was refused", []
        elif codes != [0, 0]:
            wrong.append([(one.code, one.said[-2:]) for one in found])
        wrong += wrongs(name, room, expected)
        count.add(way, [f"{line}" for line in wrong])
        rmtree(room)
    return count
