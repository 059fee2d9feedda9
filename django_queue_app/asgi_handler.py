"""Django under ASGI with each call in one thread of a few, from its first middleware to its last.

Django's own handler makes a thread for each call and goes to and fro between it and the event loop
at every middleware: for an empty poll of a worker that is three quarters of the CPU
(`python -m benchmarks.queue_load` measures it). This site's views and middlewares are synchronous,
so a call needs one trip. Threads that stay also keep what belongs to a thread: its connection to
SQLite. `docs/decisions/0018-one-trip-per-call.md` has the figures.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any

import django
from django.core import signals
from django.core.exceptions import RequestAborted
from django.core.handlers.asgi import ASGIHandler, get_script_prefix
from django.http import FileResponse
from django.urls import set_script_prefix

Scope = MutableMapping[str, Any]
Message = Mapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

# More than connections to the database: a call that reads from a slow PACS holds a thread only.
THREADS = 32


class OneTripHandler(ASGIHandler):
    """Answers calls by the synchronous middleware chain.

    Parameters
    ----------
    threads : int
        Calls that are inside Django at once; others wait, without a thread.
    """

    def __init__(self, *, threads: int = THREADS) -> None:
        super().__init__()
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="call")

    def load_middleware(self, is_async: bool = False) -> None:  # noqa: ARG002
        """Build the chain as under WSGI."""
        super().load_middleware(is_async=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP call."""
        if scope["type"] != "http":
            raise ValueError(f"Django answers HTTP only, not {scope['type']}.")
        try:
            body = await self.read_body(receive)
        except RequestAborted:
            return
        with body:
            response = await self._in_thread(self._answer, scope, body)
            await self.send_response(response, send)
            if response.streaming:
                await self._in_thread(response.close)

    async def _in_thread(self, what: Callable[..., Any], *args: Any) -> Any:
        context = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, context.run, what, *args)

    def _answer(self, scope: Scope, body: IO[bytes]) -> Any:
        set_script_prefix(get_script_prefix(scope))
        signals.request_started.send(sender=self.__class__, scope=scope)
        request, refusal = self.create_request(scope, body)
        response: Any = refusal if request is None else self.get_response(request)
        response._handler_class = self.__class__
        if isinstance(response, FileResponse):
            response.block_size = self.chunk_size
        if not response.streaming:
            # Whole in memory: what the call held, its database connection first, is free again
            # while the answer goes out, however slowly it is read.
            response.close()
        return response


def get_application(*, threads: int = THREADS) -> OneTripHandler:
    """Set Django up and return its ASGI application."""
    django.setup(set_prefix=False)
    return OneTripHandler(threads=threads)
