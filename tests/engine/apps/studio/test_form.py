"""What is chosen on the page is the request that its command line asks for."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from engine.apps.cli.registry import COMMANDS
from engine.apps.cli.settings import understand
from engine.apps.studio.form import ALL_WAYS, INVERSION, WAYS, Form, rows_of
from engine.apps.studio.planned import Planned, Table, plan_of, work_of
from engine.errors import ConfigError, EngineError
from engine.request import ClassifierSource, Execution, PriorSource, Request
from engine.settings import Alignment, Sampling
from engine.settings.inversion import DeepInversion
from engine.settings.methods import DDIS, Plain

PHOTO = ClassifierSource(source="embedded:photo")


def form(**chosen: object) -> Form:
    return Form(classifier="embedded:photo", out="out/1", **chosen)  # type: ignore[arg-type]


CASES = {
    "as it is": (
        form(way="DAG"),
        Request(classifier=PHOTO, method=DDIS(), images_per_class=2),
    ),
    "tokens": (
        form(way="CAT + DAG", tokens="my tokens.safetensors", seed=7, steps=9),
        Request(
            classifier=PHOTO,
            method=DDIS(tokens="my tokens.safetensors", sampling=Sampling(steps=9)),
            images_per_class=2,
            seed=7,
        ),
    ),
    "tokens that the method does not read": (
        form(way="Plain", tokens="t.safetensors"),
        Request(classifier=PHOTO, method=Plain(), images_per_class=2),
    ),
    "classes of several words": (
        form(way="CAT", tokens="t", classes=("polar bear", "it's"), images_per_class=None),
        Request(classifier=PHOTO, method=Plain(tokens="t"), classes=("polar bear", "it's")),
    ),
    "another prior and further options": (
        form(way="DAG", prior="/my prior", more="--alignment.scale 0.3 --prompt '{class}, drawn'"),
        Request(
            classifier=PHOTO,
            prior=PriorSource(source="/my prior"),
            method=DDIS(alignment=Alignment(scale=0.3), sampling=Sampling(prompt="{class}, drawn")),
            images_per_class=2,
        ),
    ),
    "no prior": (
        form(way=INVERSION, inversion="deepinversion", prior="/x", memory="3GB", tokens="t"),
        Request(classifier=PHOTO, method=DeepInversion(), images_per_class=2),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_command_line_asks_for_what_is_chosen(name: str) -> None:
    chosen, wanted = CASES[name]
    (row,) = rows_of(chosen)
    ddis, generate, *words = shlex.split(row.command_line)
    assert (ddis, generate) == ("ddis", "generate")
    found = understand("generate", words, COMMANDS)
    assert found is not None
    assert found.command.request == wanted == row.command().request
    assert found.command.out == "out/1"
    assert found.command == row.command()


def test_a_budget_is_the_executions() -> None:
    (row,) = rows_of(form(way="DAG", memory="3GB"))
    assert row.command().execution == Execution(memory="3GB")


def test_all_ways_have_equal_seeds_and_folders_of_their_own() -> None:
    rows = rows_of(form(way=ALL_WAYS, tokens="t", seed=5))
    assert [row.name for row in rows] == [*WAYS] == ["Plain", "CAT", "DAG", "CAT + DAG"]
    commands = [row.command() for row in rows]
    assert {command.request.seed for command in commands} == {5}
    assert [command.request.method for command in commands] == [
        *(Plain(), Plain(tokens="t"), DDIS(), DDIS(tokens="t"))
    ]
    assert [command.out for command in commands] == [
        str(Path("out/1") / name) for name in ("plain", "cat", "dag", "cat-dag")
    ]
    assert [row.name for row in rows_of(form(way=ALL_WAYS))] == ["Plain", "DAG"]


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"more": "--steps many"}, "--steps is 'many', expected a whole number"),
        ({"more": "--no-such"}, "--no-such is no option of ddis generate, expected one"),
        ({"more": "'open"}, r"further options are \"'open\" .*, expected words as in a shell"),
        ({"more": "--help"}, "the further options ask for help or for settings alone, expected"),
        ({"more": "--print-config"}, "the further options ask for help or for settings alone"),
        ({"out": " "}, "--out is empty, expected folder of the data set"),
        ({"out": "", "way": ALL_WAYS}, "--out is empty, expected folder of the data set"),
        ({"classifier": ""}, "--classifier is empty, expected embedded:"),
        ({"images_per_class": 0}, "--images-per-class is 0, expected at least 1"),
        ({"steps": 0}, "--steps is 0, expected at least 1"),
    ],
)
def test_what_makes_no_sense_is_refused_as_by_the_command_line(
    chosen: dict[str, object], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match=message):
        rows_of(replace(form(way="DAG"), **chosen))[0].command()


def test_the_plan_is_what_ddis_plan_says() -> None:
    (row,) = rows_of(form(way="DAG", memory="3GB", more="--device cpu"))
    planned = plan_of(row)
    assert " of memory at most, of 3.00GB" in planned.need
    first, *others = planned.parts
    assert isinstance(first, Table)
    assert first.title.startswith("embedded with embedded:photo in float32 on cpu")
    assert {"sampling", "guidance"} <= {line[0] for line in first.rows}
    assert any(
        "planned for cpu, as --device says" in part for part in others if isinstance(part, str)
    )


def test_a_plan_that_does_not_fit_names_the_flag() -> None:
    (row,) = rows_of(form(way="DAG", memory="1MB"))
    with pytest.raises(EngineError, match="expected"):
        plan_of(row)


def test_an_inversion_has_no_plan() -> None:
    (row,) = rows_of(form(way=INVERSION))
    assert plan_of(row) == Planned("method deepinversion uses no prior: nothing to plan", [])


def test_the_work_of_all_ways_is_counted() -> None:
    rows = rows_of(form(way=ALL_WAYS, tokens="t", classes=("dog", "horse"), steps=10))
    assert work_of([row.command() for row in rows], 7) == (
        "16 images in 4 rows of equal seeds, 320 evaluations of the denoiser"
    )
    (row,) = rows_of(form(way=INVERSION, images_per_class=1))
    assert work_of([row.command()], 7) == "7 images"
