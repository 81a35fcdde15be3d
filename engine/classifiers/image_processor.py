"""Preprocessing as a transformers `preprocessor_config.json` describes it: read whole, or refused, never in part."""

import warnings
from collections.abc import Mapping
from typing import Any

import transformers

from engine.classifiers.preprocess import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Interpolation,
    Preprocess,
)
from engine.errors import ClassifierWarning, ModelError

PIL_FILTERS: dict[int, Interpolation] = {0: "nearest-exact", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers for the filters that exist here."""
NEAREST_FILTERS: dict[int, tuple[str, Interpolation]] = {
    1: ("Lanczos", "bicubic"),
    4: ("box", "bilinear"),
    5: ("Hamming", "bilinear"),
}
"""Pillow's other filters, which have no differentiable form here, and the one that is used instead."""
HABITS = (
    *("do_center_crop", "do_flip_channel_order", "do_normalize", "do_rescale", "include_top"),
    *("image_mean", "image_std", "rescale_factor", "rescale_offset", "resample"),
    *("size", "crop_size", "crop_pct"),
)
"""Settings that an image processor's class decides where its file leaves them out."""
SWITCHES = {
    *(
        "do_center_crop",
        "do_convert_rgb",
        "do_flip_channel_order",
        "do_normalize",
        "do_rescale",
        "do_resize",
    ),
    "do_reduce_labels",
}
"""Settings that turn a step on which is read here, or which does nothing to RGB images."""
BYTE = 1 / 255


def from_image_processor(config: Mapping[str, Any]) -> Preprocess:
    """The preprocessing that an image processor's settings describe, its class's habits included.

    Raises ModelError for a step that is not read here, and warns if another filter resizes than the one it names.
    """
    kind = str(config.get("image_processor_type", config.get("feature_extractor_type", "")))
    config = {**_habits(kind), **{key: value for key, value in config.items() if value is not None}}
    _check_known(config, kind)
    cropped, resized = bool(config.get("do_center_crop")), bool(config.get("do_resize", True))
    size = _sides(config.get("size", 224))
    crop = _pair(_sides(config.get("crop_size", size)) if cropped else size)
    if cropped and kind.startswith("Perceiver"):
        # It cuts out size / crop_size of the image, then resizes that.
        size, crop = crop[0], _pair(size)
    return Preprocess(
        crop=crop,
        resize=_resize(config, kind, size, cropped) if resized else None,
        interpolation=_filter(config.get("resample", 2), resized),
        **_values(config, kind),
    )


def _filter(number: Any, used: bool) -> Interpolation:
    """The interpolation of one of Pillow's filters, or the nearest to it, with a warning if it is used."""
    if number in PIL_FILTERS:
        return PIL_FILTERS[number]
    name, instead = NEAREST_FILTERS.get(number, (repr(number), "bilinear"))
    if used:
        warnings.warn(
            f"the image processor resizes with Pillow's filter {name}, which has no differentiable form here: "
            f"{instead} is used instead, and the classifier's scores may differ a little.",
            ClassifierWarning,
            stacklevel=2,
        )
    return instead


def _habits(kind: str) -> dict[str, Any]:
    """What the class of an image processor does where its file says nothing."""
    name = kind.replace("FeatureExtractor", "ImageProcessor").removesuffix("Fast")
    found = getattr(transformers, f"{name}Pil", None) if name else None
    habits = {key: getattr(found, key, None) for key in HABITS}
    return {key: value for key, value in habits.items() if value is not None} | (
        {"do_normalize": bool(habits["do_normalize"])} if hasattr(found, "do_normalize") else {}
    )


def _check_known(config: Mapping[str, Any], kind: str) -> None:
    """Raise ModelError for a step that would change what the network reads and has no counterpart here."""
    unread = sorted(
        key
        for key, value in config.items()
        if key.startswith("do_") and value and key not in SWITCHES
    )
    if "crop_margin" in config:
        unread.append("crop_margin")
    if unread:
        raise ModelError(
            f"its image processor {kind or '(of no class)'} asks for {', '.join(unread)}, expected resizing, cropping, "
            "rescaling, normalising and the order of channels alone: dropping a step would feed the network other "
            "values. Load the network in Python and do that step in front of it."
        )


def _resize(
    config: Mapping[str, Any], kind: str, size: int | tuple[int, int], cropped: bool
) -> int | tuple[int, int]:
    """To which size images are resized."""
    if not isinstance(size, int):
        return size
    if crop_pct := config.get("crop_pct"):
        whole = size >= 384 and not kind.startswith("PoolFormer")
        return (size, size) if whole else int(size / crop_pct)
    if kind.startswith("Levit"):
        return int(size * 256 / 224)
    return size if cropped else (size, size)


def _values(config: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """mean, std and channels: y = (f x - o - m) / s of bytes x, with a factor f and an offset o, is of pixels x / 255.

    A channel order that is turned round comes after normalising, so mean and std are turned round with it.
    """
    normalised = config.get("do_normalize", True)
    mean = _three(config.get("image_mean") or IMAGENET_MEAN) if normalised else (0.0, 0.0, 0.0)
    std = _three(config.get("image_std") or IMAGENET_STD) if normalised else (1.0, 1.0, 1.0)
    if kind.startswith("EfficientNet") and normalised and config.get("include_top", True):
        std = tuple(value * value for value in std)  # it divides by std twice
    rescaled = config.get("do_rescale", True)
    factor = 255 * config.get("rescale_factor", BYTE) if rescaled else 255.0
    offset = 1.0 if rescaled and config.get("rescale_offset") else 0.0
    if abs(factor - 1) > 1e-4 or offset:
        mean = tuple((value + offset) / factor for value in mean)
        std = tuple(value / factor for value in std)
    if not config.get("do_flip_channel_order"):
        return {"mean": mean, "std": std}
    return {"mean": mean[::-1], "std": std[::-1], "channels": "bgr"}


def _three(values: Any) -> tuple[float, ...]:
    """A value for each channel; one alone is of all, as of a network that reads grey images."""
    values = (values,) if isinstance(values, int | float) else tuple(values)
    return values * 3 if len(values) == 1 else values


def _sides(size: Any) -> int | tuple[int, int]:
    """A transformers size: a number, {"shortest_edge": n} or {"height": h, "width": w}."""
    if not isinstance(size, Mapping):
        return size
    if "shortest_edge" in size:
        return size["shortest_edge"]
    if not {"height", "width"} <= size.keys():
        raise ModelError(
            f"its image processor has the size {dict(size)}, expected a number, shortest_edge, or height and width: "
            "with other keys the size of what the network reads depends on the image. Put its input size there."
        )
    return size["height"], size["width"]


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size
