"""Fill the tables of README.md and of docs/ from the JSON in bench/results, and write kernels*.md there.

python bench/reports
"""

import sys
from pathlib import Path

BENCH = Path(__file__).resolve().parents[1]


def main() -> None:
    sys.path[0] = str(BENCH)  # as for all of bench/
    from reports.goals import read_goals
    from reports.pages import FILLED, pages
    from reports.reading import read_current, read_results

    root = BENCH.parent
    texts = {name: (root / name).read_text() for name in FILLED}
    made = pages(texts, read_results(BENCH / "results"), read_current(), read_goals())
    for name, text in made.items():
        (root / name).write_text(text)


if __name__ == "__main__":
    main()
