"""The ASGI wrapper, around a small application that plays Django's part."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest

from django_queue_app import hold
from django_queue_app.hold import hold_long_polls
from django_queue_app.hold_header import HOLD_HEADER, SCOPE_KEY, Hold, Replay
from django_queue_app.wakeup import ChangeWish, ClaimWish, Hub, OutcomeWish, Sight, Work

pytestmark = pytest.mark.asyncio


class NoLook:
    def __call__(self, **_: Any) -> Sight:
        return Sight()

    def close(self) -> None:
        pass


class Site:
    """Answers as `script` says, one entry per call, and notes each call's body and replay."""

    def __init__(self, *script: tuple[int, Hold | None]) -> None:
        self.script = list(script)
        self.calls: list[tuple[bytes, Replay | None]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        self.calls.append((body, scope.get(SCOPE_KEY)))
        status, held = self.script.pop(0)
        headers = [(b"X-Kept", b"yes"), (b"retry-after", b"1")]
        if held is not None:
            headers.append((HOLD_HEADER.encode(), held.to_header().encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": str(status).encode()})


class Client:
    """One HTTP client: what it sends, whether it hangs up, what it got."""

    def __init__(self, body: bytes = b"{}", chunks: int = 1) -> None:
        size = max(1, -(-len(body) // chunks))
        self._parts = [body[i : i + size] for i in range(0, len(body), size)] or [b""]
        self.gone = asyncio.Event()
        self.sent: list[dict[str, Any]] = []
        self.headers = [(b"content-length", str(len(body)).encode())]

    async def receive(self) -> dict[str, Any]:
        if self._parts:
            part = self._parts.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(self._parts)}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(dict(message))

    @property
    def status(self) -> int | None:
        return self.sent[0]["status"] if self.sent else None

    @property
    def header_names(self) -> set[bytes]:
        return {name.lower() for name, _ in self.sent[0]["headers"]}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Hub]:
    made: dict[asyncio.AbstractEventLoop, Hub] = {}

    def of_loop() -> Hub:
        loop = asyncio.get_running_loop()
        if loop not in made:
            made[loop] = Hub(NoLook(), interval_s=60)
        return made[loop]

    monkeypatch.setattr(hold, "hub_of_running_loop", of_loop)
    return of_loop


def call(site: Any, client: Client, *, limit: int = 1 << 20) -> asyncio.Task[None]:
    app = hold_long_polls(site, max_body_bytes=limit)
    scope = {"type": "http", "headers": client.headers}
    return asyncio.create_task(app(scope, client.receive, client.send))


CLAIM = Hold(wait_s=5, wish=ClaimWish(lane="lab"))


async def test_an_answer_without_the_header_passes_at_once(hub: Any) -> None:
    site, client = Site((200, None)), Client()
    await asyncio.wait_for(call(site, client), 1)
    assert client.status == 200
    assert site.calls == [(b"{}", Replay())]


async def test_a_held_claim_is_asked_again_when_woken_with_the_same_body(hub: Any) -> None:
    site, client = Site((204, CLAIM), (200, None)), Client(b'{"worker": 1}', chunks=3)
    task = call(site, client)
    await asyncio.sleep(0.05)
    assert client.status is None
    hub().work_filed(Work(lane="lab"))
    await asyncio.wait_for(task, 1)
    assert client.status == 200
    assert [body for body, _ in site.calls] == [b'{"worker": 1}'] * 2


async def test_the_kept_answer_goes_out_after_the_wait_without_the_internal_header(
    hub: Any,
) -> None:
    brief = Hold(wait_s=0.05, wish=ClaimWish(lane="lab"))
    site, client = Site((204, brief)), Client()
    await asyncio.wait_for(call(site, client), 1)
    assert client.status == 204
    assert HOLD_HEADER.lower().encode() not in client.header_names
    assert b"x-kept" in client.header_names


async def test_a_worker_that_many_stand_in_for_rests_longer(hub: Any) -> None:
    alone, crowded = Client(), Client()
    brief = Hold(wait_s=0.05, wish=ClaimWish(lane="lab"))
    await asyncio.wait_for(call(Site((204, brief)), alone), 1)
    others = [call(Site((204, CLAIM)), Client()) for _ in range(90)]
    other_kinds = [
        call(Site((204, Hold(wait_s=5, wish=wish))), Client())
        for wish in [ClaimWish(lane="lab", models=frozenset({"x"})), ClaimWish(lane="cloud")] * 60
    ]
    await asyncio.sleep(0.05)
    await asyncio.wait_for(call(Site((204, brief)), crowded), 10)
    assert (b"retry-after", b"1") in alone.sent[0]["headers"]
    rests = [value for name, value in crowded.sent[0]["headers"] if name == b"retry-after"]
    assert rests == [b"3"]
    for task in [*others, *other_kinds]:
        task.cancel()
    await asyncio.gather(*others, *other_kinds, return_exceptions=True)
    assert hub().waiting == 0
    assert hub().crowd(CLAIM.wish) == 0


async def test_being_woken_for_nothing_does_not_prolong_the_wait(hub: Any) -> None:
    brief = Hold(wait_s=0.2, wish=ClaimWish(lane="lab"))
    site, client = Site(*[(204, brief)] * 50), Client()
    task = call(site, client)
    for _ in range(30):
        await asyncio.sleep(0.02)
        hub().work_filed(Work(lane="lab"))
    await asyncio.wait_for(task, 1)
    assert len(client.sent) == 2


async def test_the_replay_names_the_request_that_was_filed(hub: Any) -> None:
    request_id = uuid4()
    wish = OutcomeWish(request_id=request_id)
    held = Hold(wait_s=5, wish=wish, is_deduplicated=True)
    site, client = Site((504, held), (200, None)), Client()
    task = call(site, client)
    await asyncio.sleep(0.02)
    hub().request_ended(request_id)
    await asyncio.wait_for(task, 1)
    assert site.calls[1][1] == Replay(request_id=request_id, is_deduplicated=True)


async def test_a_client_that_hangs_up_ends_its_wait(hub: Any) -> None:
    site, client = Site((204, CLAIM)), Client()
    task = call(site, client)
    await asyncio.sleep(0.02)
    assert hub().waiting == 1
    client.gone.set()
    await asyncio.wait_for(task, 1)
    assert hub().waiting == 0
    assert client.sent == []


async def test_a_server_that_stops_answers_every_wait_at_once(hub: Any) -> None:
    site, client = Site((204, CLAIM)), Client()
    task = call(site, client)
    await asyncio.sleep(0.02)
    hub().close()
    await asyncio.wait_for(task, 1)
    assert client.status == 204


async def test_cancelling_the_call_leaves_no_waiter(hub: Any) -> None:
    task = call(Site((204, CLAIM)), Client())
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert hub().waiting == 0


async def test_a_body_too_large_to_replay_is_answered_without_waiting(hub: Any) -> None:
    site, client = Site((204, CLAIM)), Client(b"x" * (hold.REPLAYABLE_BODY_BYTES + 1), chunks=4)
    await asyncio.wait_for(call(site, client), 1)
    assert client.status == 204
    assert HOLD_HEADER.lower().encode() not in client.header_names


async def test_a_declared_body_beyond_the_limit_is_413_unread(hub: Any) -> None:
    site, client = Site(), Client(b"x" * 100)
    await asyncio.wait_for(call(site, client, limit=99), 1)
    assert client.status == 413
    assert json.loads(client.sent[1]["body"])["code"] == "body_too_large"


async def test_an_undeclared_body_beyond_the_limit_is_cut_off_with_413(hub: Any) -> None:
    site, client = Site((200, None)), Client(b"x" * 100, chunks=10)
    client.headers = []
    await asyncio.wait_for(call(site, client, limit=50), 1)
    assert client.status == 413
    assert site.calls == []


@pytest.mark.parametrize(
    "wish",
    [
        ClaimWish(lane="lab", models=frozenset({"a;b,c", '"뇌"'})),
        OutcomeWish(request_id=UUID(int=7)),
        ChangeWish(request_id=UUID(int=7), seen=datetime(2026, 11, 20, tzinfo=UTC)),
    ],
)
async def test_the_header_survives_its_round_trip(wish: Any) -> None:
    held = Hold(wait_s=2.5, wish=wish)
    assert Hold.from_header(held.to_header()) == held
    assert held.to_header().isascii()


async def test_lifespan_is_answered_for_django(hub: Any) -> None:
    messages = iter(["lifespan.startup", "lifespan.shutdown"])
    sent: list[str] = []

    async def receive() -> dict[str, str]:
        return {"type": next(messages)}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await hold_long_polls(Site(), max_body_bytes=1)({"type": "lifespan"}, receive, send)
    await asyncio.sleep(0)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert hub().is_closed


def following(last: str) -> Hold:
    wish = ChangeWish(request_id=FOLLOWED, seen=datetime(2026, 11, 20, tzinfo=UTC))
    return Hold(wait_s=5, wish=wish, last_event=last)


FOLLOWED = UUID(int=8)


@pytest.mark.parametrize(("final", "parts"), [(200, b"200200200"), (403, b"200200")])
async def test_a_stream_goes_on_with_each_change_until_an_answer_is_final(
    hub: Any, final: int, parts: bytes
) -> None:
    site = Site((200, following("1")), (200, following("2")), (final, None))
    client = Client()
    task = call(site, client)
    for sent in (2, 3):
        await asyncio.sleep(0.05)
        assert len(client.sent) == sent
        hub().request_changed(UUID(int=9))
        hub().request_changed(FOLLOWED)
    await asyncio.wait_for(task, 1)
    assert client.status == 200
    assert not {b"content-length", b"x-hold"} & client.header_names
    assert b"".join(part["body"] for part in client.sent[1:]) == parts
    assert [part.get("more_body", False) for part in client.sent[1:]][-2:] == [True, False]
    assert [replay.last_event for _, replay in site.calls if replay] == [None, "1", "2"]


async def test_a_quiet_stream_says_that_it_is_alive_and_ends_with_the_server(
    hub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hold, "COMMENT_EVERY_S", 0.05)
    site, client = Site((200, following("1"))), Client()
    task = call(site, client)
    await asyncio.sleep(0.18)
    comments = [part["body"] for part in client.sent[2:]]
    assert len(comments) >= 2
    assert set(comments) == {hold.COMMENT}
    hub().close()
    await asyncio.wait_for(task, 1)
    assert client.sent[-1] == {"type": "http.response.body", "body": b""}


async def test_a_stream_whose_reader_hangs_up_ends(hub: Any) -> None:
    site, client = Site((200, following("1"))), Client()
    task = call(site, client)
    await asyncio.sleep(0.05)
    client.gone.set()
    await asyncio.wait_for(task, 1)
    assert hub().waiting == 0


async def test_small_posts_take_turns_and_read_their_bodies_before(
    hub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hold, "CALLS_AT_ONCE", 2)
    inside, most, go_on = 0, 0, asyncio.Event()

    async def site(scope: Any, receive: Any, send: Any) -> None:
        nonlocal inside, most
        assert (await receive())["body"] == b"{}"
        inside += 1
        most = max(most, inside)
        await go_on.wait()
        inside -= 1
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    app = hold_long_polls(site, max_body_bytes=100)
    slow, gone, *clients = [Client() for _ in range(7)]
    slow._parts, gone._parts = [], []

    def start(client: Client, method: str) -> asyncio.Task[None]:
        scope = {"type": "http", "method": method, "headers": client.headers}
        return asyncio.create_task(app(scope, client.receive, client.send))

    waiting, left = start(slow, "POST"), start(gone, "POST")
    tasks = [start(client, "POST") for client in clients]
    await asyncio.sleep(0.05)
    assert (inside, most) == (2, 2)
    reader = Client()
    other = start(reader, "GET")
    await asyncio.sleep(0.05)
    assert inside == 3
    gone.gone.set()
    go_on.set()
    await asyncio.wait_for(asyncio.gather(*tasks, other, left), 1)
    assert [client.status for client in (*clients, reader, gone)] == [200] * 6 + [None]
    slow.gone.set()
    await asyncio.wait_for(waiting, 1)
