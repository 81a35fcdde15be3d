"""The driver's contract by fault, in simulated time: each part once, whoever is lost."""

import random
from typing import Any

import pytest
from simulated_pool import SimulatedPool

from engine.cluster.driver import ATTEMPTS, NODES, STARTS, Driver
from engine.cluster.pool import Answer, ClusterError, Failed, Handle, Lost, Ready
from engine.cluster.usual import LEAST_SECONDS_OF_A_HANG, Usual
from engine.errors import ConfigError


def driver(pool: SimulatedPool, workers: int, notes: list[str] | None = None) -> Driver:
    def note(text: str) -> None:
        if notes is not None:
            notes.append(text)

    return Driver(pool, workers, lambda hello: hello["missing"], note=note, clock=pool.clock)


def test_each_part_is_made_once_and_all_workers_end() -> None:
    pool = SimulatedPool(40)
    one = driver(pool, 4)
    parts = [part for part, _ in one.parts()]
    assert sorted(parts) == list(range(40))
    assert pool.now == pytest.approx(5 + 40 / 4, abs=2)
    assert set(pool.stopped) == {0, 1, 2, 3}
    assert not one.made_twice


def test_the_first_ready_worker_says_what_is_missing() -> None:
    pool = SimulatedPool(6, made=[0, 2])
    one = driver(pool, 3)
    one.start()
    assert pool.now == 5
    assert {part for _, part in pool.given} == {1, 3, 4}
    assert sorted(part for part, _ in one.parts()) == [1, 3, 4, 5]


def test_all_workers_end_where_nothing_is_missing() -> None:
    pool = SimulatedPool(3, made=[0, 1, 2])
    assert list(driver(pool, 4).parts()) == []
    assert pool.stopped == {0, 1, 2, 3}


def test_a_worker_that_does_not_fit_is_replaced() -> None:
    pool = SimulatedPool(20)
    answers = iter([False, True, True, True])
    one = Driver(pool, 3, lambda hello: hello["missing"], lambda _: next(answers), clock=pool.clock)
    assert sorted(part for part, _ in one.parts()) == list(range(20))
    assert {worker for worker, _ in pool.given} == {0, 2, 3}


def test_a_lost_workers_part_goes_to_another_and_the_worker_is_replaced() -> None:
    pool = SimulatedPool(30, dies=lambda worker, part: 0.5 if worker == 1 and part else None)
    notes: list[str] = []
    one = driver(pool, 2, notes)
    assert sorted(part for part, _ in one.parts()) == list(range(30))
    assert one.lost == 1
    assert {worker for worker, _ in pool.given} == {0, 1, 2}
    assert len(notes) == 1
    assert "lost with part" in notes[0]


def test_a_part_that_kills_its_workers_ends_the_run_by_name() -> None:
    pool = SimulatedPool(10, dies=lambda _, part: 0.1 if part == 7 else None)
    with pytest.raises(ClusterError, match="part 7 lost 3 workers"):
        list(driver(pool, 3).parts())
    assert [part for _, part in pool.given].count(7) == ATTEMPTS
    started = next(pool.numbers)
    assert set(pool.stopped) == set(range(started))


def test_a_part_is_not_to_blame_for_nodes_that_are_taken_away() -> None:
    def taken(worker: Handle, part: int) -> Answer | None:
        is_lost = part == 7 and [given for _, given in pool.given].count(7) <= 2 * ATTEMPTS
        return Lost(worker, part, "its node has died", with_node=True) if is_lost else None

    pool = SimulatedPool(10, answer=taken)
    one = driver(pool, 3)
    assert sorted(part for part, _ in one.parts()) == list(range(10))
    assert one.lost == 2 * ATTEMPTS


def test_a_part_that_always_takes_its_node_down_ends_the_run_by_name() -> None:
    def taken(worker: Handle, part: int) -> Answer | None:
        assert len(pool.given) < 100
        return Lost(worker, part, "its node has died", with_node=True) if part == 3 else None

    pool = SimulatedPool(6, answer=taken)
    with pytest.raises(ClusterError, match="part 3 lost 10 workers with their nodes"):
        list(driver(pool, 2).parts())
    assert [part for _, part in pool.given].count(3) == NODES


def test_starts_that_end_with_their_nodes_are_made_again() -> None:
    pool = SimulatedPool(6)
    later, lost = pool._later, []

    def taken(seconds: float, answer: Answer) -> None:
        if isinstance(answer, Ready) and len(lost) < 2 * STARTS:
            answer = Lost(answer.worker, None, "its node has died", with_node=True)
            lost.append(answer)
        later(seconds, answer)

    pool._later = taken
    assert sorted(part for part, _ in driver(pool, 2).parts()) == list(range(6))
    assert len(lost) == 2 * STARTS


