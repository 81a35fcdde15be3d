"""The progress of a run that teaches an adapter, in a folder: record, trajectories by group, the adapter's state."""

import json
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from engine.errors import OutputError
from engine.files import read_explained, whole_file, write_whole
from engine.lora.recording import Trajectories

RECORD, STATE = "run.json", "adapter.pt"


class Progress:
    """The folder of a run. If a file in it is damaged, the error names the file; the remedy is to delete the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def record(self) -> dict[str, Any] | None:
        """The record that the run was begun with, or None if there is none yet."""
        file = self.folder / RECORD
        if not file.exists():
            return None
        try:
            with read_explained(file):
                found = json.loads(file.read_bytes())
        except ValueError as error:
            raise self._damaged(file) from error
        if not isinstance(found, dict):
            raise self._damaged(file)
        return found

    def begin(self, record: Mapping[str, Any]) -> None:
        write_whole(self.folder / RECORD, json.dumps(record, sort_keys=True).encode())

    def has(self, group: int) -> bool:
        return self._file(group).exists()

    def keep(self, group: int, found: Trajectories) -> None:
        write_whole(self._file(group), save(found.to_tensors()))

    def read(self, group: int, step: int) -> tuple[Tensor, Tensor]:
        """One step of what `keep` stored: the latents of the group's images, and the clean latents."""
        file = self._file(group)
        try:
            with safe_open(file, framework="pt") as opened:
                latents, clean = (opened.get_slice(name)[step] for name in ("latents", "clean"))
                return latents, clean
        except (OSError, SafetensorError) as error:
            raise self._damaged(file) from error

    def keep_state(self, state: Mapping[str, Any]) -> None:
        with whole_file(self.folder / STATE) as file:
            torch.save(dict(state), file)

    def state(self) -> dict[str, Any] | None:
        """The state that `keep_state` stored last, or None."""
        file = self.folder / STATE
        if not file.exists():
            return None
        try:
            found: dict[str, Any] = torch.load(file, weights_only=True, map_location="cpu")
            return found
        except (OSError, RuntimeError, ValueError, EOFError, UnpicklingError) as error:
            raise self._damaged(file) from error

    def delete(self) -> None:
        for file in sorted(self.folder.iterdir()):
            file.unlink()
        self.folder.rmdir()

    def _file(self, group: int) -> Path:
        return self.folder / f"group-{group:06d}.safetensors"

    def _damaged(self, file: Path) -> OutputError:
        return OutputError(
            f"{file} is damaged, expected what this run has kept so far: delete {self.folder} and run the same command "
            "again, which makes it again."
        )
