"""Class names as callers give them: in order, one for each output, in words that a prompt can use."""

from collections.abc import Mapping, Sequence
from os.path import isfile
from typing import Any

from engine.classifiers.imagenet import WORD, imagenet_names
from engine.errors import ConfigError


def listed(labels: Any, name: str) -> tuple[str, ...] | None:
    """The labels that a caller gave, in the order of the outputs; None where none were.

    Raises ConfigError for anything but names in their order, or by the numbers of their outputs from 0.
    """
    if labels is None:
        return None
    if isinstance(labels, str) and labels == WORD:
        labels = (WORD,)
    if isinstance(labels, str):
        raise ConfigError(
            f"labels of classifier {name!r} is the text {labels!r}, expected a list of class names: put each name into "
            "it, in the order of the outputs."
        )
    if isinstance(labels, set | frozenset):
        raise ConfigError(
            f"labels of classifier {name!r} is the set {labels!r}, expected a list: a set has no order, and the names "
            "belong to the outputs in theirs. Give a list."
        )
    if isinstance(labels, Mapping):
        labels = _in_order(labels, name)
    try:
        found = list(labels)
    except TypeError as error:
        raise ConfigError(
            f"labels of classifier {name!r} is {labels!r}, expected a list of class names: give the names in the order "
            "of the outputs."
        ) from error
    for number, label in enumerate(found):
        if not isinstance(label, str):
            raise ConfigError(
                f"label {number} of classifier {name!r} is {label!r}, expected a class name in words: a prompt is made "
                "of it. Give names in the order of the outputs."
            )
    doubled = sorted({label for label in found if found.count(label) > 1})
    if doubled:
        raise ConfigError(
            f"labels of classifier {name!r} name {', '.join(map(repr, doubled))} more than once, expected "
            "distinct names: two classes could not be distinguished. Rename one."
        )
    return tuple(found)


def _in_order(labels: Mapping[Any, Any], name: str) -> list[Any]:
    """The values of {0: "dog", 1: "horse"} or {"dog": 0, "horse": 1}."""
    keys, values = list(labels), list(labels.values())
    numbers = [_number(key) for key in keys]
    if set(numbers) == set(range(len(keys))):
        return [label for _, label in sorted(zip(numbers, values, strict=True))]
    numbers = [_number(value) for value in values]
    if set(numbers) == set(range(len(keys))):
        return [label for _, label in sorted(zip(numbers, keys, strict=True))]
    raise ConfigError(
        f"labels of classifier {name!r} is a dictionary with the keys {', '.join(map(repr, keys[:5]))}, expected the "
        f"numbers 0 to {len(keys) - 1} of its outputs as keys or values: give a list of names in their order."
    )


def _number(value: Any) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return int(value) if isinstance(value, str) and value.isdecimal() else None


def of_imagenet(
    name: str, named: Sequence[str] | None, own: Sequence[str] | None
) -> Sequence[str] | None:
    """The names that were asked for, with ImageNet's in place of 'imagenet': of the source's ids, or of all 1,000."""
    if tuple(named or ()) != (WORD,):
        return named or own
    known = imagenet_names()
    ids = [label.strip() for label in own or known]
    unknown = [one for one in ids if one not in known and one not in known.values()]
    if unknown and own and len(own) != len(known):
        raise ConfigError(
            f"labels is {WORD!r} with classifier {name!r}, whose classes are called "
            f"{', '.join(map(repr, unknown[:3]))}, expected ids such as 'n01440764', or 1,000 classes: give the names "
            "themselves."
        )
    return tuple(known.values()) if unknown else tuple(known.get(one, one) for one in ids)


def fitting(name: str, labels: Sequence[str], classes: int) -> tuple[str, ...]:
    """Class names that fit the network: one each, none empty, no two alike.

    A model's own config may name two classes alike (ImageNet has two cranes): the later one becomes 'crane (517)'.
    """
    if not labels:
        raise ConfigError(
            f"classifier {name!r} came without class names, expected {classes}: set `labels` to them, in the "
            "order of its outputs."
        )
    if len(labels) == 1 < classes and ("," in labels[0] or isfile(labels[0])):
        what = "several names in one" if "," in labels[0] else "a file"
        raise ConfigError(
            f"labels is {labels[0]!r}, {what}, and classifier {name!r} has {classes} outputs, expected the names "
            "themselves, each apart: write them one after the other, as in `--labels dog horse 'polar bear'`."
        )
    if len(labels) != classes:
        raise ConfigError(
            f"classifier {name!r} has {classes} outputs and {len(labels)} labels, expected as many: pass one "
            "class name for each output, in their order."
        )
    empty = [number for number, label in enumerate(labels) if not label.strip()]
    if empty:
        raise ConfigError(
            f"label {empty[0]} of classifier {name!r} is empty, expected a name that a prompt can use: fill "
            "it in."
        )
    return tuple(
        f"{label} ({number})" if label in labels[:number] else label
        for number, label in enumerate(labels)
    )
