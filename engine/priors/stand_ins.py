"""What stands in the place of a pipeline's parts while it is interrupted (see `seams`)."""

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


class Reached(BaseException):
    """The seam at which a call was to end. No Exception: nothing in a pipeline shall catch it."""


class NoBar:
    """Stands in a progress bar's place."""

    def __enter__(self) -> "NoBar":
        return self

    def __exit__(self, *_: object) -> None: ...

    def update(self, count: int = 1) -> None: ...


class SchedulerTap:
    """Stands in the scheduler's place. It hands out timesteps, and stops at the first step.

    inner: a scheduler that is asked for everything else. timesteps: those to hand out; None to set
    the inner one's and stop.
    """

    order = 1
    init_noise_sigma = 1.0

    def __init__(self, inner: Any, timesteps: Tensor | None) -> None:
        self.inner = inner
        self.timesteps = timesteps
        self._outputs: list[Tensor] = []

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
        self._outputs.append(model_output)
        raise Reached

    def taken(self) -> Tensor:
        """The network's output, which is not kept."""
        return self._outputs.pop()


class IdleTap(SchedulerTap):
    """A scheduler whose steps leave the latents as they are."""

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, **_: Any) -> Any:
        return sample, sample


class IdleNetwork:
    """Stands in a network's place, and answers with the latents that it is given."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["inner"], name)

    def __call__(self, latents: Tensor, *_: Any, **__: Any) -> tuple[Tensor]:
        return (latents,)


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

    dtype = torch.float32

    def __init__(self, inner: Any, dtype: torch.dtype) -> None:
        self.inner = inner
        self.inside = dtype

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["inner"], name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        outside = next(_floats([*args, *kwargs.values()])).dtype
        if outside == self.inside:
            return self.inner(*args, **kwargs)
        args, kwargs = _cast(args, self.inside), _cast(kwargs, self.inside)
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
