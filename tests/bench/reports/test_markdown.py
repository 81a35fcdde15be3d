"""Tables in pages."""

import pytest
from reports.markdown import fill, fill_all


def test_a_table_is_filled_between_its_markers_and_nowhere_else() -> None:
    text = "a\n<!-- table:x -->\nold\n<!-- /table:x -->\nb <!-- table:y -->\n"
    assert fill(text, "x", "| new |") == text.replace("old", "| new |")
    empty = text.replace("old\n", "")
    assert fill(empty, "x", "| new |") == text.replace("old", "| new |")
    with pytest.raises(ValueError, match="0 tables 'z'"):
        fill(text, "z", "| new |")
    with pytest.raises(ValueError, match="0 tables 'y'"):
        fill(text.replace("<!-- /table:y -->", ""), "y", "| new |")


def test_every_page_with_the_markers_of_a_table_gets_it_and_a_table_without_any_is_an_error() -> (
    None
):
    place = "<!-- table:x -->\n<!-- /table:x -->\n"
    texts = {"one": f"a\n{place}", "two": place, "three": "b\n"}
    filled = fill_all(texts, {"x": "| new |"})
    assert filled == {
        name: text.replace("-->\n<!-- /", "-->\n| new |\n<!-- /") for name, text in texts.items()
    }
    assert texts["two"] == place
    with pytest.raises(ValueError, match="0 tables 'y'"):
        fill_all(texts, {"y": "| new |"})
