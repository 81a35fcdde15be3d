"""Statistics files: the moments of a network's layers over its training images, written by whoever has these.

A file is safetensors. Of call k of a layer it holds `<layer>/<input or output>/<k>/mean` and `.../var`, (C,) float32,
and in its metadata a JSON header (`Header`), which says of what network, preprocessing and layers they are. It holds no
image. `engine.evaluation.export_statistics` writes it.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from engine.classifiers.preprocess import Preprocess
from engine.classifiers.statistics.base import Examined, Side, Statistics
from engine.classifiers.statistics.layers import Call, watched
from engine.errors import ModelError, brief
from engine.files import write_whole
from engine.networks.digest import digest_of
from engine.networks.frozen import fingerprint
from engine.types import Moments

FORMAT = "ddis-layer-statistics/1"
AGAIN = "write it again with `ddis statistics`"
MEANS, COUNTS, COVARIANCE = "features/means", "features/counts", "features/covariance"
"""Of the last features, where they were asked for: means (K, F), images (K,) and covariance (F, F) of the classes."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a statistics file says of itself.

    Attributes:
        classifier: its name where the file was written.
        network: the fingerprint of its weights.
        preprocess: its preprocessing, as plain values.
        images: how many were measured.
        calls: the layers in call order, each as (name, side).
        privacy: the mechanism and its guarantee; None for exact averages.
    """

    classifier: str
    network: str
    preprocess: Mapping[str, Any]
    images: int
    calls: Sequence[tuple[str, Side]]
    privacy: Mapping[str, Any] | None = None


def network_mark(network: nn.Module) -> str:
    """What tells a network from others and from other versions of itself. It depends on weights alone."""
    return fingerprint([network])


def plain_preprocess(preprocess: Preprocess) -> dict[str, Any]:
    """Preprocessing as JSON gives it back."""
    found: dict[str, Any] = json.loads(json.dumps(preprocess.to_plain()))
    return found


def write_statistics_file(
    path: Path, header: Header, moments: Sequence[Moments], features: Mapping[str, Tensor]
) -> None:
    """Write a statistics file, whole or not at all. moments: of each call; features: by the names above."""
    tensors = dict(features)
    for name, found in zip(_names(header.calls), moments, strict=True):
        tensors |= {f"{name}/mean": found.mean.float(), f"{name}/var": found.var.float()}
    tensors = {key: value.contiguous() for key, value in tensors.items()}
    text = json.dumps(asdict(header))
    metadata = {"format": FORMAT, "header": text, "sha256": digest_of(tensors, text)}
    content = save(tensors, metadata)
    write_whole(path, _in_order(content))


def from_file(examined: Examined, argument: str) -> Statistics:
    """The statistics of a file that fits the network. argument: its path.

    Raises ModelError for anything that is no such file, or is of another network or preprocessing.
    """
    path = Path(argument).expanduser()
    content = _content(path)
    header, moments = _read(path, content)
    _check_network(path, header, examined)
    calls = _calls(path, header, moments, examined)
    device = next((value.device for value in examined.network.state_dict().values()), None)
    return Statistics(
        source=f"file:{blake2b(content, digest_size=8).hexdigest()}",
        taps=tuple(call.tap(examined.network) for call in calls),
        stored=tuple(Moments(one.mean.to(device), one.var.to(device)) for one in moments),
    )


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(
            f"statistics file {path} cannot be read ({error.strerror or error}), expected a file of `ddis "
            "statistics`: check the path."
        ) from error


def _read(path: Path, content: bytes) -> tuple[Header, list[Moments]]:
    """The header of a file, and the moments of each call."""
    try:
        metadata = _metadata(content)
        if metadata.get("format") != FORMAT:
            raise ModelError(
                f"statistics file {path} has format {metadata.get('format', 'none')!r}, expected {FORMAT!r}: it is of "
                f"another version of ddis, or of another kind, as those of `ddis evaluate` are. {AGAIN.capitalize()}."
            )
        header = Header(**json.loads(metadata["header"]))
        tensors = load(content)
        # Files of old have none.
        if metadata.get("sha256") not in (None, digest_of(tensors, metadata["header"])):
            raise ValueError("its content has another checksum than it was written with")
        moments = [
            Moments(tensors[f"{name}/mean"], tensors[f"{name}/var"])
            for name in _names(header.calls)
        ]
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"statistics file {path} cannot be read ({brief(error)}), expected a whole file of `ddis statistics`: it "
            f"may be cut short or of another kind; {AGAIN}."
        ) from error
    for name, one in zip(_names(header.calls), moments, strict=True):
        sane = one.mean.isfinite().all() and one.var.isfinite().all() and (one.var >= 0).all()
        if one.mean.dim() != 1 or one.mean.shape != one.var.shape or not sane:
            raise ModelError(
                f"statistics file {path} has moments of {name!r} that no images have, expected finite means and "
                f"variances of at least 0, (C,) each: {AGAIN}."
            )
    if not moments:
        raise ModelError(f"statistics file {path} is of no layer, expected at least one: {AGAIN}.")
    return header, moments


def _in_order(content: bytes) -> bytes:
    """A safetensors file with its metadata in order. The library's is random, and the file's hash names statistics."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def _metadata(content: bytes) -> dict[str, str]:
    """The metadata of a safetensors file: 8 bytes of length, then JSON."""
    length = int.from_bytes(content[:8], "little")
    found = json.loads(content[8 : 8 + length])
    return dict(found.get("__metadata__", {}))


