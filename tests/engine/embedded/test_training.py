"""The training loop, the random changes of images, and the draws that the stages rest on."""

import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
import torch
import torch.distributed as dist
from diffusers import UNet2DConditionModel
from torch import Generator, nn
from torch.multiprocessing import spawn

from engine.embedded.captions import every_caption
from engine.embedded.train import __main__ as recipe
from engine.embedded.train import autoencoder, prior, prior_networks
from engine.embedded.train.augment import erased, jittered, mixed, warped
from engine.embedded.train.data import Images, load_pacs, random_crops
from engine.embedded.train.loop import Recipe, rate_at, read_checkpoint, train
from engine.embedded.train.machine import CPU, Machine
from engine.embedded.train.perception import Perception
from engine.embedded.train.shipping import as_done, processes_of, shed
from engine.embedded.train.stages import STAGES
from engine.errors import ConfigError

RECIPE = Recipe(steps=12, batch=4, learning_rate=0.1, warmup=1, averaging=0.5)


def learn(folder, recipe=RECIPE, machine=CPU, kept=None, until=None):
    """A network of one layer that learns to be zero; `until` cuts the run off after as many steps."""
    torch.manual_seed(0)
    model = nn.Linear(3, 3)

    def loss(rng, progress):
        assert 0 <= progress < 1
        if until is not None and rng.initial_seed() == until:
            raise KeyboardInterrupt
        return model(torch.randn(4, 3, generator=rng)).square().mean()

    train(model, loss, recipe, folder, machine, kept)
    return model.weight.detach()


def test_a_run_that_is_cut_and_resumed_ends_as_an_undisturbed_one(tmp_path):
    often = Recipe(
        steps=12, batch=4, learning_rate=0.1, warmup=1, averaging=0.5, checkpoint_every=0
    )
    with pytest.raises(KeyboardInterrupt):
        learn(tmp_path / "cut", often, until=7)
    assert torch.load(tmp_path / "cut" / "state.pt", weights_only=True)["step"] == 7
    assert torch.equal(learn(tmp_path / "cut"), learn(tmp_path / "whole"))


def test_what_is_kept_beside_the_model_comes_back(tmp_path):
    critic = nn.Linear(1, 1)
    learn(tmp_path, kept={"critic": critic})
    other = nn.Linear(1, 1)
    learn(tmp_path, kept={"critic": other})
    assert torch.equal(critic.weight, other.weight)


def test_a_run_goes_on_from_weights_alone(tmp_path):
    """With a rate of 0 it ends where it was shed; with another it warms up again and moves."""
    first = Recipe(steps=12, batch=4, learning_rate=0.1, warmup=1)
    weight = learn(tmp_path / "work" / "stage", first)
    (copy,) = shed(tmp_path / "work", tmp_path / "light")
    assert copy == tmp_path / "light" / "stage" / "state.pt"
    light = torch.load(copy, weights_only=True)
    assert light["average"]["weight"].dtype == torch.float16
    how = {"recipe", "processes", "local_steps", "bfloat16"}
    assert set(light) == {"average", "step", "loss", *how}
    still = Recipe(steps=16, batch=4, learning_rate=1e-12, warmup=1)
    assert torch.allclose(learn(copy.parent, still), weight, atol=1e-3)
    (copy,) = shed(tmp_path / "work", tmp_path / "lighter", bits=8)
    assert torch.load(copy, weights_only=True)["average"]["weight"][0].dtype == torch.int8
    (again,) = shed(tmp_path / "lighter", tmp_path / "again")
    assert torch.equal(
        read_checkpoint(again)["average"]["weight"].half(),
        read_checkpoint(copy)["average"]["weight"].half(),
    )
    largest = weight.abs().amax(1, keepdim=True)
    assert ((learn(copy.parent, still) - weight).abs() <= largest / 254 + 1e-6).all()
    (copy,) = shed(tmp_path / "work", tmp_path / "light")
    on = Recipe(steps=24, batch=4, learning_rate=0.1, warmup=8, checkpoint_every=0)
    with pytest.raises(KeyboardInterrupt):
        learn(copy.parent, on, until=15)
    saved = torch.load(copy, weights_only=True)
    assert saved["fresh"] == 12
    assert saved["optimizer"]["param_groups"][0]["lr"] == pytest.approx(0.1 * 3 / 8)
    assert not torch.allclose(learn(copy.parent, on), weight, atol=1e-3)


