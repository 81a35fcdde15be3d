"""What the images of a data set depend on, read from its record in one form, whatever version wrote it.

    facts_of({"request": {...}, "models": {...}})
    {"classifier": {"name": ..., "fingerprint": ..., "dtype": ...}, "prior": {...}, "tokens": "<fingerprint>" or None,
     "method": {"name": "ddis", "alignment": {...}, "sampling": {...}}, "classes": [...], "images_per_class": 8,
     "seed": 0, "runtime": "torch"}

Models count by their fingerprints, not by where they were loaded from.
"""

from collections.abc import Mapping
from typing import Any

from engine.errors import ConfigError
from engine.request import Method, Request
from engine.settings.alignment import Alignment
from engine.settings.plain import from_plain, to_plain
from engine.settings.sampling import Sampling

RUN_FORMAT = "ddis-run/2"
RUN_FORMAT_0_1 = "ddis-dataset/1"
"""Formats of a run.json: the one that is written, and that of version 0.1, which is read as well."""
SELECTED_FROM = "selected_from"
"""Where the record of a selection has that of the folder it was made from."""
TOGETHER = "together"
"""Where the record of several runs that were put together has those of each."""
SOURCES = ("classifier", "prior", "student")
MODELS = (*SOURCES, "tokens")


def facts_of(made: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of what `engine.datasets.run_record` calls `made`; those of selections and of several runs are nested.

    A record of version 0.1 may lack some.
    """
    if SELECTED_FROM in made:
        return {**made, SELECTED_FROM: facts_of(made[SELECTED_FROM])}
    if TOGETHER in made:
        return {**made, TOGETHER: [facts_of(part) for part in made[TOGETHER]]}
    if "request" not in made:
        return _of_version_0_1(made)
    asked = {
        key: value
        for key, value in filled(Request, made["request"]).items()
        if key not in (*SOURCES, "format", "dtype")
    }
    method = {key: value for key, value in asked["method"].items() if key != "tokens"}
    return {**asked, **made["models"], "method": method}


def first_run(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Behind any number of selections, the facts of the run that made the images."""
    while SELECTED_FROM in facts:
        facts = facts[SELECTED_FROM]
    return dict(facts)


def runs_of(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The facts of each run that made some of the images."""
    if SELECTED_FROM in facts:
        return runs_of(facts[SELECTED_FROM])
    if TOGETHER in facts:
        return [run for part in facts[TOGETHER] for run in runs_of(part)]
    return [dict(facts)]


def with_names_of(there: Any, here: Any) -> Any:
    """`here` with the names that `there` has for models of the same fingerprint: they are the same models."""
    if not (isinstance(there, Mapping) and isinstance(here, Mapping)):
        return here
    found = {key: with_names_of(there.get(key), value) for key, value in here.items()}
    if "fingerprint" in found and found["fingerprint"] == there.get("fingerprint"):
        found |= {"name": there.get("name")}
    return found


def request_of(made: Mapping[str, Any], where: object) -> tuple[Request, dict[str, Any]]:
    """The request that made a data set, and the identities of its models.

    where: of the record, for messages. Raises ConfigError where the record holds no single request, or is of version
    0.1 and does not say enough.
    """
    if not isinstance(made, Mapping):
        raise ConfigError(
            f"{where} holds {made!r} in place of what made the images, expected a record as ddis writes it: it is "
            "damaged; take another."
        )
    if SELECTED_FROM in made or TOGETHER in made:
        raise ConfigError(
            f"{where} is the record of a selection or of several runs, expected that of one run: generate what it was "
            "made from, then select again."
        )
    if "request" in made:
        return Request.from_plain(made["request"], "request"), _models(
            made.get("models", {}), where
        )
    facts = facts_of(made)
    if facts.get("tokens"):
        raise ConfigError(
            f"{where} is of version 0.1 and names its tokens by the fingerprint {facts['tokens']} alone, expected "
            "their file: generate with the settings that it holds and name the file."
        )
    missing = [name for name in ("classifier", "method", "seed") if name not in facts]
    if missing:
        raise ConfigError(
            f"{where} is of version 0.1 and does not tell {', '.join(missing)}, expected a whole request: generate "
            "with the settings that it holds."
        )
    models = _models({name: facts.pop(name) for name in MODELS if name in facts}, where)
    for name in SOURCES:
        model = models.get(name)
        if model is None and name != "classifier":
            continue
        wanted = {key: (model or {}).get(key) for key in ("name", "dtype")}
        if not all(isinstance(value, str) for value in wanted.values()):
            raise ConfigError(
                f"{where} describes its {name} as {model!r}, expected its name and its dtype: the record is damaged; "
                "generate with the settings that you know."
            )
    sources = {name: {"source": models[name]["name"]} for name in SOURCES if models.get(name)}
    dtype = models["classifier"]["dtype"].removeprefix("torch.")
    return Request.from_plain({**facts, **sources, "dtype": dtype}), models


def _models(found: object, where: object) -> dict[str, Any]:
    """The identities of a record's models. Raises ConfigError where they are no such thing."""
    whole = isinstance(found, Mapping) and all(
        value is None or isinstance(value, str if name == "tokens" else Mapping)
        for name, value in found.items()
    )
    if not isinstance(found, Mapping) or not whole:
        raise ConfigError(
            f"{where} holds {found!r} in place of its models, expected a mapping of each one's facts: it is damaged; "
            "take another."
        )
    return dict(found)


def _of_version_0_1(config: Mapping[str, Any]) -> dict[str, Any]:
    """Guidance and sampling were next to the method, and no alignment was how plain sampling was written down."""
    facts = {key: value for key, value in config.items() if key != "labels"}
    drawn = {key: facts.pop(key) for key in ("alignment", "sampling") if key in facts}
    if drawn:
        name = "plain" if drawn.get("alignment") is None else "ddis"
        kinds = {"alignment": Alignment, "sampling": Sampling}
        known = {key: filled(kinds[key], values) for key, values in drawn.items() if values}
        facts["method"] = {"name": name, **known}
    elif "method" in facts:
        facts["method"] = filled(Method, facts["method"])
    if "seed" in facts:
        facts.setdefault("runtime", "torch")
    return facts


def filled(kind: Any, values: Any) -> Any:
    """Settings with the defaults of those that came since they were written down, which change no image.

    Left as they are where this version cannot read them.
    """
    if not isinstance(values, Mapping):
        return values
    known = {key: value for key, value in values.items() if key != "format"}
    try:
        return to_plain(from_plain(kind, known))
    except ConfigError:
        return known
