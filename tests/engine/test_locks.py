"""Locks: one writer alone, or several that share, and no lock file that outlives them."""

import fcntl
from pathlib import Path

import pytest

from engine import locks
from engine.errors import OutputError
from engine.locks import InUseError, locked_file


@pytest.mark.parametrize("first_to_end", [0, 1])
def test_who_shares_a_lock_keeps_out_who_does_not_until_the_last_one_ends(
    tmp_path: Path, first_to_end: int
) -> None:
    path = tmp_path / "file"
    shared = [locked_file(path, shared=True) for _ in range(2)]
    for one in shared:
        one.__enter__()
    for one in (shared.pop(first_to_end), shared.pop()):
        with pytest.raises(InUseError, match="in use by process"), locked_file(path):
            pass
        one.__exit__(None, None, None)
    with locked_file(path):
        with pytest.raises(InUseError), locked_file(path, shared=True):
            pass
        with pytest.raises(InUseError), locked_file(path):
            pass
    assert list(tmp_path.iterdir()) == []


def test_who_begins_to_share_waits_for_the_last_other_to_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    last = locked_file(path, shared=True)
    last.__enter__()
    lock = next(tmp_path.iterdir()).open()
    fcntl.flock(lock, fcntl.LOCK_SH)
    last.__exit__(None, None, None)
    fcntl.flock(lock, fcntl.LOCK_EX)  # as the last one does before it deletes the file
    waited = []

    def wait(seconds: float) -> None:
        waited.append(seconds)
        lock.close()

    monkeypatch.setattr(locks.time, "sleep", wait)
    with locked_file(path, shared=True):
        assert len(waited) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_cannot_be_shared_stays_for_those_that_hold_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "file"
    with locked_file(path, shared=True):
        with monkeypatch.context() as patched:
            patched.setattr(locks.os, "pwrite", full)
            with pytest.raises(OutputError, match="No space"), locked_file(path, shared=True):
                pass
        with pytest.raises(InUseError), locked_file(path):
            pass
    assert list(tmp_path.iterdir()) == []
