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

_local = threading.local()


class TimeLimit:
    """Ends the calls that this thread makes inside the block once `seconds` are over."""

    def __init__(self, seconds: float) -> None:
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True
        self._timer.name = "call-limit"
        self._lock = threading.Lock()
        self._connection: HTTPConnection | None = None
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
            self._connection = None

    def watch(self, connection: HTTPConnection) -> None:
        """Note over which connection the call goes; the limits around this one apply, too."""
        with self._lock:
            self._connection = connection
            if self.is_over:
                _shut(connection)
        if self._outer is not None:
            self._outer.watch(connection)

    def _end(self) -> None:
        with self._lock:
            self.is_over = True
            if self._connection is not None:
                _shut(self._connection)


def _shut(connection: HTTPConnection) -> None:
    sock = getattr(connection, "sock", None)
    if isinstance(sock, socket.socket):
        with contextlib.suppress(OSError):
            # The plain socket's own call: that of TLS would pull the state from under the reader.
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


class _LimitedSecureConnection(HTTPSConnection):
    def connect(self) -> None:
        _watch(self)
        super().connect()

    def putrequest(self, *args: Any, **options: Any) -> None:
        _watch(self)
        super().putrequest(*args, **options)


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
