"""Which of a classifier's classes a request names."""

from collections.abc import Sequence

from engine.errors import ConfigError
from engine.models import Classifier


def class_numbers(classifier: Classifier, classes: Sequence[str] | None) -> tuple[int, ...]:
    """The numbers of the named classes, ascending. Raises ConfigError for empty, doubled or unknown names."""
    if classes is None:
        return tuple(range(len(classifier.labels)))
    names = [classes] if isinstance(classes, str) else list(classes)
    for name in names:
        if not name.strip():
            raise ConfigError(
                "a class name is empty, expected one of the classifier's labels: remove the empty name."
            )
        if names.count(name) > 1:
            raise ConfigError(f"class {name!r} is named twice, expected each class once: remove one of them.")
        if name not in classifier.labels:
            raise ConfigError(
                f"class {name!r} is not a label of classifier {classifier.name!r}, expected some of "
                f"{', '.join(map(repr, classifier.labels[:20]))}: use these names, or give the classifier its labels."
            )
    if not names:
        raise ConfigError("no class is named, expected at least one: leave `classes` out to take them all.")
    return tuple(sorted(classifier.labels.index(name) for name in names))
