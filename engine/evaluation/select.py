"""Keep the better part of a data set: generate more than is needed, then select, class by class.

Images that the teacher takes for another class go first. Then, by `Selection.by`:

energy       E = -logsumexp(logits) is high: the teacher has seen little like it (GenQ, arXiv 2312.05272)
l_bn         the image's own L_BN is high
l_bn_share   without it, L_BN of the moments of *all* images that are left falls most: one is taken out at a time
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.classifiers import Classifier, load_classifier
from engine.datasets.dataset import load_sample, open_dataset, read_dataset
from engine.datasets.manifest import Row
from engine.datasets.run_record import RUN, SELECTED_FROM, made_with, read_run
from engine.errors import ConfigError, MissingExtraError, ModelError
from engine.guidance.losses import layer_weights
from engine.guidance.moments import recording_moments
from engine.settings import Selection

CHUNK = 1024
"""Images whose common L_BN `l_bn_share` looks at: the work grows with the square of their number."""
BATCH = 64


def select(
    folder: Path | str,
    out: Path | str,
    selection: Selection = Selection(),
    classifier: Classifier | None = None,
    on_step: Callable[[int], object] = lambda _: None,
) -> dict[str, Any]:
    """Write the images of the finished data set `folder` that are kept into the data set `out`, under their own names.

    classifier: the teacher that `folder` was made with; only `l_bn_share` looks at the images through it, and loads the
    one that the folder names where none is given. on_step: is told how many images were written. Returns, as JSON
    values, how many images there were and are, and how many of both the teacher recognises. Raises ConfigError for
    another classifier or none that can be loaded, OutputError for a folder that is not finished or cannot be written.
    """
    if Path(out).resolve() == Path(folder).resolve():
        raise ConfigError(f"out is {folder} itself, expected another folder: name a new one.")
    files, rows = map(list, zip(*read_dataset(folder), strict=True))
    if selection.by == "l_bn_share":
        classifier = classifier or load_teacher(folder)
        _check_teacher(Path(folder), classifier)
    kept = _kept(files, rows, selection, classifier)
    config = selection_config(read_run(Path(folder))["config"], selection)
    with open_dataset(out, config, {row.class_index: row.label for row in rows}) as writer:
        for place in kept:
            writer.add(load_sample(files[place], rows[place]))
            on_step(1)
        writer.finish({})
    return {
        "folder": str(out),
        "images": len(rows),
        "kept": len(kept),
        "recognised": sum(map(_recognised, rows)),
        "recognised_kept": sum(_recognised(rows[place]) for place in kept),
    }


def selection_config(made: Mapping[str, Any], selection: Selection) -> dict[str, Any]:
    """What `run.json` keeps of a selection from a data set whose own config is `made`."""
    return {SELECTED_FROM: dict(made), "selection": vars(selection)}


def load_teacher(folder: Path | str, **options: Any) -> Classifier | None:
    """The classifier that a data set was made with, by the name in its record; None where that names no such one.

    options: what `load_classifier` takes beside the name.
    """
    if not (Path(folder) / RUN).exists():
        return None
    named = made_with(Path(folder)).get("classifier", {})
    try:
        found = load_classifier(str(named.get("name")), **options)
    except (ModelError, ConfigError, MissingExtraError):
        return None
    return found if found.fingerprint == named.get("fingerprint") else None


def quotas(classes: Sequence[int], keep: float) -> dict[int, int]:
    """How many images of each class are kept: the share rounded, at least one."""
    return {number: max(1, round(keep * classes.count(number))) for number in sorted(set(classes))}


def greedy_by_share(
    means: Tensor,
    squares: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    classes: Tensor,
    quota: dict[int, int],
) -> list[int]:
    """Take out one image at a time, the one without which the loss of the others is least, down to each class's quota.

    means, squares: (N, C) each image's E[x] and E[x^2] of every channel. loss: means and variances (M, C) -> (M,).
    Returns the places of those that stay, ascending. O(N^2 C).
    """
    stay = torch.ones(len(means), dtype=torch.bool)
    left = {number: int((classes == number).sum()) for number in quota}
    mean_sum, square_sum = means.sum(0), squares.sum(0)
    for number_left in range(len(means), sum(quota.values()), -1):
        free = torch.tensor([left[int(number)] > quota[int(number)] for number in classes])
        candidates = torch.where(stay & free)[0]
        mean = (mean_sum - means[candidates]) / (number_left - 1)
        variance = (square_sum - squares[candidates]) / (number_left - 1) - mean.square()
        worst = candidates[loss(mean, variance).argmin()]
        stay[worst] = False
        left[int(classes[worst])] -= 1
        mean_sum, square_sum = mean_sum - means[worst], square_sum - squares[worst]
    return torch.where(stay)[0].tolist()


def _kept(
    files: Sequence[Path], rows: Sequence[Row], selection: Selection, classifier: Classifier | None
) -> list[int]:
    """Places of the images that stay, in the data set's order."""
    if selection.by == "l_bn_share" and classifier is not None:
        return _by_share(files, rows, selection, classifier)
    badness = _badness(rows, selection)
    quota = quotas([row.class_index for row in rows], selection.keep)
    order = sorted(
        range(len(rows)),
        key=lambda place: (selection.agreement and not _recognised(rows[place]), badness[place]),
    )
    kept = []
    for place in order:
        if quota[rows[place].class_index] > 0:
            quota[rows[place].class_index] -= 1
            kept.append(place)
    return sorted(kept)


