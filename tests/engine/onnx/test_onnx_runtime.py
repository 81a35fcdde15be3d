"""Sampling with guidance in ONNX Runtime, and the folder of its graphs."""

import importlib
import json
import os
import shutil
import sys
import time
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
import torch

from engine.apps.cli import main, requests
from engine.datasets.manifest import read_manifest
from engine.errors import ConfigError, MissingExtraError, ModelError
from engine.files import DAY, TEMPORARY, remove_leftovers
from engine.guidance.decoder import GuidanceDecoder
from engine.memory.budget import MemoryWarning
from engine.methods.runtime import default_cache
from engine.onnx import export
from engine.onnx.graphs import classifier_graph, denoiser_graph, gradient_graph
from engine.onnx.session import Session
from engine.runners.generate import generate
from engine.settings import Alignment, Sampling

pytest.importorskip("onnxruntime")
SHORT = Sampling(steps=3, batch=4)


def run(prior, classifier, **settings):
    return {
        s.key: s
        for s in generate(classifier, prior, ["dog", "horse"], 2, sampling=SHORT, **settings)
    }


@pytest.fixture(scope="module")
def printed(prior, kinked, tmp_path_factory, operator_table) -> str:
    """What `ddis export-onnx` prints, having written every graph of these models into a new folder."""
    folder, screen = tmp_path_factory.mktemp("graphs"), StringIO()
    asked = ["export-onnx", "--classifier", "embedded:photo", "--out", str(folder), "--json"]
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(screen):
        patch.setattr(requests, "load_models", lambda *_: (kinked, prior))
        assert main(asked) == 0
    return screen.getvalue()


@pytest.fixture(scope="module")
def cache(printed: str) -> Path:
    """The folder of these graphs, which `generate` takes as its cache."""
    return Path(json.loads(printed)["files"][0]).parents[1]


@pytest.mark.slow
def test_the_command_writes_every_graph(printed: str):
    files = [Path(file) for file in json.loads(printed)["files"]]
    assert [file.name for file in files] == [
        "unet.onnx",
        "decoder.onnx",
        "classifier.onnx",
        "gradient.onnx",
    ]
    for file in files:
        assert b".py" not in file.read_bytes(), (
            f"{file.name} names files of the machine that wrote it"
        )


@pytest.mark.slow
def test_guided_images_are_torchs_and_neither_autograd_nor_an_export_runs(
    prior, kinked, cache, tmp_path, monkeypatch
):
    wanted = run(prior, kinked)

    def never(*_, **__):
        raise AssertionError("autograd or an export ran")

    monkeypatch.setattr(torch.autograd, "grad", never)
    monkeypatch.setattr(export, "write", never)
    with torch.inference_mode():
        found = run(prior, kinked, runtime="onnx", onnx_cache=cache, out=tmp_path / "set")
    assert found.keys() == wanted.keys()
    for key, sample in found.items():
        torch.testing.assert_close(sample.image, wanted[key].image, rtol=0, atol=2e-3)
        assert len(sample.curve) == len(wanted[key].curve) > 0
    assert len(list(read_manifest(tmp_path / "set"))) == 4
    plain = run(prior, kinked, method="plain")
    assert max((plain[key].image - wanted[key].image).abs().max() for key in plain) > 1e-2


@pytest.mark.slow
def test_a_run_writes_the_graphs_that_its_cache_lacks(prior, kinked, cache, tmp_path, monkeypatch):
    """Each is built as for an export, and its file then copied."""
    written = []

    def copied(graph, file):
        with torch.no_grad():
            graph.build()
        written.append(graph.name)
        shutil.copy(cache / f"{graph.name}-{graph.key}" / file.name, file)

    monkeypatch.setattr(export, "write", copied)
    assert len(run(prior, kinked, runtime="onnx", onnx_cache=tmp_path)) == 4
    assert sorted(written) == ["decoder", "gradient", "unet"]


