"""Options are read off the settings: every field has one, flags change the fields they name, and help fits a screen."""

import re
from dataclasses import fields, replace
from itertools import product
from pathlib import Path

import pytest

from engine.apps.cli import main
from engine.apps.cli.options import in_flags, options_of
from engine.apps.cli.registry import COMMANDS
from engine.apps.cli.settings import Understood, understand
from engine.errors import ConfigError
from engine.request import METHODS
from engine.settings import Alignment, Polish, Sampling, TokenLearning
from engine.settings.downstream import Distillation
from engine.settings.methods import DDIS, Plain

NEEDED = {"request.classifier.source": ["--classifier", "x"], "out": ["--out", "o"]}


def understood(name: str, *words: str) -> Understood:
    """A command with all that it needs and these words."""
    options = {option.path: option for option in options_of(COMMANDS[name])}
    folder = ["f"] if "folder" in options else []
    needed = [word for path, given in NEEDED.items() if path in options for word in given]
    found = understand(name, [*folder, *needed, *words], COMMANDS)
    assert found is not None
    return found


def generate(*words: str):
    return understood("generate", *words).command.request


def test_every_field_of_the_settings_is_an_option_once() -> None:
    paths = {option.path for option in options_of(COMMANDS["generate"])}
    flags = [option.flag for option in options_of(COMMANDS["generate"])]
    assert len(flags) == len({*flags})
    alignment = {entry.name for entry in fields(Alignment)} - {"polish"}
    alignment |= {f"polish.{entry.name}" for entry in fields(Polish)}
    assert {f"request.method.alignment.{name}" for name in alignment} < paths
    assert {f"request.method.sampling.{entry.name}" for entry in fields(Sampling)} < paths
    for name in ("deepinversion", "plugin-inversion", "natural-inversion"):
        own = {f"{name}.{entry.name.replace('_', '-')}" for entry in fields(METHODS[name])}
        assert own <= {*flags}
    learning = {option.flag for option in options_of(COMMANDS["learn-tokens"])}
    assert {f"learning.{e.name.replace('_', '-')}" for e in fields(TokenLearning)} < learning


@pytest.mark.parametrize("name", COMMANDS)
def test_the_options_of_a_command_have_help_and_their_common_ones_exist(name: str) -> None:
    options = options_of(COMMANDS[name])
    assert all(option.help for option in options)
    flags = {option.flag for option in options}
    assert {*COMMANDS[name].common} <= flags
    assert {"help", "help-all", "json", "quiet", "config", "print-config", "events"} < flags


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_a_screen_and_says_where_the_rest_is(name: str, capsys) -> None:
    assert main([*name.split(), "--help"]) == 0
    short = capsys.readouterr().out
    assert len(short.splitlines()) <= 66
    assert main([*name.split(), "--help-all"]) == 0
    everything = capsys.readouterr().out
    if COMMANDS[name].common:
        assert f"ddis {name} --help-all" in short
        assert len(everything) > len(short)
    assert "(required)" in short or not COMMANDS[name].needs
    for option in options_of(COMMANDS[name]):
        shown = option.positional or not option.suits(COMMANDS[name].methods[0])
        assert shown or f"--{option.flag}" in everything


def test_help_shows_the_options_that_first_commands_use(capsys) -> None:
    for name, wanted in {
        "generate": ("prompt", "tiny-decoder", "tokens"),
        "distill": ("stream", "updates", "rows"),
    }.items():
        assert main([name, "--help"]) == 0
        shown = capsys.readouterr().out
        assert [flag for flag in wanted if f"--{flag} " not in shown] == []
        assert "(default: )" not in shown  # a list that is empty


def test_help_shows_what_a_configuration_file_changes(tmp_path: Path, capsys) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("request: {seed: 77, method: {name: deepinversion, iterations: 9}}")
    assert main(["generate", "--config", str(file), "--help-all"]) == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "--seed N seed of the run (default: 77)" in shown
    assert "--deepinversion.iterations" in shown
    assert "(default: 9)" in shown
    assert "--alignment" not in shown


