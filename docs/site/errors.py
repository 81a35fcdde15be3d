"""The page of all error messages, docs/errors.md: read off the source, so that it holds each of them.

python docs/site/errors.py writes the page; a test says when that is needed.
"""

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "errors.md"
SOURCES = ("engine", "kernels/ddis_kernels")
KERNELS = {"TypeError", "ValueError"}
"""Built-in errors that are messages to a user where the kernels raise them; the engine has its own."""
WORDS = 3
"""A text of fewer words is a part of a message and not one."""

AREAS = {
    "engine/apps": "The command line",
    "engine/settings": "Settings and requests",
    "engine/request": "Settings and requests",
    "engine/facts": "Settings and requests",
    "engine/classifiers": "Classifiers and their statistics",
    "engine/priors": "Priors and tiny decoders",
    "engine/networks": "Devices, precision and the hub",
    "engine/memory": "Memory",
    "engine/methods": "Making images: generate",
    "engine/guidance": "Making images: generate",
    "engine/sampling": "Making images: generate",
    "engine/runners": "Making images: generate",
    "engine/events": "Making images: generate",
    "engine/prompts": "Making images: generate",
    "engine/onnx": "ONNX Runtime",
    "engine/tokens": "Tokens: learn-tokens",
    "engine/lora": "Adapters: learn-lora",
    "engine/drop_in": "Guidance for a pipeline",
    "engine/datasets": "Data sets: finish, export",
    "engine/image_key": "Data sets: finish, export",
    "engine/files": "Data sets: finish, export",
    "engine/locks": "Data sets: finish, export",
    "engine/urls": "Data sets: finish, export",
    "engine/evaluation": "Measuring: evaluate, select, statistics, doctor",
    "engine/report": "Reports",
    "engine/downstream": "Training: fit, distill, prune, quantise",
    "engine/cluster": "Many machines",
    "engine/embedded": "Training the models that ship",
    "engine/apps/studio": "The studio",
    "engine/errors": "The command line",
    "engine/__init__": "The command line",
    "engine/types": "Settings and requests",
    "kernels/ddis_kernels": "Kernels",
}
"""The heading of the messages of a package or module."""

HEAD = """# Errors

Every mistake that is yours to mend ends in a message with three parts: what was wrong, what was
expected, and what to do. The command line prints it as one line after `error:` and ends with exit
code 2; in Python it is an exception, a child of `engine.errors.EngineError`. A name in backquotes
is a setting: the command line prints its flag there.

These are all of them, read off the source by `python docs/site/errors.py`. Words in braces are
filled in.
"""


@dataclass(frozen=True, order=True)
class Message:
    """A message: the heading it stands under, its words with {placeholders}, its class, and where it is raised."""

    area: str
    text: str
    kind: str
    where: str


def messages(root: Path = ROOT) -> list[Message]:
    """All messages of the source, in the order of the page."""
    files = [file for source in SOURCES for file in sorted((root / source).rglob("*.py"))]
    trees = {file.relative_to(root).as_posix(): ast.parse(file.read_text()) for file in files}
    kinds = error_classes(list(trees.values()))
    found = {
        Message(area_of(name), text, kind, name)
        for name, tree in trees.items()
        for kind, text in _in_module(tree, kinds | (KERNELS if "kernels/" in name else set()))
    }
    order = list(dict.fromkeys(AREAS.values()))
    return sorted(found, key=lambda one: (order.index(one.area), one.where, one.text))


def page(found: list[Message]) -> str:
    """The page: a table for each area."""
    lines = [HEAD]
    for area in dict.fromkeys(one.area for one in found):
        lines += [f"## {area}", "", "| error | message |", "|---|---|"]
        kinds: dict[str, str] = {one.text: one.kind for one in found if one.area == area}
        lines += [f"| {kind} | {_cell(text)} |" for text, kind in kinds.items()]
        lines.append("")
    return "\n".join(lines)


def area_of(name: str) -> str:
    """The heading for a file. Raises KeyError for a package that has none: give it one."""
    parts = name.removesuffix(".py").split("/")
    return AREAS.get("/".join(parts[:3])) or AREAS["/".join(parts[:2])]