@pytest.mark.slow
def test_a_kinked_gradient_is_autograds_but_for_flipped_masks(gradients, prior, kinked, cache):
    for batch in (1, 3):
        (loss, grad), (wanted_loss, wanted) = gradients(prior, kinked, Alignment(), cache, batch)
        torch.testing.assert_close(loss, wanted_loss, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(grad, wanted, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_the_classifier_gives_its_logits_for_any_batch(prior, kinked, cache):
    """`ddis export-onnx` writes it; generate asks torch for them."""
    graph = classifier_graph(kinked, prior.image_size)
    session = Session(export.exported(graph, cache), torch.device("cpu"))
    for batch in (1, 5, 70):
        images = torch.rand(batch, 3, prior.image_size[0], prior.image_size[0])
        (logits,) = session(images)
        torch.testing.assert_close(logits, kinked.logits(images), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_unet_takes_more_images_than_its_export_was_told(prior, cache):
    session = Session(export.exported(denoiser_graph(prior), cache), torch.device("cpu"))
    for batch in (1, export.LARGEST_BATCH + 2):
        z, step = torch.randn(batch, *prior.latent_shape(1)[1:]), torch.tensor(7)
        context = torch.randn(batch, prior.pipe.tokenizer.model_max_length, 32)
        with torch.no_grad():
            wanted = prior.pipe.unet(z, step, encoder_hidden_states=context, return_dict=False)[0]
        torch.testing.assert_close(session(z, step, context)[0], wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_folder_of_one_runtime_is_not_continued_by_the_other(prior, kinked, cache, tmp_path):
    run(prior, kinked, out=tmp_path / "set")
    with pytest.raises(Exception, match="runtime"):
        run(prior, kinked, runtime="onnx", onnx_cache=cache, out=tmp_path / "set")


def test_an_interrupted_export_leaves_nothing(prior, tmp_path, monkeypatch):
    def cut(graph, file):
        file.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "write", cut)
    with pytest.raises(KeyboardInterrupt):
        export.exported(denoiser_graph(prior), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_export_left_is_deleted_by_a_call_a_day_later(prior, tmp_path, monkeypatch):
    left, at_work = tmp_path / f"{TEMPORARY}killed", tmp_path / f"{TEMPORARY}at-work"
    for folder in (left, at_work):
        folder.mkdir()
        (folder / "unet.onnx").write_bytes(b"half")
        old = time.time() - DAY - 60
        os.utime(folder / "unet.onnx", (old, old))
        os.utime(folder, (old, old))
    (at_work / "unet.onnx").write_bytes(b"half and more")  # the folder itself stays as old
    monkeypatch.setattr(export, "write", lambda _, file: file.write_bytes(b"whole"))
    assert export.exported(denoiser_graph(prior), tmp_path).read_bytes() == b"whole"
    assert not left.exists()
    assert (at_work / "unet.onnx").read_bytes() == b"half and more"
    remove_leftovers(tmp_path)
    assert not at_work.exists()


def test_graphs_of_other_settings_have_other_names(prior, smooth, kinked):
    def key(classifier, alignment):
        decoder = GuidanceDecoder(
            kind="full", prior=prior, vae=prior.vae, px=8, stages=None, checkpoint=False
        )
        return gradient_graph(prior, classifier, alignment, decoder).key

    changed = [
        Alignment(norm="l2"),
        Alignment(class_weight=0.1),
        Alignment(layers="first"),
        Alignment.paper(),
    ]
    keys = [key(smooth, Alignment()), key(kinked, Alignment()), *(key(smooth, a) for a in changed)]
    assert len(set(keys)) == len(keys)
    assert key(smooth, Alignment(scale=3.0, stop=0.5)) == keys[0]


def test_a_damaged_file_says_what_to_delete(tmp_path):
    file = tmp_path / "unet-1" / "unet.onnx"
    file.parent.mkdir()
    file.write_bytes(b"half")
    with pytest.raises(
        ModelError,
        match=r"cannot be run by ONNX Runtime .*, expected a whole graph.*: delete the folder",
    ):
        Session(file, torch.device("cpu"))


def test_an_unknown_runtime_is_refused(prior, kinked):
    with pytest.raises(ConfigError, match="runtime is 'tensorrt', expected one of 'torch', 'onnx'"):
        run(prior, kinked, runtime="tensorrt")


def test_without_the_extra_it_is_named(prior, kinked, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(
        MissingExtraError,
        match=r"onnxscript is not installed .*pip install 'ddis\[onnx\]'`, or set `runtime` to 'torch'\.",
    ):
        run(prior, kinked, runtime="onnx", onnx_cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_default_cache_is_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "ddis" / "onnx"


@pytest.mark.slow
@pytest.mark.parametrize("part", ["gradient", "unet"])
def test_images_are_torchs_when_onnx_runtime_runs_out_of_memory(
    prior, kinked, cache, monkeypatch, part
):
    """Guidance goes on with autograd in parts, which is exact; sampling with fewer images in the session."""
    wanted = run(prior, kinked, runtime="onnx", onnx_cache=cache)
    failed = []
    at = Session.__init__

    def watched(self, file, device):
        at(self, file, device)
        fails, session = part in file.name, self.session
        kinds = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")

        class Full:
            def __getattr__(self, name):
                return getattr(session, name)

            def run_with_iobinding(self, binding):
                if fails and not failed:
                    failed.append(file.name)
                    raise kinds.RuntimeException(
                        "bfc_arena.cc: Failed to allocate memory for requested buffer of size 9"
                    )
                session.run_with_iobinding(binding)

        self.session = Full()

    monkeypatch.setattr(Session, "__init__", watched)
    with pytest.warns(
        MemoryWarning, match="with 4 images at once .*Failed to allocate memory.* going on with 2"
    ):
        found = run(prior, kinked, runtime="onnx", onnx_cache=cache)
    assert failed
    for key, sample in found.items():
        torch.testing.assert_close(sample.image, wanted[key].image, rtol=0, atol=2e-3)
