from __future__ import annotations

import pytest

from tests.unit.worker_daemon.test_outbox_states import a_job
from worker.core.errors import Cancelled, EngineHung, LeaseLost, ServerUnavailable, WorkerError
from worker.heartbeat import Drained, Watch


class FakeServer:
    def __init__(self) -> None:
        self.beats: list[tuple[str, float]] = []
        self.error: WorkerError | None = None

    def heartbeat(self, _request: str, _lease: str, *, stage: str, progress: float) -> float:
        self.beats.append((stage, progress))
        if self.error is not None:
            raise self.error
        return 90.0


class World:
    def __init__(self) -> None:
        self.now = 0.0
        self.kills = 0
        self.is_drained = False
        self.server = FakeServer()
        self.watch = Watch(
            self.server,
            a_job(),
            stall_s=300,
            on_verdict=self.kill,
            is_drained=lambda: self.is_drained,
            now=lambda: self.now,
        )

    def kill(self) -> None:
        self.kills += 1

    def go(self, until: float, *, moving: bool = True) -> None:
        while self.now < until and self.watch.verdict is None:
            self.now += 1
            if moving:
                self.watch.moved("inferring", self.now)
            self.watch.tick()


@pytest.fixture
def world() -> World:
    return World()


def test_work_without_news_beats_at_a_third_of_the_lease(world: World) -> None:
    world.go(29, moving=False)
    assert world.server.beats == []
    world.go(100, moving=False)
    assert len(world.server.beats) == 3


def test_a_new_stage_is_told_at_once_and_progress_now_and_then(world: World) -> None:
    world.go(10)
    assert world.server.beats == [
        ("inferring", 1),
        ("inferring", 4),
        ("inferring", 7),
        ("inferring", 10),
    ]
    world.watch.moved("writing", 0.0)
    world.watch.tick()
    assert world.server.beats[-1] == ("writing", 0.0)


def test_a_work_that_stands_still_is_ended(world: World) -> None:
    world.watch.moved("inferring", 0.5)
    world.go(1000, moving=False)
    assert isinstance(world.watch.verdict, EngineHung)
    assert world.now == 300
    assert world.kills == 1
    assert "inferring" in world.watch.verdict.message


def test_the_same_progress_again_is_no_movement(world: World) -> None:
    while world.now < 1000 and world.watch.verdict is None:
        world.now += 1
        world.watch.moved("inferring", 0.5)
        world.watch.tick()
    # The first report at second 1 was movement; its repetitions were none.
    assert world.now == 301


def test_no_beat_after_the_deadline(world: World) -> None:
    world.go(5000)
    assert world.now == 1800
    assert isinstance(world.watch.verdict, EngineHung)
    assert max(progress for _, progress in world.server.beats) < 1800


@pytest.mark.parametrize("error", [Cancelled("m"), LeaseLost("m")])
def test_a_lost_lease_ends_the_work(world: World, error: WorkerError) -> None:
    world.server.error = error
    world.go(100)
    assert world.watch.verdict is error
    assert world.now == 1  # by the first beat
    with pytest.raises(type(error)):
        world.watch.check()


def test_a_site_that_is_away_is_asked_again_sooner_and_the_work_goes_on(world: World) -> None:
    world.server.error = ServerUnavailable("m")
    world.go(60)
    assert [progress for _, progress in world.server.beats] == [1, 16, 31, 46]
    assert world.watch.verdict is None


def test_a_finished_result_is_not_destroyed_by_stall_drain_or_cancel(world: World) -> None:
    world.watch.finished()
    world.is_drained = True
    world.server.error = Cancelled("m")
    world.go(3000, moving=False)
    assert world.watch.verdict is None
    assert world.kills == 0


def test_the_end_of_draining_ends_the_work(world: World) -> None:
    world.is_drained = True
    world.go(5)
    assert isinstance(world.watch.verdict, Drained)