def _check_network(path: Path, header: Header, examined: Examined) -> None:
    """Raise ModelError where the file is of other weights or other preprocessing; on 'meta' there are no weights."""
    values = examined.network.state_dict().values()
    mark = network_mark(examined.network)
    if header.network != mark and not any(value.is_meta for value in values):
        raise ModelError(
            f"statistics file {path} is of {header.classifier!r} with weights {header.network}, expected those of this "
            f"network, {mark}: it is of another network, or of another version of it. Name the network that the file "
            f"was made with, or {AGAIN}."
        )
    own = plain_preprocess(examined.preprocess)
    names = {**own, **header.preprocess}
    other = [name for name in names if header.preprocess.get(name) != own.get(name)]
    if other:
        gaps = ", ".join(
            f"{name} {header.preprocess.get(name)} there and {own.get(name)} here" for name in other
        )
        raise ModelError(
            f"statistics file {path} is of other preprocessing ({gaps}), expected this network's own: its layers would "
            f"read other values. Load the classifier with the file's preprocessing, or {AGAIN}."
        )


def _calls(
    path: Path, header: Header, moments: Sequence[Moments], examined: Examined
) -> list[Call]:
    """The calls of the file's layers in one pass. Raises ModelError where they are not those of the file."""
    layers = dict(examined.network.named_modules())
    gone = sorted({name for name, _ in header.calls} - layers.keys())
    if gone:
        raise ModelError(
            f"statistics file {path} is of layers that the network does not have ({', '.join(gone[:4])}), expected "
            f"some of its {len(layers) - 1} layers: it was built by other code. {AGAIN.capitalize()}."
        )
    wanted: dict[str, list[Side]] = {}
    for name, side in header.calls:
        wanted.setdefault(name, []).append(side)
    calls = watched(wanted, examined)
    found = [(call.path, call.of, call.channels) for call in calls]
    kept = [
        (name, side, len(one.mean)) for (name, side), one in zip(header.calls, moments, strict=True)
    ]
    if found != kept:
        pairs = zip([*found, None], [*kept, None], strict=False)
        here, there = next((pair for pair in pairs if pair[0] != pair[1]), (None, None))
        raise ModelError(
            f"statistics file {path} is of other calls than the network makes ({_described(there)} there, "
            f"{_described(here)} here), expected the same layers in the same order: it was built by other code. "
            f"{AGAIN.capitalize()}."
        )
    return calls


def _described(call: tuple[str, Side, int] | None) -> str:
    return "nothing" if call is None else f"the {call[1]} of {call[0]!r} with {call[2]} channels"


def _names(calls: Sequence[tuple[str, Side]]) -> list[str]:
    """The names of calls in a file: '<layer>/<side>/<k>', k counting the calls of one layer."""
    seen: Counter[tuple[str, Side]] = Counter()
    names = []
    for path, side in calls:
        names.append(f"{path}/{side}/{seen[path, side]}")
        seen[path, side] += 1
    return names
