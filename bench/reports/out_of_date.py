"""Lines below tables whose results their study would not keep, being of another prior or of settings that changed."""

from collections.abc import Mapping
from typing import Any

from engine.downstream.comparison import OF_0_1
from reports.current import Current

OF_COSTS = ("throughput", "sd_scale", "family_plans")
"""Results that tell what images cost, which is the same however long a move is."""
OF_DEFAULT_SAMPLING = ("tune", "styles", "worst_classes")
"""Results whose rows are all made with `Sampling()`."""


def changed(then: object, now: object) -> bool:
    """Whether settings that a result was made with are other ones now.

    A setting that has come since is none: it came with a default that changed nothing.
    """
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        return any(key not in now or changed(value, now[key]) for key, value in then.items())
    return then != now


def out_of_date(name: str, result: dict[str, Any], now: Current) -> str:
    """What the result of a name holds of another prior, or of settings that are gone; empty where it is up to date.

    Known are the methods of the evidence, the variants of some studies, and what others align with: `Alignment()`.
    """
    settings, rows = result.get("settings", result), result.get("rows")
    if (made := settings.get("prior", now.prior)) != now.prior:
        return f"\n\n**Out of date:** made with prior {made}; {now.prior} ships now."
    then = dict(settings.get("alignment", now.alignment))
    if name in OF_COSTS:
        then.pop("scale", None)
    if changed(then, now.alignment):
        return "\n\n**Out of date:** made with another alignment than today's default."
    if name in OF_DEFAULT_SAMPLING and changed(settings.get("sampling"), now.sampling):
        return "\n\n**Out of date:** made with another sampling than today's default."
    if not isinstance(rows, dict):
        return ""
    if name == "cifar" and any(_taught_otherwise(row, now) for row in rows.values()):
        return (
            "\n\n**Out of date:** students learned with another distillation than today's default."
        )
    if name == "cifar":  # rows of methods without a prior depend on nothing of today's
        rows = {key: row | {"settings": {}} for key, row in rows.items() if "alignment" in row}
    known = now.variants.get(name, now.methods)
    methods = settings.get("methods", {})  # of the tasks of `downstream`

    def differs(row_name: str, row: Mapping[str, Any]) -> bool:
        kind, _, domain = row_name.partition("/")
        method = known.get(methods.get(kind, settings.get("method", kind)), {})
        return _differs(row, method, domain, now)

    if old := [row_name for row_name, row in rows.items() if differs(row_name, row)]:
        return f"\n\n**Out of date:** made with other settings than today's: {', '.join(old)}."
    return ""


def _taught_otherwise(row: Mapping[str, Any], now: Current) -> bool:
    """Whether a row's students learned by other settings; those of before `mix` saw each image alone.

    A row that names its updates is of students that learn for long, in batches of their own.
    """
    then = OF_0_1["distillation"] | row.get("distillation", now.distillation)
    own = ("updates", "batch") if "updates" in row else ()
    return changed({key: value for key, value in then.items() if key not in own}, now.distillation)


def _differs(row: Mapping[str, Any], method: Mapping[str, Any], domain: str, now: Current) -> bool:
    tokens = now.tokens.get(domain)
    fingerprint = None if tokens is None else tokens.fingerprint
    plain = now.methods.get("plain")
    own = "learning" in row.get("settings", {})  # tokens that the study learned for this method
    return (
        (not own and row.get("token_file") not in (None, fingerprint))
        or changed(row.get("alignment", now.alignment), now.alignment)
        or changed(row.get("plain", plain), plain)
        or changed(row.get("settings", {}), method)
        or changed(_recipe(row), method)
    )


def _recipe(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The recipe of a row of `ambiguity`. Before its check could be doubled, it was looked at once."""
    recipe = row.get("recipe", {})
    if learning := recipe.get("learning"):
        return recipe | {"learning": {"check_doublings": 0} | learning}
    return recipe
