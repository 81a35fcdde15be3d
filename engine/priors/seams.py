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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import ModelError


class Reached(BaseException):
    """The seam at which a call was to end. No Exception: nothing in a pipeline shall catch it."""


@dataclass(eq=False)
class Script:
    """What one interrupted call is answered, and what it leaves behind.

    Attributes:
        device: Where the pipeline shall compute.
        answers: What `encode_prompt` returns, call by call; None to run it and keep what it returns.
        latents: What `prepare_latents` returns; None to run it.
        more: What `prepare_latents` returns besides latents.
        ends_at: "latents" to stop in `prepare_latents`; else the scheduler or the VAE stops.
        encoded: The results of `encode_prompt`.
        made: The result of `prepare_latents`.
        size: Height and width that `prepare_latents` was asked for, in pixels.
    """

    device: torch.device
    answers: Sequence[Any] | None = None
    latents: Tensor | None = None
    more: tuple[Any, ...] = ()
    ends_at: str = ""
    encoded: list[Any] = field(default_factory=list)
    made: Any = None
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
        number = len(script.encoded)
        answered = script.answers is not None
        result = script.answers[number] if answered else self._own("encode_prompt")(*args, **kwargs)
        script.encoded.append(result)
        return result

    def prepare_latents(self, *args: Any, **kwargs: Any) -> Any:
        script = self.script
        if script.latents is not None:
            return (script.latents, *script.more) if script.more else script.latents
        if script.answers is None:
            raise Reached
        own = self._own("prepare_latents")
        given = inspect.signature(own).bind(*args, **kwargs).arguments
        script.size = int(given["height"]), int(given["width"])
        script.made = own(*args, **kwargs)
        if script.ends_at == "latents":
            raise Reached
        return script.made

    def progress_bar(self, iterable: Any = None, total: int | None = None) -> "NoBar":
        return NoBar()

    def _own(self, name: str) -> Any:
        """The pipeline's own method."""
        return getattr(super(), name)


class NoBar:
    """Stands in a progress bar's place."""

    def __enter__(self) -> "NoBar":
        return self

    def __exit__(self, *_: object) -> None: ...

    def update(self, count: int = 1) -> None: ...


class Tap:
    """Stands in the scheduler's place. It hands out timesteps, and stops at the first step.

    inner: a scheduler that is asked for everything else. timesteps: those to hand out; None to set
    the inner one's and stop. output: what the network gave.
    """

    order = 1
    init_noise_sigma = 1.0
    output: Tensor

    def __init__(self, inner: Any, timesteps: Tensor | None) -> None:
        self.inner = inner
        self.timesteps = timesteps

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["inner"], name)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        timesteps: Any = None,
        sigmas: Any = None,
        mu: float | None = None,
        **more: Any,
    ) -> None:
        if self.timesteps is not None:
            return
        given = {
            "num_inference_steps": num_inference_steps,
            "timesteps": timesteps,
            "sigmas": sigmas,
            "mu": mu,
            **more,
        }
        takes = inspect.signature(self.inner.set_timesteps).parameters
        chosen = {
            name: value for name, value in given.items() if value is not None and name in takes
        }
        self.inner.set_timesteps(device="cpu", **chosen)  # to be read, on 'meta' as well
        raise Reached

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Nothing: each call makes one step."""

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """As it is: our latents have the scale that networks see."""
        return sample

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, **_: Any) -> None:
        self.output = model_output
        raise Reached


class StoppedDecoder:
    """Stands in the VAE's place, and stops at `decode`. latents: what it was handed.

    It says that it is float32 and on the prior's device: SDXL would else cast a VAE of half precision
    to float32 and never back, and a VAE that rests elsewhere would draw the latents there.
    """

    dtype = torch.float32
    latents: Tensor

    def __init__(self, inner: nn.Module, device: torch.device) -> None:
        self.inner = inner
        self.device = device

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["inner"], name)

    def to(self, *_: Any, **__: Any) -> "StoppedDecoder":
        return self

    def modules(self) -> Iterator[nn.Module]:
        """None: nothing here shall be asked where its hooks would put it."""
        return iter(())

    def decode(self, latents: Tensor, *_: Any, **__: Any) -> None:
        self.latents = latents
        raise Reached


class InDtype:
    """A network that computes in its own dtype and answers in that of the latents it is given.

    So CFG and all else that a pipeline does between its networks is as exact as the latents.
    """

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["inner"], name)

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        dtype = self.inner.dtype
        outside = next(_floats([*args, *kwargs.values()])).dtype
        if outside == dtype:
            return self.inner(*args, **kwargs)
        args, kwargs = _cast(args, dtype), _cast(kwargs, dtype)
        return _cast(self.inner(*args, **kwargs), outside)


def _floats(values: Any) -> Iterator[Tensor]:
    """The floating-point tensors among values, but for timesteps, which have no second axis."""
    for value in values:
        if isinstance(value, Tensor):
            if value.is_floating_point() and value.dim() > 1:
                yield value
        elif isinstance(value, list | tuple):
            yield from _floats(value)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() and value.dim() > 1 else value
    if isinstance(value, list | tuple):
        return type(value)(_cast(one, dtype) for one in value)
    if isinstance(value, dict):
        return {name: _cast(one, dtype) for name, one in value.items()}
    return value


@cache
def _interrupted(kind: type) -> type:
    return type(kind.__name__, (Interrupted, kind), {"__module__": kind.__module__})


def interrupted(pipe: Any, script: Script, **stand_ins: Any) -> Any:
    """A twin of a pipeline that follows a script, with some of its components replaced.

    The twin's attributes are copied past the pipeline's `__setattr__`, which would register them.
    """
    kind = _interrupted(type(pipe))
    twin = kind.__new__(kind)
    twin.__dict__.update(pipe.__dict__, script=script, **stand_ins)
    return twin


def run(twin: Any, arguments: Mapping[str, Any]) -> None:
    """Call a twin until a seam ends it, in the caller's own gradient mode."""
    call = type(twin).__call__
    try:
        getattr(call, "__wrapped__", call)(twin, **arguments)
    except Reached:
        return
    raise ModelError(
        f"a {type(twin).__name__} came to its end without calling scheduler.step or vae.decode, expected a pipeline "
        "that denoises latents and decodes them: choose a text-to-image model of another family."
    )