def _badness(rows: Sequence[Row], selection: Selection) -> list[float]:
    """What is high for an image that should go."""
    if selection.by == "energy":
        return [-float(np.logaddexp.reduce(row.logits)) for row in rows]
    if selection.by == "l_bn":
        return [row.l_bn for row in rows]
    return torch.rand(
        len(rows), generator=torch.Generator().manual_seed(selection.selection_seed)
    ).tolist()


def _by_share(
    files: Sequence[Path], rows: Sequence[Row], selection: Selection, classifier: Classifier
) -> list[int]:
    """Selection by l_bn_share, a chunk of mixed classes at a time."""
    weights = layer_weights(classifier.stored, "relative")
    goal_mean, goal_variance = (
        torch.cat(values).cpu().double() for values in zip(*classifier.stored, strict=True)
    )
    sizes = [len(stored.mean) for stored in classifier.stored]
    of_mean, of_variance = (
        torch.cat(
            [
                torch.full((size,), pair[which] ** 2)
                for size, pair in zip(sizes, weights, strict=True)
            ]
        ).double()
        for which in (0, 1)
    )

    def loss(mean: Tensor, variance: Tensor) -> Tensor:
        return (mean - goal_mean).square() @ of_mean + (
            variance - goal_variance
        ).square() @ of_variance

    mixed = sorted(range(len(rows)), key=lambda place: (rows[place].index, rows[place].class_index))
    chunks = -(-len(mixed) // CHUNK)
    whole = [row.class_index for row in rows]
    quota_of, number_of = quotas(whole, selection.keep), Counter(whole)
    seen: Counter[int] = Counter()
    given: Counter[int] = Counter()
    kept: list[int] = []
    for chunk in (mixed[number::chunks] for number in range(chunks)):
        means, squares = _image_moments(
            [files[place] for place in chunk], [rows[place] for place in chunk], classifier
        )
        classes = [rows[place].class_index for place in chunk]
        seen.update(classes)
        quota = {
            c: round(quota_of[c] * seen[c] / number_of[c]) - given[c] for c in sorted(set(classes))
        }
        given.update(quota)
        pool = list(range(len(chunk)))
        if selection.agreement:
            pool = _without_mistaken(pool, [rows[place] for place in chunk], quota)
        stay = greedy_by_share(
            means[pool], squares[pool], loss, torch.tensor([classes[n] for n in pool]), quota
        )
        kept += [chunk[pool[n]] for n in stay]
    return sorted(kept)


def _without_mistaken(pool: list[int], rows: Sequence[Row], quota: dict[int, int]) -> list[int]:
    """The pool without images that the teacher takes for another class, but for those that a quota needs."""
    left = {number: sum(row.class_index == number for row in rows) for number in quota}
    stay = []
    for n in pool:
        number = rows[n].class_index
        if not _recognised(rows[n]) and left[number] > quota[number]:
            left[number] -= 1
        else:
            stay.append(n)
    return stay


@torch.no_grad()
def _image_moments(
    files: Sequence[Path], rows: Sequence[Row], classifier: Classifier
) -> tuple[Tensor, Tensor]:
    """E[x] and E[x^2] of what each BatchNorm layer reads of each image: (N, C) each, C over all layers, float64."""
    parts = []
    for start in range(0, len(files), BATCH):
        places = range(start, min(start + BATCH, len(files)))
        images = torch.stack([load_sample(files[place], rows[place]).image for place in places])
        images = images.to(classifier.device)
        with recording_moments(classifier.norm_layers, per_image=True) as taken:
            classifier.logits(images)
            mean, variance = (
                torch.cat(values, 1).cpu().double() for values in zip(*taken, strict=True)
            )
        parts.append((mean, variance + mean.square()))
    means, squares = zip(*parts, strict=True)
    return torch.cat(means), torch.cat(squares)


def _check_teacher(folder: Path, classifier: Classifier | None) -> None:
    teacher = made_with(folder).get("classifier", {})
    if classifier is None:
        raise ConfigError(
            f"selection by 'l_bn_share' got no classifier, expected {teacher.get('name')!r}, which {folder} was made "
            "with: name it, or select by 'energy' or 'l_bn', which the manifest knows."
        )
    if teacher.get("fingerprint") != classifier.fingerprint:
        raise ConfigError(
            f"{folder} was made with the classifier {teacher.get('name')!r} and {classifier.name!r} is another, "
            f"expected the same: see 'classifier' in its {RUN}."
        )


def _recognised(row: Row) -> bool:
    return int(row.logits.argmax()) == row.class_index