@pytest.mark.parametrize("moves_on", [True, False])
def test_losses_before_the_latest_progress_of_a_part_do_not_count(moves_on: bool) -> None:
    def dies(_: int, part: int) -> float | None:
        return 0.5 if part == 3 and given() <= 2 * ATTEMPTS else None

    def given() -> int:
        return [part for _, part in pool.given].count(3)

    pool = SimulatedPool(6, dies=dies)
    one = Driver(
        pool,
        2,
        lambda hello: hello["missing"],
        clock=pool.clock,
        kept=lambda _: given() if moves_on else 0,
    )
    if not moves_on:
        with pytest.raises(ClusterError, match="part 3 lost 3 workers"):
            list(one.parts())
        return
    assert sorted(part for part, _ in one.parts()) == list(range(6))
    assert one.lost == 2 * ATTEMPTS


def test_workers_that_never_start_end_the_run_with_the_reason() -> None:
    pool = SimulatedPool(10, starts=lambda _: "no CUDA device")
    with pytest.raises(ClusterError, match=f"{STARTS} workers in a row.*no CUDA device"):
        list(driver(pool, 4).parts())


def test_some_failing_starts_are_lived_with() -> None:
    pool = SimulatedPool(20, starts=lambda worker: "node is full" if worker % 3 == 1 else "")
    assert sorted(part for part, _ in driver(pool, 4).parts()) == list(range(20))


@pytest.mark.parametrize("part", [None, 3])
def test_an_error_of_a_healthy_worker_ends_the_run_at_once(part: int | None) -> None:
    def fails(worker: int, given: int) -> Answer | None:
        return Failed(worker, given, ConfigError("no such class")) if given == part else None

    pool = SimulatedPool(10, answer=fails)
    if part is None:
        start = pool.start

        def fails_at_once() -> Handle:
            worker = start()
            pool.queue[-1] = (0.0, -1, 0, Failed(worker, None, ConfigError("no such class")))
            return worker

        pool.start = fails_at_once
    with pytest.raises(ConfigError, match="no such class"):
        list(driver(pool, 2).parts())
    assert 0 in pool.stopped


def test_a_slow_part_is_made_twice_and_counts_once() -> None:
    pool = SimulatedPool(12, seconds=lambda worker, part: 40.0 if (worker, part) == (0, 0) else 1.0)
    notes: list[str] = []
    one = driver(pool, 2, notes)
    assert sorted(part for part, _ in one.parts()) == list(range(12))
    assert pool.now < 30
    assert [part for _, part in pool.given].count(0) == 2
    assert any("part 0 is slow" in note for note in notes)


def test_a_hanging_worker_is_stopped_and_its_part_made_by_another() -> None:
    pool = SimulatedPool(30, seconds=lambda worker, _: 1e9 if worker == 1 else 100.0)
    one = driver(pool, 2)
    assert sorted(part for part, _ in one.parts()) == list(range(30))
    assert 1 in pool.stopped
    assert pool.now < 1e5


def test_first_parts_that_hang_are_noticed_before_any_has_ended() -> None:
    pool = SimulatedPool(6, seconds=lambda worker, _: 1e9 if worker < 2 else 100.0)
    notes: list[str] = []
    one = driver(pool, 2, notes)
    assert sorted(part for part, _ in one.parts()) == list(range(6))
    assert {0, 1} <= pool.stopped
    assert one.lost == 2
    assert LEAST_SECONDS_OF_A_HANG < pool.now < LEAST_SECONDS_OF_A_HANG + 600
    assert "it did not answer for" in notes[0]


def test_a_first_part_may_take_long_where_the_start_took_long() -> None:
    pool = SimulatedPool(2, seconds=lambda *_: 5000.0, start_seconds=200.0)
    assert len(list(driver(pool, 2).parts())) == 2
    assert pool.given == [(0, 0), (1, 1)]


def test_a_worker_that_never_gets_ready_is_noted_each_minute_and_ends_the_run() -> None:
    pool = SimulatedPool(6, start_seconds=1e9)
    notes: list[str] = []
    with pytest.raises(ClusterError, match=rf"{STARTS} workers in a row did not get ready"):
        list(driver(pool, STARTS, notes).parts())
    assert pool.now == pytest.approx(LEAST_SECONDS_OF_A_HANG, abs=2)
    said = [note for note in notes if note.startswith("no worker is ready after ")]
    assert len(said) == pytest.approx(LEAST_SECONDS_OF_A_HANG / 60, abs=1)
    assert said[0].startswith("no worker is ready after 60 s: ")
    assert said[9].startswith("no worker is ready after 600 s: ")


