"""Each family of priors through the engine: plans, tokens, and data sets that guidance moves."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from engine import Alignment, Sampling, TokenLearning, generate, learn_tokens, plan
from engine.classifiers import Classifier, Preprocess, load_classifier
from engine.classifiers.cifar_resnet import CifarResNet
from engine.errors import ConfigError, TokenFileError
from engine.priors import Prior, load_prior
from engine.tokens.attached import attached
from engine.tokens.files import load_tokens, save_tokens
from engine.tokens.table import TokenTable, encoder_widths
from engine.tokens.textual_inversion import (
    export_textual_inversion,
    import_textual_inversion,
)
from tests.engine.priors.conftest import State

SAMPLING = Sampling(steps=4, batch=2, cfg=3.0)
LEARNING = TokenLearning(
    epochs=1,
    images_per_epoch=2,
    updates_per_trajectory=1,
    skip_passing=False,
    check_images=0,
    target_accuracy=1.0,
    init="random",
)


@pytest.fixture
def classifier(tiny_resnet: CifarResNet) -> Classifier:
    return load_classifier(
        tiny_resnet, labels=list("abcdefg"), preprocess=Preprocess.squash(16), device="cpu"
    )


@pytest.mark.shows("guided")
def test_guidance_brings_a_pipeline_s_images_nearer_to_the_domain(
    prior: Prior, classifier: Classifier
) -> None:

    def mean_l_bn(**settings: Any) -> float:
        made = list(generate(classifier, prior, ["a", "b"], 2, sampling=SAMPLING, **settings))
        assert len(made) == 4
        assert all(sample.image.isfinite().all() for sample in made)
        assert {tuple(sample.image.shape) for sample in made} == {(3, *prior.image_size)}
        return sum(sample.l_bn for sample in made) / len(made)

    assert mean_l_bn(alignment=Alignment(scale=0.2)) < mean_l_bn(method="plain")


@pytest.mark.parametrize("name", ["flux2-klein", "lcm"])
def test_a_scale_that_a_distilled_prior_does_not_take_is_refused_before_a_folder_is_made(
    name: str, families: Any, pipe_of: Any, classifier: Classifier, tmp_path: Path
) -> None:
    pipe = pipe_of(name)
    if name == "flux2-klein":
        pipe.register_to_config(is_distilled=True)
    prior = load_prior(pipe, call=families[name].call)
    out = tmp_path / "set"
    with pytest.raises(ConfigError, match=r"which has none with this network, .* set cfg to 1"):
        generate(classifier, prior, ["a"], 1, sampling=SAMPLING, out=out)
    assert not out.exists()
    (made,) = generate(classifier, prior, ["a"], 1, sampling=replace(SAMPLING, cfg=1.0), out=out)
    assert made.image.isfinite().all()


@pytest.mark.shows("tokens")
def test_a_token_of_each_text_encoder_is_learned_and_drawn_with(
    prior: Prior, classifier: Classifier
) -> None:
    table = learn_tokens(classifier, prior, ["a"], LEARNING, sampling=SAMPLING)
    again = learn_tokens(classifier, prior, ["a"], LEARNING, sampling=SAMPLING)
    assert list(table.encoders) == [encoder.key for encoder in prior.text_encoders()]
    assert table.rows.shape == (1, sum(table.encoders.values()))
    assert torch.equal(table.rows, again.rows)
    plain, told = (
        next(iter(generate(classifier, prior, ["a"], 1, sampling=SAMPLING, tokens=tokens)))
        for tokens in (None, table)
    )
    assert told.token
    assert not torch.equal(plain.image, told.image)


@pytest.mark.shows("left alone")
def test_guidance_and_learning_leave_the_pipeline_as_it_was(
    family: Any, new_pipe: Any, classifier: Classifier
) -> None:
    """Its networks, its VAE and its scheduler, which the prior shares or copies."""
    state = State(new_pipe)
    prior = load_prior(new_pipe, call=family.call)
    table = learn_tokens(classifier, prior, ["a"], LEARNING, sampling=SAMPLING)
    list(generate(classifier, prior, ["a"], 1, sampling=SAMPLING, tokens=table))
    state.check()


@pytest.mark.shows("tokens")
def test_learning_moves_the_row_of_each_encoder(prior: Prior, classifier: Classifier) -> None:
    start = learn_tokens(
        classifier, prior, ["a"], _with_rate(0.0), sampling=SAMPLING, alignment=Alignment(scale=0)
    )
    moved = learn_tokens(
        classifier, prior, ["a"], _with_rate(0.1), sampling=SAMPLING, alignment=Alignment(scale=0)
    )
    for span in start.spans().values():
        assert (moved.rows - start.rows)[:, span].abs().max() > 0.01


def _with_rate(rate: float) -> TokenLearning:
    return replace(LEARNING, learning_rate=rate or 1e-30)


@pytest.mark.shows("plan")
def test_a_plan_holds_for_a_run(prior: Prior, classifier: Classifier) -> None:
    planned = plan(prior, classifier, "1GB", batch=2, sampling=SAMPLING, full=False)
    assert planned.batch == 2
    assert all(planned.peak_bytes[phase] > 0 for phase in ("text", "sampling", "guidance", "cat"))
    assert planned.generate_bytes <= planned.budget_bytes
    images = [
        [
            sample.image
            for sample in generate(classifier, prior, ["a"], 2, sampling=SAMPLING, memory=memory)
        ]
        for memory in (planned, "auto")
    ]
    for found, expected in zip(*images, strict=True):
        assert torch.equal(found, expected)


def tokens_of(prior: Prior, rows: torch.Tensor) -> TokenTable:
    return TokenTable(
        rows, encoder_widths(prior), (0,), ("a",), ("<ddis-a>",), prior.fingerprint, ""
    )


@pytest.mark.shows("tokens")
def test_row_gradients_are_those_of_finite_differences(prior: Prior) -> None:
    """In all encoders: at some place of each one's part of a row."""
    width = sum(encoder_widths(prior).values())
    rows = (torch.randn(1, width, generator=torch.Generator().manual_seed(3))).requires_grad_()
    readout = torch.Generator().manual_seed(4)

    def loss(at: torch.Tensor) -> torch.Tensor:
        with attached(prior, tokens_of(prior, at)) as speaking:
            packed = speaking.encode(["a <ddis-a> dog"]).packed()
        return (packed * torch.randn(packed.shape, generator=readout.manual_seed(4))).sum()

    (grad,) = torch.autograd.grad(loss(rows), rows)
    for span in tokens_of(prior, rows).spans().values():
        step = torch.zeros_like(rows)
        step[:, span] = grad[:, span] / grad[:, span].norm() * 1e-2
        with torch.no_grad():
            slope = (loss(rows + step) - loss(rows - step)) / 2e-2
        torch.testing.assert_close(slope, grad[:, span].norm(), rtol=0.03, atol=0)


