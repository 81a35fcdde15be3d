"""Goals of goals.toml, held against results by hand."""

from dataclasses import replace
from pathlib import Path

import pytest
from reports.goals import Goal, goals_table, holds, reach, read_goals

METRICS = ("fid", "kid", "inception_score", "precision", "recall", "density", "coverage")


def test_a_goal_that_is_missed_is_bold_and_one_that_was_not_measured_says_so(
    made, taught, cells
) -> None:
    ours, theirs = made(4, precision=0.9, recall=0.1), made(20, 3e9)
    found = {
        "evidence": {
            "rows": {
                "plain/a": theirs,
                "DAG/a": made(3),
                "both/a": ours | {"token_file": "0123"},
                "tuned, fast/a": ours,
                "fast/a": made(3, precision=0.9, recall=0.1),
            }
        },
        "methods": {
            "rows": {
                "DAG/a": ours,
                "tuned, fast/a": ours,
                "paper DAG/a": theirs,
                "DeepInversion/a": made(5),
                "Plug-In Inversion/a": made(50),
                "NaturalInversion/a": made(40),
            }
        },
        "guidance_study": {
            "rows": {
                "base/a": made(9),
                "paper/a": made(30),
                "paper, step of 0.05/a": made(8),
                "paper, step of 0.01/a": made(20),
            }
        },
        "downstream": {
            "rows": {
                "distill/a": {
                    "rows": {"folder": taught(0.6), "other": taught(0.7), "plain": taught(0.5)}
                },
                "quantise/a": {"rows": {"folder": taught(0.5), "original": taught(0.52)}},
            }
        },
        "evaluator": {
            "equal": {
                "values": {
                    name: {"relative_gap": gap}
                    for name, gap in zip(METRICS, (1e-9, 0, 0, 0, 0, 0, 1e-2), strict=True)
                }
            },
            "stream": {"peak_bytes": 2**29, "width": 2048, "values": {"rows": 200_000}},
            "narrow_neighbours": {"peak_bytes": 2**30, "width": 128, "values": {"rows": 100_000}},
        },
    }
    table = goals_table(found, read_goals())
    assert cells(table, "FID: both below DAG") == ["**4.0 / 3.0**", "0 of 1"]
    rows = found["evidence"]["rows"]
    rows["both/a"] = ours | {"token_file": None}
    assert cells(goals_table(found, read_goals()), "FID: both below DAG") == ["no tokens", ""]
    assert cells(table, "FID: DAG below plain") == ["3.0 / 20.0", "1 of 1"]
    assert cells(table, "FID: CAT below plain") == ["not measured", ""]
    recall = "recall: plain below a tuned prompt with `--preset fast`"
    assert cells(table, recall) == ["**0.25 / 0.10**", "0 of 1"]
    assert cells(table, recall.replace("recall", "coverage")) == ["**0.12 / 0.05**", "0 of 1"]
    of_paper = "FID, of 56 images: DAG below the paper's guidance with the best of three steps"
    assert cells(table, of_paper) == ["**9.0 / 8.0**", "0 of 1"]
    assert "**1.25 (DeepInversion)**" in table
    assert "**0.86**" in table
    assert "+10.0" in table
    int8 = "int8 calibrated on ours within 1 point of original images"
    assert cells(table, int8) == ["**-2.0**", "0 of 1"]
    fid = "mean FID of a tuned prompt with `--preset fast` at most half of plain's"
    assert cells(table, fid) == ["0.20", "yes"]
    compute = (
        "compute of an image with a tuned prompt and `--preset fast` at most the paper's guidance's"
    )
    assert cells(table, compute) == ["0.33", "yes"]
    fid = "FID of `--preset fast` at most that of DAG, or within the intervals"
    assert cells(table, fid) == ["3.0 / 3.0", "1 of 1"]
    fast = "coverage of `--preset fast` at least that of DAG, or within the intervals"
    assert cells(table, fast) == ["**0.05 / 0.12**", "0 of 1"]
    equal = "evaluator's values within 1e-3 of kept libraries'"
    assert cells(table, equal) == ["**1e-02 (coverage)**", "no"]
    assert cells(table, "FID and neighbours of large sets in less than 2 GiB") == [
        "1.00 GiB",
        "yes",
    ]
    assert cells(table, "rows of each of those sets at least 100,000") == ["100,000", "yes"]


