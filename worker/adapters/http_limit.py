"""A limit on how long one call takes as a whole.

The read timeout of a socket starts anew with each byte, so a server that sends one now and then
holds a call for ever. Here a timer shuts the connection, whatever it is doing.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.response import HTTPResponse

_local = threading.local()


class TimeLimit:
    """Ends the calls that this thread makes inside the block once `seconds` are over."""

    def __init__(self, seconds: float) -> None:
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True
        self._timer.name = "call-limit"
        self._lock = threading.Lock()
        self._connection: HTTPConnection | None = None
        self._socket: socket.socket | None = None
        self._outer: TimeLimit | None = None
        self.is_over = False

    def __enter__(self) -> TimeLimit:
        self._outer = getattr(_local, "limit", None)
        _local.limit = self
        self._timer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        _local.limit = self._outer
        with self._lock:
            self._connection = self._socket = None

    def watch(self, connection: HTTPConnection) -> None:
        """Note over which connection the call goes; the limits around this one apply, too."""
        with self._lock:
            self._connection = connection
            # A connection that ends with its answer forgets the socket while the answer is read.
            self._socket = getattr(connection, "sock", None) or self._socket
            if self.is_over:
                self._shut()
        if self._outer is not None:
            self._outer.watch(connection)

    def _end(self) -> None:
        with self._lock:
            self.is_over = True
            self._shut()

    def _shut(self) -> None:
        for sock in (self._socket, getattr(self._connection, "sock", None)):
            if isinstance(sock, socket.socket):
                with contextlib.suppress(OSError):
                    # Not TLS's own call, which would pull the state from under the reader.
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)


def _watch(connection: HTTPConnection) -> None:
    limit: TimeLimit | None = getattr(_local, "limit", None)
    if limit is not None:
        limit.watch(connection)


class _LimitedConnection(HTTPConnection):
    def connect(self) -> None:
        _watch(self)
        super().connect()

    def putrequest(self, *args: Any, **options: Any) -> None:
        _watch(self)
        super().putrequest(*args, **options)

    def getresponse(self) -> HTTPResponse:  # type: ignore[override]  # as urllib3 itself
        _watch(self)
        return super().getresponse()


class _LimitedSecureConnection(HTTPSConnection):
    def connect(self) -> None:
        _watch(self)
        super().connect()

    def putrequest(self, *args: Any, **options: Any) -> None:
        _watch(self)
        super().putrequest(*args, **options)

    def getresponse(self) -> HTTPResponse:  # type: ignore[override]  # as urllib3 itself
        _watch(self)
        return super().getresponse()


class _Pool(HTTPConnectionPool):
    ConnectionCls = _LimitedConnection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _LimitedSecureConnection


_POOLS = {"http": _Pool, "https": _SecurePool}


class LimitedAdapter(HTTPAdapter):
    """requests' adapter whose connections heed `TimeLimit`, also those through a proxy."""

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """Make the pools of direct connections."""
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, *args: Any, **options: Any) -> Any:
        """Make the pools of connections through a proxy."""
        manager = super().proxy_manager_for(*args, **options)
        manager.pool_classes_by_scheme = _POOLS
        return manager
