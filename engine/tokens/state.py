"""All that learning some class tokens depends on between two epochs, and where tokens start."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor

from engine.priors import Prior, TextEncoder
from engine.types import ImageKey, image_rng

ON_DEVICE = ("rows", "start", "momentum", "square")
"""The tensors of a state that are as wide as the rows: on the text encoder's device, where gradients come from."""
NOT_BY_ROW = ("classes", "word", "scale", "joint", "kinds")
"""The fields of a state that are no tensors with a row for each class."""


class Outcome(IntEnum):
    """Where a class stands."""

    WAITING = 0
    LEARNING = 1
    PASSES_WITHOUT = 2
    RECOGNISED = 3
    EPOCHS_USED_UP = 4
    NO_BETTER = 5
    ALIKE = 6

    @property
    def keeps_token(self) -> bool:
        """Whether the class has a token in the end; else it keeps its plain prompt."""
        return self not in (Outcome.PASSES_WITHOUT, Outcome.NO_BETTER, Outcome.ALIKE)


@dataclass(frozen=True)
class TokenEpoch:
    """One epoch of one class, before its updates. Epoch 0 is the plain prompt; the last is reported again when checked.

    accuracy, loss: of the images that the loss reads, in the end of those of the check. finished: accuracy of finished
    images, None where none were made. denoiser_forward, denoiser_backward: evaluations of single latents that the class
    has cost so far; one CFG step of an image is two. variety: see `engine.tokens.check`; None where it is not known.
    """

    class_index: int
    epoch: int
    accuracy: float
    finished: float | None
    loss: float
    outcome: Outcome
    denoiser_forward: int
    denoiser_backward: int
    variety: float | None = None


@dataclass
class TokenState:
    """All that learning K tokens of width D depends on between two epochs: tensors, but for three fields.

    word: what the rows began as, in the words of `initial_rows`. rows: (K, D) float32, the leaf that gradients reach;
    it and the others of ON_DEVICE are on the device of the text encoder, all counts on the CPU.
    start: (K, D), where they began. momentum, square: Adam's moments of each row, (K, D); (0, D) where the rows that
    learn side by side share an optimiser, whose own state is then `joint`. scale: () float64, what the loss is
    multiplied by on its way back, 0 before the first class; once lowered it stays so for the classes side by side.
    kinds: by class, what its epochs were learned on, as JSON, once for each change. The others: (K,); `finished` is NaN
    where no finished image was looked at, `variety` where it is not known, and `checked` 1 where it was decided what is
    kept.
    """

    classes: tuple[int, ...]
    word: str
    rows: Tensor
    start: Tensor
    momentum: Tensor
    square: Tensor
    updates: Tensor
    skipped: Tensor
    epochs: Tensor
    accuracy: Tensor
    finished: Tensor
    loss: Tensor
    outcome: Tensor
    checked: Tensor
    denoiser_forward: Tensor
    denoiser_backward: Tensor
    variety: Tensor
    scale: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    joint: dict[str, Tensor] = field(default_factory=dict)
    kinds: dict[int, list[str]] = field(default_factory=dict)

    @classmethod
    def at_start(
        cls, classes: Sequence[int], rows: Tensor, optimizer: str = "adam", word: str = ""
    ) -> "TokenState":
        """Nothing learned yet: rows (K, D) as they shall begin."""
        count = torch.zeros(len(classes), dtype=torch.int64)
        measure = torch.zeros(len(classes), dtype=torch.float64)
        moments = torch.zeros_like(
            rows[: len(rows) if optimizer == "adam" else 0], requires_grad=False
        )
        return cls(
            classes=tuple(classes),
            word=word,
            rows=rows.detach().clone().requires_grad_(),
            start=rows.detach().clone(),
            momentum=moments.clone(),
            square=moments.clone(),
            updates=count.clone(),
            skipped=count.clone(),
            epochs=count.clone(),
            accuracy=measure.clone(),
            finished=measure + torch.nan,
            loss=measure.clone(),
            outcome=count.clone(),
            checked=count.clone(),
            denoiser_forward=count.clone(),
            denoiser_backward=count.clone(),
            variety=measure + torch.nan,
        )

    def those(self, outcome: Outcome, among: range) -> list[int]:
        """The rows' numbers, of some, that stand at an outcome."""
        return [number for number in among if self.outcome[number] == outcome]

    def part(self, rows: range) -> "TokenState":
        """The state of some rows, with tensors of its own."""
        cut = {
            entry.name: getattr(self, entry.name).detach()[rows.start : rows.stop].clone()
            for entry in fields(self)
            if entry.name not in NOT_BY_ROW
        }
        cut["rows"].requires_grad_()
        classes = self.classes[rows.start : rows.stop]
        return replace(
            self,
            classes=classes,
            scale=self.scale.clone(),
            joint={},
            kinds={number: [*self.kinds[number]] for number in classes if number in self.kinds},
            **cut,
        )

    @classmethod
    def joined(cls, parts: Sequence["TokenState"]) -> "TokenState":
        """One state of the rows of several, in their order."""
        tensors: dict[str, Any] = {
            entry.name: torch.cat([getattr(part, entry.name).detach() for part in parts])
            for entry in fields(cls)
            if entry.name not in NOT_BY_ROW
        }
        tensors["rows"].requires_grad_()
        classes = tuple(number for part in parts for number in part.classes)
        kinds = {number: found for part in parts for number, found in part.kinds.items()}
        return cls(
            classes=classes, word=parts[0].word, scale=parts[-1].scale, kinds=kinds, **tensors
        )

    def note_kind(self, class_index: int, kind: str) -> None:
        """Say what the latest epoch of a class was learned on."""
        found = self.kinds.setdefault(class_index, [])
        if found[-1:] != [kind]:
            found.append(kind)

    def report(self, number: int) -> TokenEpoch:
        """The last measured epoch of one row."""
        finished, variety = float(self.finished[number]), float(self.variety[number])
        return TokenEpoch(
            class_index=self.classes[number],
            epoch=int(self.epochs[number]),
            accuracy=float(self.accuracy[number]),
            finished=None if finished != finished else finished,
            loss=float(self.loss[number]),
            outcome=Outcome(int(self.outcome[number])),
            denoiser_forward=int(self.denoiser_forward[number]),
            denoiser_backward=int(self.denoiser_backward[number]),
            variety=None if variety != variety else variety,
        )