def test_what_is_packed_says_how_it_was_trained(tmp_path):
    """As its checkpoint does, whatever the command that packs it would train; an old one does not say it."""
    other = Recipe(steps=99, batch=7, learning_rate=1.0)
    learn(tmp_path / "work" / "stage")
    (light,) = shed(tmp_path / "work", tmp_path / "light")
    for folder in (tmp_path / "work" / "stage", light.parent):
        assert as_done(other, folder) == RECIPE
    old = torch.load(light, weights_only=True)
    del old["recipe"]
    torch.save(old, light)
    assert as_done(other, light.parent) == replace(other, steps=12)


def test_a_budget_of_time_ends_the_run_with_a_cooled_down_rate(tmp_path, monkeypatch):
    ticks = iter(range(10_000))
    monkeypatch.setattr(time, "monotonic", lambda: next(ticks) / 10)
    endless = Recipe(steps=10**9, batch=4, learning_rate=0.1, warmup=1)
    learn(tmp_path, endless, Machine(seconds=5.0))
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    assert 3 < saved["step"] < 50
    assert saved["optimizer"]["param_groups"][0]["lr"] < 0.02


def test_the_rate_warms_up_holds_and_cools_down():
    recipe = Recipe(steps=100, batch=1, learning_rate=1.0, warmup=10)
    rates = [rate_at(step, step / 100, recipe) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10:75] == [1.0] * 65
    assert rates[99] == pytest.approx(0.04)


def test_a_budget_of_no_time_is_refused():
    with pytest.raises(ConfigError, match="expected more than 0"):
        Machine(seconds=0.0)


def pixels(number=6, side=24):
    return torch.randint(
        0, 256, (number, 3, side, side), dtype=torch.uint8, generator=Generator().manual_seed(0)
    )


def test_changes_keep_shape_and_range_and_follow_their_seed():
    def changed(seed):
        rng = Generator().manual_seed(seed)
        views = erased(jittered(warped(pixels(), 32, rng), rng, grey=0.5), rng)
        return mixed(views, rng)[0]

    views = changed(1)
    assert views.shape == (6, 3, 32, 32)
    assert 0 <= views.min() <= views.max() <= 1
    assert torch.equal(views, changed(1))
    assert not torch.equal(views, changed(2))


def test_a_crop_of_the_whole_side_is_the_image_or_its_mirror():
    images = pixels()
    crops = random_crops(images, 24, Generator().manual_seed(0)) * 255
    mirrored = [
        torch.equal(crop.round(), image.float().flip(2))
        for crop, image in zip(crops, images, strict=True)
    ]
    assert all(
        mirror or torch.equal(crop.round(), image.float())
        for mirror, crop, image in zip(mirrored, crops, images, strict=True)
    )
    assert 0 < sum(mirrored) < 6


def test_an_erased_square_has_the_image_s_mean_and_the_rest_is_kept():
    images = pixels().float() / 255
    holed = erased(images, Generator().manual_seed(0), chance=1.0)
    mean = images.mean((2, 3), keepdim=True).expand_as(images)
    assert torch.all((holed == images) | (holed == mean))
    assert 0 < (holed != images).float().mean() < 0.3


def test_shares_of_mixed_images_tell_what_they_hold():
    images = pixels().float() / 255
    views, partner, share = mixed(images, Generator().manual_seed(3))
    weight = share[:, None, None, None]
    torch.testing.assert_close(views, weight * images + (1 - weight) * images[partner])
    assert 0.5 <= share.min() < 1 == share.max()


