"""A run in plain data: everything that decides which images come out, and nothing of how they are made.

    request = Request(classifier=ClassifierSource(source="embedded:photo"), images_per_class=16)
    Request.from_plain(request.to_plain()) == request

Whoever holds a request and the models that it names makes the same images, on the same kind of machine. The command
line, the runners and `run.json` share it. How a run is carried out is an `Execution`: memory, device, attention.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_type_hints

from engine.errors import ConfigError
from engine.settings.cluster import Cluster, check_runner
from engine.settings.fields import check_at_most, check_choices, check_positive, setting
from engine.settings.inversion import DeepInversion, NaturalInversion, PlugInInversion
from engine.settings.methods import DDIS, Plain
from engine.settings.plain import from_plain, nearest, to_plain
from engine.settings.reads import Reads
from engine.settings.sources import BATCH_NORM, STATISTICS_HELP, check_device

FORMAT = "ddis-request/1"
OBJECT = "object:"
"""How the source of a model begins that was handed over as an object: nobody else can load it by its name."""
SEEDS = 2**62
"""Seeds end here: what is added to one (for tuning, say) still fits the manifest's 64-bit column."""
MOST_IMAGES = 10**7
"""Images of one class in a data set."""

Method = DDIS | Plain | DeepInversion | PlugInInversion | NaturalInversion
"""Settings of any method; `name` tells them apart. This is the registry: a new method is one more."""
METHODS: dict[str, type[Method]] = {kind.name: kind for kind in get_args(Method)}
"""Settings of each method by its name."""


@dataclass(frozen=True, kw_only=True)
class ClassifierSource:
    """Where a classifier comes from."""

    source: str = setting(
        "",
        "embedded:<domain>, hf:<id or folder>, timm:<name>, torchvision:<name>, onnx:<file>, arch:<name> for random "
        "weights, or a checkpoint file with its architecture",
        "SOURCE",
    )
    architecture: str | None = setting(
        None, "network of a checkpoint file, such as resnet20", "NAME"
    )
    weights: str | None = setting(
        None,
        "which weights of a checkpoint file that holds several, such as state_dict_ema",
        "NAME",
    )
    reads: Reads = field(default_factory=Reads)
    labels: tuple[str, ...] | None = setting(
        None,
        "class names in the order of the outputs, or imagenet for those of its classes",
        "NAME",
    )
    statistics: str = setting(
        BATCH_NORM,
        f"what guidance knows of the training images: {STATISTICS_HELP} or none",
        "SOURCE",
    )


