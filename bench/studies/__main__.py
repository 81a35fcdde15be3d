"""Run a study. Most write bench/results/NAME.json, from which `make tables` makes their tables.

python bench/studies                        list them, and how long what makes the committed result lasts on one core
python bench/studies evidence --seeds 3     run one, with its options
python bench/studies evidence --help        list its options
"""

import ast
import sys
from importlib import import_module
from pathlib import Path

HERE = Path(__file__).resolve().parent


def studies() -> dict[str, str]:
    """How long each study LASTS and the first line of its docstring, by name. Nothing is imported."""
    found = {}
    for file in sorted(HERE.glob("[!_]*.py")):
        module = ast.parse(file.read_text())
        functions = {part.name for part in module.body if isinstance(part, ast.FunctionDef)}
        if "main" in functions:
            lasts = next(
                ast.literal_eval(part.value)
                for part in module.body
                if isinstance(part, ast.Assign) and ast.unparse(part.targets[0]) == "LASTS"
            )
            what = (ast.get_docstring(module) or "").split("\n")[0]
            found[file.stem] = f"{lasts:11}{what}"
    return found


def main() -> object:
    known, (name, *arguments) = studies(), sys.argv[1:] or [""]
    if name not in known:
        print(__doc__, *(f"{study:22}{what}" for study, what in known.items()), sep="\n")
        return 0 if name in {"", "-h", "--help"} else f"\nthere is no study {name!r}"
    sys.path[0] = str(HERE.parent)  # as for all of bench/
    sys.argv = [f"python bench/studies {name}", *arguments]
    return import_module(f"studies.{name}").main()


if __name__ == "__main__":
    sys.exit(main())
