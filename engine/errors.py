"""What a user can get wrong. Every message says what was wrong, what was expected and what to do."""

from types import UnionType


class EngineError(Exception):
    """A mistake of the caller or of the machine that a message can explain. The CLI prints it and exits with 2."""


class ConfigError(EngineError, ValueError):
    """A setting, alone or against another, makes no sense."""


class ModelError(EngineError):
    """A prior or classifier cannot be found, read or used."""


class MissingExtraError(EngineError, ImportError):
    """An optional package is needed; the message names the extra that brings it."""


class TokenFileError(EngineError):
    """A token file does not fit the prior, the classifier or the format."""


class OutputError(EngineError, OSError):
    """A file or folder cannot be read or written, is missing or damaged, or holds another run."""


class DamagedError(OutputError):
    """A file was read and is not as it was written: its size, its checksum or its form. Not one that cannot be read."""


class GuidanceError(EngineError, ArithmeticError):
    """Gradients of guidance or learning, or a loss, were NaN or infinite too often to trust what comes of them."""


class EngineWarning(UserWarning):
    """Something that a run continues with and that is perhaps not meant. The CLI prints its text alone."""


class PriorWarning(EngineWarning):
    """A prior that samples differently from its own pipeline."""


class ClassifierWarning(EngineWarning):
    """A classifier that can be used, but perhaps not as it was trained: an assumption, or odd numbers in it."""


def brief(error: BaseException) -> str:
    """Kind and first words of another library's error, to be quoted in a message of ours."""
    words = " ".join(str(error).split())
    for reason in ("WeightsUnpickler error: ", "Trying to load unsupported "):
        if reason in words:  # torch's advice stands around it: to run the code in the file
            words = words.partition(reason)[2].partition(" Please use")[0]
            words = words.partition(" Check the documentation")[0]
    return f"{type(error).__name__}: {words[:160]}{'...' if len(words) > 160 else ''}"


def counted(number: int, noun: str) -> str:
    """A number and its noun, in the plural where there is not exactly one: '1 image', '2 classes'."""
    plural = noun + ("es" if noun.endswith("s") else "s")
    return f"{number:,} {noun if number == 1 else plural}"


def check_type(name: str, value: object, kinds: type | UnionType, expected: str) -> None:
    """Raise ConfigError for an argument of another kind, which would end in an AttributeError further in."""
    if not isinstance(value, kinds):
        raise ConfigError(
            f"{name} is of type {type(value).__name__}, expected {expected}: hand one over."
        )
