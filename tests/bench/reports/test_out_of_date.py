"""Lines below tables of results that were made with another prior, other settings or other tokens than today's."""

from copy import deepcopy
from dataclasses import asdict, replace

import pytest
from reports.current import Current
from reports.out_of_date import out_of_date

from engine.settings import Alignment, Sampling, TokenLearning

LONGER = asdict(replace(Alignment(), scale=7.0))


def evidence(now: Current, **rows: dict) -> dict:
    return {"settings": {"prior": now.prior}, "rows": rows}


def test_another_prior_is_named_wherever_a_result_says_its_own(now: Current) -> None:
    for result in ({"settings": {"prior": "old"}}, {"prior": "old"}):
        assert out_of_date("any", result, now).endswith("made with prior old; now ships now.")


def test_rows_of_other_settings_and_of_methods_that_are_gone_are_listed(now: Current) -> None:
    how = now.methods["DAG"]
    other = how | {"alignment": LONGER}
    result = evidence(
        now,
        **{
            "DAG/photo": {"settings": how},
            "DAG/sketch": {"settings": other},
            "gone/photo": {"settings": how},
        },
    )
    assert out_of_date("evidence", result, now).endswith("than today's: DAG/sketch, gone/photo.")
    result["settings"]["methods"] = {"gone": "DAG"}  # of a task, as `downstream` has it
    assert out_of_date("evidence", result, now).endswith("than today's: DAG/sketch.")
    variants = evidence(now, **{"base/photo": {"settings": how}, "DAG/photo": {"settings": how}})
    for study in ("guidance_study", "few_steps"):
        assert out_of_date(study, variants, now).endswith("than today's: DAG/photo.")


def test_a_setting_that_has_come_since_changes_nothing(now: Current) -> None:
    how = deepcopy(now.methods["DAG"])
    del how["sampling"]["eta"]
    assert out_of_date("evidence", evidence(now, **{"DAG/photo": {"settings": how}}), now) == ""


@pytest.mark.parametrize(
    ("row", "token_file", "old"),
    [("DAG/photo", "a", ""), ("DAG/photo", "b", "DAG/photo"), ("DAG/sketch", "a", "DAG/sketch")],
)
def test_rows_of_other_tokens_are_listed(now: Current, row: str, token_file: str, old: str) -> None:
    result = evidence(now, **{row: {"settings": now.methods["DAG"], "token_file": token_file}})
    line = out_of_date("evidence", result, now)
    assert line.endswith(f"than today's: {old}.") if old else line == ""


def test_tokens_that_a_study_learned_for_its_own_method_are_not_held_against_those_that_ship(
    now: Current,
) -> None:
    how = now.methods["DAG"] | {"learning": {"epochs": 3}}
    now = replace(now, methods=now.methods | {"own": how})
    result = evidence(now, **{"own/photo": {"settings": how, "token_file": "b"}})
    assert out_of_date("evidence", result, now) == ""


def test_recipes_of_ambiguous_names_are_compared_as_they_were_before_their_checks_doubled(
    now: Current,
) -> None:
    recipe = {"guided": False, "learning": asdict(TokenLearning())}
    plain = {"guided": False, "learning": None}
    now = replace(now, variants={"ambiguity": {"token before": recipe, "plain": plain}})
    once = {k: v for k, v in recipe["learning"].items() if k != "check_doublings"}
    rows = {
        "token before/photo": {"recipe": recipe},
        "token before/sketch": {"recipe": recipe | {"learning": once}},
        "plain/photo": {"recipe": plain},
    }
    note = out_of_date("ambiguity", {"rows": rows}, now)
    assert note.endswith("made with other settings than today's: token before/sketch.")


def test_a_row_beside_the_plain_prior_is_out_of_date_with_it(now: Current) -> None:
    row = {"settings": now.methods["DAG"], "plain": deepcopy(now.methods["plain"])}
    result = evidence(now, **{"DAG/photo": row})
    assert out_of_date("downstream", result, now) == ""
    row["plain"]["sampling"]["cfg"] = 7.5
    assert out_of_date("downstream", result, now).endswith("today's: DAG/photo.")


def test_what_images_cost_does_not_depend_on_the_length_of_moves(now: Current) -> None:
    longer = {"settings": {"prior": now.prior, "alignment": LONGER}}
    assert out_of_date("throughput", longer, now) == ""
    assert "another alignment than today's" in out_of_date("tune", longer, now)
    more = {"settings": {"prior": now.prior, "alignment": LONGER | {"moves": 2}}}
    assert "another alignment than today's" in out_of_date("throughput", more, now)


def test_results_of_the_default_sampling_or_alignment_say_when_it_was_another(now: Current) -> None:
    settings = {"prior": now.prior, "sampling": asdict(Sampling()) | {"cfg": -1.0}}
    sampled = {"settings": settings, "rows": {"photo": {}}}
    assert "another sampling than today's" in out_of_date("styles", sampled, now)
    assert out_of_date("cat_compute", sampled, now) == ""
    settings["sampling"] = asdict(Sampling())
    assert out_of_date("styles", sampled, now) == ""
    aligned = {"settings": {"alignment": LONGER}}
    assert "another alignment" in out_of_date("tune", aligned, now)
    rows = {"settings": {"sampling": asdict(Sampling())}, "rows": {"sketch": {"alignment": LONGER}}}
    assert "today's: sketch" in out_of_date("styles", rows, now)


@pytest.mark.parametrize(
    "result",
    [
        {"rows": {"a": {"fid": 1.0}}},
        {"rows": [1]},
        {"prior": "now"},
        {"settings": {"batch": 1}},
    ],
)
def test_what_says_nothing_of_its_settings_is_not_out_of_date(now: Current, result: dict) -> None:
    assert out_of_date("evidence", result, now) == ""


def test_rows_without_a_prior_are_not_compared_with_methods(now: Current) -> None:
    cifar = {"rows": {"deepinversion": {"settings": {"iterations": 7}}}}
    assert out_of_date("cifar", cifar, now) == ""
    cifar["rows"] |= {"ours": {"alignment": now.alignment}, "stream": {"alignment": LONGER}}
    assert out_of_date("cifar", cifar, now).endswith("than today's: stream.")
    del cifar["rows"]["stream"]
    cifar["rows"]["noise"] = {"distillation": {"epochs": 30, "mix": "both"}}
    assert out_of_date("cifar", cifar, now) == ""
    cifar["rows"]["noise"] = {"distillation": {"epochs": 30}}  # nothing was mixed then
    assert "another distillation" in out_of_date("cifar", cifar, now)


def test_students_that_learn_for_long_have_updates_of_their_own(now: Current) -> None:
    longer = {"distillation": now.distillation | {"updates": 1500, "batch": 128}}
    assert out_of_date("cifar", {"rows": {"stream": longer | {"updates": 1500}}}, now) == ""
    for row in (
        longer,
        {"distillation": longer["distillation"] | {"mix": "none"}, "updates": 1500},
    ):
        note = out_of_date("cifar", {"rows": {"ours": row}}, now)
        assert "students learned with another distillation" in note