def learning_key(class_index: int, epoch: int, image: int, images_per_epoch: int) -> ImageKey:
    """The key of a learning image. It counts down from -2, and generation up from 0, so they never share a seed."""
    return ImageKey(class_index, -2 - (epoch * images_per_epoch + image))


def initial_rows(
    prior: Prior, classes: Sequence[int], labels: Sequence[str], init: str, seed: int
) -> Tensor:
    """Where the tokens of some classes start: (K, D) float32, on the prior's device, as `TokenTable.rows`.

    init: 'random' is normal, with the mean and deviation of the text encoder's embeddings, seeded by class (image
    number -1); 'class name' is the mean of the name's embeddings, and any other word that of its own.
    """
    rngs = [image_rng(seed, ImageKey(number, -1)) for number in classes]

    def rows_of(encoder: TextEncoder) -> Tensor:
        """(K, width of the encoder)."""
        table = encoder.module.get_input_embeddings().weight.detach().float().cpu()
        if init == "random":
            drawn = [torch.randn(table.shape[1], generator=rng) for rng in rngs]
            return table.mean() + table.std() * torch.stack(drawn)
        texts = [labels[number] if init == "class name" else init for number in classes]
        ids = [
            encoder.tokenizer(text.replace("_", " "), add_special_tokens=False).input_ids
            for text in texts
        ]
        return torch.stack([table[row].mean(0) for row in ids])

    return torch.cat([rows_of(encoder) for encoder in prior.text_encoders()], 1).to(prior.device)


def word_norms(prior: Prior, labels: Sequence[str]) -> dict[str, float]:
    """The median norm of the words of some labels, by the key of the text encoder that reads them."""
    found = {}
    for encoder in prior.text_encoders():
        table = encoder.module.get_input_embeddings().weight.detach()
        texts = [label.replace("_", " ") for label in labels]
        ids = {
            number
            for row in encoder.tokenizer(texts, add_special_tokens=False).input_ids
            for number in row
        }
        rows = table[torch.tensor(sorted(ids), device=table.device)]
        found[encoder.key] = rows.float().norm(dim=1).median().item()
    return found
