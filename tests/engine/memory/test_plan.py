"""Plans: what they choose, refuse and promise."""

import json
import warnings
from dataclasses import replace

import pytest
import torch

from engine.classifiers import Classifier, Preprocess, load_classifier
from engine.classifiers.cifar_resnet import CifarResNet
from engine.errors import ConfigError, MissingExtraError
from engine.memory import budget
from engine.memory.apply import applied
from engine.memory.budget import BudgetError, MemoryWarning, in_words
from engine.memory.case import Case
from engine.memory.costs import CUBLAS_BYTES, USABLE, Costs
from engine.memory.count import counting
from engine.memory.phases import Counted
from engine.memory.plan import Plan, plan
from engine.memory.remedies import smallest_in_nf4
from engine.memory.search import largest_that
from engine.memory.subject import Subject, subject_of
from engine.priors import Prior, load_prior
from engine.settings import Alignment, Sampling, TokenLearning

LABELS = ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    network = CifarResNet(depth=8, widths=(4, 6, 8), classes=7)
    return load_classifier(network, labels=LABELS, preprocess=Preprocess.squash(16), device="cpu")


@pytest.fixture(scope="module")
def roomy(small_prior: Prior, classifier: Classifier) -> Plan:
    return plan(small_prior, classifier, "10GB", batch=4, device="cuda")


def test_plenty_of_memory_changes_nothing(roomy: Plan) -> None:
    assert roomy.micro_batch == {
        "text": 4,
        "sampling": 4,
        "guidance": 4,
        "decode": 4,
        "cat": 4,
        "rows": 4,
    }
    assert (roomy.checkpoint, roomy.offload, roomy.attention, roomy.decoder) == (
        (),
        (),
        "sdpa",
        "full",
    )
    assert roomy.largest_batch > 100
    assert set(roomy.peak_bytes) == {"text", "sampling", "guidance", "decode", "cat", "rows"}


def test_moves_cost_time_and_no_memory(
    small_prior: Prior, classifier: Classifier, roomy: Plan
) -> None:
    several = plan(
        small_prior, classifier, "10GB", batch=4, device="cuda", alignment=Alignment(moves=4)
    )
    assert several.cost > 1.5 * roomy.cost
    assert several.peak_bytes == roomy.peak_bytes


def test_learning_passes_its_networks_one_after_the_other_where_both_graphs_do_not_fit(
    small_prior: Prior, classifier: Classifier
) -> None:
    """The published gradient, which passes both branches of CFG and the VAE, in one piece."""
    learning = TokenLearning.paper()
    cuda = torch.device("cuda")
    subject = subject_of(small_prior, classifier, None, Sampling(), None, cuda, learning)
    costs = Costs(subject, cuda, 4, 30, learning=True)
    cases = [Case("cat", 4, 4, staged=way) for way in (False, True)]
    counted = [costs.counted(case).peak_bytes for case in cases]
    assert counted[1] < 0.9 * counted[0]
    together, staged = (costs.peak(case, ()) for case in cases)
    settings = {"batch": 4, "device": "cuda", "alignment": None, "full": False}
    for peak, way in ((staged, ("cat",)), (together, ())):
        budget = int(peak / USABLE) + 1
        planned = plan(small_prior, classifier, budget, tokens=learning, **settings)
        assert (planned.staged, planned.checkpoint) == (way, ())
        assert planned.micro_batch["cat"] == 4
        assert planned.peak_bytes["cat"] == peak


def test_a_plan_survives_json(roomy: Plan) -> None:
    assert Plan.from_json(json.loads(json.dumps(roomy.to_json()))) == roomy
    with pytest.raises(
        ConfigError,
        match=r"other fields than it should .*batch.*, expected what Plan\.to_json wrote",
    ):
        Plan.from_json({name: value for name, value in roomy.to_json().items() if name != "batch"})