def test_pairs_are_drawn_equally_often_and_captions_by_their_chances():
    classes = torch.tensor([0] * 50 + [3] * 5)
    images = Images(pixels(55), classes, torch.tensor([2] * 50 + [3] * 5))
    texts = every_caption(images.class_names)
    balanced = prior.Balanced(images, texts, "cpu")
    index, told = balanced.draw(4000, Generator().manual_seed(0))
    assert (index < 50).float().mean() == pytest.approx(0.5)
    assert (told == texts.index("")).float().mean() == pytest.approx(0.1, abs=0.02)
    rare = {texts[number] for number in told[index >= 50].tolist()}
    assert "a sketch of a guitar" in rare
    assert not any("dog" in text or "photo" in text for text in rare)
    photos_twice = prior.Balanced(images, texts, "cpu", ["photo"])
    index, told = photos_twice.draw(3999, Generator().manual_seed(0))
    assert (index < 50).float().mean() == pytest.approx(2 / 3, abs=0.001)
    assert "a photo of a dog" in {texts[number] for number in told[index < 50].tolist()}
    with pytest.raises(ConfigError, match="woodcut is to be drawn twice as often, expected one of"):
        prior.Balanced(images, texts, "cpu", ["woodcut"])


def test_finishing_the_decoder_leaves_every_latent(data, tmp_path):
    images = load_pacs(data / "pacs64-prior.parquet")
    torch.manual_seed(0)
    model, seen = autoencoder.build(), Perception(28)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    recipe = Recipe(steps=4, batch=3, learning_rate=1e-3, warmup=1)
    autoencoder.finish_autoencoder(images, model, seen, 32, recipe, tmp_path, decoder_alone=True)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith("encoder")


def test_a_deeper_unet_takes_a_packed_one_for_its_deepest_levels():
    torch.manual_seed(0)
    shallow = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=prior_networks.UNET_WIDTHS[1:],
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=prior_networks.TEXT_WIDTH,
        attention_head_dim=4,
    )
    deep = prior_networks.build_unet(16, 4)
    prior_networks.fitting(deep, prior_networks.deepest(shallow, 3))
    theirs, ours = shallow.state_dict(), deep.state_dict()
    for name in ("resnets.0.conv1.weight", "attentions.0.proj_in.weight"):
        assert torch.equal(ours[f"down_blocks.2.{name}"], theirs[f"down_blocks.1.{name}"])
        assert torch.equal(ours[f"up_blocks.0.{name}"], theirs[f"up_blocks.0.{name}"])
    times = torch.tensor([0, 400, 999])
    for unet in (shallow, deep):
        unet.time_embedding.linear_1.bias.data.zero_()
    deep_time, shallow_time = (
        unet.time_embedding.linear_1(unet.time_proj(times)) for unet in (deep, shallow)
    )
    assert torch.nn.functional.cosine_similarity(deep_time, shallow_time).min() > 0.7


