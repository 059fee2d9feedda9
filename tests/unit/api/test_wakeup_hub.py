"""The hub: who waits, who is woken, and what one look into the database costs."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from django_queue_app.wakeup import (
    ChangeWish,
    ClaimWish,
    Hub,
    OutcomeWish,
    Sight,
    Work,
    notify_changed,
    notify_ended,
)

pytestmark = pytest.mark.asyncio


class ScriptedLook:
    """A look that sees what the test put there, and notes who asked."""

    def __init__(self) -> None:
        self.sight = Sight()
        self.asked: list[tuple[set[str], set[UUID]]] = []
        self.threads: set[str] = set()
        self.is_closed = threading.Event()
        self.error: Exception | None = None

    def __call__(self, *, lanes: Collection[str], request_ids: Collection[UUID]) -> Sight:
        self.asked.append((set(lanes), set(request_ids)))
        self.threads.add(threading.current_thread().name)
        if self.error is not None:
            raise self.error
        return self.sight

    def close(self) -> None:
        self.is_closed.set()


def start(hub: Hub, *wishes: ClaimWish | OutcomeWish, timeout_s: float = 5) -> list[asyncio.Task]:
    return [asyncio.create_task(hub.wait(wish, timeout_s=timeout_s)) for wish in wishes]


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def stop(tasks: list[asyncio.Task]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


LAB = ClaimWish(lane="lab")


async def test_a_wait_without_news_ends_after_its_time() -> None:
    hub = Hub(ScriptedLook(), interval_s=0.01)
    started = time.monotonic()
    assert await hub.wait(LAB, timeout_s=0.1) is False
    assert 0.09 < time.monotonic() - started < 1
    assert hub.waiting == 0


async def test_one_filed_request_wakes_the_two_that_wait_longest_in_its_lane() -> None:
    hub = Hub(ScriptedLook(), interval_s=60)
    tasks = start(hub, ClaimWish(lane="cloud"), *[LAB] * 5)
    await settle()
    hub.work_filed(Work(lane="lab"))
    await settle()
    assert [task.done() for task in tasks] == [False, True, True, False, False, False]
    await stop(tasks)


async def test_a_worker_without_the_model_is_not_woken_for_it() -> None:
    hub = Hub(ScriptedLook(), interval_s=60)
    tasks = start(hub, LAB, ClaimWish(lane="lab", models=frozenset({"brats"})))
    await settle()
    hub.work_filed(Work(lane="lab", model="brats"))
    await settle()
    assert [task.done() for task in tasks] == [False, True]
    await stop(tasks)


async def test_everybody_who_waits_for_one_request_is_woken_when_it_ends() -> None:
    hub = Hub(ScriptedLook(), interval_s=60)
    mine, other = uuid4(), uuid4()
    tasks = start(hub, *[OutcomeWish(request_id=each) for each in (mine, mine, other)])
    await settle()
    notify_ended(mine)
    await settle()
    assert [task.done() for task in tasks] == [True, True, False]
    await stop(tasks)


async def test_who_follows_is_woken_by_a_change_here_or_in_another_process() -> None:
    look, seen = ScriptedLook(), datetime(2026, 11, 20, tzinfo=UTC)
    hub = Hub(look, interval_s=0.01)
    here, there, quiet = uuid4(), uuid4(), uuid4()
    look.sight = Sight(changed_at={here: seen, quiet: seen, there: seen})
    tasks = [
        asyncio.create_task(hub.wait(ChangeWish(request_id=each, seen=seen), timeout_s=5))
        for each in (here, there, quiet)
    ]
    await asyncio.sleep(0.05)
    assert not any(task.done() for task in tasks)
    notify_changed(here)
    look.sight = Sight(changed_at={quiet: seen, there: seen + timedelta(seconds=1)})
    await asyncio.sleep(0.05)
    assert [task.done() for task in tasks] == [True, True, False]
    await stop(tasks)


async def test_the_watcher_wakes_for_what_another_process_filed() -> None:
    look = ScriptedLook()
    hub = Hub(look, interval_s=0.01)
    tasks = start(hub, LAB)
    await asyncio.sleep(0.05)
    look.sight = Sight(work=(Work(lane="lab", model=""),))
    assert await asyncio.wait_for(tasks[0], 1) is True


async def test_the_watcher_looks_only_while_somebody_waits_and_gives_its_connection_back() -> None:
    look = ScriptedLook()
    hub = Hub(look, interval_s=0.01)
    await asyncio.sleep(0.05)
    assert look.asked == []
    await hub.wait(LAB, timeout_s=0.05)
    await asyncio.to_thread(look.is_closed.wait, 1)
    count = len(look.asked)
    await asyncio.sleep(0.05)
    assert look.is_closed.is_set()
    assert len(look.asked) == count > 0


async def test_three_hundred_waiters_share_one_look_in_one_thread() -> None:
    look = ScriptedLook()
    hub = Hub(look, interval_s=0.05)
    before = threading.active_count()
    tasks = start(hub, *[LAB] * 150, *[OutcomeWish(request_id=uuid4()) for _ in range(150)])
    await asyncio.sleep(0.3)
    assert threading.active_count() <= before + 1
    assert len(look.threads) == 1
    assert len(look.asked) <= 8
    assert len(look.asked[-1][1]) == 150
    await stop(tasks)
    assert hub.waiting == 0


async def test_a_database_that_is_away_does_not_end_the_waits() -> None:
    look = ScriptedLook()
    look.error = RuntimeError("database is away")
    hub = Hub(look, interval_s=0.01)
    tasks = start(hub, LAB)
    await asyncio.sleep(0.05)
    look.error, look.sight = None, Sight(work=(Work(lane="lab"),))
    assert await asyncio.wait_for(tasks[0], 1) is True


async def test_closing_ends_every_wait_and_lets_nobody_wait_any_more() -> None:
    hub = Hub(ScriptedLook(), interval_s=60)
    tasks = start(hub, LAB, OutcomeWish(request_id=uuid4()))
    await settle()
    await asyncio.to_thread(hub.close)
    assert await asyncio.wait_for(asyncio.gather(*tasks), 1) == [False, False]
    assert await hub.wait(LAB, timeout_s=60) is False


async def test_a_waiter_that_lost_the_race_goes_to_the_end_of_the_line() -> None:
    hub = Hub(ScriptedLook(), interval_s=60)
    first = start(hub, LAB, LAB)
    rest = start(hub, LAB)
    await settle()
    hub.work_filed(Work(lane="lab"))
    await asyncio.gather(*first)
    again = start(hub, LAB, LAB)
    await settle()
    hub.work_filed(Work(lane="lab"))
    await settle()
    assert rest[0].done()
    assert [task.done() for task in again] == [True, False]
    await stop(again)