def error_classes(trees: list[ast.Module]) -> set[str]:
    """EngineError and all classes that inherit from it."""
    bases = {
        node.name: {base.id for base in node.bases if isinstance(base, ast.Name)}
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    known = {"EngineError", "MissingKernelsError"}
    while more := {name for name, of in bases.items() if of & known} - known:
        known |= more
    return known


def _in_module(tree: ast.Module, kinds: set[str]) -> Iterator[tuple[str, str]]:
    every = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    functions = {node.name: node for node in every}
    constants = _texts_by_name(tree.body)
    for function in every:
        for node in ast.walk(function):
            if isinstance(node, ast.Call) and node.args and _name(node.func) in kinds:
                for text in _texts(node.args[0], function, functions):
                    for filled in _filled(" ".join(text.split()), function, constants):
                        if _is_message(filled):
                            yield _name(node.func), filled


def _is_message(text: str) -> bool:
    """Whether a text says something itself, and not only passes on the words of another error."""
    return len(text.split()) >= WORDS and not re.fullmatch(r"(\{\w+\}\W*)+", text)


def _texts(
    argument: ast.expr, scope: ast.AST, functions: dict[str, ast.FunctionDef]
) -> Iterator[str]:
    """The words of an argument: its own, those assigned to its name, or what the function that it calls returns."""
    if isinstance(argument, ast.Call) and _name(argument.func) in functions:
        for node in ast.walk(functions[_name(argument.func)]):
            if isinstance(node, ast.Return) and node.value is not None:
                yield from _texts(node.value, functions[_name(argument.func)], {})
    elif isinstance(argument, ast.Name):
        yield from _texts_by_name(ast.walk(scope)).get(argument.id, [])
    else:
        yield _words(argument)


def _texts_by_name(nodes: Iterable[ast.AST]) -> dict[str, list[str]]:
    """The texts that are assigned to each name by itself."""
    found: dict[str, list[str]] = {}
    for node in nodes:
        if isinstance(node, ast.Assign) and _is_text(node.value):
            found.setdefault(_name(node.targets[0]), []).append(_words(node.value))
    return found


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or isinstance(getattr(node, "value", None), str)


def _filled(text: str, scope: ast.AST, constants: dict[str, list[str]]) -> Iterator[str]:
    """A message with constants of its module put in; once for each text that a name of its function may be."""
    for name, (value, *_) in constants.items():
        text = text.replace(f"{{{name}}}", value)
    for name, values in _texts_by_name(ast.walk(scope)).items():
        if f"{{{name}}}" in text and len(values) > 1:
            yield from (text.replace(f"{{{name}}}", value) for value in values)
            return
    yield text


def _words(node: ast.expr) -> str:
    """A text as a reader sees it, with names in braces for what is filled in."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(_words(part) for part in parts)
        case ast.FormattedValue(value=ast.IfExp() | ast.BinOp() as inner):
            return _words(inner)
        case ast.FormattedValue(
            value=ast.Call(func=ast.Name(id="counted"), args=[number, ast.Constant(value=noun)])
        ):
            return f"{{{_placeholder(number)}}} {noun}s"
        case ast.FormattedValue(value=inner):
            return f"{{{_placeholder(inner)}}}"
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _words(left) + _words(right)
        case ast.BinOp(left=ast.Constant(value=str())):  # 's' * (number != 1)
            return _words(node.left)
        case ast.IfExp(body=body, orelse=orelse):
            return _words(body) or _words(orelse)
    return f"{{{_placeholder(node)}}}"


def _placeholder(node: ast.expr) -> str:
    """What an expression is about, in one name."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name.strip("_")
        case ast.Call(func=ast.Name(id="len")):
            return "number"
        case ast.Call(func=ast.Name(id="nearest")):
            return "suggestion"
        case ast.Call(args=[*_, last]) | ast.Subscript(value=last):
            return _placeholder(last)
        case ast.Call(func=ast.Attribute(value=inner)):
            return _placeholder(inner)
        case ast.GeneratorExp(generators=[first, *_]) | ast.ListComp(generators=[first, *_]):
            return _placeholder(first.iter)
        case (
            ast.BoolOp(values=[first, *_]) | ast.Starred(value=first) | ast.Tuple(elts=[first, *_])
        ):
            return _placeholder(first)
        case ast.BinOp(left=first) | ast.IfExp(body=first):
            return _placeholder(first)
    return "value"


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else ""


def _cell(text: str) -> str:
    """A message as a cell: no part of it is markup, but for backquotes."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def main() -> None:
    PAGE.write_text(page(messages()))


if __name__ == "__main__":
    main()
