"""Tables of tokens, from results by hand."""

from reports.current import Shipped
from reports.token_tables import shipped_table, token_gains_table, tokens_table, worst_of


def test_tokens_are_counted_on_the_worst_classes_alone(cell) -> None:
    recognised = {
        "cat": {"embedded:sketch": 9, "embedded:photo": 1},
        "dog": {"embedded:sketch": 1, "embedded:photo": 9},
    }
    worst = worst_of({"recognised": recognised}, 1)
    assert worst == {"sketch": ["dog"], "photo": ["cat"]}
    plain = {"0": {"dog": cell(), "cat": cell(judge_class=0.75)}}
    tokens = {"0": {"dog": cell(judge_class=1.0), "cat": cell()}}
    rows = {
        f"{m}/{d}": {"seeds": s, "token_file": "0123"}
        for m, s in (("plain", plain), ("CAT", tokens))
        for d in worst
    }
    table = tokens_table({"rows": rows}, worst)
    assert "| sketch | dog | 0.25 / 0.50 | 0.25 / 1.00 | not measured | not measured |" in table
    assert "| photo | cat | 0.25 / 0.75 | 0.25 / 0.50 | not measured" in table
    assert "| mean |  | 0.25 / 0.62 | 0.25 / 0.75 |" in table
    assert "; 7 images a row" in table
    rows["CAT/photo"]["token_file"] = None  # it is the plain prior then
    table = tokens_table({"rows": rows}, worst)
    assert "| photo | cat | 0.25 / 0.75 | 0.25 / 0.75 | not measured" in table
    del rows["CAT/photo"]
    assert "| mean |  | 0.25 / 0.62 |  |  |  |" in tokens_table({"rows": rows}, worst)


def test_tokens_that_ship_are_learned_or_still_a_word(cells) -> None:
    words = {"dog": None, "cat": "a", "house": None}
    tokens = {"art_painting": None, "photo": Shipped(fingerprint="f", words=words)}
    table = shipped_table(tokens)
    assert cells(table, "art painting") == ["none", "none"]
    assert cells(table, "photo") == ["dog, house", "cat (a)"]


def test_what_tokens_add_is_paired_by_class(cells, cell) -> None:
    seeds = {"0": {"dog": cell(), "cat": cell(judge_class=0.1)}}
    better = {"0": {"dog": cell(judge_class=0.6), "cat": cell(judge_class=0.2)}}
    rows = {f"plain/{domain}": {"seeds": seeds} for domain in "abc"}
    rows["CAT/a"] = {"seeds": better, "token_file": "0123"}
    table = token_gains_table({"rows": rows})
    assert cells(table, "plain images") == [
        "1",
        "14",
        "+10.0 (+10.0 to +10.0)",  # the classes differ far more, and that does not count
        "0.0 (0.0 to 0.0)",
        "0.0 (0.0 to 0.0)",
    ]
    assert "guided images" not in table
    rows["CAT/b"] = {"seeds": better, "token_file": None}
    gain = cells(token_gains_table({"rows": rows}), "plain images")[2]
    assert gain.startswith("+5.0 (0.0 to ")
    assert "--methods CAT both`" in token_gains_table({"rows": {}})
