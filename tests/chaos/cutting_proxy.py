"""A small TCP proxy between a worker and the site, which cuts, refuses and slows connections."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

_CHUNK_BYTES = 65536


class CuttingProxy:
    """Forwards a port of its own to the site's."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.is_refusing = False
        self.delay_s = 0.0
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Cut every connection in the middle of whatever it carries."""
        with self._lock:
            for one in self._open:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                if self.is_refusing:
                    client.close()
                    continue
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            site = socket.create_connection(("127.0.0.1", self._target_port), timeout=5)
        except OSError:
            client.close()
            return
        site.settimeout(None)
        pair = (client, site)
        with self._lock:
            self._open.update(pair)
        back = threading.Thread(target=self._pump, args=(site, client), daemon=True)
        back.start()
        self._pump(client, site)
        back.join()
        with self._lock:
            self._open.difference_update(pair)
        for one in pair:
            one.close()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_CHUNK_BYTES):
                time.sleep(self.delay_s)
                target.sendall(data)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
