"""A table of class alignment tokens: put into a frozen prior, and kept in a file.

A file is safetensors: one tensor (D,) per class under the class's placeholder, and one JSON text of metadata.
"""

import copy
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from engine.classifiers.base import Classifier
from engine.errors import TokenFileError
from engine.files import write_whole
from engine.models.prior import Prior

FORMAT = 1
TEMPLATE = "a/an {token} {class name}"
METADATA = "ddis"
"""The one key of a file's metadata: safetensors writes several in random order, and equal tables make equal files."""


@dataclass(frozen=True)
class TokenTraining:
    """How learning ended for a class, in words, what its last measured epoch showed, and what learning cost.

    finished: accuracy of the last finished images that were looked at, if any. start: the word that the token began as,
    'random' or 'class name'; moved: whether it ended elsewhere; "" and None in a file that does not tell. unet_forward,
    unet_backward: UNet evaluations of single latents; one CFG step of an image is two. 0 in a file that does not tell.
    """

    outcome: str
    epochs: int
    accuracy: float
    loss: float
    finished: float | None = None
    start: str = ""
    moved: bool | None = None
    unet_forward: int = 0
    unet_backward: int = 0


@dataclass(frozen=True, eq=False)
class TokenTable:
    """Learned tokens of some of a classifier's classes; a class without one uses the plain prompt.

    rows: (K, D) float32. classes, labels, names: K each; a name is a placeholder such as `<ddis-dog>`. prior and
    classifier: their fingerprints. training: by class, also of classes that were left out because they pass without
    a token; empty for an imported table. run: the settings that the table was learned with, as JSON values.
    """

    rows: Tensor
    classes: tuple[int, ...]
    labels: tuple[str, ...]
    names: tuple[str, ...]
    prior: str
    classifier: str
    training: Mapping[int, TokenTraining] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)
    template: str = TEMPLATE

    @property
    def fingerprint(self) -> str:
        """16 hex digits of the names and rows: what an image depends on."""
        digest = blake2b(repr((self.template, self.classes, self.names)).encode(), digest_size=8)
        digest.update(self.rows.detach().float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def name_of(self, class_index: int) -> str:
        """The placeholder of a class, or "" where the class has no token."""
        return self.names[self.classes.index(class_index)] if class_index in self.classes else ""


def placeholders(labels: Sequence[str]) -> tuple[str, ...]:
    """One unique, lower-case ASCII placeholder per label: 'Guitar, electric' becomes `<ddis-guitar-electric>`."""
    taken: dict[str, None] = {}
    for index, label in enumerate(labels):
        plain = unicodedata.normalize("NFKD", label).encode("ascii", "ignore").decode().lower()
        slug = re.sub(r"[^a-z0-9]+", "-", plain)[:40].strip("-") or f"class-{index}"
        while slug in taken:
            slug = f"{slug}-{index}"
        taken[slug] = None
    return tuple(f"<ddis-{slug}>" for slug in taken)


def embedding_width(prior: Prior) -> int:
    """D: the width of the text encoder's token embeddings."""
    return int(prior.text_encoder.get_input_embeddings().weight.shape[1])


class _WithRows(nn.Module):
    """A frozen embedding that answers the token ids `ids` (K,), ascending, with `rows` (K, D). It shares its weight."""

    def __init__(self, frozen: nn.Embedding, ids: Tensor, rows: Tensor) -> None:
        super().__init__()
        self.weight = frozen.weight
        self.look_up = frozen.__call__
        self.ids = ids
        self.rows = rows

    def forward(self, input_ids: Tensor) -> Tensor:
        """(N, L) token ids -> (N, L, D)."""
        places = torch.searchsorted(self.ids, input_ids).clamp(max=len(self.ids) - 1)
        is_learned = self.ids[places] == input_ids
        frozen = self.look_up(input_ids.masked_fill(is_learned, 0))
        learned = self.rows[places.to(self.rows.device)].to(frozen.device, frozen.dtype)
        return torch.where(is_learned[..., None], learned, frozen)


@contextmanager
def attached(prior: Prior, table: TokenTable) -> Iterator[Prior]:
    """Yield a twin of the prior whose prompts may hold the table's placeholders; gradients reach `table.rows`.

    The twin shares all weights, and none is written. It speaks within the block only; the prior given understands
    what it did before, within and after. Raises TokenFileError where table and prior do not fit.
    """
    check_fit(table, prior)
    if not table.names:
        yield prior
        return
    tokenizer = copy.deepcopy(prior.tokenizer)
    if tokenizer.add_tokens(list(table.names)) < len(table.names):
        raise TokenFileError(
            f"the tokenizer of prior {prior.name!r} already knows some of {', '.join(table.names)}, expected new "
            "words: load the prior without textual inversions of these names."
        )
    frozen = prior.text_encoder.get_input_embeddings()
    ids = torch.tensor(
        tokenizer.convert_tokens_to_ids(list(table.names)), device=frozen.weight.device
    )
    try:
        prior.text_encoder.set_input_embeddings(_WithRows(frozen, ids, table.rows))
        yield replace(prior, tokenizer=tokenizer)
    finally:
        prior.text_encoder.set_input_embeddings(frozen)


def check_fit(table: TokenTable, prior: Prior, classifier: Classifier | None = None) -> None:
    """Raise TokenFileError for a table of another prior, another width, or, if one is given, another classifier."""
    width = embedding_width(prior)
    if table.rows.shape[1] != width:
        raise TokenFileError(
            f"the tokens are {table.rows.shape[1]} wide, expected {width} for prior {prior.name!r}: "
            "load the prior that they were learned with, or learn tokens for this one."
        )
    if table.prior != prior.fingerprint:
        raise TokenFileError(
            f"the tokens were learned with prior {table.prior}, expected {prior.fingerprint} ({prior.name!r}): "
            "load the prior that they were learned with, or learn tokens for this one."
        )
    if classifier is not None and table.classifier != classifier.fingerprint:
        raise TokenFileError(
            f"the tokens were learned for classifier {table.classifier}, expected {classifier.fingerprint} "
            f"({classifier.name!r}): load the classifier that they were learned for, or learn tokens for this one."
        )


def save_tokens(table: TokenTable, path: Path | str) -> None:
    """Write a table. The file appears whole or not at all; equal tables give equal bytes."""
    facts = {
        entry.name: getattr(table, entry.name) for entry in fields(table) if entry.name != "rows"
    }
    facts["training"] = {str(index): asdict(training) for index, training in table.training.items()}
    facts |= {"format": FORMAT, "width": table.rows.shape[1]}
    rows = table.rows.detach().float().cpu()
    tensors = {name: row.clone() for name, row in zip(table.names, rows, strict=True)}
    write_whole(Path(path), save(tensors, metadata={METADATA: json.dumps(facts, sort_keys=True)}))


def read_tokens(path: Path | str) -> TokenTable:
    """Read a table, whatever prior it is for. Raises TokenFileError for a file that is not one of `save_tokens`."""
    tensors, facts = read_tensors(Path(path))
    if facts.get("format") != FORMAT or facts.get("template") != TEMPLATE:
        raise TokenFileError(
            f"{path} has token format {facts.get('format')} and template {facts.get('template')!r}, expected {FORMAT} "
            f"and {TEMPLATE!r}: learn the tokens again, or read a textual inversion by import_textual_inversion."
        )
    try:
        names = tuple(facts["names"])
        return TokenTable(
            rows=torch.stack([tensors[name] for name in names])
            if names
            else torch.empty(0, facts["width"]),
            classes=tuple(facts["classes"]),
            labels=tuple(facts["labels"]),
            names=names,
            prior=facts["prior"],
            classifier=facts["classifier"],
            training={
                int(index): TokenTraining(**entry) for index, entry in facts["training"].items()
            },
            run=facts["run"],
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TokenFileError(
            f"{path} lacks a part of a token table ({error!r}), expected a file that learn_tokens wrote: "
            "learn the tokens again."
        ) from error


def load_tokens(path: Path | str, prior: Prior, classifier: Classifier | None = None) -> TokenTable:
    """Read a table and check that it fits. Raises TokenFileError as `read_tokens` and `check_fit` do."""
    table = read_tokens(path)
    try:
        check_fit(table, prior, classifier)
    except TokenFileError as error:
        raise TokenFileError(f"{path}: {error}") from None
    return table


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A safetensors file's tensors, and the engine's metadata or {}. Raises TokenFileError where it is not one."""
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            facts = json.loads((file.metadata() or {}).get(METADATA, "{}"))
            if not isinstance(facts, dict):
                raise TokenFileError(
                    f"{path} has metadata {str(facts)[:40]!r}, expected an object: "
                    "give the path of a file that was written by learn_tokens."
                )
            return {name: file.get_tensor(name) for name in names}, facts
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise TokenFileError(
            f"{path} cannot be read as safetensors ({error}), expected a token file: "
            "give the path of a file that was written by learn_tokens."
        ) from error
