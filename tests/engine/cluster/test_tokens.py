"""Tokens on the workers of a cluster: the bytes of one run, whoever is killed, slow or late. Ray's own are below."""

import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

import engine.cluster.run as cluster_run
import engine.runners.token_cohorts as token_cohorts
import engine.runners.token_epochs as token_epochs
from engine.apps.cli import main
from engine.classifiers import Classifier
from engine.cluster.pool import Answer, Ready
from engine.cluster.token_worker import TokenWorker
from engine.datasets.shared import OtherKindError
from engine.errors import ConfigError, OutputError
from engine.events import EpochEnded, Event, Events, Noted, Progressed
from engine.locks import InUseError, locked_file
from engine.memory.apply import uncounted
from engine.methods.ddis import prepare
from engine.methods.models import Models
from engine.priors import load_prior
from engine.request import ClassifierSource, Execution, PriorSource, Request
from engine.runners.learn_tokens import learn_tokens, learning_request
from engine.runners.token_cohorts import (
    CohortLearner,
    cohort_progress,
    folder_of,
    learning_kind,
)
from engine.settings import Alignment, Sampling, TokenLearning
from engine.settings.cluster import Cluster
from engine.settings.methods import DDIS
from engine.tokens.table import TokenTable

CLASSES = ("dog", "horse", "house")
LEARNING = TokenLearning(
    epochs=2,
    images_per_epoch=2,
    steps=0,
    updates_per_trajectory=1,
    learning_rate=0.05,
    target_accuracy=1.0,
    skip_passing=False,
    init="class name",
    check_images=0,
)
ON_TWO = Cluster(ray="local", workers=2)


@pytest.fixture
def request_(classifier_folder: Path, small_prior_folder: Path) -> Request:
    """Three classes, in cohorts of two and one."""
    return Request(
        classifier=ClassifierSource(source=str(classifier_folder)),
        prior=PriorSource(source=str(small_prior_folder)),
        method=DDIS(sampling=Sampling(steps=2, cfg=2.0, batch=2)),
        classes=CLASSES,
    )


def learn(
    request: Request, out: Path, learning: TokenLearning = LEARNING, **options: Any
) -> TokenTable:
    return learn_tokens(request, learning=learning, device="cpu", out=out, **options)


def learner(request: Request, out: Path, mixed: bool = False, **events: Any) -> CohortLearner:
    execution = Execution(device="cpu")
    asked = learning_request(request, LEARNING)
    drawing = prepare(asked, Models(asked, execution), execution, LEARNING)
    return CohortLearner(drawing, LEARNING, out, events.get("events", Events(print)), mixed)


def killed_at(
    monkeypatch: pytest.MonkeyPatch, killed: type[BaseException], moment: int, kept: list[Path]
) -> Callable[[Path, bytes], None]:
    """Kill a worker before it keeps an epoch for the time `moment`; `kept` gets the files of all times."""
    write = token_epochs.write_whole

    def keep(path: Path, content: bytes) -> None:
        kept.append(path)
        if len(kept) == moment:
            raise killed
        write(path, content)

    monkeypatch.setattr(token_epochs, "write_whole", keep)
    return write