@dataclass(frozen=True, kw_only=True)
class PriorCall:
    """Arguments that a prior's pipeline is called with; None for its own default. `load_prior(call=...)` takes any."""

    height: int | None = setting(None, "height of images in pixels", "PX", flag="prior.call.height")
    width: int | None = setting(None, "width of images in pixels", "PX", flag="prior.call.width")
    max_sequence_length: int | None = setting(
        None,
        "tokens of a prompt that the prior's largest text encoder reads at most",
        "TOKENS",
        flag="prior.call.max-sequence-length",
    )
    guidance_scale: float | None = setting(
        None,
        "strength of the guidance that was distilled into the prior's network, as in FLUX.1 dev; cfg is another one",
        flag="prior.call.guidance-scale",
    )

    def given(self) -> dict[str, Any]:
        """Those that are set."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class PriorSource:
    """Where a prior comes from."""

    source: str = setting(
        "embedded",
        "embedded, a diffusers folder, a .safetensors file, a hub id, or arch:<name> for random weights",
        "SOURCE",
    )
    variant: str | None = setting(None, "which weight files of the prior, such as fp16", "NAME")
    revision: str | None = setting(None, "branch, tag or commit of the prior on the hub", "NAME")
    quantise: Literal["none", "nf4", "int8"] = setting(
        "none",
        "keep the linear layers of the prior's denoiser and text encoders in 4.5 bits a weight (nf4, which needs the "
        "extra gpu) or in 8 (int8)",
        flag="prior.quantise",
    )
    lora: str | None = setting(
        None,
        "an adapter (LoRA), as `ddis learn-lora` writes one: a .safetensors file, a folder or a hub id",
        flag="prior.lora",
    )
    tiny_decoder: str | None = setting(
        None,
        "the tiny decoder that guidance sees through: a folder, file or hub id; auto: the published one of the prior's "
        "family; none: the prior's VAE; by default the one that came with the prior, if any",
        "SOURCE",
    )
    call: PriorCall = field(default_factory=PriorCall)


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked for. classes: some of the classifier's labels, all of them if None."""

    classifier: ClassifierSource = field(default_factory=ClassifierSource)
    prior: PriorSource = field(default_factory=PriorSource, metadata={"of": "prior"})
    method: Method = field(default_factory=DDIS)
    student: ClassifierSource | None = field(default=None, metadata={"of": "student"})
    classes: tuple[str, ...] | None = setting(None, "only these of the labels", "NAME")
    images_per_class: int = setting(8, "images of each class")
    seed: int = setting(0, "seed of the run")
    dtype: Literal["float32", "float16", "bfloat16", "auto"] = setting(
        "float32",
        "of the networks; auto: float16 on a GPU, bfloat16 on a CPU made for it, or float32",
    )
    runtime: Literal["torch", "onnx"] = setting(
        "torch", "what computes the networks; onnx: ONNX Runtime, without autograd", of="prior"
    )

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(type(self)).items():
            value = from_plain(kind, to_plain(getattr(self, name)), name)
            object.__setattr__(self, name, value)  # lists as tuples, paths as text
        check_choices(self)
        check_positive(self, "images_per_class")
        check_at_most(
            self, images_per_class=(MOST_IMAGES, "more would fill any disk; make several data sets")
        )
        if not 0 <= self.seed < SEEDS:
            raise ConfigError(
                f"seed is {self.seed}, expected a whole number from 0 up to 2**62: choose one of these."
            )

    def to_plain(self) -> dict[str, Any]:
        """The request as values that JSON and YAML can hold."""
        return {"format": FORMAT, **to_plain(self)}

    @classmethod
    def from_plain(cls, values: Mapping[str, Any], where: str = "") -> "Request":
        """The request that `to_plain` wrote, or a part of one over the defaults.

        where: its path in a file. Raises ConfigError for unknown names, other types and another version's format.
        """
        if isinstance(values, Mapping):
            values = dict(values)
            form = values.pop("format", FORMAT)
            if form != FORMAT:
                raise ConfigError(
                    f"the request has format {form!r}, expected {FORMAT!r}: it was written by another version of ddis; "
                    f"install that one, or write it again.{nearest(str(form), [FORMAT])}"
                )
        return from_plain(cls, values, where)


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How a run is carried out. On another kind of machine, guided images may be others of the same distribution."""

    memory: str = setting(
        "auto",
        "what the run may take: 12GB, 11.5GiB, bytes, or auto for all that is free",
        "SIZE",
        of="prior",
    )
    device: str | None = setting(None, "cpu, cuda or cuda:1; by default the GPU, if any", "NAME")
    attention: Literal["auto", "sdpa", "xformers", "vanilla"] = setting(
        "auto",
        "what computes attention; auto: xformers on CUDA, where it is installed and has a kernel; vanilla: whole "
        "matrices, for comparison",
        of="prior",
    )
    graphs: bool = setting(
        True,
        "on CUDA, replay denoiser and guidance from CUDA graphs where there is room for these",
        of="prior",
    )
    onnx_cache: str | None = setting(
        None,
        "where exported graphs are kept; by default ddis/onnx in the user's cache folder",
        "FOLDER",
        of="prior",
    )
    runner: str = setting(
        "local",
        "who carries the run out: local (this process), or another that is registered in engine.runners",
        "NAME",
    )
    share: str | None = setting(
        None,
        "make only share I of N of the images, as 3/16: one of N processes that write into one folder, which share "
        "nothing else; `ddis finish` completes it",
        "I/N",
    )
    cluster: Cluster = field(default_factory=Cluster)
    mixed: bool = setting(
        False,
        "let machines of different kinds share a run, whose bytes then depend on who made what",
    )

    def __post_init__(self) -> None:
        check_choices(self)
        check_device(self.device)
        if self.share is not None:
            self.share_of()
        check_runner(self.runner, self.share, self.cluster)

    @property
    def carried_out_by(self) -> str:
        """The name of the runner."""
        if self.runner == "local" and self.cluster.ray is not None:
            return "ray"
        if self.runner == "local" and self.share is not None:
            return "share"
        return self.runner

    def share_of(self) -> tuple[int, int]:
        """Number of the share from 0, and how many there are: (2, 16) for '3/16'. (0, 1) where none was asked for.

        Raises ConfigError for what says no such thing.
        """
        number, slash, count = ("1/1" if self.share is None else self.share).partition("/")
        if slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count):
            return int(number) - 1, int(count)
        raise ConfigError(
            f"share is {self.share!r}, expected I/N with I from 1 to N, such as 3/16: number the processes from 1."
        )
