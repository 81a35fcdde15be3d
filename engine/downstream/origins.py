"""What a folder's run.json says of its images: whose classifier they were made for, and whether guidance made them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.classifiers import Classifier
from engine.datasets.run_record import RUN, read_run
from engine.errors import ConfigError
from engine.facts import runs_of
from engine.settings.methods import Plain

PLAIN = Plain.name


def origins(folder: Path) -> list[dict[str, Any]]:
    """The facts of each run that made a folder's images, behind selections and of several put together.

    Empty where it has no run.json.
    """
    return runs_of(read_run(folder).facts) if (folder / RUN).exists() else []


def other_classifiers(folder: Path, classifier: Classifier) -> list[str]:
    """'name' (fingerprint) of each other classifier that images of the folder were made for."""
    made_for = [facts.get("classifier", {}) for facts in origins(folder)]
    others = {_shown(one) for one in made_for if one.get("fingerprint") != classifier.fingerprint}
    return sorted(others)


def warn_of_others(folder: Path, classifier: Classifier) -> list[str]:
    """A sentence where the folder was made for another classifier; it may be meant."""
    others = other_classifiers(folder, classifier)
    return [
        f"{folder} was made for another classifier, {other}, than {_shown(classifier.describe())}: it need not show "
        "what this one knows."
        for other in others
    ]


def warn_of_test(
    test: Path, trained_on: Mapping[str, Path | None], lacking: Sequence[str]
) -> list[str]:
    """A sentence for each reason why what is measured on test images says less than it seems to.

    trained_on: the sets that rows learn from. lacking: classes of the folder that no test image is of.
    """
    said = [
        f"the test images, {test}, are those that the row {name!r} learns from: it is not measured on new ones."
        for name, path in trained_on.items()
        if path is not None and path.resolve() == test.resolve()
    ]
    if lacking:
        said.append(
            f"the test images have none of {', '.join(lacking[:10])} ({len(lacking)} of the folder's classes): what is "
            "measured says nothing of them."
        )
    return said


def check_plain(plain: Path, folder: Path) -> None:
    """Raise ConfigError where images are not the plain prior's, as far as their folder tells."""
    if plain.resolve() == folder.resolve():
        raise ConfigError(
            f"plain is {plain}, the folder itself, expected another set, of the plain prior: name a folder of `ddis "
            "generate --method plain`, or 'generate', or leave the row out."
        )
    for facts in origins(plain):
        made = guided_by(facts)
        if made is not None:
            raise ConfigError(
                f"the images of {plain} were made {made}, expected those of the plain prior, which nothing guided: "
                "name a folder of `ddis generate --method plain` without tokens, or 'generate' to draw one."
            )


def guided_by(facts: Mapping[str, Any]) -> str | None:
    """What a run had besides the prior, in words; None of a plain one."""
    method = facts.get("method", {"name": PLAIN})
    if method["name"] == PLAIN:
        return None if facts.get("tokens") is None else "with tokens"
    return "with alignment" if "alignment" in method else f"by method {method['name']!r}"


def _shown(classifier: Mapping[str, Any]) -> str:
    return f"{classifier.get('name', 'of no name')!r} ({classifier.get('fingerprint', 'no fingerprint')})"