def test_flags_change_the_fields_they_name() -> None:
    request = generate("--alignment.scale", "0.2", "--alignment.norm", "l2", "--steps=8")
    assert request.method == DDIS(
        alignment=Alignment(scale=0.2, norm="l2"), sampling=Sampling(steps=8)
    )
    assert generate("--alignment.decode-px", "-1").method.alignment.decode_px == -1
    request = generate("--classes", "dog", "tench, Tinca tinca", "--seed", "3", "--tokens", "t")
    assert (request.classes, request.seed) == (("dog", "tench, Tinca tinca"), 3)
    assert request.method.tokens == "t"
    request = generate("--method", "deepinversion", "--deepinversion.no-flip", "--student", "s")
    assert (request.method.name, request.method.flip) == ("deepinversion", False)
    assert request.student.source == "s"
    assert generate("--method", "plain", "--cfg", "2", "--tokens", "t").method == Plain(
        sampling=Sampling(cfg=2.0), tokens="t"
    )


def test_a_preset_is_settings_under_the_flags() -> None:
    assert generate("--preset", "paper").method == DDIS.paper()
    assert generate("--preset", "paper", "--eta", "1").method == replace(
        DDIS.paper(), sampling=replace(Sampling.paper(), eta=1.0)
    )
    assert generate("--method", "plain", "--preset", "paper").method == Plain.paper()
    assert generate("--preset", "fast").method == DDIS.fast()
    assert generate("--method", "plain", "--preset", "fast").method == Plain.fast()
    best = generate("--preset", "best", "--alignment.scale", "0.2").method
    assert best == replace(DDIS.best(), alignment=Alignment(moves=2, scale=0.2))
    with pytest.raises(
        ConfigError, match=r"'best' with --method plain, expected .*--method ddis: "
    ):
        generate("--method", "plain", "--preset", "best")
    learning = understood("learn-tokens", "--preset", "paper", "--learning.epochs", "3").command
    assert learning.learning == replace(TokenLearning.paper(), epochs=3)
    assert learning.request.method == DDIS.paper()
    distill = understood("distill", "--protocol", "long", "--batch", "8").command
    assert distill.distillation == replace(Distillation.long(), batch=8)
    assert understood("prune").command.fine_tuning == Distillation.fine_tuning()
    assert understood("fit", "--epochs", "2").command.fitting == replace(
        Distillation.fitting(), epochs=2
    )
    instead = understood("learn-tokens", "--preset", "instead", "--learning.epochs", "3").command
    assert instead.learning == replace(TokenLearning.instead(), epochs=3)


class Given:
    """Stands for a call: only which flags were given is read."""

    def __init__(self, found: Understood) -> None:
        self.given = found.given


@pytest.mark.parametrize(
    ("words", "method"),
    [
        ("--preset instead", Plain()),
        ("--preset instead --steps 9", Plain(sampling=Sampling(steps=9))),
        ("--preset instead --method ddis", DDIS()),
        ("--preset instead --alignment.stride 2", DDIS(alignment=Alignment(stride=2))),
        ("--steps 9", DDIS(sampling=Sampling(steps=9))),
    ],
)
def test_tokens_in_place_of_names_are_learned_without_guidance(
    words: str, method: DDIS | Plain
) -> None:
    found = understood("learn-tokens", *words.split())
    assert found.command.method_of(Given(found)) == method


def learning_of(*words: str) -> tuple[TokenLearning, Sampling]:
    found = understood("learn-tokens", *words)
    return found.command.learning_of(Given(found)), found.command.request.method.sampling


def test_steps_of_sampling_act_in_learning_or_are_refused() -> None:
    assert learning_of()[0] == TokenLearning()
    learning, sampling = learning_of("--steps", "7")
    assert (learning.steps, sampling.steps) == (0, 7)
    assert learning_of("--learning.steps", "7")[0].steps == 7
    with pytest.raises(
        ConfigError, match=r"--steps 7 came with --learning\.steps 9, expected one of them"
    ):
        learning_of("--steps", "7", "--learning.steps", "9")


@pytest.mark.parametrize(
    ("verb", "option"),
    [
        *product(("plan", "profile", "export-onnx"), ("--seed", "--eta")),
        *product(("profile", "export-onnx"), ("--classes",)),
        *product(("profile", "export-onnx", "learn-tokens"), ("--polish.steps",)),
    ],
)
def test_a_verb_has_no_option_without_effect(verb: str, option: str) -> None:
    with pytest.raises(ConfigError, match=f"{option} is no option of ddis {verb}, expected one"):
        understood(verb, option, "1")


