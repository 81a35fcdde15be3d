"""A pipeline that is interrupted: its own `__call__`, stopped or answered at the seams that all have.

    encode_prompt             recorded, or answered with what was recorded
    prepare_latents           answered with the latents that are given
    scheduler.set_timesteps   read, or answered with the timesteps that are given
    scheduler.step            stops; the network's output after CFG is taken
    vae.decode                stops; the unscaled latents are taken

The interrupted twin shares the pipeline's networks and changes none of its attributes. It is called
without the pipeline's `no_grad`, so that gradients are recorded where the caller asks for them.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor

from engine.errors import ModelError
from engine.priors.hollow import hollow_calls, placed, with_values
from engine.priors.stand_ins import NoBar, Reached


@dataclass(eq=False)
class Script:
    """What one interrupted call is answered, and what it leaves behind.

    Attributes:
        device: Where the pipeline shall compute.
        answers: What `encode_prompt` returns, call by call; None to run it and keep what it returns.
        latents: What `prepare_latents` returns; None to run it.
        more: What `prepare_latents` returns besides latents.
        ends_at: "latents" to stop in `prepare_latents`; else the scheduler or the VAE stops.
        asked: How often `encode_prompt` was answered.
        encoded: What `encode_prompt` returned, where it was run.
        shape: Of the latents that `prepare_latents` made, where it was run.
        size: Height and width that `prepare_latents` was asked for, in pixels.
    """

    device: torch.device
    answers: Sequence[Any] | None = None
    latents: Tensor | None = None
    more: tuple[Any, ...] = ()
    ends_at: str = ""
    asked: int = 0
    encoded: list[Any] = field(default_factory=list)
    shape: tuple[int, ...] = ()
    size: tuple[int, int] = (0, 0)


class Interrupted:
    """Goes before a pipeline's class, and answers from `script` in place of its methods."""

    script: Script

    @property
    def _execution_device(self) -> torch.device:
        return self.script.device

    def check_inputs(self, *args: Any, **kwargs: Any) -> None:
        if self.script.answers is None:
            self._own("check_inputs")(*args, **kwargs)

    def encode_prompt(self, *args: Any, **kwargs: Any) -> Any:
        script = self.script
        if script.answers is None:
            result = self._own("encode_prompt")(*args, **kwargs)
            script.encoded.append(with_values(result))
            return result
        script.asked += 1
        return placed(script.answers[script.asked - 1], script.device)

    def prepare_latents(self, *args: Any, **kwargs: Any) -> Any:
        script = self.script
        if script.latents is not None:
            return (script.latents, *script.more) if script.more else script.latents
        if script.answers is None:
            raise Reached
        own = self._own("prepare_latents")
        given = inspect.signature(own).bind(*args, **kwargs).arguments
        script.size = int(given["height"]), int(given["width"])
        made = own(*args, **kwargs)
        latents, *more = made if isinstance(made, tuple) else (made,)
        script.shape, script.more = tuple(latents.shape), tuple(more)
        if script.ends_at == "latents":
            raise Reached
        return made

    def progress_bar(self, iterable: Any = None, total: int | None = None) -> NoBar:
        return NoBar()

    def _own(self, name: str) -> Any:
        """The pipeline's own method."""
        return getattr(super(), name)


@cache
def _interrupted(kind: Any) -> Any:
    return type(kind.__name__, (Interrupted, kind), {"__module__": kind.__module__})


def interrupted(pipe: Any, script: Script, **stand_ins: Any) -> Any:
    """A twin of a pipeline that follows a script, with some of its components replaced.

    The twin's attributes are copied past the pipeline's `__setattr__`, which would register them.
    """
    kind = _interrupted(pipe.__class__)
    twin = kind.__new__(kind)
    twin.__dict__.update(pipe.__dict__, script=script, **stand_ins)
    return twin


def run(twin: Any, arguments: Mapping[str, Any]) -> None:
    """Call a twin until a seam ends it, in the caller's own gradient mode."""
    call = type(twin).__call__
    try:
        with hollow_calls(twin.script.device):
            getattr(call, "__wrapped__", call)(twin, **arguments)
    except Reached:
        return
    raise ModelError(
        f"a {type(twin).__name__} came to its end without calling scheduler.step or vae.decode, expected a pipeline "
        "that denoises latents and decodes them: choose a text-to-image model of another family."
    )