def test_a_larger_budget_never_plans_a_slower_run(
    small_prior: Prior, classifier: Classifier, roomy: Plan
) -> None:
    seconds, fits = [], []
    smallest, whole = roomy.smallest_bytes, int(roomy.generate_bytes / USABLE) + 1
    for nbytes in range(smallest, whole + 1, (whole - smallest) // 6):
        planned = plan(
            small_prior, classifier, nbytes, batch=4, device="cuda", tokens=False, full=False
        )
        seconds.append(planned.cost)
        fits.append(planned.generate_bytes <= USABLE * nbytes)
    assert all(fits)
    assert seconds == sorted(seconds, reverse=True)
    assert seconds[0] > seconds[-1]


def test_the_smallest_budget_that_an_error_names_can_be_met(
    small_prior: Prior, classifier: Classifier, roomy: Plan
) -> None:
    with pytest.raises(
        BudgetError, match=r"budget of 1\.00KB is too small for prior .* expected at least"
    ) as refused:
        plan(small_prior, classifier, "1KB", batch=4, device="cuda")
    said = str(refused.value)
    assert (
        "give that; or choose a tiny decoder (`tiny_decoder` 'auto'); half precision (`dtype` "
        in said
    )
    assert said.endswith("; or smaller images.")
    named = said.split("expected at least ")[1].split(":")[0]
    assert named == in_words(roomy.smallest_bytes)
    settings = {"batch": 4, "device": "cuda", "tokens": False, "full": False}
    least = plan(small_prior, classifier, named, **settings)
    assert least.micro_batch["guidance"] == 1
    # Guidance looks through the VAE, which has to stay.
    assert set(least.offload) == {"text_encoder", "unet"}
    with pytest.raises(BudgetError):
        plan(small_prior, classifier, int(roomy.smallest_bytes * 0.98), **settings)


def test_a_budget_for_a_gpu_that_is_not_here_names_the_cpu(
    small_prior: Prior, classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BudgetError, match=r"which has no GPU \(`device` 'cpu'\)"):
        plan(small_prior, classifier, "1KB", batch=4, device="cuda", tokens=False)


def test_a_budget_that_is_too_small_is_answered_with_what_nf4_takes(classifier: Classifier) -> None:
    """It changes images, so a plan names it and does not choose it; not on the CPU, nor where it is chosen already."""
    exact, quantised = (
        load_prior("arch:sd-1.5", device="meta", dtype=torch.float16, quantise=kind).called_with(
            height=64, width=64
        )
        for kind in ("none", "nf4")
    )
    settings = {"batch": 1, "tokens": False, "full": False}
    with pytest.raises(
        BudgetError, match=r"\(`prior.quantise` 'nf4', at least \S+ then\)"
    ) as refused:
        plan(exact, classifier, "1MB", device="cuda", **settings)
    named = str(refused.value).split("'nf4', at least ")[1].split(" then")[0]
    assert plan(quantised, classifier, named, device="cuda", **settings).quantise == "nf4"
    assert smallest_in_nf4(costs_of(exact, classifier, "cpu")) is None
    assert smallest_in_nf4(costs_of(quantised, classifier, "cuda")) is None


def costs_of(prior: Prior, classifier: Classifier, device: str) -> Costs:
    place = torch.device(device)
    subject = subject_of(prior, classifier, Alignment(), Sampling(), None, place, None)
    return Costs(subject, place, images=1, steps=2)


def test_what_rests_is_offloaded_where_guidance_has_its_own_decoder(classifier: Classifier) -> None:
    prior = load_prior("arch:sd-1.5", device="meta", dtype=torch.float16)
    small = prior.called_with(height=64, width=64)
    lean = plan(small, classifier, "2.15GB", batch=1, device="cuda", tokens=False, full=False)
    assert set(lean.offload) == {"text_encoder", "vae"}
    assert lean.dtype == "float16"
    assert (
        plan(small, classifier, "4GB", batch=1, device="cuda", tokens=False, full=False).offload
        == ()
    )
    assert (
        plan(small, classifier, "4GB", batch=1, device="cpu", tokens=False, full=False).offload
        == ()
    )


def test_the_full_vae_decodes_in_tiles_where_a_whole_image_does_not_fit(
    small_prior: Prior, classifier: Classifier
) -> None:
    """And where it fits, it is whole, as tiles are seen in the image. A run does so in the phase of decoding alone."""
    prior = small_prior.called_with(height=128, width=128)
    settings = {"batch": 1, "alignment": None, "tokens": False, "full": False}
    whole = plan(prior, classifier, "1GB", **settings)
    assert whole.peak_bytes["decode"] == whole.generate_bytes
    enough = int(whole.generate_bytes / USABLE) + 1
    assert plan(prior, classifier, enough, **settings).tile == 0
    tiled = plan(prior, classifier, int(0.95 * enough), **settings)
    assert tiled.tile == 8
    assert tiled.peak_bytes["decode"] < 0.9 * whole.peak_bytes["decode"]
    with applied(tiled, prior) as phase:
        with phase("decode"):
            assert prior.vae.use_tiling
            assert prior.vae.tile_latent_min_size == 8
        assert not prior.vae.use_tiling


def test_counts_of_two_dtypes_of_a_classifier_are_told_apart(
    small_prior: Prior, classifier: Classifier
) -> None:
    both = [
        Subject(
            prior=small_prior, classifier=replace(classifier, dtype=dtype), alignment=None, cfg=1.0
        )
        for dtype in (torch.float32, torch.bfloat16)
    ]
    assert both[0].identity != both[1].identity
    assert both[0].identity == replace(both[0]).identity


def test_auto_counts_loaded_weights_once(
    small_prior: Prior, classifier: Classifier, weights: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the CPU they are no longer in what is free, and every predicted peak holds them."""
    monkeypatch.setattr(budget, "free_bytes", lambda device: 10**7)
    settings = {"batch": 1, "tokens": False, "full": False}
    assert plan(small_prior, classifier, "auto", **settings).budget_bytes == 10**7 + weights
    assert plan(small_prior, classifier, 10**7, **settings).budget_bytes == 10**7


def test_the_largest_batch_is_the_largest(small_prior: Prior, classifier: Classifier) -> None:
    most = plan(small_prior, classifier, "4GB", batch=4, device="cuda", tokens=False).largest_batch
    for images, fits in ((most, True), (most + 1, False)):
        planned = plan(
            small_prior, classifier, "4GB", batch=images, device="cuda", tokens=False, full=False
        )
        whole = all(
            planned.micro_batch[phase] == images
            for phase in ("text", "sampling", "guidance", "decode")
        )
        assert (whole and planned.checkpoint == () and planned.offload == ()) == fits


@pytest.mark.parametrize("batch", [1, 4, 28])
def test_the_largest_batch_takes_few_counts_wherever_peaks_bend(
    small_prior: Prior, classifier: Classifier, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    """Peaks are the highest of several lines. Guidance grows faster from 300 images on, sampling from 6."""
    lines = {
        "text": [(900, 3)],
        "sampling": [(2_000, 10), (0, 350)],
        "guidance": [(9_000, 50), (-186_000, 700)],
        "decode": [(0, 360)],
    }
    counts: set[Case] = set()

    def peak(phase: str, images: int) -> int:
        return max(fixed + each * images for fixed, each in lines[phase])

    def counted(_: Costs, case: Case) -> Counted:
        counts.add(case)
        return Counted(peak(case.phase, case.part), 0, 0, 1)

    monkeypatch.setattr(Costs, "counted", counted)
    subject = Subject(prior=small_prior, classifier=classifier, alignment=Alignment(), cfg=1.0)
    for room in (8_000, 9_050, 10_000, 11_000, 150_000, 400_000, 10**7):
        counts.clear()
        sought = Costs(subject, torch.device("cpu"), batch, steps=30)
        nbytes = -int(-(sum(sought.weights.values()) + room) // USABLE)
        limit = int(USABLE * nbytes) - sum(sought.weights.values())
        fitting = [n for n in range(20_000) if all(peak(phase, n) <= limit for phase in lines)]
        assert sought.largest_batch(nbytes, ()) == max(fitting, default=0)
        assert len(counts) <= 40


def test_a_bound_that_fits_is_tried_alone() -> None:
    tried: list[int] = []
    for most in (1, 2, 37, 99, 100):
        tried.clear()
        assert largest_that(lambda n, most=most: tried.append(n) or n <= most, 100) == most
        assert len(tried) == 1 if most == 100 else len(tried) <= 13


def test_a_prediction_holds_weights_and_all_that_is_alive(
    small_prior: Prior, classifier: Classifier, weights: int, roomy: Plan
) -> None:
    images = torch.randn(4, *small_prior.latent_shape(1)[1:])
    with torch.no_grad(), counting() as count:
        small_prior.decode(images)
    assert roomy.peak_bytes["decode"] >= weights + count.peak + CUBLAS_BYTES
    without = plan(small_prior, classifier, "10GB", batch=4, device="cpu", tokens=False, full=False)
    assert roomy.peak_bytes["decode"] - without.peak_bytes["decode"] == CUBLAS_BYTES


def test_more_than_the_device_has_is_a_warning(small_prior: Prior, classifier: Classifier) -> None:
    with pytest.warns(
        MemoryWarning,
        match=r"memory budget is 900000\.00GB and cpu has .*, expected no more than that",
    ):
        plan(small_prior, classifier, "900TB", batch=1, tokens=False, full=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan(small_prior, classifier, "auto", batch=1, tokens=False, full=False)


def test_settings_that_make_no_sense(small_prior: Prior, classifier: Classifier) -> None:
    with pytest.raises(ConfigError, match="batch is 0, expected 1 to 4096"):
        plan(small_prior, classifier, batch=0)
    with pytest.raises(ConfigError, match=r"image_px is 33, expected a multiple of 8: .* Round it"):
        plan(small_prior, classifier, image_px=33)
    with pytest.raises(
        ConfigError, match="attention is 'fast', expected one of 'auto', 'sdpa', 'xformers'"
    ):
        plan(small_prior, classifier, attention="fast")
    with pytest.raises(ConfigError, match="attention is 'xformers' on cpu, expected a CUDA device"):
        plan(small_prior, classifier, attention="xformers")
    with pytest.raises(
        MissingExtraError, match=r"'xformers' and the package is not installed.*ddis\[gpu\]"
    ):
        plan(small_prior, classifier, "1GB", attention="xformers", device="cuda")


def test_size_dtype_and_guidance_are_those_asked_for(
    small_prior: Prior, classifier: Classifier, roomy: Plan
) -> None:
    larger = plan(
        small_prior, classifier, "10GB", 64, batch=4, device="cuda", tokens=False, full=False
    )
    assert larger.image_px == larger.image_width_px == larger.decode_px == 64
    wide = small_prior.called_with(height=32, width=64)
    wider = plan(wide, classifier, "10GB", device="cuda", tokens=False, full=False)
    assert (wider.image_px, wider.image_width_px) == (32, 64)
    with pytest.raises(
        BudgetError, match=r"at 32 x 64 px \(height x width\) on cuda, expected at least"
    ):
        plan(wide, classifier, "1MB", device="cuda", tokens=False, full=False)
    assert larger.peak_bytes["decode"] > roomy.peak_bytes["decode"]
    half = plan(
        small_prior,
        classifier,
        "10GB",
        batch=4,
        device="cuda",
        dtype=torch.bfloat16,
        tokens=False,
        full=False,
    )
    assert half.dtype == "bfloat16"
    assert half.peak_bytes["sampling"] < roomy.peak_bytes["sampling"]
    plain = plan(
        small_prior,
        classifier,
        "10GB",
        batch=4,
        device="cuda",
        alignment=None,
        tokens=False,
        full=False,
    )
    assert plain.decoder == "none"
    assert "guidance" not in plain.peak_bytes
    assert roomy == replace(roomy)
    assert small_prior.image_size[0] == 32  # the prior itself is as it was
    assert Alignment().decoder == "auto"
