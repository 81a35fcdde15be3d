"""Locks: one writer alone, or several that share, and no lock file that outlives them."""

from pathlib import Path

import pytest

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