def test_the_command_says_where_and_how_a_stage_trains(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setitem(STAGES, "judge", seen.append)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(recipe, "multiplies_bfloat16", lambda: False)
    place = ["--data", str(tmp_path), "--work", str(tmp_path)]
    assert recipe.main(["judge", *place]) == 0
    how = ["--device", "cuda:1", "--seconds", "9", "--compile"]
    assert recipe.main(["judge", *place, *how]) == 0
    monkeypatch.setattr(recipe, "multiplies_bfloat16", lambda: True)
    assert recipe.main(["judge", *place]) == 0
    on_cpu, on_gpu, on_new_cpu = seen
    assert on_cpu.machine == Machine()
    assert on_new_cpu.machine == Machine(bfloat16=True)
    assert on_gpu.machine == Machine(device="cuda:1", seconds=9.0, compiled=True, bfloat16=True)
    assert on_gpu.recipes["judge"].batch == 8 * on_cpu.recipes["judge"].batch


def test_only_the_prior_is_shown_some_domains_twice(tmp_path, capsys):
    place = ["--data", str(tmp_path), "--work", str(tmp_path)]
    assert recipe.main(["judge", *place, "--twice", "photo"]) == 2
    assert "--twice came with the stage 'judge', expected 'prior'" in capsys.readouterr().err


def test_a_gpu_that_is_not_there_is_an_error(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    place = ["--data", str(tmp_path), "--work", str(tmp_path)]
    assert recipe.main(["judge", *place, "--device", "cuda"]) == 2
    assert "device is 'cuda', expected one that is here" in capsys.readouterr().err


def test_networks_compute_in_bfloat16_and_are_compiled_where_that_is_asked_for(monkeypatch):
    rows = torch.randn(2, 3, requires_grad=True)
    network = nn.Linear(3, 3)
    for machine, dtype in ((CPU, torch.float32), (Machine(bfloat16=True), torch.bfloat16)):
        with machine.autocast():
            found = network(rows)
            heads = found[:, None, None]
            attended = nn.functional.scaled_dot_product_attention(heads, heads, heads)
        assert (found.dtype, network.weight.dtype) == (dtype, torch.float32)
        assert ("Flash" in repr(attended.grad_fn)) == (not machine.bfloat16)
    asked = []
    monkeypatch.setattr(torch, "autocast", lambda *where: (asked.append(where), nullcontext())[1])
    with Machine(device="cuda:1", bfloat16=True).autocast():
        assert asked == [("cuda", torch.bfloat16)]
    monkeypatch.setattr(torch, "compile", lambda module: ("compiled", module))
    for machine, norm, last in (
        (CPU, nn.GroupNorm(1, 4), True),
        (Machine(bfloat16=True), nn.GroupNorm(1, 4), False),
        (Machine(bfloat16=True), nn.BatchNorm2d(4), True),
    ):
        kernels, _ = machine.place(nn.Sequential(nn.Conv2d(4, 4, 3), norm))
        assert kernels.weight.is_contiguous(memory_format=torch.channels_last) == last
    assert Machine(compiled=True).fast(network) == ("compiled", network)
    assert Machine().fast(network) is network


def test_what_batches_are_drawn_from_is_on_the_device():
    """'meta' plays a GPU: what has values would have to be copied there in each step."""
    images = Images(pixels(4), torch.tensor([0, 0, 3, 3]), torch.tensor([2, 2, 3, 3]))
    there = images.to("meta")
    assert {there.pixels.device.type, there.classes.device.type, there.domains.device.type} == {
        "meta"
    }
    balanced = prior.Balanced(images, every_caption(images.class_names), "meta")
    assert {balanced.counts.device.type, balanced.members.device.type} == {"meta"}


def by_two(work: Callable[..., None], folder: Path, *arguments: object) -> None:
    """Two processes that meet in a file of their own: one of earlier processes may hold addresses where nobody is."""
    spawn(work, (folder / f"meeting-{uuid4()}", folder, *arguments), nprocs=2)


def _meet(rank: int, meeting: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)


def _one_of_two(rank: int, meeting: Path, folder: Path) -> None:
    """A process of a training by two, whose model is gone before its group: torch may wait forever the other way."""
    _meet(rank, meeting)
    _shared_step(rank, folder)
    dist.destroy_process_group()


def _shared_step(rank: int, folder: Path) -> None:
    """A step whose samples are the rank's, so that their mean is known."""
    machine = Machine(processes=2, rank=rank)
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    fast = machine.fast(model)

    def loss(rng: Generator, _: float) -> torch.Tensor:
        assert machine.share(4) == 2
        return fast(torch.full((2, 1), 0.1 * (rank + 1))).mean()  # gradients of 0.1 and 0.2

    train(
        model, loss, replace(RECIPE, steps=1, learning_rate=0.1, weight_decay=0.0), folder, machine
    )
    torch.save((model.weight.detach(), model.weight.grad), folder / f"rank-{rank}.pt")


@pytest.mark.slow
def test_two_processes_share_their_gradients_and_one_writes(tmp_path):
    by_two(_one_of_two, tmp_path)
    (weight, grad), (other, other_grad) = (
        torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True) for rank in range(2)
    )
    assert torch.equal(weight, other)
    assert grad.item() == other_grad.item()
    assert grad.item() == pytest.approx(0.15)
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 1


def _ends(rank: int, meeting: Path, folder: Path) -> None:
    """A whole training whose steps are each process's own until the end."""
    _meet(rank, meeting)
    machine = Machine(processes=2, rank=rank, local_steps=4)
    model = nn.Linear(1, 1)
    recipe = replace(RECIPE, steps=3, learning_rate=0.1)
    train(
        model, lambda *_: (model(torch.ones(2, 1)) - rank).square().mean(), recipe, folder, machine
    )
    torch.save(model.state_dict(), folder / f"end-{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_end_with_the_average_that_one_writes(tmp_path):
    by_two(_ends, tmp_path)
    kept = torch.load(tmp_path / "state.pt", weights_only=True)["average"]
    for rank in range(2):
        ended = torch.load(tmp_path / f"end-{rank}.pt", weights_only=True)
        assert all(torch.equal(value, kept[name]) for name, value in ended.items())


def _by_itself(rank: int, meeting: Path, folder: Path, steps: int, name: str) -> None:
    """A process that takes two steps by itself between two meetings, and sees targets of its own."""
    _meet(rank, meeting)
    machine = Machine(processes=2, rank=rank, local_steps=2)
    model = nn.Linear(1, 1)
    nn.init.ones_(model.weight)
    nn.init.zeros_(model.bias)
    fast = machine.fast(model)

    def loss(rng: Generator, _: float) -> torch.Tensor:
        return (fast(torch.randn(2, 1, generator=rng)) - rank).square().mean()

    # A rate that does not cool down within these steps.
    recipe = replace(RECIPE, steps=100, learning_rate=0.1, weight_decay=0.0, checkpoint_every=0.0)
    stop = [loss] * steps

    def cut(rng: Generator, progress: float) -> torch.Tensor:
        if not stop:
            raise KeyboardInterrupt
        return stop.pop()(rng, progress)

    with suppress(KeyboardInterrupt):
        train(model, cut, recipe, folder / name, machine)
    torch.save([*model.state_dict().values()], folder / f"{name}-{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_meet_after_steps_of_their_own_and_resume_to_the_same_weights(tmp_path):
    by_two(_by_itself, tmp_path, 5, "whole")
    assert torch.load(tmp_path / "whole" / "state.pt")["step"] == 4  # never between two meetings
    parts = [torch.load(tmp_path / f"whole-{rank}.pt", weights_only=True) for rank in range(2)]
    assert not torch.equal(parts[0][0], parts[1][0])  # the fifth step was each one's own
    by_two(_by_itself, tmp_path, 4, "met")
    met = [torch.load(tmp_path / f"met-{rank}.pt", weights_only=True) for rank in range(2)]
    assert torch.equal(met[0][0], met[1][0])
    by_two(_by_itself, tmp_path, 2, "cut")
    by_two(_by_itself, tmp_path, 2, "cut")
    cut, whole = (torch.load(tmp_path / name / "state.pt") for name in ("cut", "met"))
    assert cut["step"] == whole["step"] == 4
    for name, value in whole["model"].items():
        assert torch.equal(cut["model"][name], value)


def test_a_card_says_which_processes_trained():
    assert processes_of({}) == "one"
    assert processes_of({"processes": 2, "local_steps": 1}).endswith("the gradients of each step")
    assert processes_of({"processes": 2, "local_steps": 8}).endswith("weights every 8 steps")
    assert processes_of({"bfloat16": True}).startswith("one; networks in bfloat16")


def test_what_several_processes_cannot_share_is_refused():
    with pytest.raises(ConfigError, match="0 steps by itself, expected at least 1"):
        Machine(local_steps=0)
    with pytest.raises(ConfigError, match="time budget came with 2 processes"):
        Machine(processes=2, seconds=5)
    with pytest.raises(ConfigError, match="batch is 5 and 2 processes"):
        Machine(processes=2).share(5)
    with pytest.raises(ConfigError, match="stage 'finish', expected one"):
        Machine(processes=2).alone("finish")
