"""The cards of packed folders, and what the folders that ship weigh."""

from pathlib import Path

from engine.embedded.train.cards import LICENCE, add_to_card, card
from engine.settings.sources import EMBEDDED


def test_facts_of_the_same_name_are_replaced_and_others_stay(tmp_path: Path) -> None:
    card(tmp_path, "A prior", "It draws.", {"data": "5 images", "shares": "0.5"})
    for share in ("0.6", "0.7"):
        add_to_card(tmp_path, {"shares": share, "memorised": "0.1"})
    assert (tmp_path / "README.md").read_text() == (
        "# A prior\n\nIt draws.\n\n- **data**: 5 images\n- **shares**: 0.7\n- **memorised**: 0.1\n\n"
        f"{LICENCE}\n"
    )


def test_the_models_that_ship_take_at_most_40_mib() -> None:
    files = [*EMBEDDED.rglob("*.safetensors")]
    assert len(files) > 10
    assert sum(file.stat().st_size for file in files) <= 40 * 2**20
