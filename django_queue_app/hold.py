"""Waiting for the queue outside Django: an ASGI wrapper around the site's application.

A view never waits. It answers at once and, where the caller asked to wait, adds the header
`X-Hold` (`hold_header`). The wrapper keeps that answer back, waits on the hub of `wakeup`, and
gives the same call to Django again once there may be something new; `scope[SCOPE_KEY]` tells the
view what it is. Nothing is held meanwhile: Django's thread and its database connection ended with
the answer that was kept back. `docs/decisions/0002-waiting-outside-django.md` says why.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import Any
from weakref import WeakKeyDictionary

from django_queue_app.conf import conf
from django_queue_app.hold_header import HOLD_HEADER, SCOPE_KEY, Hold, Replay
from django_queue_app.wakeup import ChangeWish, ClaimWish, Hub, Wish

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_HOLD_HEADER_LOWER = HOLD_HEADER.lower().encode("ascii")
# Bodies of calls that wait are a few hundred bytes; a larger one is served without waiting.
REPLAYABLE_BODY_BYTES = 64 * 1024
# Each call inside Django has a thread and a database connection of its own, and PostgreSQL takes
# 100 as it comes. Hundreds of workers poll at once after a restart, so they take turns.
CALLS_AT_ONCE = 32
# CONTRACT 2.1: a stream of events says something at least so often.
COMMENT_EVERY_S = 15.0
# Each poll costs the site a few milliseconds, and of 300 idle workers any 30 are enough to take
# what comes: so the more of one kind wait, the longer each rests before it waits again.
ONE_SECOND_PER = 30
LONGEST_REST_S = 10
COMMENT = b": still here\n\n"


def hold_long_polls(app: App, *, max_body_bytes: int | None = None) -> App:
    """Wrap an ASGI application so that its answers with `X-Hold` are held.

    Parameters
    ----------
    app : App
        Django's ASGI application.
    max_body_bytes : int, optional
        A body beyond this is answered 413 before Django spools it to disk;
        `MAX_UPLOAD_BYTES` of the settings by default.

    Returns
    -------
    App
        Answers `lifespan` itself, which Django does not do; passes websockets through.
    """
    if max_body_bytes is None:
        max_body_bytes = conf.max_upload_bytes

    turns = asyncio.Semaphore(CALLS_AT_ONCE)

    async def held_app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _answer_lifespan(receive, send)
        elif scope["type"] == "http":
            await _Exchange(app, scope, receive, send, max_body_bytes, turns).run()
        else:
            await app(scope, receive, send)

    return held_app


async def _answer_lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            hub_of_running_loop()
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            hub_of_running_loop().close()
            await send({"type": "lifespan.shutdown.complete"})
            return


@dataclass
class _Kept:
    """An answer that is kept back: the start message without `X-Hold`, and its body."""

    hold: Hold
    messages: list[Message] = field(default_factory=list)

    @property
    def body(self) -> bytes:
        """The whole body."""
        return _body_of(self.messages)


class _Exchange:
    """One HTTP call of one client, given to Django once or more often."""

    def __init__(
        self,
        app: App,
        scope: Scope,
        receive: Receive,
        send: Send,
        max_body_bytes: int,
        turns: asyncio.Semaphore,
    ) -> None:
        self._app = app
        self._scope = scope
        self._receive = receive
        self._send = send
        self._max_body_bytes = max_body_bytes
        self._turns = turns
        self._body = bytearray()
        self._body_bytes = 0
        self._is_body_whole = False
        self._is_too_large = False
        self._is_answered = False
        self._gone: asyncio.Task[None] | None = None

    async def run(self) -> None:
        try:
            if self._declares_too_large():
                await self._refuse_too_large()
                return
            if self._takes_turns() and not await self._read_body():
                return
            kept = await self._ask(Replay())
            if self._is_too_large and not self._is_answered:
                await self._refuse_too_large()
            if kept is None:
                return
            if isinstance(kept.hold.wish, ChangeWish):
                await self._stream(kept)
            else:
                await self._hold(kept)
        finally:
            if self._gone is not None:
                self._gone.cancel()
                with suppress(asyncio.CancelledError):
                    await self._gone

    async def _hold(self, kept: _Kept) -> None:
        """Wait and ask again until there is an answer, the time is up or the client is gone."""
        hub = hub_of_running_loop()
        end = time.monotonic() + kept.hold.wait_s
        replay = Replay(
            request_id=getattr(kept.hold.wish, "request_id", None),
            is_deduplicated=kept.hold.is_deduplicated,
        )
        while True:
            is_woken = await self._wait(hub, kept.hold.wish, end - time.monotonic())
            if self._is_client_gone():
                return
            if not is_woken:
                await self._send_kept(_rested(kept, hub.crowd(kept.hold.wish)))
                return
            again = await self._ask(replay)
            if again is None:
                return
            kept = again

    async def _stream(self, kept: _Kept) -> None:
        """Send the events so far, then those of each change, until no more can follow."""
        hub = hub_of_running_loop()
        end = time.monotonic() + kept.hold.wait_s
        await self._send(_without_length(kept.messages[0]))
        await self._send_part(kept.body)
        while time.monotonic() < end and not hub.is_closed:
            is_woken = await self._wait(hub, kept.hold.wish, COMMENT_EVERY_S)
            if self._is_client_gone():
                return
            if not is_woken:
                await self._send_part(COMMENT)
                continue
            final: list[Message] = []
            again = await self._ask(Replay(last_event=kept.hold.last_event), final=final)
            if again is None:
                # A refusal (the token was revoked, the database is away) only ends the stream.
                if final and final[0]["status"] == 200:
                    await self._send_part(_body_of(final))
                break
            await self._send_part(again.body or COMMENT)
            kept = again
        await self._send({"type": "http.response.body", "body": b""})

    async def _send_part(self, body: bytes) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def _wait(self, hub: Hub, wish: Wish, timeout_s: float) -> bool:
        """Wait for the wish; a client that hangs up ends it at once."""
        return await hub.wait(wish, timeout_s=timeout_s, unless=self._disconnect())

    async def _ask(self, replay: Replay, *, final: list[Message] | None = None) -> _Kept | None:
        """Give the call to Django; return the answer if it is one to keep back.

        Any other is sent or, where a stream has begun, put into `final`.
        """
        kept: _Kept | None = None

        async def keep_or_send(message: Message) -> None:
            nonlocal kept
            if message["type"] == "http.response.start":
                kept = self._kept_from(message)
            if kept is not None:
                kept.messages.append(message)
                return
            self._is_answered = True
            if final is not None:
                final.append(message)
                return
            await self._send(message)

        scope = dict(self._scope)
        if self._can_be_held():
            scope[SCOPE_KEY] = replay
        is_first = not self._is_body_whole
        receive = self._receive_and_keep if is_first else self._replaying_receive()
        async with self._turns if self._takes_turns() or final is not None else nullcontext():
            await self._app(scope, receive, keep_or_send)
        return kept

    def _takes_turns(self) -> bool:
        """Whether neither a slow body nor a slow reader of the answer can make others wait."""
        length = self._declared_length()
        is_small = length.isdigit() and int(length[:20]) <= REPLAYABLE_BODY_BYTES
        return self._scope.get("method") == "POST" and is_small

    async def _read_body(self) -> bool:
        """Read the body before it is this call's turn; tell whether the client is still there."""
        while not self._is_body_whole:
            if (await self._receive_and_keep())["type"] == "http.disconnect":
                return False
        return True

    def _kept_from(self, message: Message) -> _Kept | None:
        headers = list(message.get("headers", ()))
        holds = [value for name, value in headers if name.lower() == _HOLD_HEADER_LOWER]
        message["headers"] = [pair for pair in headers if pair[0].lower() != _HOLD_HEADER_LOWER]
        if not holds or len(self._body) < self._body_bytes:
            return None
        return _Kept(hold=Hold.from_header(holds[0].decode("ascii")))

    async def _send_kept(self, kept: _Kept) -> None:
        for message in kept.messages:
            await self._send(message)

    async def _receive_and_keep(self) -> Message:
        """Pass the client's body on, keeping it as long as it is small."""
        if self._is_body_whole:
            return await self._disconnect_message()
        message = await self._receive()
        if message["type"] != "http.request":
            return message
        chunk = message.get("body", b"")
        self._body_bytes += len(chunk)
        if self._body_bytes <= REPLAYABLE_BODY_BYTES:
            self._body += chunk
        if self._body_bytes > self._max_body_bytes:
            self._is_too_large = True
            return {"type": "http.disconnect"}  # Django drops what it has read and sends nothing
        self._is_body_whole = not message.get("more_body", False)
        return message

    def _replaying_receive(self) -> Receive:
        is_body_given = False

        async def receive() -> Message:
            nonlocal is_body_given
            if is_body_given:
                return await self._disconnect_message()
            is_body_given = True
            return {"type": "http.request", "body": bytes(self._body), "more_body": False}

        return receive

    async def _disconnect_message(self) -> Message:
        # Shielded: Django cancels its listener when it has answered, ours goes on.
        await asyncio.shield(self._disconnect())
        return {"type": "http.disconnect"}

    def _disconnect(self) -> asyncio.Task[None]:
        if self._gone is None:
            self._gone = asyncio.ensure_future(self._listen_for_disconnect())
        return self._gone

    async def _listen_for_disconnect(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    def _is_client_gone(self) -> bool:
        return self._gone is not None and self._gone.done()

    def _can_be_held(self) -> bool:
        return len(self._declared_length()) <= len(str(REPLAYABLE_BODY_BYTES))

    def _declared_length(self) -> bytes:
        for name, value in self._scope.get("headers", ()):
            if name.lower() == b"content-length":
                return bytes(value)
        return b""

    def _declares_too_large(self) -> bool:
        length = self._declared_length()
        return length.isdigit() and int(length[:20]) > self._max_body_bytes

    async def _refuse_too_large(self) -> None:
        body = json.dumps(
            {
                "success": False,
                "code": "body_too_large",
                "error": f"The body is larger than {self._max_body_bytes} bytes; send less.",
            }
        ).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        await self._send({"type": "http.response.start", "status": 413, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})


def _rested(kept: _Kept, crowd: int) -> _Kept:
    """Let a worker come back later if many others would take the request that it would."""
    rest_s = min(crowd // ONE_SECOND_PER, LONGEST_REST_S)
    if rest_s <= 1 or not isinstance(kept.hold.wish, ClaimWish):
        return kept
    start = kept.messages[0]
    others = [pair for pair in start["headers"] if pair[0].lower() != b"retry-after"]
    start["headers"] = [*others, (b"retry-after", str(rest_s).encode())]
    return kept


def _body_of(messages: list[Message]) -> bytes:
    return b"".join(message.get("body", b"") for message in messages[1:])


def _without_length(start: Message) -> Message:
    headers = [pair for pair in start["headers"] if pair[0].lower() != b"content-length"]
    return {**start, "headers": headers}


_hubs: WeakKeyDictionary[asyncio.AbstractEventLoop, Hub] = WeakKeyDictionary()


def hub_of_running_loop() -> Hub:
    """Give the hub of this event loop; made at the first need."""
    loop = asyncio.get_running_loop()
    hub = _hubs.get(loop)
    if hub is None:
        from django_queue_app.watch import DatabaseLook

        hub = _hubs[loop] = Hub(DatabaseLook())
        _close_on_stop_signals(hub)
    return hub


def _close_on_stop_signals(hub: Hub) -> None:
    """End the waits as soon as the server is told to stop.

    A server drains its connections before it sends `lifespan.shutdown`, so a call that waits
    five minutes would hold the shutdown up for five minutes.
    """
    if not callable(signal.getsignal(signal.SIGTERM)):
        return  # no server that would drain its connections: the process ends, as by default

    def chained(previous: Any) -> Callable[[int, FrameType | None], None]:
        def stop(number: int, frame: FrameType | None) -> None:
            hub.close()
            if callable(previous):
                previous(number, frame)

        return stop

    for name in ("SIGINT", "SIGTERM", "SIGBREAK"):
        number = getattr(signal, name, None)
        previous = signal.getsignal(number) if number is not None else None
        if number is None or not callable(previous):
            continue
        with suppress(ValueError):  # not in the main thread: the server handles no signals either
            signal.signal(number, chained(previous))