def test_workers_learn_the_bytes_of_one_run_though_one_is_killed(
    request_: Request, tmp_path: Path, here: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn(request_, tmp_path / "one.safetensors")
    out, seen, kept = tmp_path / "ray.safetensors", [], []
    killed_at(
        monkeypatch, here.Killed, 3, kept
    )  # once the first cohort has kept its start and an epoch
    table = learn(request_, out, cluster=ON_TWO, events=Events(seen.append))
    assert out.read_bytes() == (tmp_path / "one.safetensors").read_bytes()
    assert len(table.training) == 3
    assert [event.text for event in seen if isinstance(event, Noted)] == [
        "a worker was lost with part 0: it was killed"
    ]
    # Start, epoch, the lost epoch; start and two epochs of the other cohort; then on from the epoch that was kept.
    assert [path.name[:5] for path in kept].count("00000") == 3 + 2
    assert [path.name[:5] for path in kept].count("00001") == 3
    assert sorted(event.units for event in seen if isinstance(event, Progressed)) == [1, 2]
    assert {path.name for path in tmp_path.glob("*.safetensors*")} == {"one.safetensors", out.name}


@pytest.mark.usefixtures("here")
def test_a_second_call_learns_nothing_and_another_run_is_refused(
    request_: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "tokens.safetensors"
    first = learn(request_, out, cluster=ON_TWO)
    monkeypatch.setattr(TokenWorker, "make", None)
    assert learn(request_, out, cluster=ON_TWO).fingerprint == first.fingerprint
    with pytest.raises(OutputError, match="seed is 0 there and 5 here"):
        learn(replace(request_, seed=5), out, cluster=ON_TWO)
    assert not folder_of(out).exists()


@pytest.mark.usefixtures("here")
def test_cohorts_that_were_all_learned_before_a_kill_are_joined_by_the_next_call(
    request_: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "tokens.safetensors"
    cohorts = learner(request_, out)
    for number in cohorts.missing():
        cohorts.learn(number)
    assert cohorts.missing() == []
    monkeypatch.setattr(TokenWorker, "make", None)
    assert len(learn(request_, out, cluster=ON_TWO).training) == 3
    assert not folder_of(out).exists()
    cohorts.learn(0, also=True)  # too late
    assert not folder_of(out).exists()
    folder_of(out).mkdir()  # of who began as the last one ended
    assert len(cohorts.table().training) == 3
    assert not folder_of(out).exists()


@pytest.mark.parametrize("kept", [True, False])
def test_a_worker_learns_also_what_a_slow_one_learns_and_a_share_does_not(
    request_: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    out, waits, seen = tmp_path / "tokens.safetensors", [], []
    cohorts = learner(request_, out, events=Events(seen.append))
    progress = cohort_progress(out, 0)
    if kept:
        cut_after_an_epoch(cohorts)
    before = progress.read_bytes() if kept else None
    monkeypatch.setattr(time, "sleep", waits.append)
    seen.clear()
    with locked_file(cohorts.files[0]):
        with pytest.raises(InUseError, match="in use by process"):
            cohorts.learn(0)
        assert not waits
        cohorts.learn(0, also=True)
        assert len(waits) == token_cohorts.LOOKS - 1
        assert (progress.read_bytes() if kept else None) == before  # which is the slow one's
    assert sum(isinstance(event, EpochEnded) for event in seen) == (2 if kept else 4)
    also = cohorts.files[0].read_bytes()
    cohorts.files[0].unlink()
    progress.unlink(missing_ok=True)
    cohorts.learn(0)
    assert cohorts.files[0].read_bytes() == also
    modified = cohorts.files[0].stat().st_mtime_ns
    cohorts.learn(0, also=True)  # it is there
    assert cohorts.files[0].stat().st_mtime_ns == modified


def test_a_worker_waits_for_a_killed_one_to_let_go_and_keeps_its_epochs(
    request_: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, written = tmp_path / "tokens.safetensors", []
    cohorts = learner(request_, out)
    held = locked_file(cohorts.files[0])
    held.__enter__()
    monkeypatch.setattr(time, "sleep", lambda _: held.__exit__(None, None, None))
    killed_at(monkeypatch, ZeroDivisionError, -1, written)
    cohorts.learn(0, also=True)
    assert set(written) == {cohort_progress(out, 0)}
    assert not cohort_progress(out, 0).exists()


def test_a_cohort_whose_workers_are_killed_is_not_to_blame_while_it_gets_on(
    request_: Request, tmp_path: Path, here: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    learning, write = replace(LEARNING, epochs=4), token_epochs.write_whole
    learn(request_, tmp_path / "one.safetensors", learning)
    out, kept = tmp_path / "ray.safetensors", dict[Path, bytes]()

    def killed_after_each_epoch(path: Path, content: bytes) -> None:
        write(path, content)
        before, kept[path] = kept.get(path), content
        if path == cohort_progress(out, 0) and before not in (None, content):
            raise here.Killed

    monkeypatch.setattr(token_epochs, "write_whole", killed_after_each_epoch)
    notes: list[Event] = []
    learn(request_, out, learning, cluster=ON_TWO, events=Events(notes.append))
    lost = [event for event in notes if isinstance(event, Noted) and "with part 0" in event.text]
    assert len(lost) == 4  # 3 would end the run if the cohort were to blame
    assert out.read_bytes() == (tmp_path / "one.safetensors").read_bytes()


@pytest.mark.usefixtures("here")
def test_a_second_driver_of_one_file_is_refused(request_: Request, tmp_path: Path) -> None:
    out, met = tmp_path / "tokens.safetensors", []

    def meet(event: Event) -> None:
        if isinstance(event, Progressed) and not met:
            met.append(event)
            for options in ({"cluster": ON_TWO}, {}, {"share": "1/2"}):
                with pytest.raises(InUseError, match="in use by process"):
                    learn(request_, out, **options)

    learn(request_, out, cluster=ON_TWO, events=Events(meet))
    assert met
    assert {path.name for path in tmp_path.glob("*tokens*")} == {out.name}


def cut_after_an_epoch(cohorts: CohortLearner) -> None:
    """Learn a cohort's first epoch, as a worker does that is killed."""

    class Stop(Exception):
        pass

    def cut(event: Event) -> None:
        if isinstance(event, EpochEnded):
            raise Stop

    events, cohorts.events = cohorts.events, Events(cut)
    with pytest.raises(Stop):
        cohorts.learn(0)
    cohorts.events = events


def test_the_word_is_tried_by_one_process_for_which_the_others_wait(
    request_: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried, seen, out = [], [], tmp_path / "tokens.safetensors"
    begin = token_cohorts.begin

    def trial(*arguments: Any) -> Any:
        tried.append(arguments[3:])
        return begin(*arguments)

    monkeypatch.setattr(token_cohorts, "begin", trial)
    first = learner(request_, tmp_path / "other.safetensors")
    held = locked_file(folder_of(out) / token_cohorts.START)
    held.__enter__()

    def found_meanwhile(_: float) -> None:
        (folder_of(out) / token_cohorts.START).write_bytes(
            (first.folder / token_cohorts.START).read_bytes()
        )
        held.__exit__(None, None, None)

    monkeypatch.setattr(time, "sleep", found_meanwhile)
    learner(request_, out, events=Events(seen.append))
    assert tried == [(None,), ("class name",)]
    (note,) = [event.text for event in seen if isinstance(event, Noted)]
    assert note.startswith("waiting for the word that tokens start from: ")


def test_a_machine_of_another_kind_is_refused_unless_kinds_may_mix(
    request_: Request, tmp_path: Path
) -> None:
    cohorts = learner(request_, tmp_path / "tokens.safetensors")
    path = cohorts.folder / token_cohorts.START
    there = json.loads(path.read_bytes())
    assert there["kind"]["canary"].endswith("-2-2")  # whole batches
    cohorts.drawing.micro_batches.sizes["cat"] = (
        1  # as another plan would have it, which no step of the canary shows
    )
    assert learning_kind(cohorts.drawing).canary == there["kind"]["canary"].replace("-2-2", "-1-2")
    del there["sha256"]
    there["kind"] |= {"canary": "0-1-1", "threads": 99}
    path.write_text(json.dumps(there))
    with pytest.raises(OtherKindError, match="threads is 99 there and"):
        learner(request_, tmp_path / "tokens.safetensors")
    assert learner(request_, tmp_path / "tokens.safetensors", mixed=True).missing() == [0, 1]
    del there["kind"]  # begun by a version that did not record it
    path.write_text(json.dumps(there))
    assert learner(request_, tmp_path / "tokens.safetensors").missing() == [0, 1]


def test_sizes_of_micro_batches_stay_as_they_were_planned(
    request_: Request, tmp_path: Path
) -> None:
    assert learner(request_, tmp_path / "tokens.safetensors").drawing.micro_batches.fixed


@pytest.mark.usefixtures("here")
def test_fewer_side_by_side_are_more_cohorts_other_tokens_and_a_record_of_it(
    request_: Request, tmp_path: Path
) -> None:
    learning, seen = replace(LEARNING, side_by_side=1), []
    one = learn(request_, tmp_path / "one.safetensors", learning)
    learn(
        request_, tmp_path / "ray.safetensors", learning, cluster=ON_TWO, events=Events(seen.append)
    )
    assert (tmp_path / "ray.safetensors").read_bytes() == (
        tmp_path / "one.safetensors"
    ).read_bytes()
    assert [event.units for event in seen if isinstance(event, Progressed)] == [1, 1, 1]
    assert one.run["learning"]["side_by_side"] == 1
    two = learn(request_, tmp_path / "two.safetensors")
    assert not torch.equal(one.rows, two.rows)
    with pytest.raises(OutputError, match="side_by_side is 1 there and 0 here"):
        learn(request_, tmp_path / "one.safetensors")
    with pytest.raises(ConfigError, match="side_by_side is 3 and batch 2, expected no more"):
        learn(request_, tmp_path / "three.safetensors", replace(LEARNING, side_by_side=3))
    with pytest.raises(ConfigError, match="side_by_side is -1"):
        replace(LEARNING, side_by_side=-1)


def test_a_plan_travels_and_models_do_not(
    request_: Request,
    classifier: Classifier,
    small_prior_folder: Path,
    tmp_path: Path,
    here: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "tokens.safetensors"
    prior = load_prior(small_prior_folder, device="cpu")
    for given in ((classifier, str(small_prior_folder)), (request_, prior)):
        with pytest.raises(ConfigError, match="given models as objects"):
            learn_tokens(*given, learning=LEARNING, out=out, cluster=ON_TWO)
    with pytest.raises(ConfigError, match="several processes learn were asked for without out"):
        learn_tokens(request_, learning=LEARNING, cluster=ON_TWO)
    with pytest.raises(ConfigError, match="a cluster divides the work itself"):
        learn(request_, out, cluster=ON_TWO, share="1/2")
    halved = uncounted(prior, classifier, 8 * 2**30, 2, Alignment(), LEARNING, True)
    halved = replace(halved, micro_batch={**halved.micro_batch, "cat": 1})
    planned = []

    class Watched(here):
        def answers(self, seconds: float) -> Sequence[Answer]:
            found = super().answers(seconds)
            planned.extend(a.hello["plan"]["micro_batch"] for a in found if isinstance(a, Ready))
            return found

    monkeypatch.setattr(cluster_run, "RayPool", Watched)
    learn(request_, out, memory=halved, cluster=Cluster(ray="local"))
    assert [sizes["cat"] for sizes in planned] == [1]


def test_the_command_says_where_workers_run_and_loads_no_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[tuple[TokenLearning, Execution]] = []

    def learn_on_workers(
        _: Request, learning: TokenLearning, execution: Execution, *__: Any
    ) -> None:
        seen.append((learning, execution))
        raise ConfigError("far enough")

    monkeypatch.setattr("engine.cluster.tokens.learn_on_workers", learn_on_workers)
    asked = ["learn-tokens", "--classifier", "no-such.pt", "--out", str(tmp_path / "t.safetensors")]
    ray = ["--ray", "local", "--workers", "3", "--mixed", "--learning.side-by-side", "1"]
    assert main([*asked, *ray]) == 2
    assert capsys.readouterr().err == "error: far enough\n"
    ((learning, execution),) = seen
    assert learning.side_by_side == 1
    assert execution.mixed
    assert execution.cluster == Cluster(ray="local", workers=3)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="needs the extra ray")
@pytest.mark.usefixtures("ray_settings")
def test_ray_learns_the_bytes_of_one_process_though_a_worker_is_killed(
    request_: Request, tmp_path: Path
) -> None:
    learning = replace(LEARNING, side_by_side=1)
    learn(request_, tmp_path / "one.safetensors", learning)
    out, notes, killed = tmp_path / "ray.safetensors", [], []

    def watch(event: Event) -> None:
        if isinstance(event, Noted):
            notes.append(event.text)
        if isinstance(event, Progressed) and not killed:
            killed.extend(_workers())
            os.kill(killed[0], signal.SIGKILL)

    learn(request_, out, learning, cluster=Cluster(ray="local"), events=Events(watch))
    assert out.read_bytes() == (tmp_path / "one.safetensors").read_bytes()
    assert any("lost with part" in note for note in notes)
    assert len(killed) == 1
    assert not folder_of(out).exists()


def _workers() -> list[int]:
    """The processes of all actors that are alive, of this process's clusters: nobody else's are killed."""
    ours = psutil.Process().children(recursive=True)
    return [process.pid for process in ours if "ray::TokenWorker" in _command(process)]


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