def test_one_start_that_hangs_is_replaced() -> None:
    pool = SimulatedPool(6)
    later, hung = pool._later, []

    def hangs_once(seconds: float, answer: Answer) -> None:
        later(seconds if hung else 1e9, answer)
        hung.append(answer)

    pool._later = hangs_once
    assert sorted(part for part, _ in driver(pool, 1).parts()) == list(range(6))
    assert 0 in pool.stopped
    assert pool.now == pytest.approx(LEAST_SECONDS_OF_A_HANG + 5 + 6, abs=3)


def test_workers_that_wait_for_room_while_others_work_do_not_end_the_run() -> None:
    pool = SimulatedPool(30, seconds=lambda *_: 1000.0)
    later = pool._later

    def room_for_two(seconds: float, answer: Answer) -> None:
        waits = isinstance(answer, Ready) and isinstance(answer.worker, int) and answer.worker >= 2
        later(1e9 if waits else seconds, answer)

    pool._later = room_for_two
    notes: list[str] = []
    assert sorted(part for part, _ in driver(pool, 8, notes).parts()) == list(range(30))
    assert notes == []


def test_an_answer_after_its_worker_was_given_up_is_not_counted() -> None:
    pool = SimulatedPool(2)
    one = driver(pool, 1)
    one.start()
    assert one._take(Lost("nobody", 1, "late")) is None
    assert sorted(part for part, _ in one.parts()) == [0, 1]


def test_workers_end_when_the_caller_stops_reading() -> None:
    pool = SimulatedPool(10)
    parts = driver(pool, 3).parts()
    next(parts)
    parts.close()
    assert pool.stopped == {0, 1, 2}
    assert len(pool.made) < 10


@pytest.mark.parametrize("seed", range(30))
def test_any_mixture_of_faults_makes_each_part_once(seed: int) -> None:
    rng = random.Random(seed)
    deaths: dict[int, int] = {}

    def dies(_: int, part: int) -> float | None:
        if rng.random() < 0.1 and deaths.get(part, 0) < ATTEMPTS - 1:
            deaths[part] = deaths.get(part, 0) + 1
            return rng.random()
        return None

    def seconds(*_: Any) -> float:
        return rng.choice([1.0, 1.0, 1.0, 30.0])

    def starts(_: int) -> str:
        return "full" if rng.random() < 0.2 else ""

    pool = SimulatedPool(rng.randrange(1, 200), seconds, 5.0, starts, dies)
    one = driver(pool, rng.randrange(1, 20))
    parts = [part for part, _ in one.parts()]
    assert sorted(parts) == list(range(pool.parts))
    assert one.lost <= sum(deaths.values())


def test_time_left_is_known_after_the_first_part() -> None:
    pool = SimulatedPool(10)
    one = driver(pool, 2)
    assert one.seconds_left is None
    parts = one.parts()
    next(parts)  # both workers end their first ones at the same moment
    assert len(one.missing) == 8
    assert one.seconds_left == 8 * 1.0 / 2
    parts.close()


@pytest.mark.parametrize("longest", [1, 40])
def test_parts_that_differ_much_are_neither_slow_nor_hanging_for_that(longest: int) -> None:
    pool = SimulatedPool(12, seconds=lambda _, part: 3500.0 if part == 11 else 100.0)
    notes: list[str] = []
    one = Driver(
        pool,
        2,
        lambda hello: hello["missing"],
        note=notes.append,
        clock=pool.clock,
        usual=Usual(longest),
    )
    if longest == 1:
        with pytest.raises(ClusterError, match="part 11 lost 3 workers"):
            list(one.parts())
        return
    assert sorted(part for part, _ in one.parts()) == list(range(12))
    assert [part for _, part in pool.given].count(11) == 1
    assert notes == []


def test_times_that_no_part_takes_are_slow_or_hang_however_parts_differ() -> None:
    usual = Usual(40)
    usual.note_part(100.0)
    assert not usual.is_slow(40 * 100.0)
    assert usual.is_slow(40 * 100.0 + 1)
    assert not usual.hangs(80 * 100.0, starting=False)
    assert usual.hangs(80 * 100.0 + 1, starting=False)
    assert usual.hangs(LEAST_SECONDS_OF_A_HANG + 1, starting=True)