@pytest.mark.parametrize("words", ["doctor --classifier x", "distill --folder=out"])
def test_a_flag_for_what_has_none_is_answered_by_how_it_is_given(words: str) -> None:
    verb, flag = words.split(" ")[0], words.partition("--")[2].replace("=", " ").split()[0]
    usage = f"expected the {flag} without a flag: write `ddis {verb} {flag.upper()} ...`"
    with pytest.raises(ConfigError, match=usage):
        understood(*words.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("learn-tokens --no-learning-augment", "expected --learning.no-augment: write it so"),
        ("learn-tokens --learning paper", "--preset paper for settings as published"),
        ("generate --alignment none", "--method plain for the prior without guidance"),
        ("generate --deepinversion-iterations 3", "expected --deepinversion.iterations: write"),
    ],
)
def test_a_spelling_of_version_0_1_is_answered_by_the_new_one(words: str, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        understood(*words.split())
    assert "is no option since version 0.2" in str(refused.value)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "'' is no command"),
        (["gen"], "'gen' is no command, expected generate, .* Did you mean 'generate'"),
        (["learn"], "'learn' is no command, .* Did you mean 'learn-tokens'"),
        (["embedded"], "'embedded' is no command, expected embedded check: .*"),
        (["embedded", "chck"], "'embedded chck' is no command, expected embedded check: "),
        (["--verison"], "'--verison' is no command, .* Did you mean '--version'"),
        (["--completion", "tcsh"], "--completion is for 'tcsh', expected one of bash, zsh, fish"),
        (
            ["generate"],
            "--classifier and --out are missing, expected for --classifier embedded:.*; for --out folder .*: give them",
        ),
        (["export", "x"], "--out is missing, expected folder of the shards: give it"),
        (["generate", "--method", "dis"], "--method is 'dis', .* Did you mean 'ddis'"),
        (["plan", "--method", "deepinversion"], "expected one of 'ddis', 'plain': this command"),
        (["generate", "--step", "3"], "--step is no option .* Did you mean '--steps'"),
        (
            ["generate", "--textual-inversion", "x"],
            "--textual-inversion is no option of ddis generate, .*: leave it out; `ddis learn-tokens` has it",
        ),
        (["profile", "--steps", "3"], "`ddis generate`, .* and . more have it"),
        (["generate", "--wide", "3"], r"--help-all` shows: correct it\.$"),
        (["generate", "--sampling.steps", "3"], "Did you mean '--steps'"),
        (["generate", "--scal", "3"], "Did you mean '--alignment.scale'"),
        (["generate", "--zzz", "3"], "`ddis generate --help-all` shows: correct it.$"),
        (
            ["plan", "--classifier", "embedded:photo", "--statistics", "batchnorm"],
            "--statistics is 'batchnorm', expected",
        ),
    ],
)
def test_words_that_make_no_command(words: list[str], message: str, capsys) -> None:
    assert main(words or [""]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    assert re.search(message, printed.err)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["report", "out"], "out is nothing that a report is about"),
        (["report", "out/"], "out is nothing that a report is about"),
        (
            ["distill", "test", "--classifier", "embedded:photo", "--out", "there"],
            "test is no data set folder",
        ),
    ],
)
def test_a_message_keeps_the_name_of_a_folder_that_is_called_like_a_field(
    words: list[str], message: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(words[1]).mkdir()
    assert main(words) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}, expected")


def test_a_message_names_flags_where_it_named_fields() -> None:
    options = options_of(COMMANDS["generate"])
    for message, wanted in (
        ("request.method.alignment.scale is -1, expected", "--alignment.scale is -1, expected"),
        ("images_per_class is 0, expected", "--images-per-class is 0, expected"),
        ("request.classes[1] is False, expected", "--classes is False, expected"),
        ("device is 'gpu', leave `device` out", "--device is 'gpu', leave --device out"),
        ("name it with `prior`", "name it with --prior"),
        ("set `sampling.cfg`", "set --cfg"),
        ("batch is 0, expected", "batch is 0, expected"),  # of several methods: which is not known
        ("the seed is 3", "the seed is 3"),
    ):
        assert in_flags(message, options) == wanted
    evaluated = options_of(COMMANDS["evaluate"])  # has --statistics of a classifier, too
    assert in_flags("pass `statistics`", evaluated) == "pass --save-statistics"
    guided = [option for option in options if option.suits("ddis")]  # guidance has statistics, too
    assert in_flags("statistics is 'x', expected", guided) == "--statistics is 'x', expected"
    assert in_flags("statistics is 'x', expected", options) == "--statistics is 'x', expected"
    assert in_flags("set `architecture`", guided) == "set --architecture"
    assert in_flags("set `architecture`", options) == "set `architecture`"  # or the student's?