@pytest.mark.shows("tokens")
def test_the_pooled_output_is_taken_where_the_prompt_ends(new_pipe: Any, family: Any) -> None:
    """Also by CLIP whose config has the old end of text: the highest id of a prompt, which a token's would be."""
    for name in ("text_encoder", "text_encoder_2"):
        network = getattr(new_pipe, name, None)
        for part in network.modules() if network is not None else ():
            if "CLIP" in type(part).__name__ and hasattr(part, "eos_token_id"):
                part.eos_token_id = 2
    prior = load_prior(new_pipe, call=family.call)
    rows = torch.zeros(1, sum(encoder_widths(prior).values()))
    spans = tokens_of(prior, rows).spans()
    for encoder in prior.text_encoders():
        word, *_ = encoder.tokenizer("b", add_special_tokens=False).input_ids
        weight = encoder.module.get_input_embeddings().weight
        rows[0, spans[encoder.key]] = weight[word].detach()
    expected = prior.encode(["b"]).packed()
    with attached(prior, tokens_of(prior, rows)) as speaking:
        told = speaking.encode(["<ddis-a>"]).packed()
    torch.testing.assert_close(told, expected)
    assert torch.equal(prior.encode(["b"]).packed(), expected)


def test_tokens_of_another_family_are_refused(prior: Prior, tiny_prior: Prior) -> None:
    table = tokens_of(tiny_prior, torch.zeros(1, 32))
    with (
        pytest.raises(
            TokenFileError,
            match=r"32 wide for text encoder clip, expected \d+ wide for|with prior \w+, expected",
        ),
        attached(prior, table),
    ):
        pass


def test_diffusers_reads_exported_tokens_as_the_engine_does(
    family: Any, new_pipe: Any, prior: Prior, classifier: Classifier, tmp_path: Path
) -> None:
    """One file and call for each encoder; pipelines without `load_textual_inversion` have the engine's own files."""
    width = sum(encoder_widths(prior).values())
    table = tokens_of(prior, torch.randn(1, width, generator=torch.Generator().manual_seed(5)))
    paths = export_textual_inversion(table, tmp_path)
    files = dict(zip(table.labels, paths.values(), strict=True))
    assert torch.equal(import_textual_inversion(files, prior, classifier).rows, table.rows)
    if not hasattr(new_pipe, "load_textual_inversion"):
        save_tokens(table, tmp_path / "tokens.safetensors")
        assert torch.equal(load_tokens(tmp_path / "tokens.safetensors", prior).rows, table.rows)
        return
    path = paths["<ddis-a>"]
    for encoder in prior.text_encoders():
        new_pipe.load_textual_inversion(
            path / f"{encoder.key}.safetensors" if path.is_dir() else path,
            token="<ddis-a>",
            text_encoder=getattr(new_pipe, encoder.name),
            tokenizer=getattr(new_pipe, encoder.tokenizer_name),
        )
    loaded = load_prior(new_pipe, call=family.call)
    with torch.no_grad(), attached(prior, table) as speaking:
        expected = speaking.encode(["a <ddis-a> dog"]).packed()
        torch.testing.assert_close(
            loaded.encode(["a <ddis-a> dog"]).packed(), expected, atol=1e-5, rtol=1e-5
        )
