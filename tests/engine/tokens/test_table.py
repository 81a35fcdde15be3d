"""Tokens in a prior, and tokens in a file."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPTextModel

from engine.apps.cli.commands.learn_tokens import _row
from engine.errors import OutputError, TokenFileError
from engine.networks.sealed import METADATA
from engine.priors import Prior
from engine.prompts import class_prompt
from engine.tokens.attached import attached
from engine.tokens.files import load_tokens, read_tokens, save_tokens
from engine.tokens.table import TEMPLATE, TokenTable, TokenTraining, placeholders

LABELS = ("dog", "elephant", "guitar")
NAMES = ("<ddis-dog>", "<ddis-elephant>", "<ddis-guitar>")


@pytest.mark.parametrize(
    ("training", "start"),
    [
        (TokenTraining("recognised", 3, 0.75, 0.5, start="a", moved=True), "a"),
        (TokenTraining("recognised", 3, 0.75, 0.5, start="a", moved=False), "a, unmoved"),
        (TokenTraining("passes without", 0, 1.0, 0.1, start="a", moved=False), ""),
        (TokenTraining("recognised", 3, 0.75, 0.5), ""),
    ],
)
def test_a_printed_start_is_what_learning_began_with(training: TokenTraining, start: str) -> None:
    assert _row("dog", training)[1] == start


def test_placeholders_are_safe_and_unique():
    labels = ("Guitar, electric", "café", "../x", "犬", "crane", "crane", "crane 5", "a" * 90)
    names = placeholders(labels)
    assert names[:5] == (
        "<ddis-guitar-electric>",
        "<ddis-cafe>",
        "<ddis-x>",
        "<ddis-class-3>",
        "<ddis-crane>",
    )
    assert len(set(names)) == len(labels)
    assert all(name.isascii() and "/" not in name and len(name) < 60 for name in names)


def test_a_prompt_with_a_token_has_the_class_name_s_article():
    assert class_prompt("elephant", NAMES[1]) == "an <ddis-elephant> elephant"
    assert class_prompt("dog", NAMES[0]) == "a <ddis-dog> dog"


def with_a_larger_embedding(prior: Prior, table: TokenTable) -> Prior:
    """The textbook way, on copies: more words in the tokenizer, more rows in the embedding."""
    tokenizer, encoder = copy.deepcopy(prior.pipe.tokenizer), copy.deepcopy(prior.pipe.text_encoder)
    tokenizer.add_tokens(list(table.names))
    encoder.resize_token_embeddings(len(tokenizer))
    with torch.no_grad():
        encoder.get_input_embeddings().weight[-len(table.names) :] = table.rows
    return prior.replaced(tokenizer=tokenizer, text_encoder=encoder)


def test_attached_rows_give_the_context_of_a_larger_embedding(tiny_prior, table):
    prompts = [
        "a <ddis-dog> dog",
        "an <ddis-elephant> elephant",
        "a <ddis-elephant> <ddis-dog>",
        "a dog",
    ]
    expected = with_a_larger_embedding(tiny_prior, table).encode(prompts).packed()
    with attached(tiny_prior, table) as prior, torch.no_grad():
        context = prior.encode(prompts).packed()
    torch.testing.assert_close(context, expected, rtol=0, atol=0)
    assert not torch.equal(context[1], tiny_prior.encode(prompts[1:2]).packed()[0])


def test_gradient_reaches_the_named_row_and_nothing_else(tiny_prior, table):
    rows = table.rows.clone().requires_grad_()
    with attached(tiny_prior, replace(table, rows=rows)) as prior:
        context = prior.encode(["an <ddis-elephant> elephant", "a dog"])
        context.packed().square().sum().backward()
    assert rows.grad[1].abs().max() > 0
    assert torch.equal(rows.grad[0], torch.zeros(32))
    assert all(weight.grad is None for weight in tiny_prior.pipe.text_encoder.parameters())


def test_the_prior_is_untouched_within_and_after_even_after_an_error(tiny_prior, table):
    encoder: CLIPTextModel = tiny_prior.pipe.text_encoder
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    embedding, words = encoder.get_input_embeddings(), len(tiny_prior.pipe.tokenizer)
    plain = tiny_prior.encode(["a <ddis-dog> dog"]).packed()

    def fail_within() -> None:
        with attached(tiny_prior, table):
            assert torch.equal(tiny_prior.encode(["a <ddis-dog> dog"]).packed(), plain)
            assert encoder.state_dict().keys() == before.keys()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_within()
    assert encoder.get_input_embeddings() is embedding
    assert len(tiny_prior.pipe.tokenizer) == words
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_rows_may_change_while_attached(tiny_prior, table):
    rows = table.rows.clone()
    with attached(tiny_prior, replace(table, rows=rows)) as prior:
        first = prior.encode(["a <ddis-dog>"]).packed()
        rows += 1
        assert not torch.equal(prior.encode(["a <ddis-dog>"]).packed(), first)


def test_a_name_that_the_tokenizer_knows_is_refused(tiny_prior, table):
    known = tiny_prior.replaced(tokenizer=copy.deepcopy(tiny_prior.pipe.tokenizer))
    known.pipe.tokenizer.add_tokens(["<ddis-dog>"])
    with (
        pytest.raises(
            TokenFileError, match=r"already knows some of <ddis-dog>.*expected new words: load"
        ),
        attached(known, table),
    ):
        pass


def test_a_saved_table_loads_as_it_was_and_equal_tables_are_equal_files(
    tmp_path, tiny_prior, classifier, table
):
    for name in ("one", "two"):
        save_tokens(table, tmp_path / f"{name}.safetensors")
    loaded = load_tokens(tmp_path / "one.safetensors", tiny_prior, classifier)
    assert torch.equal(loaded.rows, table.rows)
    assert loaded.fingerprint == table.fingerprint
    facts = (
        "encoders",
        "classes",
        "labels",
        "names",
        "prior",
        "classifier",
        "training",
        "run",
        "template",
    )
    assert [getattr(loaded, name) for name in facts] == [getattr(table, name) for name in facts]
    assert (loaded.name_of(1), loaded.name_of(2)) == ("<ddis-elephant>", "")
    assert (tmp_path / "one.safetensors").read_bytes() == (
        tmp_path / "two.safetensors"
    ).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "one.safetensors",
        "two.safetensors",
    ]


def test_a_table_without_rows_is_kept_too(tmp_path, tiny_prior, table):
    empty = replace(table, rows=torch.empty(0, 32), classes=(), labels=(), names=())
    save_tokens(empty, tmp_path / "t.safetensors")
    loaded = load_tokens(tmp_path / "t.safetensors", tiny_prior)
    assert loaded.rows.shape == (0, 32)
    with attached(tiny_prior, loaded) as prior:
        assert prior is tiny_prior


def test_fingerprints_tell_tables_apart(table):
    moved = table.rows.clone()
    moved[0, 0] += 1e-6
    assert replace(table, rows=moved).fingerprint != table.fingerprint
    assert replace(table, classes=(0, 2)).fingerprint != table.fingerprint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prior": "f" * 16}, r"learned with prior f{16}, expected \w{16} \(.*\): load the prior"),
        (
            {"classifier": "f" * 16},
            r"learned for classifier f{16}, expected \w{16} \(.*\): load the classifier",
        ),
        (
            {"classifier": "f" * 16, "run": {"models": {"classifier": {"name": "embedded:photo"}}}},
            r"learned for classifier f{16} \('embedded:photo'\), expected",
        ),
        (
            {"rows": torch.zeros(2, 8), "encoders": {"clip": 8}},
            r"the tokens are 8 wide for text encoder clip, expected 32 wide for text encoder clip for prior .*: load",
        ),
        (
            {"template": "{class name}"},
            r"template '\{class name\}', expected 2 and 'a/an .*: learn the tokens again",
        ),
    ],
    ids=["other prior", "other classifier", "its name", "other width", "other template"],
)
def test_a_file_that_does_not_fit_is_refused(
    tmp_path, tiny_prior, classifier, table, change, message
):
    save_tokens(replace(table, **change), tmp_path / "t.safetensors")
    with pytest.raises(TokenFileError, match=message) as raised:
        load_tokens(tmp_path / "t.safetensors", tiny_prior, classifier)
    assert "t.safetensors" in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"no safetensors at all"], ids=["empty", "text"])
def test_what_is_no_token_file_is_refused(tmp_path, content):
    path = tmp_path / "t.safetensors"
    path.write_bytes(content)
    with pytest.raises(
        TokenFileError, match=r"cannot be read as safetensors .*, expected a token file: give"
    ):
        read_tokens(path)


def test_a_path_of_no_file_is_refused(tmp_path):
    with pytest.raises(
        TokenFileError, match=r"there is no .*t\.safetensors, expected a token file: check the path"
    ):
        read_tokens(tmp_path / "t.safetensors")
    with pytest.raises(
        TokenFileError, match=r"is a folder, expected a token file \(\.safetensors\) .*: give the"
    ):
        read_tokens(tmp_path)


def test_another_safetensors_file_is_refused(tmp_path):
    save_file(
        {"x": torch.zeros(2)},
        tmp_path / "t.safetensors",
        metadata={"ddis": json.dumps({"format": 99, "template": "a {class}"})},
    )
    with pytest.raises(TokenFileError, match=r"token format 99 .*, expected 2"):
        read_tokens(tmp_path / "t.safetensors")
    save_file({"x": torch.zeros(2)}, tmp_path / "weights.safetensors")
    with pytest.raises(TokenFileError, match="says nothing of tokens, expected a file of `ddis le"):
        read_tokens(tmp_path / "weights.safetensors")


def test_a_path_that_cannot_be_written_is_explained(tmp_path, table):
    (tmp_path / "file").touch()
    with pytest.raises(
        OutputError,
        match=r"cannot write .*file: .*; expected a folder, where there is a file: choose",
    ):
        save_tokens(table, tmp_path / "file" / "t.safetensors")


@pytest.mark.parametrize(
    "facts", [{"format": 1, "template": TEMPLATE}, [1]], ids=["no names", "no object"]
)
def test_a_file_whose_metadata_is_not_a_table_s_is_refused(tmp_path: Path, facts: object) -> None:
    save_file(
        {"<ddis-dog>": torch.zeros(4)}, tmp_path / "t.safetensors", {METADATA: json.dumps(facts)}
    )
    with pytest.raises(TokenFileError, match=r"t\.safetensors .* expected"):
        read_tokens(tmp_path / "t.safetensors")


def test_a_file_of_version_0_1_is_read(
    tmp_path: Path, table: TokenTable, tiny_prior: Prior
) -> None:
    """It knew one text encoder, told the width alone, and counted evaluations of a UNet."""
    training = {"outcome": "learned", "epochs": 3, "accuracy": 1.0, "loss": 0.1, "unet_forward": 7}
    facts = {
        "format": 1,
        "template": TEMPLATE,
        "width": 32,
        "classes": [0, 1],
        "labels": LABELS[:2],
        "names": NAMES[:2],
        "prior": tiny_prior.fingerprint,
        "classifier": table.classifier,
        "training": {"0": training},
        "run": {},
    }
    rows = {name: row.clone() for name, row in zip(table.names, table.rows, strict=True)}
    save_file(rows, tmp_path / "t.safetensors", {METADATA: json.dumps(facts)})
    loaded = load_tokens(tmp_path / "t.safetensors", tiny_prior)
    assert loaded.fingerprint == table.fingerprint
    assert loaded.encoders == {"clip": 32}
    assert loaded.training[0].denoiser_forward == 7


def test_a_file_whose_rows_are_of_another_width_than_it_says_is_refused(
    tmp_path: Path, table: TokenTable
) -> None:
    save_tokens(replace(table, encoders={"clip": 31}), tmp_path / "t.safetensors")
    with pytest.raises(TokenFileError, match="lacks a part of a token table"):
        read_tokens(tmp_path / "t.safetensors")


def test_a_flipped_bit_is_found_or_changes_nothing(tmp_path: Path, table) -> None:
    path = tmp_path / "tokens.safetensors"
    save_tokens(table, path)
    whole, found = path.read_bytes(), 0
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        try:
            assert read_tokens(path).fingerprint == table.fingerprint
        except TokenFileError:
            found += 1
    assert found > len(whole) / 7 * 0.9
