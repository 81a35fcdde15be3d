"""The commands of `ddis`: a new one is a module and a line here."""

from collections.abc import Iterator, Mapping
from importlib import import_module

from engine.apps.cli.command import Command

_HOMES = {
    "generate": "generate:Generate",
    "finish": "finish:Finish",
    "learn-tokens": "learn_tokens:LearnTokens",
    "learn-lora": "learn_lora:LearnLora",
    "tune": "tune:Tune",
    "plan": "plan:Plan",
    "profile": "profile:Profile",
    "doctor": "doctor:Doctor",
    "demo": "demo:Demo",
    "export": "export:Export",
    "export-onnx": "export_onnx:ExportOnnx",
    "evaluate": "evaluate:Evaluate",
    "report": "report:Report",
    "studio": "studio:Studio",
    "select": "select:Select",
    "statistics": "statistics:WriteStatistics",
    "fit": "fit:Fit",
    "distill": "distill:Distill",
    "prune": "prune:Prune",
    "quantise": "quantise:Quantise",
    "embedded check": "embedded_check:EmbeddedCheck",
}


class Commands(Mapping[str, type[Command]]):
    """All commands by their names; each module is imported when it is asked for."""

    def __getitem__(self, name: str) -> type[Command]:
        module, kind = _HOMES[name].split(":")
        found = getattr(import_module(f"engine.apps.cli.commands.{module}"), kind)
        assert issubclass(found, Command)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(_HOMES)

    def __len__(self) -> int:
        return len(_HOMES)


COMMANDS = Commands()
