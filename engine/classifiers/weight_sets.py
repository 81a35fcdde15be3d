"""Which tensors of a checkpoint are the network's: those that one prefix has in common, and of several sets which."""

import re
import warnings
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from engine.errors import ClassifierWarning, ConfigError
from engine.settings.plain import nearest

WRAPPERS = re.compile(r"(^|\.)(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)(?=\.)")
"""What torch.compile, FSDP and activation checkpointing put into names."""
ENDS = (
    ("conv1.weight", ("fc.weight", "linear.weight")),
    ("resnet.embedder.embedder.convolution.weight", ("classifier.1.weight",)),
)
"""The first tensor of a known network, and names of its last one: a prefix of both is a network's."""
AVERAGED = re.compile(r"ema|swa|averag|shadow|polyak|teacher", re.IGNORECASE)


def chosen_set(path: Path, tensors: Mapping[str, Tensor], which: str | None) -> dict[str, Tensor]:
    """The network's tensors, without the prefix that they share.

    Args:
        path: of the file, for messages.
        tensors: all of the file.
        which: the set that is wanted, by its prefix or a part of that; None for the only one, or the one that is not
            an average of others.

    Raises:
        ConfigError: where `which` names no set, or more than one.

    Warns:
        ClassifierWarning: where there are several sets, which of them was taken.
    """
    tensors = {WRAPPERS.sub("", key).lstrip("."): value for key, value in tensors.items()}
    prefixes = _prefixes(tensors)
    if not prefixes:
        if which is not None:
            raise _unknown(path, which, [])
        return _without(tensors, _common(tensors))
    names = {prefix.rstrip(".") or "(bare)": prefix for prefix in prefixes}
    if which is not None:
        exact = [name for name in names if name == which.rstrip(".")]
        found = exact or [name for name in names if which.rstrip(".").lower() in name.lower()]
        if len(found) != 1:
            raise _unknown(path, which, list(names))
        return _without(tensors, names[found[0]])
    plain = [name for name in names if not AVERAGED.search(name)]
    taken = (plain or list(names))[0]
    if len(names) > 1:
        warnings.warn(
            f"checkpoint {path} holds {len(names)} sets of weights ({', '.join(names)}): took {taken}. `weights` "
            "chooses another, such as an average over training steps (EMA, SWA), which is often the better network.",
            ClassifierWarning,
            stacklevel=2,
        )
    return _without(tensors, names[taken])


def _prefixes(tensors: Mapping[str, Tensor]) -> list[str]:
    """The prefixes under which a whole known network lies, in the order of the file."""
    found = []
    for key in tensors:
        for first, lasts in ENDS:
            prefix = key.removesuffix(first)
            whole = prefix != key and (not prefix or prefix.endswith("."))
            if whole and any(prefix + last in tensors for last in lasts):
                found.append(prefix)
    return list(dict.fromkeys(found))


def _common(tensors: Mapping[str, Tensor]) -> str:
    """The longest dotted prefix of all names."""
    parts = [key.split(".")[:-1] for key in tensors]
    length = 0
    while all(len(part) > length and part[length] == parts[0][length] for part in parts):
        length += 1
    return "".join(f"{part}." for part in parts[0][:length]) if parts else ""


def _without(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)
    }


def _unknown(path: Path, which: str, names: list[str]) -> ConfigError:
    there = f"one of {', '.join(names)}" if names else "none: it holds one set"
    return ConfigError(
        f"weights is {which!r} with checkpoint {path}, expected {there}: choose one, or leave it out."
        f"{nearest(which, names)}"
    )