def test_goals_read_what_is_worked_out_of_results(made, cells) -> None:
    def seen(**heads: float) -> dict:
        return {"names": {name: [{"head": head}] for name, head in heads.items()}}

    def shares(*values: float) -> dict:
        names = ("judge_class", "judge_domain", "teacher_class")
        return {f"class {n}": {"images": 2} | dict.fromkeys(names, v) for n, v in enumerate(values)}

    less = {
        score: {"low": -0.3, "mean": -0.2, "high": -0.1} for score in ("accuracy", "kl")
    }  # of the set, less ours
    found = {
        "evidence": {
            "rows": {
                "plain/a": made(9) | {"seeds": {"0": shares(0.5, 0.5)}},
                "CAT/a": made(9) | {"seeds": {"0": shares(0.75, 0.75)}, "token_file": "0123"},
            }
        },
        "downstream": {"rows": {"tokens/a": {"rows": {"plain": {"difference_to_folder": less}}}}},
        "ambiguity": {
            "rows": {
                "plain/a": seen(easy=0.9, hard=0.1, harder=0.0)
                | {"own_names": {"dog": [{"head": 0.5}], "house": [{"head": 0.75}]}},
                "token instead/a": seen(easy=0.8, hard=0.9, harder=0.3)
                | {"own_names": {"dog": [{"head": 0.5}], "house": [{"head": 1.0}]}},
            }
        },
        "any_classifier": {
            "rows": {
                "plain/a": made(10, recall=0.2),
                "resnet, BatchNorm/a": made(5, recall=0.4),
                "folded, file/a": made(6, recall=0.5),
                "convnext, file/a": made(4, recall=0.3),
                "vit, file/a": made(5, recall=0.6),
            }
        },
    }
    table = goals_table(found, read_goals())
    names = "ambiguous names that plain images misunderstand: judge's share of the class with a token instead"
    assert cells(table, f"{names} at least .70") == ["**0.60**", "0 of 1"]
    others = "the other names: as many images of the class with a token instead as without"
    assert cells(table, others) == ["**0.80 / 0.90**", "0 of 1"]
    own = "the classes' own names: as many images of the class with a token instead as without"
    assert cells(table, own) == ["0.75 / 0.62", "1 of 1"]
    gain = "judge's class, CAT less plain: points, the lower end of the interval above 0"
    assert cells(table, gain) == ["+25.0", "yes"]
    students = "KL of students, CAT less plain: the upper end of the interval below 0"
    assert cells(table, students) == ["**+0.30**", "no"]
    least = "a ConvNeXt, a ViT and a folded ResNet with a statistics file: least gain in FID at least .8 of BatchNorm's"
    assert cells(table, least) == ["0.80 (folded, file)", "yes"]
    assert cells(table, "the same in coverage") == ["**0.50 (convnext, file)**", "no"]


def test_what_an_old_result_reached_is_marked(made, cells) -> None:
    rows = {"plain/a": made(9), "DAG/a": made(3)}
    found = {"evidence": {"rows": rows}, "guidance_study": {"rows": {}}}
    goals = read_goals()
    assert cells(goals_table(found, goals), "FID: DAG below plain") == ["3.0 / 9.0", "1 of 1"]
    table = goals_table(found, goals, ["evidence"])
    assert cells(table, "FID: DAG below plain") == ["3.0 / 9.0", "1 of 1 †"]
    assert cells(table, "FID: both below DAG") == ["not measured", ""]
    assert table.splitlines()[-1].startswith("† The result is out of date")


@pytest.mark.parametrize(
    ("limit", "reached", "held"),
    [
        ({"at_least": 1.0}, 1.0, True),
        ({"at_least": 1.0}, 0.9, False),
        ({"above": 0}, 0.0, False),
        ({"above": 0}, 0.1, True),
        ({"at_most": 1.0}, 1.0, True),
        ({"at_most": 1.0}, 1.1, False),
        ({"below": 1.0}, 1.0, False),
        ({"below": 1.0}, 0.9, True),
        ({"within": 1.0}, -1.0, True),
        ({"within": 1.0}, -1.1, False),
    ],
)
def test_a_limit_is_part_of_the_goal_or_not(limit: dict, reached: float, held: bool) -> None:
    goal = Goal(name="", file="", path=["{of}"], left=["a"], show="", **limit)
    assert holds(goal, reached) is held


@pytest.mark.parametrize(
    ("limit", "which"), [("at_least", "low"), ("below", "high"), ("within", "far")]
)
def test_of_several_names_the_one_that_comes_off_worst_counts(limit: str, which: str) -> None:
    result = {"low": 1.0, "high": 2.0} | ({"far": -3.0} if which == "far" else {})
    goal = Goal(name="", file="", path=["{of}"], left=[*result], show="", **{limit: 1.5})
    assert reach(goal, result, [""]).which == which


def test_a_mean_is_taken_before_the_ratio() -> None:
    result = {"a/x": 1.0, "a/y": 3.0, "b/x": 4.0, "b/y": 4.0}
    goal = Goal(
        name="", file="", path=["{of}/{domain}"], left=["a"], right=["b"], show="", at_most=1
    )
    assert reach(goal, result, ["x", "y"]).reached == 0.5


@pytest.mark.parametrize(("low", "tied"), [(3.0, True), (3.5, False)])
def test_a_miss_within_the_intervals_is_none_where_a_goal_says_so(low: float, tied: bool) -> None:
    ends = {"value": 4.0, "low": low, "high": 5.0}
    result = {"a": ends, "b": {"value": 2.0, "low": 1.0, "high": 3.25}}
    path, most = ["{of}", "value"], {"at_most": 1, "name": "", "file": "", "show": ""}
    goal = Goal(path=path, left=["a"], right=["b"], overlap=True, **most)
    assert reach(goal, result, [""]).tied is tied
    assert not reach(replace(goal, overlap=False), result, [""]).tied


def test_a_goal_with_a_word_that_is_none_or_with_two_limits_is_refused(tmp_path: Path) -> None:
    entry = '[measures]\nm = ["{of}"]\n[[goals]]\nname = "n"\nfile = "f"\nmeasure = "m"\n'
    entry += 'left = ["a"]\nshow = ""\nbelow = 1\n'
    file = tmp_path / "goals.toml"
    file.write_text(entry + "bellow = 2\n")
    with pytest.raises(TypeError, match="bellow"):
        read_goals(file)
    file.write_text(entry + "above = 0\n")
    with pytest.raises(ValueError, match="n has 2 limits, expected one"):
        read_goals(file)
